"""Flags of the scripts and their checks; the names and defaults are the published ones, see the README.

Dashes and underscores in flag names are the same. A wrong value ends in one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from errors import UserError
from image_sets import DATASETS

PUBLISHED_IMB_FACTOR = 0.1
SPLIT_NOTE = "note: --split has no effect, as in the published code"
STAGE2 = {
    "metasaug": "MetaSAug",
    "isda": "ISDA, estimated covariances without meta-learning",
    "reweight": "re-weighting without augmentation",
    "none": "plain cross-entropy carried on",
}
EXPORTS = ("onnx", "torchscript")
CLASSES = {"cifar10": 10, "cifar100": 100, "digits": 10}


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


# Flags that a resumed run may have otherwise: they change where and how it runs, not what comes out.
FREE_FLAGS = {
    *("data_root", "num_classes", "workdir", "save_name", "idx", "print_freq", "gpu", "no_cuda", "threads", "workers"),
    *("resume", "save_every", "epochs", "meta_start_given", "stage1", "cache_dir", "split", "pretrained"),
    *("train_list", "val_list", "meta_list"),  # what they list is compared, not where it stands
}


@dataclass(frozen=True)
class TrainingFlags(LearningFlags):
    """The checked values of a CIFAR training script's flags."""

    imb_factor: float | None
    meta_start: int
    meta_start_given: bool
    stage2: str
    stage1: str | None
    select_on: str
    num_heldout: int | None
    arch: str
    amp: str
    compile: str | None
    threads: int
    gpu: int
    idx: str


def add_common_flags(parser: Parser, dataset: str | None, dataset_help: str) -> None:
    """Add the flags that training and testing share; `dataset` is the default of --dataset."""
    parser.add_argument("--dataset", default=dataset, choices=DATASETS, help=dataset_help)
    parser.add_argument("--data_root", default="data", help="folder of the data (default: %(default)s)")
    parser.add_argument(
        "--imb_factor", type=float, help="smallest class over largest, in (0, 1] (default: 0.1; folder: as it is)"
    )
    parser.add_argument("--num_meta", type=int, default=10, help="meta images a class (default: %(default)s)")
    parser.add_argument("--test-batch-size", type=int, default=100, help="default: %(default)s")
    add_device_flags(parser)


def add_device_flags(parser: Parser) -> None:
    """Add the flags that `places.choose_device` takes."""
    parser.add_argument("--gpu", type=int, default=0, help="which CUDA device (default: %(default)s)")
    parser.add_argument("--no-cuda", action="store_true", help="use the CPU")


def add_checkpoint_flags(parser: Parser) -> None:
    """Add the flags that name a trained network."""
    parser.add_argument("--arch", help="default: the checkpoint's, else resnet32")
    parser.add_argument("--checkpoint_path", required=True, help="a released checkpoint or one of the training scripts")


