#!/bin/sh
# The published name of scripts/test.sh.    usage: sh ImageNet_iNat/test.sh [further flags]
exec sh "$(dirname "$0")/scripts/test.sh" "$@"
