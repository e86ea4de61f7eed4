"""Flags of the CIFAR scripts; names, short forms and defaults are the published ones."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.flags import (
    SPLIT_NOTE,
    LearningFlags,
    Parser,
    add_checkpoint_flags,
    add_device_flags,
    add_learning_flags,
    add_logit_adjust_flag,
    add_method_flags,
    add_split_flag,
    check_idx,
    check_learning,
    check_logit_adjust,
    check_num_classes,
    check_sizes,
    require,
)
from harness.text import say

IMB_FACTOR, TESTED_IMB_FACTOR = 0.005, 0.1  # the published defaults of --imb_factor, in training and in testing
DIGITS_IMB_FACTOR = 0.1  # the digits are too few for 0.005
NUM_CLASSES = {"cifar10": 10, "cifar100": 100, "digits": 10}
DATASETS = (*NUM_CLASSES, "folder")
VIRTUAL = ("all", "head")  # the choices of --virtual, the default first
EXPORTS = ("onnx", "torchscript")


@dataclass(frozen=True)
class TrainingFlags(LearningFlags):
    """The checked values of a CIFAR training script's flags."""

    imb_factor: float | None
    meta_start: int
    meta_start_given: bool
    stage1: str | None
    stage2_lr: float
    virtual: str
    arch: str
    amp: str
    cuda_graphs: str
    threads: int
    gpu: int
    idx: str

    @property
    def folder(self) -> Path:
        """Where the run's files go."""
        return Path(self.workdir) / "checkpoint" / "ours" / self.idx

    def resumed(self, before: Mapping[str, Any]) -> TrainingFlags:
        """Let stage 2 begin where it did before the run grew, unless another epoch is asked for."""
        start = before.get("meta_start")
        if isinstance(start, int) and not self.meta_start_given and not before.get("meta_start_given"):
            return replace(self, meta_start=start)
        return self


def add_data_flags(parser: Parser, dataset: str | None, dataset_help: str, imb_factor: float) -> None:
    """Add the flags that training and testing share; `dataset` and `imb_factor` are defaults."""
    parser.add_argument("--dataset", default=dataset, choices=DATASETS, help=dataset_help)
    parser.add_argument("--data_root", default="data", help="folder of the data (default: %(default)s)")
    parser.add_argument("--imb_factor", type=float, help="smallest class over largest, in (0, 1] "
                        f"(default: {imb_factor}; digits: {DIGITS_IMB_FACTOR}; folder: the images as they are)")  # fmt: skip
    parser.add_argument("--num_meta", type=int, default=10, help="meta images a class (default: %(default)s)")
    parser.add_argument("--test-batch-size", type=int, default=100, help="default: %(default)s")
    add_device_flags(parser)


