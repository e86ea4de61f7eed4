"""Rows of files of features as examples, so that training, meta, held-out and test rows are drawn as images are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from datasets.drawn_sets import Lists, Split
from datasets.examples import Examples
from datasets.feature_files import SPLIT_WORDS, FeatureTable, wrong_array
from datasets.folders import same_classes, some_of
from datasets.image_lists import check_counted_from_0
from datasets.large_sets import check_several_classes, check_val_fraction
from harness.errors import UserError


@dataclass(frozen=True)
class FeatureRows(Examples):
    """Rows (M,) of feature tables: their numbers where all `tables`, by the digests of their files, follow one another."""

    tables: Mapping[str, np.ndarray]
    rows: np.ndarray
    targets: np.ndarray
    class_names: list[str]
    source: str
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The numbers of the rows."""
        return [str(row) for row in self.rows.tolist()]

    def ids(self) -> list[int]:
        """Return the numbers of the rows."""
        found: list[int] = self.rows.tolist()
        return found

    def subset(self, index: np.ndarray) -> FeatureRows:
        """Return the rows at `index`."""
        return replace(self, rows=self.rows[index], targets=self.targets[index])

    def joined(self, other: FeatureRows) -> FeatureRows:
        """Return these rows and after them those of `other`, of the same tables."""
        rows, targets = np.concatenate([self.rows, other.rows]), np.concatenate([self.targets, other.targets])
        return replace(self, rows=rows, targets=targets)

    @property
    def content(self) -> str:
        """How many rows there are, and the digests of their files."""
        digests = [*self.tables]
        return f"{len(self)} rows of features ({', '.join(digests[k] for k in np.unique(self._places()[0]))})"

    def features(self) -> np.ndarray:
        """Return the features (M, A), in the order of the rows; of all rows of one table as they are, no copy."""
        number, inside = self._places()
        tables = [*self.tables.values()]
        used = np.unique(number).tolist()
        if len(used) == 1 and np.array_equal(inside, np.arange(len(tables[used[0]]))):
            return tables[used[0]]
        kind = np.result_type(*([tables[k] for k in used] or tables))
        found = np.empty((len(self), tables[0].shape[1]), kind)
        for k in used:
            found[number == k] = tables[k][inside[number == k]]
        return found

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return of each row which table it is of, and its number there."""
        ends = np.cumsum([len(table) for table in self.tables.values()])
        number = np.searchsorted(ends, self.rows, side="right")
        return number, self.rows - np.array([0, *ends])[number]


def feature_lists(
    train: FeatureTable, val: FeatureTable | None, meta: FeatureTable | None, val_fraction: float | None, val_seed: int
) -> Lists[FeatureRows]:
    """Return the rows to train on, to test on and to draw meta rows from.

    Test rows are those of `val`; without it those of the array split of `train`, see `split_rows`; without that a share
    `val_fraction` of each class, drawn by `val_seed`. Meta rows are all those of `meta`, or all that split calls so, or else
    drawn from the training rows. The classes are those of `train`, see `targets_in`.
    """
    tables = {table.digest: table.features for table in (train, val, meta) if table is not None}
    rows = all_rows(train, train, tables)
    check_several_classes(rows)
    choose: FeatureRows | None = None
    source = None if meta is None else all_rows(meta, train, tables, ("meta",))
    if val_fraction is not None:
        if val is not None or train.split is not None:
            given = f"{train.path} has an array split" if val is None else f"{val.path} is given"
            raise UserError(f"--val_fraction is for one file without a split, but {given}: leave one of the two out")
        check_val_fraction(val_fraction, val_seed)
        lists = Split(rows, val_fraction, val_seed).lists()
        return lists if source is None else replace(lists, source=source, draw="whole", split=None)
    if val is not None:
        rows, test = all_rows(train, train, tables, ("train",)), all_rows(val, train, tables, ("val", "test"))
    else:
        rows, test, own, choose = split_rows(train, rows)
        if source is not None and len(own):
            told = f"{train.path} calls {len(own)} rows meta, but {source.source} is given"
            raise UserError(f"{told}: leave one of the two out")
        source = own if len(own) else source
    draw: Literal["whole", "take out"] = "take out" if source is None else "whole"
    return Lists(rows, rows if source is None else source, test, draw, [], val=choose)


def split_rows(
    table: FeatureTable, rows: FeatureRows
) -> tuple[FeatureRows, FeatureRows, FeatureRows, FeatureRows | None]:
    """Return the rows for training, for tests, for the meta set and, if there are some, to choose on.

    The array split says which they are. Rows called val are for tests if none is called test, else to choose on.
    """
    if table.split is None:
        advice = "add it, with the words train, val and, if wanted, meta, or give a file of test rows, or --val_fraction"
        raise UserError(f"{table.path} has no array split that says which rows are for tests: {advice}")
    train, val, test, meta = (rows.subset(np.flatnonzero(table.split == part)) for part in ("train", "val", "test", "meta"))
    for part, found in (("train", train), ("val", test if len(test) else val)):
        if not len(found):
            raise wrong_array(table.path, "split", f"calls no row {part}: call some so")
    return (train, test, meta, val if len(val) else None) if len(test) else (train, val, meta, None)


def all_rows(
    table: FeatureTable, train: FeatureTable, tables: Mapping[str, np.ndarray], parts: tuple[str, ...] = SPLIT_WORDS
) -> FeatureRows:
    """Return the rows of one of the tables, with the classes of `train`; the array split, if any, has `parts` alone."""
    if table.split is not None:
        others = [f"row {row} {table.split[row]}" for row in np.flatnonzero(~np.isin(table.split, parts)).tolist()]
        if others:
            problem = f"calls {some_of(others)}, but all its rows are to be {parts[0]} rows"
            raise wrong_array(table.path, "split", f"{problem}: give one file with all rows, or leave split out")
    own, wanted = table.features.shape[1], train.features.shape[1]
    if own != wanted:
        told = f"{table.path} has {own} features a row, {train.path} has {wanted}"
        raise UserError(f"{told}: both must come from the same network")
    targets, class_names = targets_in(table, train)
    digests = [*tables]
    start = sum(len(tables[digest]) for digest in digests[: digests.index(table.digest)])
    return FeatureRows(tables, start + np.arange(len(table)), targets, class_names, str(table.path))


def targets_in(table: FeatureTable, train: FeatureTable) -> tuple[np.ndarray, list[str]]:
    """Return the targets of a table (N,) in the classes of `train`, and the names of these.

    Classes are matched by name, see `folders.same_classes`, or by number where a table has no names; but not the words of
    one with the numbers of the other, since nothing says which is which.
    """
    for part in (train, table):
        if part.targets is None:
            raise UserError(f"{part.path} has no array labels: add it")
    assert table.targets is not None
    assert train.targets is not None
    class_names = train.class_names or [str(k) for k in range(int(train.targets.max()) + 1)]
    if table is train:
        return table.targets, class_names
    for words, numbers in ((train, table), (table, train)):
        if words.labelled_by_words and numbers.class_names is None:
            told = f"{words.path} has words as labels, {numbers.path} has integers and no array class_names"
            raise UserError(f"{told}: label both alike, or add class_names")
    if table.class_names is None:
        last = int(table.targets.max())
        check_counted_from_0((int(table.targets.min()), last), table.path, len(class_names))
        if last >= len(class_names):
            problem = f"goes up to {last}, but {train.path} has the classes 0 to {len(class_names) - 1}"
            raise wrong_array(table.path, "labels", f"{problem}: correct one of the two")
        return table.targets, class_names
    used = {k: table.class_names[k] for k in np.unique(table.targets).tolist()}
    found, strange, same = same_classes([*used.values()], class_names)
    if strange:
        named = some_of([repr(name[:80]) for name in strange])
        told = f"{table.path} has rows of the {'class' if len(strange) == 1 else 'classes'} {named}"
        raise UserError(f"{told}, which {train.path} does not have: name the classes of both alike")
    if same:
        raise UserError(f"{table.path} has {' and '.join(same)}, one class of {train.path}: give them one name")
    index = np.zeros(len(table.class_names), dtype=np.int64)
    index[[*used]] = [found[name] for name in used.values()]
    return index[table.targets], class_names
