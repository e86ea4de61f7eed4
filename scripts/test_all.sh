#!/bin/sh
# The ten tests of one published table; called by MetaSAug_LDAM_test.sh and MetaSAug_CE_test.sh.
# usage: sh scripts/test_all.sh LDAM|CE [FOLDER [further flags]]       PYTHON=... chooses the interpreter
# Without a FOLDER a file is looked for in checkpoint/ours, where the published scripts have it, then in checkpoint/ours/<loss>.
set -u
loss=$1
shift
folders="checkpoint/ours checkpoint/ours/$loss"
case ${1:-} in
  "" | -*) ;;  # flags only
  *) folders= && folder=$1 && shift ;;
esac
code=$(dirname "$0")/..
. "$code/scripts/common.sh"
status=0
for dataset in cifar10 cifar100; do
  for imb_factor in 0.005 0.01 0.02 0.05 0.1; do
    for place in $folders; do
      folder=$place
      [ ! -f "$folder/MetaSAug_${dataset}_${loss}_imb${imb_factor}_ckpt.pth.tar" ] || break
    done
    file=$folder/MetaSAug_${dataset}_${loss}_imb${imb_factor}_ckpt.pth.tar
    if [ ! -f "$file" ]; then
      echo "missing: $file (train it with scripts/MetaSAug_${loss}_train.sh or put a released file there)" >&2
      status=1
      continue
    fi
    lines=$("$PYTHON" "$code/MetaSAug_test.py" --dataset $dataset --imb_factor $imb_factor --checkpoint_path "$file" "$@") ||
      status=1
    [ -z "$lines" ] || echo "$lines" | head -n 2
  done
done
exit $status
