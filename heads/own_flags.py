"""Flags of train_own.py."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from covariance_rules import RULES
from datasets.drawn_sets import Lists, Sets
from datasets.folders import read_layout
from harness.errors import UserError
from harness.flags import (
    PUBLISHED_RULE,
    Parser,
    add_learning_flags,
    add_method_flags,
    check_idx,
    check_learning,
    check_logit_adjust,
    require,
)
from heads.feature_scale import TRANSFORMS
from heads.head_training import Stages
from heads.networks import DOWNLOADED, is_library
from heads.preparation import Preparation, resized
from heads.run_flags import (
    FrozenFlags,
    add_group_flags,
    add_test_batch_flags,
    add_val_fraction_flags,
    check_lists_stay,
    check_workers,
)
from heads.ways import DEFAULT_WAY, RECIPE, WAYS, Constants, Fit, constants_of
from meta_step import STAGE2

RESNET = "resnet50.tv_in1k"
CRT = ("resnet50_uniform_e90.pth", "ImageNet_LT_cRT.pth")  # weights of ImageNet_iNat that serve here too
MODELS = Path(__file__).resolve().parent.parent / "ImageNet_iNat" / "models"
USUAL_FRACTION = 0.2
USUAL_RULE = "relative"
OF_IMAGES = ("data_root", "train_list", "val_list", "meta_list", "backbone", "pretrained", "image_size",
             "views", "cache_dir", "finetune", "whole")  # fmt: skip
OF_FINETUNING = ("amp",)
OF_STEPS = ("batch_size", "epochs", "lr", "momentum", "nesterov", "weight_decay", "lam", "stage2", "meta_update", "meta_lr",
            "meta_step_size", "meta_images", "balance", "num_meta", "meta_start", "lr_drop", "logit_adjust", "views",
            "finetune")  # fmt: skip


@dataclass(frozen=True)
class OwnFlags(FrozenFlags):
    """The checked values of train_own.py's flags; `by_folds` are the constants that folds choose, with blanks between."""

    way: str
    C: float | None
    transform: str
    by_folds: str
    backbone: str | None
    image_size: int | None
    views: int
    cache_dir: str | None
    finetune: bool
    whole: bool
    amp: str
    features: str | None
    val_features: str | None
    meta_features: str | None
    meta_start: int
    lr_drop: float
    logit_adjust: float
    idx: str

    @property
    def fit(self) -> Fit | None:
        """What makes the head at once, if its way is such a one."""
        return WAYS[self.way].fit if self.way in WAYS else None

    @property
    def constants(self) -> Constants:
        """The constants of its way."""
        return {name: getattr(self, name) for name in constants_of(self.way)}

    def decayed(self, model: nn.Module, features: int, rows: int) -> Any:
        """Return the parameters, at --C with the decay whose minimum logistic regression finds there: none of the bias."""
        if self.C is None:
            return model.parameters()
        matrices, biases = ([p for p in model.parameters() if p.dim() in dims] for dims in ([2], [1]))
        return [{"params": matrices, "weight_decay": features / (self.C * rows)}, {"params": biases, "weight_decay": 0.0}]

    def drawn(self, lists: Lists) -> Sets:
        """Return the sets that are drawn; meta images stay in the training set, unless they are to be apart from it."""
        if self.meta_images == "train" and lists.draw == "take out":
            lists = replace(lists, draw="share")
        num_meta = self.num_meta if self.needs_meta or lists.draw == "take out" else 0
        return lists.sets(num_meta, self.heldout, self.joins_meta)

    def redrawn(self, sets: Sets) -> Sets:
        """Return the sets that these flags draw from the lists of others."""
        assert sets.lists is not None
        return self.drawn(sets.lists)

    @property
    def folder(self) -> Path:
        """Where the run's files go."""
        return Path(self.workdir) / "checkpoint" / "ours" / self.idx

    @property
    def cache_folder(self) -> Path:
        """Where the features of images are kept."""
        return Path(self.cache_dir or Path(self.workdir) / "feature_cache")

    @property
    def feature_files(self) -> tuple[str | None, str | None, str | None]:
        """The files of features for training, tests and the meta set."""
        return self.features, self.val_features, self.meta_features

    @property
    def writes_lists(self) -> bool:
        """Rows of features that were drawn follow from the file and the seed."""
        return super().writes_lists and self.features is None

    @property
    def stages(self) -> Stages:
        """The rate is lower in the last third of the epochs."""
        return Stages(self.meta_start, last_third(self.epochs), self.lr_drop)


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def last_third(epochs: int) -> int:
    """Return the first epoch of the last third."""
    return 2 * epochs // 3


