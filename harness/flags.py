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

from harness.errors import Stopped, UserError

PUBLISHED_RULE = "published"  # of --meta_update; its step size is --meta_lr
META_LR = 0.1
MOST_TAU = 1000  # of --logit_adjust, for which the published value is 1
META_IMAGES = ("apart", "train", "loss")  # the choices of --meta_images, the default first
BALANCE = ("weights", "prior", "none")
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

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Leave after --help."""
        raise Stopped("", status)


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
    stage2: str
    meta_update: str
    meta_lr: float
    meta_step_size: float
    meta_images: str
    balance: str
    select_on: str
    num_heldout: int | None
    seed: int
    print_freq: int
    no_cuda: bool
    workdir: str
    save_name: str
    resume: str | None
    save_every: float

    @property
    def step_size(self) -> float:
        """The step size of the rule for Σ̂."""
        return self.meta_lr if self.meta_update == PUBLISHED_RULE else self.meta_step_size

    @property
    def step_size_flag(self) -> str:
        """The flag that sets it."""
        return "--meta_lr" if self.meta_update == PUBLISHED_RULE else "--meta_step_size"

    @property
    def joins_meta(self) -> bool:
        """Whether the meta images are trained on as the others are."""
        return self.meta_images == "train"

    @property
    def trains_on_meta(self) -> bool:
        """Whether the loss of meta batches is trained on."""
        return self.meta_images == "loss"

    @property
    def heldout(self) -> int:
        """How many images a class to hold out, -1 for a number that the data set decides."""
        return (self.num_heldout or -1) if self.select_on == "heldout" else 0

    def binding(self) -> dict[str, object]:
        """Return the flags that a resumed run must have as the interrupted one had them, by name."""
        return {f"--{name}": value for name, value in asdict(self).items() if name not in FREE_FLAGS}

    def resumed(self, before: Mapping[str, Any]) -> LearningFlags:
        """Return the flags to go on with where a run with the flags `before` was interrupted."""
        return self


# The values of flags that files of older versions do not have.
UNSAID = {
    "stage2": "metasaug", "select_on": "test", "num_heldout": None, "meta_update": PUBLISHED_RULE, "meta_step_size": 0.5,
    "meta_images": META_IMAGES[0], "balance": BALANCE[0], "stage2_lr": 1.0, "virtual": "all",
}  # fmt: skip
CHOICES = ("meta_update", "meta_step_size", "virtual", "meta_images", "balance", "stage2_lr")  # of stage 2, besides --stage2
META = {"meta_lr", "meta_update", "meta_step_size", "virtual"}  # flags of metasaug alone
UNUSED = {"isda": META, "reweight": META | {"lam"}, "none": META | {"lam", "loss", "balance"}}  # by --stage2
# Flags that a resumed run may have otherwise: they change where and how it runs, not what comes out.
FREE_FLAGS = {
    *("data_root", "num_classes", "workdir", "save_name", "idx", "print_freq", "gpu", "no_cuda", "threads", "workers"),
    *("cuda_graphs", "resume", "save_every", "epochs", "meta_start_given", "stage1", "cache_dir", "split", "pretrained"),
    "whole",
    *("skip_bad", "val_fraction", "val_seed"),
    *("train_list", "val_list", "meta_list"),  # what they read is compared, not where it stands
}


def without_effect(flags: Mapping[str, Any]) -> dict[str, str]:
    """Return the flags that change nothing beside the others, by name, and which other one is the reason."""
    unused = {"num_heldout": "select_on"} if flags["select_on"] == "test" else {}
    unused["meta_step_size" if flags["meta_update"] == PUBLISHED_RULE else "meta_lr"] = "meta_update"
    return {**unused, **dict.fromkeys(sorted(UNUSED.get(str(flags["stage2"]), ())), "stage2")}


def effect_notes(flags: LearningFlags) -> list[str]:
    """Return a line for each choice of a method that is not the default and changes nothing; of λ nothing is said."""
    given, usual = asdict(flags), {**UNSAID, "meta_lr": META_LR}
    idle = {name: why for name, why in without_effect(given).items() if name in given and name in usual}
    other = {name: why for name, why in idle.items() if given[name] != usual[name]}
    return [f"note: --{name} {given[name]} has no effect with --{why} {given[why]}" for name, why in other.items()]


def choice_words(flags: LearningFlags) -> str:
    """Return the choices of stage 2 besides --stage2 that are not the default and have an effect, each after a comma."""
    given, idle = asdict(flags), without_effect(asdict(flags))
    names = [name for name in CHOICES if name in given and name not in idle and given[name] != UNSAID[name]]
    return "".join(f", --{name} {given[name]}" for name in names)


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
    parser.add_argument("--arch", help="of code of one's own, package.module:function; default: the "
                        "checkpoint's, else resnet32")  # fmt: skip
    parser.add_argument("--checkpoint_path", required=True, help="a released checkpoint or one of the training scripts")


def add_method_flags(parser: Parser, stage2: Mapping[str, str], rules: Mapping[str, object]) -> None:
    """Add the flags that choose a method: `stage2` has its choices, the default first, and their meanings; `rules` for Σ̂.

    Of a head on frozen features every epoch is stage 2.
    """
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in stage2.items())
    parser.add_argument("--stage2", choices=stage2, default=next(iter(stage2)), help="what stage 2, of a head "
                        f"every epoch, is. {meanings} (default: %(default)s)")  # fmt: skip
    parser.add_argument("--lam", type=float, default=0.25, help="strength λ of the augmentation (default: %(default)s)")
    parser.add_argument("--meta_update", choices=tuple(rules), default=PUBLISHED_RULE, help="how the covariances move: by "
                        "--meta_lr times the meta gradient, as published, or by --meta_step_size of their norm against its "
                        "direction, staying positive semi-definite (default: %(default)s)")  # fmt: skip
    parser.add_argument("--meta_lr", type=float, default=META_LR, help="step size of the published rule "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--meta_step_size", type=float, default=0.5, help="the share of a class's covariance by which any "
                        "other rule moves it (default: %(default)s)")  # fmt: skip
    parser.add_argument("--meta_images", choices=META_IMAGES, default=META_IMAGES[0], help="what stage 2, of a head "
                        "every epoch, does with them besides meta batches. apart: nothing; train: trains on them as on the "
                        "others; loss: adds the plain cross-entropy of a meta batch to each step's loss "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--balance", choices=BALANCE, default=BALANCE[0], help="what makes up for the long tail in the loss "
                        "of stage 2: class-balanced weights, the log of the class shares added to the logits, or nothing "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--select_on", choices=("test", "heldout"), default="test", help="what the best epoch is chosen on: "
                        "the test set, or images that are held out of training (default: %(default)s)")  # fmt: skip


def add_learning_flags(parser: Parser, epochs: int, lr: float) -> None:
    """Add the flags of every training script, with its own defaults of --epochs and --lr."""
    parser.add_argument("--skip_bad", action="store_true", help="leave out images that cannot be read")
    parser.add_argument("--epochs", type=int, default=epochs, help="default: %(default)s")
    parser.add_argument("--lr", "--learning-rate", type=float, default=lr, help="default: %(default)s")
    parser.add_argument("--momentum", type=float, default=0.9, help="default: %(default)s")
    parser.add_argument("--nesterov", type=truth, default=True, help="true or false (default: %(default)s)")
    parser.add_argument("--weight-decay", "--wd", type=float, default=5e-4, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=42, help="weights, order, crops and flips (default: %(default)s)")
    parser.add_argument("--print-freq", "-p", type=int, default=100, help="steps between lines (default: %(default)s)")
    parser.add_argument("--resume", metavar="auto|PATH", help="go on with an interrupted run: auto takes this run's own "
                        "file, if there is one, PATH another <save_name>_resume.pth.tar")  # fmt: skip
    parser.add_argument("--save_every", type=float, default=10, metavar="MINUTES", help="save what --resume needs so often, "
                        "besides after each epoch; 0: after every step (default: %(default)s)")  # fmt: skip


def add_split_flag(parser: Parser) -> None:
    """Add the flag of the published scripts that does nothing."""
    parser.add_argument("--split", type=int, help="accepted for published command lines, whose default is "
                        "1000; it has no effect there and here")  # fmt: skip


def add_logit_adjust_flag(parser: Parser) -> None:
    """Add the flag by which testing makes up for the long tail."""
    parser.add_argument("--logit_adjust", type=float, default=0.0, metavar="TAU", help="subtract TAU times the log of each "
                        "class's share of the training images from its logit (default: 0, as they are)")  # fmt: skip


def check_logit_adjust(tau: float) -> None:
    """Check --logit_adjust."""
    require(0 <= tau <= MOST_TAU, "--logit_adjust", tau, f"a number from 0 to {MOST_TAU}")


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
    require(flags.num_heldout is None or flags.num_heldout >= 1, "--num_heldout", flags.num_heldout, "at least 1")
    if flags.num_heldout is not None and flags.select_on == "test":
        raise UserError(f"--num_heldout {flags.num_heldout} holds nothing out unless --select_on is heldout: add that")
    rates = {"--lam": flags.lam, "--meta_lr": flags.meta_lr, "--meta_step_size": flags.meta_step_size}
    for flag, value in {**rates, "--weight-decay": flags.weight_decay}.items():
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


def check_idx(idx: str) -> None:
    """Check --idx."""
    inside = Path(idx)
    require(bool(idx) and not inside.is_absolute() and ".." not in inside.parts, "--idx", repr(idx), "a name")
    require(idx.isprintable(), "--idx", repr(idx), "of printable characters")
