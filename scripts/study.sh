#!/bin/sh
# The study of results/: what each part of MetaSAug adds to CIFAR at ratio 100, in short runs; ends with the report.
# usage: sh scripts/study.sh cifar10|cifar100 [--shard I/N] [further flags]      SEEDS="1 2 3", PYTHON=...
#   CIFAR_FOLDERS=DIR reads DIR/cifar10/{train,test}/<class>/* instead of CIFAR's own files.
# Two sets can run side by side. Runs: WORKDIR/checkpoint/ours/ablation/cifar10 and cifar100.
set -eu
case ${1:-} in cifar10 | cifar100) ;; *) echo "usage: sh scripts/study.sh cifar10|cifar100 [further flags]" >&2 && exit 2 ;; esac
dataset=$1
shift
code=$(dirname "$0")/..
. "$code/scripts/common.sh"
read_shard "$@"
shift $taken
set -- --imb_factor 0.01 --arch resnet14 --epochs 30 --lam 0.75 --amp bf16 --threads 1 "$@"
if [ -n "${CIFAR_FOLDERS:-}" ]; then
  set -- --dataset folder --data_root "$CIFAR_FOLDERS/$dataset" "$@"
else
  set -- --dataset "$dataset" "$@"
fi
exec sh "$code/scripts/ablation.sh" "$dataset" --shard "$shard/$shards" "$@"
