#!/bin/sh
# Train the heads of ImageNet-LT and iNaturalist 2018, one after the other; the images lie in ../ImageNet and ../iNaturalist18,
# the cRT checkpoints in models/ (both seen from ImageNet_iNat), or where further flags say.
# usage: sh ImageNet_iNat/scripts/train.sh [further flags]      NPROC=4 processes, MASTER_PORT=53212, PYTHON=...
set -eu
cd "$(dirname "$0")/.."
code=..
. ../scripts/common.sh
train() {
  "$PYTHON" -m torch.distributed.launch --nproc_per_node="${NPROC:-4}" --master_port "${MASTER_PORT:-53212}" train.py "$@"
}
train --lr 0.0003 --meta_lr 0.1 --workers 0 --batch_size 256 --epochs 20 --dataset ImageNet_LT --num_classes 1000 \
  --data_root ../ImageNet "$@"
train --lr 0.0003 --meta_lr 0.1 --workers 0 --batch_size 128 --epochs 20 --dataset iNaturalist18 --num_classes 8142 \
  --data_root ../iNaturalist18 "$@"
