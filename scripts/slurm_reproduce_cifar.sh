#!/bin/bash
# The 20 published cells as ten jobs of a Slurm array, one GPU each; the folder of the project must be visible from all nodes.
# usage: sbatch scripts/slurm_reproduce_cifar.sh [flags of the training scripts]       SEEDS="42", PYTHON=...
#   sbatch --array=4 scripts/slurm_reproduce_cifar.sh               one of the ten again
#   SHARDS=20 sbatch --array=1-20 scripts/slurm_reproduce_cifar.sh  in other parts
#SBATCH --job-name=MetaSAug_cifar
#SBATCH --array=1-10
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
set -eu
cd "${SLURM_SUBMIT_DIR:-.}"
exec sh scripts/reproduce_cifar.sh --shard "$SLURM_ARRAY_TASK_ID/${SHARDS:-10}" "$@"
