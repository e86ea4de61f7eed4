#!/bin/sh
# Choose λ on held-out training images, the test set aside: one training a λ and seed; ends with the table of the choice.
# usage: sh scripts/select_lam.sh LDAM|CE NAME [flags of the training scripts]
#   SEEDS="42", LAMS="0.25 0.5 0.75 1.0", PYTHON=...
#   sh scripts/select_lam.sh LDAM cifar10_200 --dataset cifar10 --imb_factor 0.005
#   LAM_TABLE=checkpoint/ours/select/cifar10_200/report/chosen_lam.csv sh scripts/reproduce_cifar.sh
# All λ of a seed, and both losses, have the same stage 1: it is trained once, by the first. A finished run is skipped, an
# interrupted one resumed: give the same command again; further λ, seeds and the other loss join the table of NAME.
# Runs: WORKDIR/checkpoint/ours/select/NAME.
set -eu
usage="usage: sh scripts/select_lam.sh LDAM|CE NAME [flags of the training scripts]"
case ${1:-} in LDAM | CE) ;; *) echo "$usage" >&2 && exit 2 ;; esac
case ${2:-} in "" | -*) echo "$usage" >&2 && exit 2 ;; esac
loss=$1 name=$2
shift 2
code=$(dirname "$0")/..
. "$code/scripts/common.sh"
own_flags "--seed --lam --select-on --stage1" "$@"
workdir=$(value_of --workdir . "$@")
runs=$workdir/checkpoint/ours/select/$name
for seed in ${SEEDS:-42}; do
  for lam in ${LAMS:-0.25 0.5 0.75 1.0}; do
    run=${loss}_lam${lam}_seed$seed
    stage1=
    for file in "$runs"/*_seed${seed}_stage1.pth.tar; do
      if [ -f "$file" ] && [ "$file" != "$runs/${run}_stage1.pth.tar" ]; then stage1=$file; fi
    done
    train "$loss" "select/$name" "$run" --select_on heldout --seed $seed --lam $lam ${stage1:+--stage1 "$stage1"} "$@"
  done
done
"$PYTHON" "$code/report.py" "$runs" --out "$runs/report" --force
if [ ! -f "$runs/report/chosen_lam.csv" ]; then
  echo "error: nothing was chosen: that takes two λ or more, finished with the same seeds" >&2
  exit 2
fi
