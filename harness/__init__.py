"""What every training needs and no method: runs and their files, checkpoints, flags, processes, errors."""
