#!/bin/bash
# The 20 published cells by ten jobs of a Slurm array that share them; the folder of the project must be visible from all nodes.
# usage: sbatch scripts/slurm_reproduce_cifar.sh [--seeds 1,2,3] [flags of the training scripts]      PYTHON=...
#SBATCH --job-name=MetaSAug_cifar
#SBATCH --array=1-10
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
set -eu
cd "${SLURM_SUBMIT_DIR:-.}"
exec sh scripts/reproduce_cifar.sh "$@"
