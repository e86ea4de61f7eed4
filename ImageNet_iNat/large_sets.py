"""The data sets of ImageNet_iNat: which lists are for training, meta and test, the meta images drawn as published."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_utils import shared_note, split_meta
from harness.errors import UserError
from harness.flags import check_num_classes, require
from image_lists import MAX_CLASSES, ImageList, read_inaturalist17, read_list, read_tree

NUM_META = {"ImageNet_LT": 10, "iNaturalist18": 2, "iNaturalist17": 5, "custom": 10}
LARGE_SETS = tuple(NUM_META)
LISTS = Path(__file__).resolve().parent / "data"
Flag = str | Path | None  # a list named by the user, relative to the current folder


@dataclass(frozen=True)
class Sets:
    """The three lists of an experiment, the counts of the training list, and lines for the user."""

    train: ImageList
    meta: ImageList
    test: ImageList
    cls_num_list: list[int]
    notes: list[str]

    @property
    def parts(self) -> dict[str, ImageList]:
        """The lists by name."""
        return {"train": self.train, "meta": self.meta, "test": self.test}

    def about(self) -> list[str]:
        """Return lines that say how many images there are of what."""
        words = "  ".join(f"{name} {len(part)}" for name, part in self.parts.items())
        counts = f"{max(self.cls_num_list)} to {min(self.cls_num_list)} training images a class"
        return [f"{words}  ({counts})", *(f"note: {note}" for note in self.notes)]

    def digests(self) -> dict[str, str]:
        """Return a digest of each list."""
        return {f"{name} list": part.digest() for name, part in self.parts.items()}


def draw_meta(source: ImageList, num_meta: int) -> tuple[ImageList, ImageList]:
    """Draw `num_meta` images a class as published; return them and those left, see `data_utils.split_meta`."""
    meta, rest = split_meta(source.targets, num_meta, len(source.class_names))
    return source.subset(meta), source.subset(rest)


def meta_note(train: ImageList, num_meta: int) -> list[str]:
    """Return a line that names the classes whose images are in both the training and the meta set, if any."""
    counts = np.bincount(train.targets, minlength=len(train.class_names)).tolist()
    return shared_note(counts, train.class_names, num_meta) if all(counts) else []  # else `make_sets` names the empty one


def make_sets(train: ImageList, meta: ImageList, test: ImageList, notes: list[str]) -> Sets:
    """Put the three lists together; a class without a training image is a `UserError`."""
    counts = np.bincount(train.targets, minlength=len(train.class_names)).tolist()
    if len(counts) < 2:
        raise UserError(f"{train.source} holds one class; at least two are needed")
    if 0 in counts:
        k = counts.index(0)
        found = f"class {k} ({train.class_names[k]}) has no training image in {train.source}"
        raise UserError(f"{found}: add images, or check that labels count from 0 without gaps")
    absent = set(range(len(counts))) - set(meta.targets.tolist())
    if absent:
        k = min(absent)
        raise UserError(f"class {k} ({train.class_names[k]}) has no meta image in {meta.source}: every class needs one")
    return Sets(train, meta, test, counts, notes)


def read_published(dataset: str, part: str, root: Path, lists: Path, num_classes: int | None = None) -> ImageList:
    """Read the train, val or test list of a published set; iNaturalist 2017 also from its official jsons.

    `num_classes` is that of the training list, None where this is the one: then its largest label decides.
    """
    file = lists / f"{dataset}_{part}.txt"
    if dataset != "iNaturalist17" or os.path.isfile(file):
        return read_list(file, root, num_classes, f"run python3 data/prepare_lists.py {dataset} inside ImageNet_iNat")
    places = [folder / f"{part}2017.json" for folder in (lists, root)]
    found = next((place for place in places if os.path.isfile(place)), None)
    if found is None:
        raise UserError(f"{places[0]} and {places[1]} are not there: fetch the file as github.com/visipedia/inat_comp says")
    return read_inaturalist17(found, root, num_classes, "fetch it again")


def published_sets(dataset: str, root: Path, num_meta: int, num_classes: int | None, lists: Path) -> Sets:
    """Read a published data set, or the part that the lists have; its meta images where the published code takes them."""
    train = read_published(dataset, "train", root, lists)
    classes = len(train.class_names)
    check_num_classes(num_classes, classes, train.source)
    val = read_published(dataset, "val", root, lists, classes)
    source, use = (train, "training") if dataset == "iNaturalist17" else (val, "test")
    k, count = min(enumerate(np.bincount(source.targets, minlength=classes).tolist()), key=lambda pair: pair[1])
    if count < num_meta:
        found = f"class {k} has {count} images in {source.source}, fewer than --num_meta {num_meta}"
        raise UserError(f"{found}: {f'lower it to {count}' if count else 'every class needs a meta image'}")
    meta, _ = draw_meta(source, num_meta)
    if dataset == "ImageNet_LT":
        return make_sets(train, meta, read_published(dataset, "test", root, lists, classes), [])
    note = f"the {len(meta)} meta images are also among the {len(source)} {use} images, as published"
    return make_sets(train, meta, val, [note])


def listed_sets(root: Path, num_meta: int, num_classes: int | None, *lists: Flag) -> Sets:
    """Read one's own lists: --train_list, --val_list, --meta_list."""
    train_list, val_list, meta_list = lists
    if train_list is None or val_list is None:
        raise UserError("--train_list and --val_list belong together: give both, or neither for folders in --data_root")
    train = read_list(Path(train_list), root, num_classes, "check --train_list")
    test = read_list(Path(val_list), root, len(train.class_names), "check --val_list")
    if meta_list is not None:
        return make_sets(train, read_list(Path(meta_list), root, len(train.class_names), "check --meta_list"), test, [])
    meta, rest = draw_meta(train, num_meta)
    return make_sets(rest, meta, test, meta_note(train, num_meta))


