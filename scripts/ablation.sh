#!/bin/sh
# What each part of MetaSAug adds: choices of stage 2, losses and seeds; ends with the table.
# usage: sh scripts/ablation.sh NAME [--shard I/N] [flags of the training scripts]
#   SEEDS="1 2 3", LOSSES="CE LDAM", STAGE2="reweight isda metasaug", PYTHON=...
#   sh scripts/ablation.sh cifar10 --dataset cifar10 --imb_factor 0.01 --lam 0.75
#   STAGE2="reweight+prior reweight+meta_train metasaug+relative+head" sh scripts/ablation.sh cifar10 --shard 2/3 --lam 0.75
# One of STAGE2 is a choice of --stage2 and, each after a +, what it has besides, which goes before the flags for all:
#   of any                       meta_train, meta_loss (--meta_images train, loss), stage2_lr=NUMBER
#   of reweight, isda, metasaug  prior, unweighted (--balance prior, none)
#   of isda, metasaug            lam=NUMBER
#   of metasaug                  relative (--meta_update relative), head (--virtual head), meta_lr=NUMBER, meta_step_size=NUMBER
# Stage 1 is the same for all and trained once a seed, by the run "none", whose loss is plain in both stages. So the parts of
# --shard have whole seeds, and their report holds what is finished. A finished run is skipped, an interrupted one resumed: give
# the same command again; further losses, choices and seeds join. Runs: WORKDIR/checkpoint/ours/ablation/NAME.
set -eu
usage="usage: sh scripts/ablation.sh NAME [--shard I/N] [flags of the training scripts]"
case ${1:-} in "" | -*) echo "$usage" >&2 && exit 2 ;; esac
name=$1
shift
code=$(dirname "$0")/..
. "$code/scripts/common.sh"

# flags_of CHOICE: print the flags of one of STAGE2.
flags_of() {
  base=${1%%+*} found=
  rest=${1#"$base"}
  case $base in none | reweight | isda | metasaug) ;; *) rest=+ ;; esac
  while [ -n "$rest" ]; do
    rest=${rest#+}
    word=${rest%%+*}
    rest=${rest#"$word"}
    case $word in *=*[!0-9.e-]* | *=[!0-9.]* | *=) word= ;; esac
    case $base:$word in
      *:meta_train) flag="--meta_images train" ;;
      *:meta_loss) flag="--meta_images loss" ;;
      *:stage2_lr=*) flag="--stage2_lr ${word#*=}" ;;
      none:*) flag= ;;
      *:prior) flag="--balance prior" ;;
      *:unweighted) flag="--balance none" ;;
      reweight:*) flag= ;;
      *:lam=*) flag="--lam ${word#*=}" ;;
      isda:*) flag= ;;
      *:relative) flag="--meta_update relative" ;;
      *:head) flag="--virtual head" ;;
      *:meta_lr=* | *:meta_step_size=*) flag="--${word%%=*} ${word#*=}" ;;
      *) flag= ;;
    esac
    case $found in *" ${flag%% *} "*) flag= ;; esac  # twice
    if [ -z "$flag" ]; then
      echo "error: STAGE2 has $1, and there is no such choice: the first lines of $0 list them" >&2
      return 2
    fi
    found="$found $flag"
  done
  printf '%s\n' "--stage2 $base$found"
}

read_shard "$@"
shift $taken
own_flags "--seed --stage2 --stage1" "$@"
seeds=${SEEDS:-1 2 3} losses=${LOSSES:-CE LDAM} choices=${STAGE2:-reweight isda metasaug}
check_seeds $seeds
for one_loss in $losses; do
  script=MetaSAug_${one_loss}_train.py
  [ -f "$code/$script" ] || { echo "error: LOSSES has $one_loss: there is no $script" >&2 && exit 2; }
done
for choice in $choices; do own=$(flags_of "$choice"); done
if [ $shards -gt 1 ] && [ $shards -gt $seed_count ]; then
  echo "error: --shard $shard/$shards: a part has whole seeds, and of $seed_count seeds there are no $shards parts" >&2
  exit 2
fi
workdir=$(value_of --workdir . "$@")
runs=$workdir/checkpoint/ours/ablation/$name
number=0
for seed in $seeds; do
  number=$((number + 1))
  in_shard $number || continue
  train CE "ablation/$name" none_seed$seed --seed $seed --stage2 none "$@"
  for one_loss in plain $losses; do
    for choice in $choices; do
      case $one_loss:$choice in
        plain:none+*) run=${choice}_seed$seed script_of=CE ;;  # of either loss the same
        plain:* | *:none*) continue ;;
        *) run=${one_loss}_${choice}_seed$seed script_of=$one_loss ;;
      esac
      own=$(flags_of "$choice")
      train $script_of "ablation/$name" "$run" --seed $seed --stage1 "$runs/none_seed${seed}_stage1.pth.tar" "$@" $own
    done
  done
done
"$PYTHON" "$code/report.py" "$runs" --out "$runs/report" --force
