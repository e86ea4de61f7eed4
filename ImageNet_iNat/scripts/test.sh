#!/bin/sh
# Test the heads of ImageNet-LT and iNaturalist 2018: checkpoint/ours/<set>/MetaSAug_<set>_ckpt.pth.tar inside ImageNet_iNat.
# A missing checkpoint is named, the other is still tested, status 1.
# usage: sh ImageNet_iNat/scripts/test.sh [further flags]       PYTHON=python3
set -u
cd "$(dirname "$0")/.."
status=0
for dataset in ImageNet_LT iNaturalist18; do
  file=checkpoint/ours/$dataset/MetaSAug_${dataset}_ckpt.pth.tar
  root=../iNaturalist18
  [ "$dataset" = iNaturalist18 ] || root=../ImageNet
  if [ ! -f "$file" ]; then
    echo "missing: ImageNet_iNat/$file (train it with scripts/train.sh or put a released file there)" >&2
    status=1
    continue
  fi
  ${PYTHON:-python3} test.py --dataset $dataset --data_root $root --loading_path "$file" "$@" || status=1
done
exit $status