def tree_sets(root: Path, num_meta: int, num_classes: int | None) -> Sets:
    """Read one's own folders."""
    train = read_tree(root / "train", None)
    check_num_classes(num_classes, len(train.class_names), train.source)
    test = read_test_tree(root, train.class_names)
    own_meta = read_tree(root / "meta", train.class_names) if os.path.isdir(root / "meta") else None
    meta, rest = (own_meta, train) if own_meta is not None else draw_meta(train, num_meta)
    notes = [*train.notes, *test.notes, *(own_meta.notes if own_meta is not None else meta_note(train, num_meta))]
    return make_sets(rest, meta, test, notes)


def read_test_tree(root: Path, class_names: list[str] | None) -> ImageList:
    """Read the folder val, or test where there is no val."""
    val_or_test = "test" if os.path.isdir(root / "test") and not os.path.isdir(root / "val") else "val"
    return read_tree(root / val_or_test, class_names)


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
    return read_test_tree(root, class_names)


def training_counts(
    dataset: str, data_root: str | Path, num_classes: int, train_list: Flag, lists: Path = LISTS
) -> list[int] | None:
    """Return how many training images each class has, None if their list is not there."""
    if dataset == "custom":
        if train_list is None:
            return None
        train = read_list(Path(train_list), Path(data_root), num_classes, "check --train_list")
    else:
        places = [lists / f"{dataset}_train.txt"]
        if dataset == "iNaturalist17":
            places += [folder / "train2017.json" for folder in (lists, Path(data_root))]
        if not any(map(os.path.isfile, places)):
            return None
        train = read_published(dataset, "train", Path(data_root), lists, num_classes)
    counts: list[int] = np.bincount(train.targets, minlength=num_classes).tolist()
    return counts


def read_sets(
    dataset: str, data_root: str | Path, num_meta: int, num_classes: int | None = None,
    train_list: Flag = None, val_list: Flag = None, meta_list: Flag = None, lists: Path = LISTS,
) -> Sets:  # fmt: skip
    """Read the training, meta and test lists of a data set; a `UserError` names the flag, file or class that is wrong.

    Parameters
    ----------
    dataset:
        One of `LARGE_SETS`. The lists of the published sets lie in `lists`; "custom" has its own lists, or without them
        the folders train, val (or test) and, if wanted, meta in `data_root`, each with a folder for every class.
    num_meta:
        Meta images a class, drawn from the val list (iNaturalist17: the training list, where they stay). Those of
        "custom" are taken out of its training list, unless it has a meta list or folder.
    """
    if dataset not in LARGE_SETS:
        raise UserError(f"unknown data set {dataset!r}: choose from {', '.join(LARGE_SETS)}")
    require(num_meta >= 1, "--num_meta", num_meta, "at least 1")
    sensible = num_classes is None or 2 <= num_classes <= MAX_CLASSES
    require(sensible, "--num_classes", num_classes, f"from 2 to {MAX_CLASSES}")
    listed = any(flag is not None for flag in (train_list, val_list, meta_list))
    if dataset != "custom" and listed:
        raise UserError(f"--train_list, --val_list and --meta_list are not for {dataset}: leave them out or choose custom")
    if dataset != "custom":
        return published_sets(dataset, Path(data_root), num_meta, num_classes, lists)
    if listed:
        return listed_sets(Path(data_root), num_meta, num_classes, train_list, val_list, meta_list)
    return tree_sets(Path(data_root), num_meta, num_classes)
