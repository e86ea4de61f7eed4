"""The data sets of ImageNet_iNat: which lists are for training, meta and test, and where meta images are drawn from."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from datasets.drawn_sets import Lists
from datasets.examples import class_counts, repeat_notes
from datasets.folders import Layout, read_layout
from datasets.image_lists import SPLIT_ADVICE, ImageList, check_listable, read_inaturalist17, read_list, read_tree
from harness.command_flags import LARGE_NAMES
from harness.errors import UserError

NUM_META = {**dict.fromkeys(LARGE_NAMES, 10), "iNaturalist18": 2, "iNaturalist17": 5}
LISTS = Path(__file__).resolve().parent.parent / "ImageNet_iNat" / "data"
Flag = str | Path | None  # a list named by the user, relative to the current folder


def read_published(dataset: str, part: str, root: Path, num_classes: int | None = None) -> ImageList:
    """Read the train, val or test list of a published set; iNaturalist 2017 also from its official jsons.

    `num_classes` is that of the training list, None where this is the one: then its largest label decides.
    """
    file = LISTS / f"{dataset}_{part}.txt"
    official = [folder / f"{part}2017.json" for folder in (LISTS, root) if dataset == "iNaturalist17"]
    found = next((place for place in official if os.path.isfile(place)), None)
    if found is None or os.path.isfile(file):
        advice = f"run python3 data/prepare_lists.py {dataset} inside ImageNet_iNat"
        if official:
            advice += f", or put {official[0].name} into {root} (github.com/visipedia/inat_comp)"
        return read_list(file, root, num_classes, advice)
    return read_inaturalist17(found, root, num_classes, "fetch it again")


def published_lists(dataset: str, root: Path) -> Lists[ImageList]:
    """Read a published data set, or the part that the lists have; its meta images where the published code takes them."""
    train = read_published(dataset, "train", root)
    classes = len(train.class_names)
    val = read_published(dataset, "val", root, classes)
    if dataset == "ImageNet_LT":
        return Lists(train, val, read_published(dataset, "test", root, classes), "copy", [])
    source, use = (train, "training") if dataset == "iNaturalist17" else (val, "test")
    return Lists(train, source, val, "copy", [f"the meta images are also {use} images, as published"])


def listed(root: Path, train_list: Flag, val_list: Flag, meta_list: Flag) -> dict[str, ImageList]:
    """Read one's own lists: --train_list, --val_list, --meta_list."""
    if train_list is None or val_list is None:
        raise UserError("--train_list and --val_list need each other: give both, or neither to use folders in --data_root")
    train = read_list(Path(train_list), root, None, "check --train_list")
    classes = len(train.class_names)
    found = {"train": train, "test": read_list(Path(val_list), root, classes, "check --val_list")}
    return found if meta_list is None else found | {"meta": read_list(Path(meta_list), root, classes, "check --meta_list")}


def trees(root: Path, drawn: bool) -> dict[str, ImageList]:
    """Read one's own folders of splits, see `folders.read_layout`; where there are val and test, the second is tested on.

    If test images are to be drawn there is one folder of classes.
    """
    layout = read_layout(root)
    if drawn and layout.tested is not None:
        raise UserError(f"--val_fraction draws test images from one folder of classes, but {root} has {layout.tested} for "
                        f"tests: leave the flag out, or give --data_root {layout.train}")  # fmt: skip
    train = read_tree(layout.train, None, root)
    test, val = None if drawn else tested_folder(layout, root), layout.val if layout.test else None
    folders = {"test": test, "val": val, "meta": layout.meta}
    others = {name: read_tree(place, train.class_names, root) for name, place in folders.items() if place is not None}
    return {"train": replace(train, notes=(*layout.notes, *train.notes)), **others}


def tested_folder(layout: Layout, root: Path) -> Path:
    """Return the folder to test on; a `UserError` says that there is none."""
    if layout.tested is None:
        raise UserError(f"{root} has no folder val or test of class folders: {SPLIT_ADVICE}")
    return layout.tested


def read_test(
    dataset: str, root: Path, num_classes: int | None, val_list: Flag, class_names: list[str] | None
) -> ImageList:
    """Read only what is tested on; `class_names` are those of training where they are known."""
    if val_list is not None:
        return read_list(Path(val_list), root, num_classes, "check --val_list")
    if dataset != "custom":
        return read_published(dataset, "test" if dataset == "ImageNet_LT" else "val", root, num_classes)
    return read_tree(tested_folder(read_layout(root), root), class_names)


def training_counts(dataset: str, root: Path, num_classes: int, train_list: Flag) -> list[int] | None:
    """Return how many training images each class has, None if their list is not there."""
    if train_list is not None:
        return class_counts(read_list(Path(train_list), root, num_classes, "check --train_list"))
    with suppress(UserError):
        return class_counts(read_published(dataset, "train", root, num_classes))
    return None


def read_lists(
    dataset: str, root: Path, train_list: Flag = None, val_list: Flag = None, meta_list: Flag = None,
    val_fraction: float | None = None, val_seed: int = 0,
) -> Lists[ImageList]:  # fmt: skip
    """Read the lists of a data set; a `UserError` names the flag, file or class that is wrong.

    Parameters
    ----------
    dataset:
        One of `LARGE_NAMES`. The lists of the published sets lie in `LISTS`; meta images are drawn from the val list
        (iNaturalist17: the training list) and stay there. "custom" has its own lists, or without them the folders train, val
        (or test) and, if wanted, meta in `root`, each with a folder for every class; without such a list or folder meta
        images are taken out of its training list.
    val_fraction, val_seed:
        Of "custom" without lists: `root` has a folder for every class, of which this share is drawn for tests.
    """
    own, drawn = (train_list, val_list, meta_list), val_fraction is not None
    given = any(flag is not None for flag in own)
    if dataset != "custom":
        if given or drawn:
            raise UserError("--train_list, --val_list, --meta_list and --val_fraction are not for "
                            f"{dataset}: leave them out or choose custom")  # fmt: skip
        return published_lists(dataset, root)
    if given and drawn:
        raise UserError("--val_fraction draws test images from folders: leave it out, or the lists")
    parts = listed(root, *own) if given else trees(root, drawn)
    train, meta = parts["train"], parts.get("meta")
    if drawn:
        check_listable(train)
    test = parts.get("test", train.subset(np.arange(0)))
    notes = [note for part in parts.values() for note in part.notes]
    notes += repeat_notes(train.identities(), train.targets, test.identities())
    share = None if val_fraction is None else (val_fraction, val_seed)
    return Lists(train, meta or train, test, "whole" if meta else "take out", notes, parts.get("val"), share)
