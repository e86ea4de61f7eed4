#!/bin/sh
# Plain cross-entropy and MetaSAug on long-tailed digits (scikit-learn's 1,797 scans): two trainings, one table.
# usage: sh scripts/demo.sh      PYTHON=... chooses the interpreter
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=demo_runs
RUNS=$OUT/checkpoint/ours/digits
COMMON="--dataset digits --imb_factor 0.02 --arch resnet20 --batch-size 32 --epochs 40 --workdir $OUT --idx digits -p 1000"

echo "== plain cross-entropy in both stages"
$PYTHON MetaSAug_CE_train.py $COMMON --stage2 none --save_name cross-entropy
echo "== MetaSAug with the LDAM loss: the same up to epoch 31, then stage 2"
$PYTHON MetaSAug_LDAM_train.py $COMMON --lam 0.75 --save_name MetaSAug
echo "== test accuracy in per cent; many, medium, few: classes with > 100, 20 to 100, < 20 training images"
$PYTHON report.py $RUNS/cross-entropy_summary.json $RUNS/MetaSAug_summary.json --out $OUT
