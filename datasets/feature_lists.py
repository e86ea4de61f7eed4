"""Rows of files of features as lists, so that training, meta, held-out and test rows are drawn as images are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from datasets.drawn_sets import Lists, Split
from datasets.feature_files import SPLIT_WORDS, FeatureTable, wrong_array
from datasets.image_lists import ImageList, check_counted_from_0
from datasets.large_sets import check_several_classes
from harness.errors import UserError
from harness.flags import require


@dataclass(frozen=True)
class RowList(ImageList):
    """Rows of feature tables as a list: `root` is the file, a path the number of a row, as text.

    Where lists of two files are joined, the root is a folder that holds both, and a path is a file and the number of a row
    below it. `digests` are those of the files, by their absolute names.
    """

    digests: Mapping[str, str] = field(default_factory=dict)

    def joined(self, other: ImageList) -> ImageList:
        """Return these rows and after them those of `other`."""
        both = super().joined(other)
        assert isinstance(other, RowList)
        assert isinstance(both, RowList)
        return replace(both, digests={**self.digests, **other.digests})

    @cached_property
    def content(self) -> str:
        """What tells these rows from others under the same numbers: how many there are, and the digests of their files."""
        files = dict.fromkeys(os.path.abspath(os.path.dirname(file)) for file in self.files())
        return f"{len(self)} rows of features ({', '.join(self.digests[file] for file in files)})"

    def check_root(self) -> None:
        """Do nothing: the file was read."""


def rows_of(tables: Mapping[Path, np.ndarray], images: ImageList) -> np.ndarray:
    """Return the features (M, A) of the rows of a list, in its order; of all rows of one table as they are, no copy.

    `tables` has the features of every file that the list names.
    """
    table_of = {os.path.abspath(path): features for path, features in tables.items()}
    whole = table_of.get(os.path.abspath(images.root))
    if whole is not None:
        index = np.fromiter(map(int, images.paths), np.int64, len(images))
        return whole if np.array_equal(index, np.arange(len(whole))) else whole[index]
    places = [os.path.split(file) for file in images.files()]
    index = np.array([int(row) for _, row in places], dtype=np.int64)
    used = {folder: table_of[os.path.abspath(folder)] for folder in dict.fromkeys(folder for folder, _ in places)}
    kind = np.result_type(*(used or table_of).values())
    rows = np.empty((len(index), next(iter(table_of.values())).shape[1]), kind)
    for folder, features in used.items():
        own = np.array([found == folder for found, _ in places])
        rows[own] = features[index[own]]
    return rows


def feature_lists(
    train: FeatureTable, val: FeatureTable | None, meta: FeatureTable | None, val_fraction: float | None, val_seed: int
) -> Lists:
    """Return the rows to train on, to test on and to draw meta rows from.

    Test rows are those of `val`; without it those of the array split of `train`, see `split_rows`; without that a share
    `val_fraction` of each class, drawn by `val_seed`. Meta rows are all those of `meta`, or all that split calls so, or else
    drawn from the training rows. The classes are those of `train`, others are matched by name, or by number where a table
    has no names.
    """
    rows: ImageList = all_rows(train, train)
    check_several_classes(rows)
    test: ImageList
    choose: ImageList | None = None
    source: ImageList | None = None if meta is None else all_rows(meta, train, ("meta",))
    if val_fraction is not None:
        if val is not None or train.split is not None:
            given = f"{train.path} has an array split" if val is None else f"{val.path} is given"
            raise UserError(f"--val_fraction is for one file without a split, but {given}: leave one of the two out")
        require(0 < val_fraction < 1, "--val_fraction", val_fraction, "above 0 and below 1")
        require(0 <= val_seed < 2**32, "--val_seed", val_seed, "from 0 to 4294967295")
        lists = Split(rows, val_fraction, val_seed).lists()
        return lists if source is None else replace(lists, source=source, draw="whole", split=None)
    if val is not None:
        rows, test = all_rows(train, train, ("train",)), all_rows(val, train, ("val", "test"))
    else:
        rows, test, own, choose = split_rows(train)
        if source is not None and len(own):
            told = f"{train.path} calls {len(own)} rows meta, but {source.source} is given"
            raise UserError(f"{told}: leave one of the two out")
        source = own if len(own) else source
    draw: Literal["whole", "take out"] = "take out" if source is None else "whole"
    return Lists(rows, rows if source is None else source, test, draw, [], val=choose)


def split_rows(table: FeatureTable) -> tuple[ImageList, ImageList, ImageList, ImageList | None]:
    """Return the rows for training, for tests, for the meta set and, if there are some, to choose on.

    The array split says which they are. Rows called val are for tests if none is called test, else to choose on.
    """
    if table.split is None:
        advice = "add it, with the words train, val and, if wanted, meta, or give a file of test rows, or --val_fraction"
        raise UserError(f"{table.path} has no array split that says which rows are for tests: {advice}")
    rows, split = all_rows(table, table), table.split
    train, val, test, meta = (rows.subset(np.flatnonzero(split == part)) for part in ("train", "val", "test", "meta"))
    for part, found in (("train", train), ("val", test if len(test) else val)):
        if not len(found):
            raise wrong_array(table.path, "split", f"calls no row {part}: call some so")
    return (train, test, meta, val if len(val) else None) if len(test) else (train, val, meta, None)


def all_rows(table: FeatureTable, train: FeatureTable, parts: tuple[str, ...] = SPLIT_WORDS) -> RowList:
    """Return the rows of a table as a list, with the classes of `train`; the array split, if any, has `parts` alone."""
    if table.split is not None and not np.isin(table.split, parts).all():
        row = int(np.flatnonzero(~np.isin(table.split, parts))[0])
        problem = f"calls row {row} {table.split[row]}, but all its rows are to be {parts[0]} rows"
        raise wrong_array(table.path, "split", f"{problem}: give one file with all rows, or leave split out")
    own, wanted = table.features.shape[1], train.features.shape[1]
    if own != wanted:
        told = f"{table.path} has {own} features a row, {train.path} has {wanted}"
        raise UserError(f"{told}: both must come from the same network")
    targets, class_names = targets_in(table, train)
    root = Path(os.path.abspath(table.path))
    paths = [str(row) for row in range(len(table))]
    return RowList(root, paths, targets, class_names, str(table.path), digests={str(root): table.digest})


def targets_in(table: FeatureTable, train: FeatureTable) -> tuple[np.ndarray, list[str]]:
    """Return the targets of a table (N,) in the classes of `train`, and the names of these."""
    for part in (train, table):
        if part.targets is None:
            raise UserError(f"{part.path} has no array labels: add it")
    assert table.targets is not None
    assert train.targets is not None
    class_names = train.class_names or [str(k) for k in range(int(train.targets.max()) + 1)]
    if table is train:
        return table.targets, class_names
    if table.class_names is None:
        last = int(table.targets.max())
        check_counted_from_0((int(table.targets.min()), last), table.path, len(class_names))
        if last >= len(class_names):
            problem = f"goes up to {last}, but {train.path} has the classes 0 to {len(class_names) - 1}"
            raise wrong_array(table.path, "labels", f"{problem}: correct one of the two")
        return table.targets, class_names
    number = {name: k for k, name in enumerate(class_names)}
    index = np.array([number.get(name, -1) for name in table.class_names], dtype=np.int64)
    targets = index[table.targets]
    if (targets < 0).any():
        row = int(np.flatnonzero(targets < 0)[0])
        name = table.class_names[table.targets[row]]
        told = f"{table.path}: row {row} is of class {name[:80]!r}, which {train.path} does not have"
        raise UserError(f"{told}: name the classes of both alike")
    return targets, class_names