def add_learning_flags(parser: Parser, epochs: int, lr: float) -> None:
    """Add the flags of every training script, with its own defaults of --epochs and --lr."""
    parser.add_argument("--epochs", type=int, default=epochs, help="default: %(default)s")
    parser.add_argument("--lr", "--learning-rate", type=float, default=lr, help="default: %(default)s")
    parser.add_argument("--momentum", type=float, default=0.9, help="default: %(default)s")
    parser.add_argument("--nesterov", type=truth, default=True, help="true or false (default: %(default)s)")
    parser.add_argument("--weight-decay", "--wd", type=float, default=5e-4, help="default: %(default)s")
    parser.add_argument("--lam", type=float, default=0.25, help="strength λ of the augmentation (default: %(default)s)")
    parser.add_argument("--meta_lr", type=float, default=0.1, help="step size of the covariances (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="weights, order, crops and flips (default: %(default)s)")
    parser.add_argument("--split", type=int, help="taken for published command lines; without effect there and here")
    parser.add_argument("--print-freq", "-p", type=int, default=100, help="steps between lines (default: %(default)s)")
    parser.add_argument("--resume", metavar="auto|PATH", help="go on with an interrupted run: auto takes this run's own "
                        "file, if there is one, PATH another <save_name>_resume.pth.tar")  # fmt: skip
    parser.add_argument("--save_every", type=float, default=10, metavar="MINUTES", help="save what --resume needs so often, "
                        "besides after each epoch; 0: after every step (default: %(default)s)")  # fmt: skip


def binding(flags: LearningFlags) -> dict[str, object]:
    """Return the flags that a resumed run must have as the interrupted one had them, by name."""
    return {f"--{name}": value for name, value in asdict(flags).items() if name not in FREE_FLAGS}


def parse_training(description: str, argv: Sequence[str] | None = None) -> TrainingFlags:
    """Read and check the flags of a training script."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_flags(parser, "cifar10", "data set (default: %(default)s)")
    parser.add_argument("--arch", default="resnet32", help="resnet and a depth of 6n + 2 (default: %(default)s)")
    parser.add_argument("--num_classes", type=int, help="checked against the data set, which decides (default: its own)")
    parser.add_argument("--batch-size", type=int, default=100, help="also of the meta batch (default: %(default)s)")
    parser.add_argument("--meta_start", type=int, help="first epoch of stage 2 (default: 160 of 200; --epochs: none)")
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in STAGE2.items())
    parser.add_argument("--stage2", choices=STAGE2, default="metasaug", help=f"{meanings} (default: %(default)s)")
    parser.add_argument("--stage1", help="go on from this <save_name>_stage1.pth.tar instead of training stage 1")
    parser.add_argument(
        "--select_on", choices=("test", "heldout"), default="test",
        help="what the best epoch is chosen on: the test set, or held-out training images (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--num_heldout", type=int, help="held-out images a class, of those that the long tail leaves out if there are any, "
        "else up to a fifth of the class (default: 2,000 in all)",
    )  # fmt: skip
    add_learning_flags(parser, epochs=200, lr=0.1)
    parser.add_argument("--amp", choices=("off", "bf16"), default="off", help="bf16: passes in bfloat16 (default: off)")
    parser.add_argument(
        "--compile", nargs="?", const="default", choices=("default", "reduce-overhead"),
        help="compile the passes by torch.compile, slow to start; reduce-overhead captures CUDA graphs",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=0, help="of the CPU (default: 0, PyTorch's choice)")
    parser.add_argument("--workdir", default=".", help="checkpoints go to WORKDIR/checkpoint/ours/IDX (default: here)")
    parser.add_argument("--idx", default="0", help="folder of the run (default: %(default)s)")
    parser.add_argument("--save_name", default="name", help="first part of the file names (default: %(default)s)")
    values = vars(parser.parse_args(argv))
    if values["split"] is not None:
        print(SPLIT_NOTE)
    values["meta_start_given"] = values["meta_start"] is not None
    if not values["meta_start_given"]:
        values["meta_start"] = first_meta_epoch(values["epochs"])
    values["imb_factor"] = default_imb_factor(values["dataset"], values["imb_factor"])
    flags = TrainingFlags(**{f.name: values[f.name] for f in fields(TrainingFlags)})
    check_training(flags)
    return flags


def parse_test(description: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read and check the flags of MetaSAug_test.py."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_flags(parser, None, "data set (default: the checkpoint's, else cifar10)")
    add_checkpoint_flags(parser)
    parser.add_argument("--export", choices=EXPORTS, help="also write the network beside its checkpoint, to be run without "
                        "this code: pixels (N, 32, 32, 3) uint8 to logits (N, C); checked against PyTorch")  # fmt: skip
    args = parser.parse_args(argv)
    check_data(args.imb_factor, args.num_meta, args.test_batch_size)
    return args


def default_imb_factor(dataset: str, imb_factor: float | None) -> float | None:
    """Return the published default where none is given; a folder keeps its natural counts."""
    return PUBLISHED_IMB_FACTOR if imb_factor is None and dataset != "folder" else imb_factor


def first_meta_epoch(epochs: int) -> int:
    """Return the default first epoch of stage 2: 160 of 200, rounded down, so that any length has a stage 2."""
    return 160 * epochs // 200


def learning_rate(lr: float, epoch: int, epochs: int) -> float:
    """Return `lr`, times 0.01 from epoch 160 of 200 and again from 180, both rounded up for other lengths.

    The published code asks for the real step's rate with epoch + 1 and for the virtual step's with epoch.
    """
    drops = sum(epoch * 200 >= drop * epochs for drop in (160, 180))
    return lr * 0.01**drops


def require(condition: bool, flag: str, value: object, rule: str) -> None:
    """Raise a `UserError` that names the flag unless the condition holds."""
    if not condition:
        raise UserError(f"{flag} {value} makes no sense: it must be {rule}")


def check_data(imb_factor: float | None, num_meta: int, test_batch_size: int) -> None:
    """Check the flags that training and testing share."""
    require(imb_factor is None or 0 < imb_factor <= 1, "--imb_factor", imb_factor, "above 0 and at most 1")
    require(num_meta >= 1, "--num_meta", num_meta, "at least 1")
    require(test_batch_size >= 1, "--test-batch-size", test_batch_size, "at least 1")


def check_training(flags: TrainingFlags) -> None:
    """Check the values that need no data.

    Raises
    ------
    UserError
        That names the first flag that makes no sense.
    """
    check_data(flags.imb_factor, flags.num_meta, flags.test_batch_size)
    require(flags.meta_start >= 0, "--meta_start", flags.meta_start, "0 or more")
    check_learning(flags)
    require(flags.num_heldout is None or flags.num_heldout >= 1, "--num_heldout", flags.num_heldout, "at least 1")
    if flags.num_heldout is not None and flags.select_on == "test":
        raise UserError(f"--num_heldout {flags.num_heldout} holds nothing out unless --select_on is heldout: add that")
    require(0 <= flags.threads <= 1024, "--threads", flags.threads, "from 0 to 1024")
    inside = Path(flags.idx)
    require(bool(flags.idx) and not inside.is_absolute() and ".." not in inside.parts, "--idx", repr(flags.idx), "a name")
    known = CLASSES.get(flags.dataset)
    check_num_classes(flags.num_classes, known, flags.dataset)


def check_learning(flags: LearningFlags) -> None:
    """Check what every training script has.

    Raises
    ------
    UserError
        That names the first flag that makes no sense.
    """
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


def check_num_classes(num_classes: int | None, known: int | None, dataset: str) -> None:
    """Raise a `UserError` when --num_classes contradicts the data set's own count."""
    if num_classes is not None and known is not None and num_classes != known:
        raise UserError(f"--num_classes {num_classes} contradicts {dataset}, which has {known} classes: leave it out")
