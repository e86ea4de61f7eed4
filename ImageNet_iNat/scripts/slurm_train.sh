#!/bin/bash
# ImageNet-LT on two nodes of four GPUs; the folder of the project and the images must be visible from both.
# usage: sbatch ImageNet_iNat/scripts/slurm_train.sh [further flags]      PYTHON=...
#SBATCH --job-name=MetaSAug
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
set -eu
cd "${SLURM_SUBMIT_DIR:-.}/ImageNet_iNat"
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# batch_size is that of one process: 8 x 128 is the global batch of the published 4 x 256.
code=..
. ../scripts/common.sh
srun "$PYTHON" -m torch.distributed.run --nnodes="$SLURM_NNODES" --nproc_per_node=4 \
  --rdzv_id="$SLURM_JOB_ID" --rdzv_backend=c10d --rdzv_endpoint="$head_node:53212" \
  train.py --lr 0.0003 --meta_lr 0.1 --workers 6 --batch_size 128 --epochs 20 --dataset ImageNet_LT --num_classes 1000 \
  --data_root ../ImageNet "$@"
