"""The data sets of ImageNet_iNat: which lists are for training, meta and test, and where meta images are drawn from."""

from __future__ import annotations

import os
from pathlib import Path

from datasets.drawn_sets import Lists, split_lists
from datasets.examples import Examples, class_counts, repeat_notes
from datasets.folders import read_layout
from datasets.image_lists import (
    MAX_CLASSES,
    SPLIT_ADVICE,
    ImageList,
    check_counted_from_0,
    check_listable,
    read_inaturalist17,
    read_list,
    read_tree,
)
from harness.command_flags import LARGE_NAMES
from harness.errors import UserError
from harness.flags import check_num_classes, require

NUM_META = {**dict.fromkeys(LARGE_NAMES, 10), "iNaturalist18": 2, "iNaturalist17": 5}
LISTS = Path(__file__).resolve().parent.parent / "ImageNet_iNat" / "data"
Flag = str | Path | None  # a list named by the user, relative to the current folder


def check_val_fraction(val_fraction: float, val_seed: int) -> None:
    """Raise a `UserError` that names the flag that makes no sense."""
    require(0 <= val_fraction < 1, "--val_fraction", val_fraction, "at least 0 and below 1")
    require(0 <= val_seed < 2**32, "--val_seed", val_seed, "from 0 to 4294967295")


def check_several_classes(train: Examples, num_classes: int | None = None) -> None:
    """Raise a `UserError` if there is one class, or not as many as --num_classes says."""
    if len(train.class_names) < 2:
        raise UserError(f"{train.source} holds one class; at least two are needed")
    check_num_classes(num_classes, len(train.class_names), train.source)


def read_published(dataset: str, part: str, root: Path, lists: Path, num_classes: int | None = None) -> ImageList:
    """Read the train, val or test list of a published set; iNaturalist 2017 also from its official jsons.

    `num_classes` is that of the training list, None where this is the one: then its largest label decides.
    """
    file = lists / f"{dataset}_{part}.txt"
    official = [folder / f"{part}2017.json" for folder in (lists, root) if dataset == "iNaturalist17"]
    found = next((place for place in official if os.path.isfile(place)), None)
    if found is None or os.path.isfile(file):
        advice = f"run python3 data/prepare_lists.py {dataset} inside ImageNet_iNat"
        if official:
            advice += f", or put {official[0].name} into {root} (github.com/visipedia/inat_comp)"
        return read_list(file, root, num_classes, advice)
    return read_inaturalist17(found, root, num_classes, "fetch it again")


def published_lists(dataset: str, root: Path, num_meta: int, num_classes: int | None, lists: Path) -> Lists[ImageList]:
    """Read a published data set, or the part that the lists have; its meta images where the published code takes them."""
    train = read_published(dataset, "train", root, lists)
    check_several_classes(train, num_classes)
    classes = len(train.class_names)
    val = read_published(dataset, "val", root, lists, classes)
    source, use = (train, "training") if dataset == "iNaturalist17" else (val, "test")
    counts = class_counts(source)
    if min(counts) < num_meta:
        found = f"class {counts.index(min(counts))} has {min(counts)} images in {source.source}"
        raise UserError(f"{found}, fewer than --num_meta {num_meta}: lower it (every class needs a meta image)")
    if dataset == "ImageNet_LT":
        return Lists(train, val, read_published(dataset, "test", root, lists, classes), "copy", [])
    return Lists(train, source, val, "copy", [f"the meta images are also {use} images, as published"])


def listed(root: Path, num_classes: int | None, train_list: Flag, val_list: Flag, meta_list: Flag) -> Lists[ImageList]:
    """Read one's own lists: --train_list, --val_list, --meta_list."""
    if train_list is None or val_list is None:
        raise UserError("--train_list and --val_list need each other: give both, or neither to use folders in --data_root")
    train = read_list(Path(train_list), root, num_classes, "check --train_list")
    check_several_classes(train)
    classes = len(train.class_names)
    check_counted_from_0(train.targets.tolist(), train.source, classes - 1)  # --num_classes may be one more
    test = read_list(Path(val_list), root, classes, "check --val_list")
    meta = train if meta_list is None else read_list(Path(meta_list), root, classes, "check --meta_list")
    return own_lists(train, meta, test, [])


def own_lists(
    train: ImageList, meta: ImageList, test: ImageList, notes: list[str], val: ImageList | None = None
) -> Lists[ImageList]:
    """Return lists of one's own; meta images that have none are taken out of the training list."""
    notes = [*notes, *repeat_notes(train.identities(), train.targets, test.identities())]
    return Lists(train, meta, test, "take out" if meta is train else "whole", notes, val)


