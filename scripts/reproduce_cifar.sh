#!/bin/sh
# The 20 published cells of CIFAR-10-LT and CIFAR-100-LT, five ratios and two losses, over seeds.
# usage: sh scripts/reproduce_cifar.sh [--seeds 1,2,3] [--jobs N] [flags of the training scripts]
# The same command resumes it; given on several machines with one disk, it shares the cells. Runs:
# WORKDIR/checkpoint/ours/reproduce.
set -eu
code=$(dirname "$0")/..
. "$code/scripts/common.sh"
exec "$PYTHON" "$code/scripts/sweep.py" reproduce "$@"