def own_parser(description: str | None) -> Parser:
    """Return the parser of train_own.py."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_group_flags(parser)
    add_source_flags(parser)
    ways = "; ".join(f"{name}: {way.words}" for name, way in WAYS.items())
    parser.add_argument("--way", choices=(*WAYS, RECIPE), help=f"how the head is made. {ways}; {RECIPE}: steps of SGD by "
                        f"--stage2, --epochs, --lr and so on (default: {DEFAULT_WAY}; {RECIPE} if one of these is "
                        "given)")  # fmt: skip
    parser.add_argument("--C", type=float, help="inverse regularisation as scikit-learn's, of features whose variances "
                        "sum to one (default: chosen by folds over the training images)")  # fmt: skip
    parser.add_argument("--transform", choices=tuple(TRANSFORMS), help="what is done to features first (default: chosen by "
                        f"folds, with --way {RECIPE} none)")  # fmt: skip
    parser.add_argument("--num_meta", type=int, default=10, help="meta images a class (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=128, help="of one process, also for meta (default: %(default)s)")
    add_test_batch_flags(parser, None, "one for each processor, 4 at most")
    parser.add_argument("--meta_start", type=int, help="first epoch of stage 2, from 0, before which the loss is plain "
                        "cross-entropy (default: two thirds of --epochs)")  # fmt: skip
    parser.add_argument("--lr_drop", type=float, default=0.1, help="factor of the rate in the last third of the epochs "
                        "(default: %(default)s)")  # fmt: skip
    add_method_flags(parser, STAGE2, RULES)
    parser.add_argument("--num_heldout", type=int, help="images a class to hold out, at most a fifth of the class "
                        "(default: 2,000 in all)")  # fmt: skip
    parser.add_argument("--logit_adjust", type=float, default=0.0, metavar="TAU", help="subtract TAU times the log of each "
                        "class's share of the training images from its logit, in tests and in the network that is saved "
                        "(default: 0)")  # fmt: skip
    add_learning_flags(parser, epochs=30, lr=0.01)
    parser.set_defaults(lam=2.0, meta_update=USUAL_RULE, meta_images="train")
    parser.add_argument("--workdir", default=".", help="checkpoints go to WORKDIR/checkpoint/ours/IDX (default: here)")
    parser.add_argument("--idx", default="own", help="folder of the run (default: %(default)s)")
    parser.add_argument("--save_name", default="head", help="first part of the file names (default: %(default)s)")
    return parser


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what is trained on: images and their backbone, or features."""
    parser.add_argument("--data_root", help="folder of the images: <class>/*, or train/<class>/* and val/<class>/*, or that "
                        "of the lists")  # fmt: skip
    add_val_fraction_flags(parser, "")
    parser.add_argument("--train_list", help="lines of 'relative/path label' in place of folders")
    parser.add_argument("--val_list", help="the list of the test images")
    parser.add_argument("--meta_list", help="the list of the meta images (default: some out of the training list)")
    parser.add_argument("--backbone", help="a network of timm, or package.module:function (default: "
                        f"{RESNET})")  # fmt: skip
    parser.add_argument("--pretrained", help=f"file of its weights, or {DOWNLOADED} to download timm's "
                        f"(default: {DOWNLOADED}, with {RESNET} cRT's file in ImageNet_iNat/models if it is there; "
                        "of a function, the weights as it gives them)")  # fmt: skip
    parser.add_argument("--image_size", type=int, help="pixels a side that the backbone takes (default: the network's own)")
    parser.add_argument("--views", type=int, default=0, metavar="K", help="train on K randomly augmented views of each "
                        "image besides the plain one (default: %(default)s)")  # fmt: skip
    parser.add_argument("--cache_dir", help="folder of the computed features (default: WORKDIR/feature_cache)")
    parser.add_argument("--whole", action="store_true", help="checkpoints hold the weights of the whole network, not of the "
                        "head alone")  # fmt: skip
    add_finetuning_flags(parser)
    parser.add_argument("--features", metavar="FILE", help="in place of images: .npz or .safetensors with features (N, A) "
                        "and labels (N,), and split if there are no other files")  # fmt: skip
    parser.add_argument("--val_features", metavar="FILE", help="those to test on, if they are in a file of their own")
    parser.add_argument("--meta_features", metavar="FILE", help="those of the meta set, if they are in a file of their own")