def trees(root: Path, num_classes: int | None, val_fraction: float | None, val_seed: int) -> Lists[ImageList]:
    """Read one's own folders of splits, see `folders.read_layout`; where there are val and test, the second is tested on.

    With `val_fraction` there is one folder of classes, from which test images are drawn, see `drawn_sets.split_lists`.
    """
    layout = read_layout(root)
    if layout.tested is None and val_fraction is None:
        raise UserError(f"{root} has no train and val (or test) folders of class folders: {SPLIT_ADVICE}")
    if layout.tested is not None and val_fraction is not None:
        told = f"--val_fraction draws test images from one folder of classes, but {root} has {layout.tested} for tests"
        raise UserError(f"{told}: leave the flag out, or give --data_root {layout.train}")
    train = read_tree(layout.train, None, root)
    check_several_classes(train, num_classes)
    test, meta, val = (
        None if folder is None else read_tree(folder, train.class_names, root)
        for folder in (layout.tested, layout.meta, layout.val if layout.test else None)
    )
    notes = [*layout.notes, *(note for part in (train, test, val, meta) if part for note in part.notes)]
    if test is not None:
        return own_lists(train, meta or train, test, notes, val)
    assert val_fraction is not None
    check_listable(train)
    return split_lists(train, val_fraction, val_seed, notes, meta)


def read_test(
    dataset: str, data_root: str | Path, num_classes: int | None, val_list: Flag, class_names: list[str] | None,
    lists: Path = LISTS,
) -> ImageList:  # fmt: skip
    """Read only what is tested on; `class_names` are those of training where they are known."""
    root = Path(data_root)
    if dataset != "custom":
        return read_published(dataset, "test" if dataset == "ImageNet_LT" else "val", root, lists, num_classes)
    if val_list is not None:
        return read_list(Path(val_list), root, num_classes, "check --val_list")
    layout = read_layout(root)
    if layout.tested is None:
        raise UserError(f"{root} has no folder val or test of class folders: {SPLIT_ADVICE}")
    return read_tree(layout.tested, class_names)


def training_counts(
    dataset: str, data_root: str | Path, num_classes: int, train_list: Flag, lists: Path = LISTS
) -> list[int] | None:
    """Return how many training images each class has, None if their list is not there."""
    root = Path(data_root)
    if dataset == "custom":
        found = train_list and read_list(Path(train_list), root, num_classes, "check --train_list")
        return class_counts(found) if isinstance(found, ImageList) else None
    try:
        return class_counts(read_published(dataset, "train", root, lists, num_classes))
    except UserError:
        return None


def read_lists(
    dataset: str, data_root: str | Path, num_meta: int, num_classes: int | None = None,
    train_list: Flag = None, val_list: Flag = None, meta_list: Flag = None, val_fraction: float | None = None,
    val_seed: int = 0, lists: Path = LISTS,
) -> Lists[ImageList]:  # fmt: skip
    """Read the lists of a data set; a `UserError` names the flag, file or class that is wrong.

    Parameters
    ----------
    dataset:
        One of `LARGE_NAMES`. The lists of the published sets lie in `lists`; "custom" has its own lists, or without them
        the folders train, val (or test) and, if wanted, meta in `data_root`, each with a folder for every class.
    num_meta:
        Meta images a class, drawn from the val list (iNaturalist17: the training list, where they stay). Those of
        "custom" are taken out of its training list, unless it has a meta list or folder.
    val_fraction, val_seed:
        Of "custom" without lists: `data_root` has a folder for every class, of which this share is drawn for tests.
    """
    require(num_meta >= 1, "--num_meta", num_meta, "at least 1")
    sensible = num_classes is None or 2 <= num_classes <= MAX_CLASSES
    require(sensible, "--num_classes", num_classes, f"from 2 to {MAX_CLASSES}")
    root, own = Path(data_root), (train_list, val_list, meta_list)
    given = any(flag is not None for flag in own)
    if dataset != "custom" and (given or val_fraction is not None):
        flags = "--train_list, --val_list, --meta_list and --val_fraction"
        raise UserError(f"{flags} are not for {dataset}: leave them out or choose custom")
    if dataset != "custom":
        return published_lists(dataset, root, num_meta, num_classes, lists)
    if val_fraction is not None:
        check_val_fraction(val_fraction, val_seed)
        if given:
            raise UserError("--val_fraction draws test images from folders: leave it out, or the lists")
    return listed(root, num_classes, *own) if given else trees(root, num_classes, val_fraction, val_seed)
