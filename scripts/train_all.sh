#!/bin/sh
# The ten trainings of one published table; called by MetaSAug_LDAM_train.sh and MetaSAug_CE_train.sh.
# usage: sh scripts/train_all.sh LDAM|CE [further flags]       PYTHON=... chooses the interpreter, LAM_TABLE=... other λ
set -eu
loss=$1
shift
code=$(dirname "$0")/..
. "$code/scripts/common.sh"
for word in "$@"; do
  case $word in --save[-_]name*) echo "error: this script sets --save_name itself: leave it out" >&2 && exit 2 ;; esac
done
for dataset in cifar10 cifar100; do
  for imb_factor in 0.005 0.01 0.02 0.05 0.1; do
    lam=$(lam_of $dataset "$loss" $imb_factor)
    "$PYTHON" "$code/MetaSAug_${loss}_train.py" --dataset $dataset --num_classes ${dataset#cifar} \
      --imb_factor $imb_factor --lr 0.1 --lam "$lam" --idx "$loss" --save_name MetaSAug_${dataset}_${loss}_imb$imb_factor "$@"
  done
done
