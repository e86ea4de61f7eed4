#!/bin/sh
# The 20 published cells of CIFAR-10-LT and CIFAR-100-LT, five ratios and two losses, by seed; ends with the report.
# usage: sh scripts/reproduce_cifar.sh [--shard I/N] [flags of the training scripts]      SEEDS="42", PYTHON=...
#   SEEDS="1 2 3" sh scripts/reproduce_cifar.sh
#   sh scripts/reproduce_cifar.sh --shard 2/5          the second of five machines that share the work
# A finished cell is skipped, an interrupted one resumed: give the same command again. Both losses of a cell have the same
# stage 1: it is trained once, by CE. λ is that of results/lam.csv, or of LAM_TABLE=FILE, as select_lam.sh writes one.
# Runs: WORKDIR/checkpoint/ours/reproduce. With shards the report holds what is finished.
set -eu
code=$(dirname "$0")/..
. "$code/scripts/common.sh"
read_shard "$@"
shift $taken
check_seeds ${SEEDS:-42}
own_flags "--seed --imb-factor --dataset --num-classes --stage1" "$@"
[ -z "${LAM_TABLE:-}" ] || own_flags --lam "$@"
workdir=$(value_of --workdir . "$@")
runs=$workdir/checkpoint/ours/reproduce
number=0
for seed in ${SEEDS:-42}; do
  for dataset in cifar10 cifar100; do
    for imb_factor in 0.005 0.01 0.02 0.05 0.1; do
      number=$((number + 1))
      in_shard $number || continue
      cell=imb${imb_factor}_seed$seed
      ce=$(lam_of $dataset CE $imb_factor)
      ldam=$(lam_of $dataset LDAM $imb_factor)
      set -- --seed $seed --dataset $dataset --num_classes ${dataset#cifar} --imb_factor $imb_factor --lr 0.1 "$@"
      train CE reproduce MetaSAug_${dataset}_CE_$cell --lam "$ce" "$@"
      train LDAM reproduce MetaSAug_${dataset}_LDAM_$cell --lam "$ldam" \
        --stage1 "$runs/MetaSAug_${dataset}_CE_${cell}_stage1.pth.tar" "$@"
      shift 10
    done
  done
done
"$PYTHON" "$code/report.py" "$runs" --out "$runs/report" --force
