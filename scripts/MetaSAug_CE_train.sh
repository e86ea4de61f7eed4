#!/bin/sh
# Train MetaSAug with the cross-entropy loss: all five imbalance ratios of CIFAR-10-LT and CIFAR-100-LT, one after the other.
# usage: sh scripts/MetaSAug_CE_train.sh [further flags]     for instance --gpu 1, --workdir OUT, --epochs 30
# Checkpoints: checkpoint/ours/CE/MetaSAug_<data set>_CE_imb<factor>_ckpt.pth.tar
sh "$(dirname "$0")/train_all.sh" CE "$@"
