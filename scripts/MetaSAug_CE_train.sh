#!/bin/sh
# Train MetaSAug with the cross-entropy loss: all five imbalance ratios of CIFAR-10-LT and CIFAR-100-LT, one after the other.
# usage: sh scripts/MetaSAug_CE_train.sh [further flags]     for instance --gpu 1, --workdir OUT, --epochs 30, --jobs 2
# Checkpoints: checkpoint/ours/CE/MetaSAug_<data set>_CE_imb<factor>_ckpt.pth.tar. The same command resumes it.
set -eu
code=$(dirname "$0")/..
. "$code/scripts/common.sh"
exec "$PYTHON" "$code/scripts/sweep.py" published_ce "$@"
