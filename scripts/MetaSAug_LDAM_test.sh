#!/bin/sh
# Test the ten LDAM checkpoints: one line of accuracy and error each. A missing file is named, the rest still run, status 1.
# usage: sh scripts/MetaSAug_LDAM_test.sh [FOLDER [further flags]]     default: checkpoint/ours, then checkpoint/ours/LDAM
sh "$(dirname "$0")/test_all.sh" LDAM "$@"