def add_finetuning_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a training of the whole network."""
    parser.add_argument("--finetune", action="store_true", help="train the whole network, not its last layer alone; images "
                        "are augmented anew in every epoch")  # fmt: skip
    parser.add_argument("--amp", choices=("off", "bf16"), default="off", help="bf16: passes in bfloat16 (default: off)")


def parse_own(description: str | None, argv: Sequence[str] | None = None) -> OwnFlags:
    """Read and check the flags of train_own.py."""
    values, given = vars(own_parser(description).parse_args(argv)), given_flags(argv)
    values |= {"dataset": "own", "num_classes": None, **of_way(values, given)}
    if values["workers"] is None:
        values["workers"] = min(4, processors())
    if values["stage2"] != "metasaug" and "meta_update" not in given:
        values["meta_update"] = PUBLISHED_RULE  # as if there were no other: it has no effect
    if values["meta_start"] is None:
        values["meta_start"] = last_third(values["epochs"])
    values |= without_images(values) if values["features"] is not None else with_images(values)
    check_finetuning(values["finetune"], given)
    values["whole"] = values["whole"] or values["finetune"]
    flags = OwnFlags(**{f.name: values[f.name] for f in fields(OwnFlags) if f.name in values})
    check_learning(flags)
    check_workers(flags.workers)
    check_idx(flags.idx)
    resized(Preparation(), flags.image_size)  # checked now
    check_lists_stay(flags)
    check_logit_adjust(flags.logit_adjust)
    require(flags.C is None or 0 < flags.C < 1e30, "--C", flags.C, "a number above 0")
    require(flags.meta_start >= 0, "--meta_start", flags.meta_start, "0 or more")
    require(0 < flags.lr_drop <= 1, "--lr_drop", flags.lr_drop, "above 0 and at most 1")
    require(0 <= flags.views <= 1000, "--views", flags.views, "from 0 to 1000")
    return flags


def of_way(values: Mapping[str, Any], given: set[str]) -> dict[str, object]:
    """Return the flags that follow from --way, or from its absence."""
    steps = [name for name in OF_STEPS if name in given]
    name = values["way"] or (RECIPE if steps else DEFAULT_WAY)
    regularised = name != RECIPE and "C" in constants_of(name)
    if "weight_decay" in given and (regularised or "C" in given):
        raise UserError(f"--weight-decay and --C say the same: leave one out, and with --way {name} the first")
    if name == RECIPE:
        return {"way": name, "transform": values["transform"] or "none", "by_folds": ""}
    way, constants = WAYS[name], constants_of(name)
    for flag in (flag for flag in ("stage2", "balance", "meta_update") if flag in given and flag in way.flags):
        if values[flag] != way.flags[flag]:
            raise UserError(f"--{flag} {values[flag]} does not go with --way {name}: leave it out, or take --way {RECIPE}")
    idle = [flag for flag in steps if way.fit is not None and flag not in constants]
    idle += [flag for flag in ("C", "transform") if flag in given and flag not in constants]
    idle += ["select_on"] if way.fit is not None and values["select_on"] == "heldout" else []
    if idle or "finetune" in given:
        raise UserError(f"--{(idle or ['finetune'])[0]} has no effect with --way {name}, {way.words}: leave it out")
    no_steps = {"stage2": "none", "epochs": 1, "meta_start": 0, "momentum": 0.0, "nesterov": False}
    at_once = {} if way.fit is None else no_steps
    usual = {key: value for key, value in {**constants, **way.flags, **at_once}.items() if key not in given}
    by_folds = " ".join(key for key in constants if key not in given)
    return {"way": name, "transform": values["transform"] or "none", **usual, "by_folds": by_folds}


def given_flags(argv: Sequence[str] | None) -> set[str]:
    """Return the names of the flags that are given."""
    parser, absent = own_parser(None), object()
    unset = argparse.Namespace(**dict.fromkeys(vars(parser.parse_args([])), absent))
    return {name for name, value in vars(parser.parse_args(argv, unset)).items() if value is not absent}


def check_finetuning(finetune: bool, given: set[str]) -> None:
    """Refuse flags that go with --finetune alone, or with heads alone."""
    if not finetune:
        for name in sorted(given & set(OF_FINETUNING)):
            raise UserError(f"--{name} goes with --finetune, the training of the whole network: add that")
        return
    for name in sorted(given & {"C", "transform"}):
        raise UserError(f"--{name} is for heads of features that stay as they are: with --finetune leave it out")
    for name in sorted(given & {"views", "cache_dir"}):
        raise UserError(f"--{name} and --finetune do not go together: no features are kept, images are always augmented")


def without_images(values: dict[str, object]) -> dict[str, object]:
    """Return the flags that follow from --features, which those of images do not go with."""
    usual = vars(own_parser(None).parse_args([]))
    other = next((name for name in OF_IMAGES if values[name] != usual[name]), None)
    if other is not None:
        raise UserError(f"--features and --{other} do not go together: features need no images and no backbone")
    return {"data_root": values["features"]}


def with_images(values: dict[str, object]) -> dict[str, object]:
    """Return the flags of images that follow from others."""
    for name in ("val_features", "meta_features"):
        if values[name] is not None:
            raise UserError(f"--{name} goes with --features, the file of the training features: give that too")
    root, backbone = values["data_root"], str(values["backbone"] or RESNET)
    if root is None:
        raise UserError("nothing to train on: give --data_root, a folder with a folder for each class, or --features")
    found: dict[str, object] = {"backbone": backbone}
    if values["pretrained"] is None and is_library(backbone):
        crt = [str(MODELS / name) for name in CRT if backbone == RESNET and os.path.isfile(MODELS / name)]
        found["pretrained"] = next(iter(crt), DOWNLOADED)
    lists = any(values[name] is not None for name in ("train_list", "val_list", "meta_list"))
    if values["val_fraction"] is None and not lists and read_layout(Path(str(root))).tested is None:
        found["val_fraction"] = USUAL_FRACTION
    return found
