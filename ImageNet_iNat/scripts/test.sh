#!/bin/sh
# Test the heads of ImageNet-LT and iNaturalist 2018: the released checkpoints checkpoints/MetaSAug_ImageNet_LT.tar and
# checkpoints/MetaSAug_iNat18.tar inside ImageNet_iNat, or else checkpoint/ours/<set>/MetaSAug_<set>_ckpt.pth.tar.
# A missing checkpoint is named, the other is still tested, status 1.
# usage: sh ImageNet_iNat/scripts/test.sh [further flags]       PYTHON=... chooses the interpreter
set -u
cd "$(dirname "$0")/.."
code=..
. ../scripts/common.sh
status=0
for dataset in ImageNet_LT iNaturalist18; do
  root=../ImageNet released=checkpoints/MetaSAug_ImageNet_LT.tar
  [ "$dataset" = ImageNet_LT ] || root=../iNaturalist18 released=checkpoints/MetaSAug_iNat18.tar
  file=checkpoint/ours/$dataset/MetaSAug_${dataset}_ckpt.pth.tar
  [ ! -f "$released" ] || file=$released
  if [ ! -f "$file" ]; then
    echo "missing: ImageNet_iNat/$released and ImageNet_iNat/$file (put a released file there, or train with scripts/train.sh)" >&2
    status=1
    continue
  fi
  "$PYTHON" test.py --dataset $dataset --data_root $root --loading_path "$file" "$@" || status=1
done
exit $status
