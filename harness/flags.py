"""Flags that several scripts share, and their checks.

Dashes and underscores in flag names are the same. A wrong value ends in one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from harness.errors import UserError

SPLIT_NOTE = "note: --split has no effect, as in the published code"


class Parser(argparse.ArgumentParser):
    """An argument parser with one-line errors in which --batch-size and --batch_size are the same.

    Flags are not to be cut short: a script that looks at the flags it passes on would not know them.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse after bringing each flag to its declared spelling."""
        declared = {o.replace("_", "-"): o for a in self._actions for o in a.option_strings if o.startswith("--")}
        spelled = []
        for token in sys.argv[1:] if args is None else args:
            name, equals, value = token.partition("=")
            known = declared.get(name.replace("_", "-")) if token.startswith("--") else None
            spelled.append(known + equals + value if known else token)
        return super().parse_known_args(spelled, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError` instead of printing the usage and leaving."""
        raise UserError(f"{message} (--help lists the flags)")


def truth(text: str) -> bool:
    """Read true/false, yes/no, 1/0."""
    if text.lower() in ("true", "yes", "1"):
        return True
    if text.lower() in ("false", "no", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


@dataclass(frozen=True)
class LearningFlags:
    """What every training script has."""

    dataset: str
    data_root: str
    num_classes: int | None
    num_meta: int
    skip_bad: bool
    batch_size: int
    test_batch_size: int
    epochs: int
    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    lam: float
    meta_lr: float
    seed: int
    print_freq: int
    no_cuda: bool
    workdir: str
    save_name: str
    resume: str | None
    save_every: float

    def binding(self) -> dict[str, object]:
        """Return the flags that a resumed run must have as the interrupted one had them, by name."""
        return {f"--{name}": value for name, value in asdict(self).items() if name not in FREE_FLAGS}

    def resumed(self, before: Mapping[str, Any]) -> LearningFlags:
        """Return the flags to go on with where a run with the flags `before` was interrupted."""
        return self


# Flags that a resumed run may have otherwise: they change where and how it runs, not what comes out.
FREE_FLAGS = {
    *("data_root", "num_classes", "workdir", "save_name", "idx", "print_freq", "gpu", "no_cuda", "threads", "workers"),
    *("cuda_graphs", "resume", "save_every", "epochs", "meta_start_given", "stage1", "cache_dir", "split", "pretrained"),
    *("skip_bad", "train_list", "val_list", "meta_list"),  # what they read is compared, not where it stands
}


def in_stage1(flags: Mapping[str, Any], epoch: int) -> bool:
    """Return whether an epoch, counted from 0, of a run with these flags is before its stage 2, if it has stages."""
    start = flags.get("meta_start")
    return isinstance(start, int) and epoch < start


def stage1_note(flags: Mapping[str, Any], epochs: int | None) -> list[str]:
    """Return a line for weights that were trained for so many epochs, if these are before stage 2; None: nobody knows."""
    if epochs is None or not in_stage1(flags, epochs - 1):
        return []
    told = f"note: no stage 2 up to epoch {epochs - 1} (--meta_start {flags['meta_start']})"
    return [f"{told}: these weights are of plain cross-entropy, without MetaSAug"]


def add_device_flags(parser: Parser) -> None:
    """Add the flags that `devices.choose_device` takes."""
    parser.add_argument("--gpu", type=int, default=0, help="which CUDA device (default: %(default)s)")
    parser.add_argument("--no-cuda", action="store_true", help="use the CPU")


def add_checkpoint_flags(parser: Parser) -> None:
    """Add the flags that name a trained network."""
    parser.add_argument("--arch", help="default: the checkpoint's, else resnet32")
    parser.add_argument("--checkpoint_path", required=True, help="a released checkpoint or one of the training scripts")


def add_learning_flags(parser: Parser, epochs: int, lr: float) -> None:
    """Add the flags of every training script, with its own defaults of --epochs and --lr."""
    parser.add_argument("--skip_bad", action="store_true", help="leave out images that cannot be read")
    parser.add_argument("--epochs", type=int, default=epochs, help="default: %(default)s")
    parser.add_argument("--lr", "--learning-rate", type=float, default=lr, help="default: %(default)s")
    parser.add_argument("--momentum", type=float, default=0.9, help="default: %(default)s")
    parser.add_argument("--nesterov", type=truth, default=True, help="true or false (default: %(default)s)")
    parser.add_argument("--weight-decay", "--wd", type=float, default=5e-4, help="default: %(default)s")
    parser.add_argument("--lam", type=float, default=0.25, help="strength λ of the augmentation (default: %(default)s)")
    parser.add_argument("--meta_lr", type=float, default=0.1, help="step size of the covariances (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="weights, order, crops and flips (default: %(default)s)")
    parser.add_argument("--split", type=int, help="accepted for published command lines, whose default is "
                        "1000; it has no effect there and here")  # fmt: skip
    parser.add_argument("--print-freq", "-p", type=int, default=100, help="steps between lines (default: %(default)s)")
    parser.add_argument("--resume", metavar="auto|PATH", help="go on with an interrupted run: auto takes this run's own "
                        "file, if there is one, PATH another <save_name>_resume.pth.tar")  # fmt: skip
    parser.add_argument("--save_every", type=float, default=10, metavar="MINUTES", help="save what --resume needs so often, "
                        "besides after each epoch; 0: after every step (default: %(default)s)")  # fmt: skip


def require(condition: bool, flag: str, value: object, rule: str) -> None:
    """Raise a `UserError` that names the flag unless the condition holds."""
    if not condition:
        raise UserError(f"{flag} {value} makes no sense: it must be {rule}")


def check_sizes(num_meta: int | None, test_batch_size: int) -> None:
    """Check what training and testing share."""
    require(num_meta is None or num_meta >= 1, "--num_meta", num_meta, "at least 1")
    require(test_batch_size >= 1, "--test-batch-size", test_batch_size, "at least 1")


def check_learning(flags: LearningFlags) -> None:
    """Check what every training script has."""
    check_sizes(flags.num_meta, flags.test_batch_size)
    require(flags.batch_size >= 1, "--batch-size", flags.batch_size, "at least 1")
    require(flags.epochs >= 1, "--epochs", flags.epochs, "at least 1")
    require(flags.print_freq >= 1, "--print-freq", flags.print_freq, "at least 1")
    every = flags.save_every
    require(math.isfinite(every) and every >= 0, "--save_every", every, "a number of minutes, 0 or more")
    require(flags.resume != "", "--resume", "''", "auto or a path")
    require(0 <= flags.seed < 2**63, "--seed", flags.seed, "0 or more, below 2^63")
    for flag, value in (("--lam", flags.lam), ("--meta_lr", flags.meta_lr), ("--weight-decay", flags.weight_decay)):
        require(math.isfinite(value) and value >= 0, flag, value, "a number of 0 or more")
    require(math.isfinite(flags.lr) and flags.lr > 0, "--lr", flags.lr, "a number above 0")
    require(0 <= flags.momentum < 1, "--momentum", flags.momentum, "at least 0 and below 1")
    require(flags.momentum > 0 or not flags.nesterov, "--momentum", 0, "above 0 unless --nesterov false is given")
    name = flags.save_name
    require(bool(name) and Path(name).name == name, "--save_name", repr(name), "a file name without folders")
    plain = name.isprintable() and name.strip() == name and name[0] not in "-."
    require(plain, "--save_name", repr(name), "of printable characters, with no - or . before and no blank before or after")


def check_num_classes(num_classes: int | None, known: int, dataset: str) -> None:
    """Raise a `UserError` when --num_classes contradicts the data's own count."""
    if num_classes is not None and num_classes != known:
        raise UserError(f"--num_classes {num_classes} contradicts {dataset}, which has {known} classes: leave it out")
