"""The data sets of ImageNet_iNat: which lists are for training, meta and test, the meta images drawn as published."""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from data_utils import check_classes, check_held_out, hold_out, shared_note, small_classes, split_meta
from frozen.image_lists import MAX_CLASSES, ImageList, check_counted_from_0, read_inaturalist17, read_list, read_tree
from harness.errors import UserError
from harness.flags import check_num_classes, require

NUM_META = {"ImageNet_LT": 10, "iNaturalist18": 2, "iNaturalist17": 5, "custom": 10}
LARGE_SETS = tuple(NUM_META)
LISTS = Path(__file__).resolve().parent.parent / "ImageNet_iNat" / "data"
Flag = str | Path | None  # a list named by the user, relative to the current folder


@dataclass(frozen=True)
class Sets:
    """The three lists of an experiment, the counts of the training list, and lines for the user.

    `lists` are what the sets were drawn from; `checked` says whether all images were read, and none left that cannot be.
    `heldout` are images to choose on, `joined` the training and the meta images together, None unless asked for.
    """

    train: ImageList
    meta: ImageList
    test: ImageList
    cls_num_list: list[int]
    notes: list[str]
    lists: Lists | None = None
    checked: bool = False
    heldout: ImageList | None = None
    joined: ImageList | None = None

    @property
    def parts(self) -> dict[str, ImageList]:
        """The lists by name."""
        heldout = {} if self.heldout is None else {"heldout": self.heldout}
        return {"train": self.train, "meta": self.meta, "test": self.test, **heldout}

    @property
    def trained(self) -> ImageList:
        """The images that are trained on."""
        return self.train if self.joined is None else self.joined

    @property
    def stage2_counts(self) -> list[int]:
        """How many images of each class are trained on."""
        return class_counts(self.trained)

    def facts(self) -> dict[str, object]:
        """Return what a checkpoint says of the training images."""
        joined = {} if self.joined is None else {"stage2_counts": self.stage2_counts}
        return {"class_names": self.train.class_names, "cls_num_list": self.cls_num_list, **joined}

    def about(self) -> list[str]:
        """Return lines that say how many images there are of what."""
        words = "  ".join(f"{name.replace('heldout', 'held out')} {len(part)}" for name, part in self.parts.items())
        counts = f"{max(self.cls_num_list)} to {min(self.cls_num_list)} training images a class"
        both = [] if self.joined is None else [f"trained on: {len(self.joined)} images, training and meta, each once"]
        return [f"{words}  ({counts})", *both, *(f"note: {note}" for note in self.notes)]

    def digests(self) -> dict[str, str]:
        """Return a digest of each list, and what tells the images from others; a list of which none is there is an error."""
        for part in self.lists.parts if self.lists else self.parts.values():
            part.check_root()
        lists = {f"{name} list": part.digest() for name, part in self.parts.items()}
        return {**lists, **{f"{name} images": part.content for name, part in self.parts.items()}}


@dataclass(frozen=True)
class Lists:
    """The lists of an experiment before its meta images are drawn from `source`.

    `draw` says how: `source` is used whole; or the images drawn stay where they are as well; or they are taken out of the
    training list.
    """

    train: ImageList
    source: ImageList
    test: ImageList
    draw: Literal["whole", "copy", "take out"]
    notes: list[str]
    use: str = ""  # of images that stay where they are, where that is to be said

    @property
    def parts(self) -> list[ImageList]:
        """All the images that there are."""
        return [self.train, self.source, self.test]

    def without(self, bad: Container[Path], note: str) -> Lists:
        """Return the lists without the images `bad`, which `note` speaks of."""
        train, source, test = (
            part.subset(np.flatnonzero([part.root / path not in bad for path in part.paths])) for part in self.parts
        )
        return replace(self, train=train, source=source, test=test, notes=[*self.notes, note])

    def sets(self, num_meta: int, num_heldout: int = 0, join_meta: bool = False) -> Sets:
        """Draw `num_meta` meta images a class as published, see `data_utils.split_meta`; every class must have one.

        Parameters
        ----------
        num_heldout:
            Images a class to hold out, see `held_out`; -1: 2,000 in all.
        join_meta:
            Also make one list of the training and the meta images, each file once; the training list stays what it is.
        """
        names, train, notes = self.train.class_names, self.train, list(self.notes)
        check_classes(class_counts(train), names, f"training image in {train.source}")
        index, left = split_meta(self.source.targets, num_meta, len(names))
        meta = self.source if self.draw == "whole" else self.source.subset(index)
        counts = class_counts(meta)
        check_classes(counts, names, f"meta image in {self.source.source}")
        if self.draw == "take out":
            notes += shared_note(class_counts(train), names, num_meta)
            train = train.subset(left)
        elif self.draw == "copy":
            few = small_classes(counts, names, num_meta - 1)
            notes += [f"classes with fewer meta images than --num_meta {num_meta}: {few}"] if few else []
        if self.use:
            among = f"the {len(self.source)} {self.use} images"
            notes.append(f"the {len(meta)} meta images are also among {among}, as published")
        heldout = None
        if num_heldout:
            heldout, train, spare = held_out(train, self.source, [meta, self.test], num_heldout)
            check_held_out(len(heldout))
            among = f"{spare} of the {len(heldout)} held-out images"
            notes += [f"{among} come from {self.source.source}, the others were training images"] if spare else []
        joined = with_meta(train, meta) if join_meta else None
        return Sets(train, meta, self.test, class_counts(train), notes, self, heldout=heldout, joined=joined)


