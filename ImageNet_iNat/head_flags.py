"""Flags of ImageNet_iNat/train.py and test.py: the published names and short forms, the values of the published command."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from covariance_rules import RULES
from datasets.large_sets import LARGE_SETS, NUM_META
from harness.flags import (
    Parser,
    add_learning_flags,
    add_logit_adjust_flag,
    add_method_flags,
    add_split_flag,
    check_learning,
    check_logit_adjust,
    check_sizes,
    require,
)
from heads.run_flags import (
    FrozenFlags,
    add_group_flags,
    add_test_batch_flags,
    add_val_fraction_flags,
    check_lists_stay,
    check_workers,
)
from meta_step import STAGE2

# Where --pretrained is looked for, inside ImageNet_iNat: cRT's files by the names that they are downloaded with, then ours.
PRETRAINED = {
    "ImageNet_LT": ("models/resnet50_uniform_e90.pth", "models/ImageNet_LT_cRT.pth"),
    "iNaturalist18": ("models/iNat18/resnet50_uniform_e200.pth", "models/iNaturalist18_cRT.pth"),
    "iNaturalist17": ("models/iNaturalist17_cRT.pth",),
    "custom": ("models/custom_cRT.pth",),
}


@dataclass(frozen=True)
class HeadFlags(FrozenFlags):
    """The checked values of train.py's flags."""

    pretrained: str
    fresh_head: bool
    cache_features: int
    cache_dir: str | None
    split: int | None

    @property
    def cache_folder(self) -> Path:
        """Where the cached features are."""
        return Path(self.cache_dir or Path(self.workdir) / "feature_cache")


def add_list_flags(parser: argparse.ArgumentParser, dataset: str | None, dataset_help: str) -> None:
    """Add the flags that training and testing share."""
    parser.add_argument("--dataset", default=dataset, choices=LARGE_SETS, help=dataset_help)
    parser.add_argument("--data_root", help="folder of the images (default: ../<dataset>)")
    parser.add_argument("--num_classes", type=int, help="checked against the data set (default: its own)")
    parser.add_argument("--num_meta", type=int, help="meta images a class (default: 10; iNaturalist18: 2, iNaturalist17: 5)")
    parser.add_argument("--train_list", help="custom: lines of 'relative/path label'; without it DATA_ROOT/train/<class>/*")
    parser.add_argument("--val_list", help="custom: the list of the test images")
    parser.add_argument("--meta_list", help="custom: the list of the meta images (default: some out of the training list)")
    add_test_batch_flags(parser)


def training_parser(description: str) -> Parser:
    """Return the parser of train.py."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_group_flags(parser)
    add_list_flags(parser, "ImageNet_LT", "data set (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=256, help="of one process, also for meta (default: %(default)s)")
    add_val_fraction_flags(parser, "custom: ")
    add_method_flags(parser, STAGE2, RULES)
    parser.add_argument("--num_heldout", type=int, help="images a class to hold out: those of the list of the meta images "
                        "that serve nothing else, then up to a fifth of the class (default: 2,000 in all)")  # fmt: skip
    add_learning_flags(parser, epochs=20, lr=0.0003)
    add_split_flag(parser)
    places = "; ".join(f"{name}: {', else '.join(paths)}" for name, paths in PRETRAINED.items())
    parser.add_argument("--pretrained", help=f"cRT, MetaSAug or torchvision checkpoint (default: {places})")
    parser.add_argument("--fresh_head", action="store_true", help="begin with a new head, take only the backbone")
    parser.add_argument("--cache_features", type=int, default=0, metavar="K", help="compute the features of K views of each "
                        "training image once and train from them (default: 0, from the images at each step)")  # fmt: skip
    parser.add_argument("--cache_dir", help="folder of the cached features (default: WORKDIR/feature_cache)")
    parser.add_argument("--workdir", default=".", help="checkpoints go to WORKDIR/checkpoint/ours/<dataset> (default: here)")
    parser.add_argument("--save_name", help="first part of the file names (default: MetaSAug_<dataset>)")
    return parser


def pretrained_file(dataset: str) -> str:
    """Return the checkpoint that training begins with: the first of its places where there is one, else the last."""
    places = PRETRAINED[dataset]
    return next((path for path in places if os.path.isfile(path)), places[-1])


def parse_training(description: str, argv: Sequence[str] | None = None) -> HeadFlags:
    """Read and check the flags of train.py."""
    values = vars(training_parser(description).parse_args(argv))
    dataset = values["dataset"]
    defaults = {
        "data_root": f"../{dataset}",
        "num_meta": NUM_META[dataset],
        "pretrained": pretrained_file(dataset),
        "save_name": f"MetaSAug_{dataset}",
    }
    values |= {key: default for key, default in defaults.items() if values[key] is None}
    flags = HeadFlags(**{f.name: values[f.name] for f in fields(HeadFlags)})
    check_learning(flags)
    check_workers(flags.workers)
    check_lists_stay(flags)
    require(0 <= flags.cache_features <= 1000, "--cache_features", flags.cache_features, "from 0 to 1000")
    return flags


def testing_parser(description: str) -> Parser:
    """Return the parser of test.py."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_group_flags(parser)
    add_list_flags(parser, None, "data set (default: the checkpoint's, else ImageNet_LT)")
    parser.add_argument("--loading_path", required=True, help="a released checkpoint, one of train.py, or a cRT one")
    add_logit_adjust_flag(parser)
    parser.add_argument("--out", help="file of the accuracy per class (default: <loading_path>_classes.csv)")
    return parser


def parse_test(description: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read and check the flags of test.py."""
    args = testing_parser(description).parse_args(argv)
    check_sizes(args.num_meta, args.test_batch_size)
    check_workers(args.workers)
    check_logit_adjust(args.logit_adjust)
    return args


def shared_facts(args: argparse.Namespace) -> dict[str, object]:
    """Return the flags of test.py by name, without those that may differ from process to process."""
    return {f"--{name}": value for name, value in vars(args).items() if name not in ("gpu", "local_rank")}