def training_parser(description: str | None, stage2: Mapping[str, str], rules: Mapping[str, object]) -> Parser:
    """Return the parser of a training script; see `flags.add_method_flags`."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_flags(parser, "cifar100", "data set (default: %(default)s)", IMB_FACTOR)
    parser.add_argument("--arch", default="resnet32", help="resnet and a depth of 6n + 2, or package.module:function, "
                        "called with the class count, for a network of your own (default: %(default)s)")  # fmt: skip
    parser.add_argument("--num_classes", type=int, help="checked against the data set, which decides (default: its own)")
    parser.add_argument("--batch-size", type=int, default=100, help="also of the meta batch (default: %(default)s)")
    parser.add_argument(
        "--meta_start",
        type=int,
        help="first epoch of stage 2, from 0 (default: four fifths of --epochs; as many as --epochs: no stage 2)",
    )
    parser.add_argument("--stage1", help="go on from this <save_name>_stage1.pth.tar instead of training stage 1")
    parser.add_argument("--stage2_lr", type=float, default=1.0, help="factor of the rate in stage 2 (default: %(default)s)")
    add_method_flags(parser, stage2, rules)
    parser.add_argument("--virtual", choices=VIRTUAL, default=VIRTUAL[0], help="what the virtual step moves: all weights, "
                        "as published, or the head alone, in less than half the time (default: %(default)s)")  # fmt: skip
    parser.add_argument("--num_heldout", type=int, help="images a class to hold out: those that the long tail leaves out, "
                        "then up to a fifth of the class (default: 2,000 in all)")  # fmt: skip
    add_learning_flags(parser, epochs=200, lr=0.1)
    add_split_flag(parser)
    parser.add_argument("--amp", choices=("off", "bf16"), default="off", help="bf16: passes in bfloat16 (default: off)")
    parser.add_argument("--cuda_graphs", choices=("on", "off"), default="on", help="record each step as a CUDA graph, "
                        "which starts its kernels by one call (default: %(default)s; without effect elsewhere)")  # fmt: skip
    parser.add_argument("--threads", type=int, default=0, help="of the CPU (default: 0, PyTorch's choice)")
    parser.add_argument("--workdir", default=".", help="checkpoints go to WORKDIR/checkpoint/ours/IDX (default: here)")
    parser.add_argument("--idx", default="0", help="folder of the run (default: %(default)s)")
    parser.add_argument("--save_name", default="name", help="first part of the file names (default: %(default)s)")
    return parser


def parse_training(
    description: str | None, stage2: Mapping[str, str], rules: Mapping[str, object], argv: Sequence[str] | None = None
) -> TrainingFlags:
    """Read and check the flags of a training script."""
    values = vars(training_parser(description, stage2, rules).parse_args(argv))
    if values["split"] is not None:
        say(SPLIT_NOTE)
    values["meta_start_given"] = values["meta_start"] is not None
    if not values["meta_start_given"]:
        values["meta_start"] = first_meta_epoch(values["epochs"])
    values["imb_factor"] = default_imb_factor(values["dataset"], values["imb_factor"], IMB_FACTOR)
    flags = TrainingFlags(**{f.name: values[f.name] for f in fields(TrainingFlags)})
    check_training(flags)
    return flags


def testing_parser(description: str) -> Parser:
    """Return the parser of MetaSAug_test.py."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_flags(parser, None, "data set (default: the checkpoint's, else cifar10)", TESTED_IMB_FACTOR)
    add_checkpoint_flags(parser)
    add_logit_adjust_flag(parser)
    parser.add_argument("--export", choices=EXPORTS, help="also write the network beside its checkpoint, to be run without "
                        "this code: pixels (N, 32, 32, 3) uint8 to logits (N, C); checked against PyTorch")  # fmt: skip
    return parser


def parse_test(description: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read and check the flags of MetaSAug_test.py."""
    args = testing_parser(description).parse_args(argv)
    check_imb_factor(args.imb_factor)
    check_sizes(args.num_meta, args.test_batch_size)
    check_logit_adjust(args.logit_adjust)
    return args


def tested_set(state: Mapping[str, Any], dataset: str | None, imb_factor: float | None) -> tuple[str, float | None]:
    """Return the data set and imb_factor of a checkpoint: what it says itself, else the flags, else the defaults."""
    for key, value in (("dataset", dataset), ("imb_factor", imb_factor)):
        if key in state and value is not None and value != state[key]:
            raise UserError(f"the checkpoint was trained with --{key} {state[key]}, not {value}: leave the flag out")
    name = state.get("dataset", dataset or "cifar10")
    if name not in DATASETS:
        raise UserError(f"the checkpoint was trained on {name}: test it with ImageNet_iNat/test.py")
    return name, state["imb_factor"] if "imb_factor" in state else default_imb_factor(name, imb_factor, TESTED_IMB_FACTOR)


def default_imb_factor(dataset: str, given: float | None, published: float) -> float | None:
    """Return what is given, else the default of the data set; a folder keeps its natural counts."""
    defaults = {"folder": None, "digits": DIGITS_IMB_FACTOR}
    return defaults.get(dataset, published) if given is None else given


def first_meta_epoch(epochs: int) -> int:
    """Return the default first epoch of stage 2: 160 of 200, rounded down, so that any length has a stage 2."""
    return 160 * epochs // 200


def check_imb_factor(imb_factor: float | None) -> None:
    """Check --imb_factor."""
    require(imb_factor is None or 0 < imb_factor <= 1, "--imb_factor", imb_factor, "above 0 and at most 1")


def check_training(flags: TrainingFlags) -> None:
    """Check the values that need no data; a `UserError` names the first flag that makes no sense."""
    check_imb_factor(flags.imb_factor)
    require(flags.meta_start >= 0, "--meta_start", flags.meta_start, "0 or more")
    check_learning(flags)
    require(math.isfinite(flags.stage2_lr) and flags.stage2_lr > 0, "--stage2_lr", flags.stage2_lr, "a number above 0")
    require(0 <= flags.threads <= 1024, "--threads", flags.threads, "from 0 to 1024")
    check_idx(flags.idx)
    if flags.dataset in NUM_CLASSES:
        check_num_classes(flags.num_classes, NUM_CLASSES[flags.dataset], flags.dataset)