def held_out(
    train: ImageList, source: ImageList, others: Sequence[ImageList], num_heldout: int
) -> tuple[ImageList, ImageList, int]:
    """Draw up to `num_heldout` images a class to choose on; return them, what is left to train on, and how many were spare.

    Spare are images of `source`, where meta images are drawn, that serve nothing else, as ImageNet_LT's val list has them.
    Where they do not suffice, up to a fifth of the class's training images is held out, see `data_utils.hold_out`. No image
    of `others` is, and a file that is listed several times is one image.
    """
    pool = train.joined(source.without(set(train.files())))
    files, taken = pool.files(), {file for part in others for file in part.files()}
    places = {file: i for i, file in reversed(list(enumerate(files))) if file not in taken}  # of the first of its name
    free = np.array(sorted(places.values()), dtype=np.int64)
    kept, _ = hold_out(pool.targets, free[free < len(train)], free, num_heldout, len(train.class_names))
    left = train.without({files[i] for i in kept.tolist()})
    return replace(pool.subset(kept), source=train.source), left, int((kept >= len(train)).sum())


def with_meta(train: ImageList, meta: ImageList) -> ImageList:
    """Return the training images and, after them, the meta images that are not among them, each file once."""
    others = meta.without(set(train.files()))
    first = {file: i for i, file in reversed(list(enumerate(others.files())))}
    return train.joined(others.subset(np.array(sorted(first.values()), dtype=np.int64)))


def check_several_classes(train: ImageList) -> None:
    """Raise a `UserError` if there is one class, before others are measured by it."""
    if len(train.class_names) < 2:
        raise UserError(f"{train.source} holds one class; at least two are needed")


def class_counts(images: ImageList) -> list[int]:
    """Return how many images each class has."""
    counts: list[int] = np.bincount(images.targets, minlength=len(images.class_names)).tolist()
    return counts


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


def published_lists(dataset: str, root: Path, num_meta: int, num_classes: int | None, lists: Path) -> Lists:
    """Read a published data set, or the part that the lists have; its meta images where the published code takes them."""
    train = read_published(dataset, "train", root, lists)
    check_several_classes(train)
    classes = len(train.class_names)
    check_num_classes(num_classes, classes, train.source)
    val = read_published(dataset, "val", root, lists, classes)
    source, use = (train, "training") if dataset == "iNaturalist17" else (val, "test")
    k, count = min(enumerate(class_counts(source)), key=lambda pair: pair[1])
    if count < num_meta:
        found = f"class {k} has {count} images in {source.source}, fewer than --num_meta {num_meta}"
        raise UserError(f"{found}: {f'lower it to {count}' if count else 'every class needs a meta image'}")
    if dataset == "ImageNet_LT":
        return Lists(train, val, read_published(dataset, "test", root, lists, classes), "copy", [])
    return Lists(train, source, val, "copy", [], use)


def listed(root: Path, num_classes: int | None, train_list: Flag, val_list: Flag, meta_list: Flag) -> Lists:
    """Read one's own lists: --train_list, --val_list, --meta_list."""
    if train_list is None or val_list is None:
        raise UserError("--train_list and --val_list belong together: give both, or neither for folders in --data_root")
    train = read_list(Path(train_list), root, num_classes, "check --train_list")
    check_several_classes(train)
    classes = len(train.class_names)
    check_counted_from_0(train.targets.tolist(), train.source, classes - 1)  # --num_classes may be one more
    test = read_list(Path(val_list), root, classes, "check --val_list")
    if meta_list is not None:
        return Lists(train, read_list(Path(meta_list), root, classes, "check --meta_list"), test, "whole", [])
    return Lists(train, train, test, "take out", [])


def trees(root: Path, num_classes: int | None) -> Lists:
    """Read one's own folders."""
    train = read_tree(root / "train", None)
    check_several_classes(train)
    check_num_classes(num_classes, len(train.class_names), train.source)
    test = read_test_tree(root, train.class_names)
    notes = [*train.notes, *test.notes]
    if not os.path.isdir(root / "meta"):
        return Lists(train, train, test, "take out", notes)
    meta = read_tree(root / "meta", train.class_names)
    return Lists(train, meta, test, "whole", [*notes, *meta.notes])


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
    return class_counts(train)


def read_lists(
    dataset: str, data_root: str | Path, num_meta: int, num_classes: int | None = None,
    train_list: Flag = None, val_list: Flag = None, meta_list: Flag = None, lists: Path = LISTS,
) -> Lists:  # fmt: skip
    """Read the lists of a data set; a `UserError` names the flag, file or class that is wrong.

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
    own = (train_list, val_list, meta_list)
    given = any(flag is not None for flag in own)
    if dataset != "custom" and given:
        raise UserError(f"--train_list, --val_list and --meta_list are not for {dataset}: leave them out or choose custom")
    if dataset != "custom":
        return published_lists(dataset, Path(data_root), num_meta, num_classes, lists)
    return listed(Path(data_root), num_classes, *own) if given else trees(Path(data_root), num_classes)
