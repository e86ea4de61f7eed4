"""Data sets: pictures and folders of them, readers of small sets."""
