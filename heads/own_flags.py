"""What follows from the flags of train_own.py."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from datasets.drawn_sets import Lists, Sets
from datasets.folders import read_layout
from harness.errors import UserError
from harness.flag_parser import given_flags, with_defaults
from harness.flags import PUBLISHED_RULE
from heads.preparation import ImageFlags
from heads.registries import DOWNLOADED, is_library
from heads.run_flags import GroupFlags, HeadWords
from heads.ways import DEFAULT_WAY, RECIPE, WAYS, Constants, Fit, constants_of

USUAL_FRACTION = 0.2
OWN_LISTS = ("train_list", "val_list", "meta_list")
NEEDED = {"micro_batch": "finetune", "amp": "finetune", "val_features": "features", "meta_features": "features"}
APART = {  # flags that do not go together
    "finetune": ("C", "transform", "views", "cache_dir"),
    "features": ("data_root", *OWN_LISTS, "backbone", "pretrained", "image_size", "resize_size", "mean", "std", "views",
                 "cache_dir", "finetune", "whole"),
}  # fmt: skip
OF_STEPS = ("batch_size", "epochs", "lr", "momentum", "nesterov", "weight_decay", "lam", "stage2", "meta_update", "meta_lr",
            "meta_step_size", "meta_images", "balance", "num_meta", "meta_start", "lr_drop", "logit_adjust", "views",
            "finetune")  # fmt: skip


class OwnFlags(HeadWords):
    """The checked values of train_own.py's flags."""

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
        matrices, biases = ([p for p in model.parameters() if p.dim() == dims] for dims in (2, 1))
        return [{"params": matrices, "weight_decay": features / (self.C * rows)}, {"params": biases, "weight_decay": 0.0}]

    def drawn(self, lists: Lists) -> Sets:
        """Return the sets that are drawn; meta images stay in the training set, unless they are to be apart from it."""
        if self.joins_meta and lists.draw == "take out":
            lists = replace(lists, draw="share")
        num_meta = self.num_meta if self.needs_meta or lists.draw == "take out" else 0
        return lists.sets(num_meta, self.heldout, self.joins_meta)

    @property
    def images(self) -> ImageFlags:
        """What is said of the backbone's images."""
        said = {name: getattr(self, name) for name in ("image_size", "resize_size", "mean", "std")}
        given = {name: value for name, value in said.items() if value is not None}
        return given | {name: tuple(map(float, text.split(","))) for name, text in given.items() if isinstance(text, str)}

    @property
    def writes_lists(self) -> bool:
        """Rows of features that were drawn follow from the file and the seed."""
        return super().writes_lists and self.features is None

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, which is lower in the last third."""
        return self.lr * self.lr_drop if epoch >= last_third(self.epochs) else self.lr


def last_third(epochs: int) -> int:
    """Return the first epoch of the last third."""
    return 2 * epochs // 3


def parse_own(argv: Sequence[str] | None = None) -> OwnFlags:
    """Read and check the flags of train_own.py."""
    given = given_flags(argv, GroupFlags, HeadWords)
    check_together(given)
    values = {**of_way(given), **given}
    values.setdefault("workers", min(4, os.cpu_count() or 1))
    values.setdefault("meta_start", last_third(values.get("epochs", HeadWords.usual["epochs"])))
    if values.get("stage2", "metasaug") != "metasaug":
        values.setdefault("meta_update", PUBLISHED_RULE)  # as if there were no other: it has no effect
    values |= {"data_root": given["features"]} if "features" in given else with_images(given)
    return with_defaults(OwnFlags, {**values, "whole": bool({"whole", "finetune"} & given.keys())})


def check_together(given: Mapping[str, Any]) -> None:
    """Refuse flags without those that they need, and flags that exclude one another."""
    for name, needed in NEEDED.items():
        if name in given and needed not in given:
            raise UserError(f"--{name} goes with --{needed}: give that too, or leave it out")
    for one, others in APART.items():
        for name in others:
            if one in given and name in given:
                raise UserError(f"--{one} and --{name} do not go together: leave one out")


def of_way(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults that follow from --way, or from its absence."""
    steps = [name for name in OF_STEPS if name in given]
    name = given.get("way", RECIPE if steps else DEFAULT_WAY)
    constants = constants_of(name)
    if "weight_decay" in given and ("C" in constants or "C" in given):
        raise UserError(f"--weight_decay and --C set the same: leave one out, and with --way {name} the first")
    if name == RECIPE:
        return {"way": name, "transform": "none"}
    way = WAYS[name]
    idle = [flag for flag in ("C", "transform", *(steps if way.fit else ())) if flag in given and flag not in constants]
    idle += [flag for flag in ("stage2", "balance", "meta_update") if given.get(flag) not in (None, way.flags.get(flag))]
    idle += ["finetune"] if "finetune" in given else []
    idle += ["select_on"] if way.fit and given.get("select_on") == "heldout" else []
    if idle:
        raise UserError(f"--{idle[0]} does not go with --way {name}, {way.words}: leave it out, or take --way {RECIPE}")
    at_once = {"stage2": "none", "epochs": 1, "meta_start": 0, "momentum": 0.0, "nesterov": False} if way.fit else {}
    by_folds = " ".join(key for key in constants if key not in given)
    return {"way": name, "transform": "none", **constants, **way.flags, **at_once, "by_folds": by_folds}


def with_images(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of images that follow from other flags."""
    root, backbone = given.get("data_root"), given.get("backbone", "resnet50")
    if root is None:
        raise UserError("nothing to train on: give --data_root, a folder with one subfolder per class, or --features")
    found: dict[str, Any] = {"backbone": backbone}
    if "pretrained" not in given and is_library(backbone):
        found["pretrained"] = DOWNLOADED
    if "val_fraction" not in given and not given.keys() & {*OWN_LISTS} and read_layout(Path(root)).tested is None:
        found["val_fraction"] = USUAL_FRACTION
    return found
