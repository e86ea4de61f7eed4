"""What follows from the flags of ImageNet_iNat/train.py and test.py."""

from __future__ import annotations

import os
from collections.abc import Sequence

from datasets.large_sets import NUM_META
from harness.flag_parser import given_flags, with_defaults
from heads.run_flags import PRETRAINED, GroupFlags, LargeFlags, LargeTestFlags


def parse_training(argv: Sequence[str] | None = None) -> LargeFlags:
    """Read and check the flags of train.py."""
    given = given_flags(argv, GroupFlags, LargeFlags)
    dataset = given.get("dataset", "ImageNet_LT")
    places = PRETRAINED[dataset]
    usual = {
        "dataset": dataset,
        "data_root": f"../{dataset}",
        "num_meta": NUM_META[dataset],
        "pretrained": next((path for path in places if os.path.isfile(path)), places[-1]),
        "save_name": f"MetaSAug_{dataset}",
    }
    return with_defaults(LargeFlags, usual | given)


def parse_test(argv: Sequence[str] | None = None) -> LargeTestFlags:
    """Read and check the flags of test.py."""
    return with_defaults(LargeTestFlags, given_flags(argv, GroupFlags, LargeTestFlags))
