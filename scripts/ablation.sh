#!/bin/sh
# What each part of MetaSAug adds: four choices of stage 2, both losses, several seeds; ends with the table.
# usage: sh scripts/ablation.sh NAME [flags of the training scripts]       SEEDS="1 2 3", LOSSES="CE LDAM", PYTHON=...
#   sh scripts/ablation.sh cifar10 --dataset cifar10 --imb_factor 0.01 --lam 0.75
# Stage 1 is the same for all and trained once a seed, by the run "none", whose loss is plain in both stages. A finished run
# is skipped, an interrupted one resumed: give the same command again. Runs: WORKDIR/checkpoint/ours/ablation/NAME.
set -eu
case ${1:-} in "" | -*) echo "usage: sh scripts/ablation.sh NAME [flags of the training scripts]" >&2 && exit 2 ;; esac
name=$1
shift
code=$(dirname "$0")/..
. "$code/scripts/common.sh"
own_flags "--seed --stage2 --stage1" "$@"
workdir=$(value_of --workdir . "$@")
runs=$workdir/checkpoint/ours/ablation/$name
for seed in ${SEEDS:-1 2 3}; do
  train CE "ablation/$name" none_seed$seed --seed $seed --stage2 none "$@"
  for one_loss in ${LOSSES:-CE LDAM}; do
    for stage2 in reweight isda metasaug; do
      run=${one_loss}_${stage2}_seed$seed
      train $one_loss "ablation/$name" $run --seed $seed --stage2 $stage2 \
        --stage1 "$runs/none_seed${seed}_stage1.pth.tar" "$@"
    done
  done
done
"$PYTHON" "$code/report.py" "$runs" --out "$runs/report"
