"""Rows of files of features as examples, so that training, meta, held-out and test rows are drawn as images are."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np

from datasets.drawn_sets import Lists, split_lists
from datasets.examples import Examples
from datasets.feature_files import SPLIT_WORDS, FeatureTable, check_array
from datasets.folders import match_classes
from datasets.image_lists import check_counted_from_0
from datasets.large_sets import check_val_fraction
from harness.errors import UserError


@dataclass(frozen=True)
class FeatureRows(Examples):
    """Rows of the features of all files of an experiment together, (N, A), whose items are their numbers there."""

    matrix: np.ndarray = field(default_factory=partial(np.empty, 0))
    files: str = ""

    @property
    def content(self) -> str:
        """How many rows there are, and digests of the files."""
        return f"{len(self)} rows of features ({self.files})"

    def features(self) -> np.ndarray:
        """Return the features (M, A), in the order of the rows; of all rows as they are, no copy."""
        whole = np.array_equal(self.items, np.arange(len(self.matrix)))
        return self.matrix if whole else self.matrix[self.items]


def feature_lists(
    train: FeatureTable, val: FeatureTable | None, meta: FeatureTable | None, val_fraction: float | None, val_seed: int
) -> Lists[FeatureRows]:
    """Return the rows to train on, to test on and to draw meta rows from.

    Test rows are those of `val`; without it those of the array split of `train`, see `split_rows`; without that a share
    `val_fraction` of each class, drawn by `val_seed`. Meta rows are all those of `meta`, or all that split calls so, or else
    drawn from the training rows. The classes are those of `train`, see `targets_in`.
    """
    if val_fraction is not None and (val is not None or train.split is not None):
        given = f"{train.path} has an array split" if val is None else f"{val.path} is given"
        raise UserError(f"--val_fraction is for one file without a split, but {given}: leave one of the two out")
    rows, *others = all_rows(train, val, meta)
    source, choose = others[-1] if meta is not None else None, None
    if val_fraction is not None:
        check_val_fraction(val_fraction, val_seed)
        return split_lists(rows, val_fraction, val_seed, meta=source)
    if val is not None:
        test = others[0]
    else:
        rows, test, own, choose = split_rows(train, rows)
        if source is not None and len(own):
            told = f"{train.path} calls {len(own)} rows meta, but {source.source} is given"
            raise UserError(f"{told}: leave one of the two out")
        source = own if len(own) else source
    return Lists(rows, source or rows, test, "whole" if source else "take out", [], choose)


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
    check_array(len(train) > 0 < len(test) + len(val), table.path, "split", "calls no row train, or none val: call some so")
    return (train, test, meta, val if len(val) else None) if len(test) else (train, val, meta, None)


def all_rows(train: FeatureTable, val: FeatureTable | None, meta: FeatureTable | None) -> list[FeatureRows]:
    """Return the rows of each table that there is, with the classes of `train`.

    The array split, if any, calls all rows of `meta` so, those of `val` val or test, and those of `train` then train.
    """
    given = [(train, SPLIT_WORDS if val is None else ("train",)), (val, ("val", "test")), (meta, ("meta",))]
    tables = [(table, words) for table, words in given if table is not None]
    for table, words in tables:
        if table.features.shape[1] != train.features.shape[1]:
            told = f"{table.path} has {table.features.shape[1]} features a row, {train.path} has {train.features.shape[1]}"
            raise UserError(f"{told}: both must come from the same network")
        alone = table.split is None or bool(np.isin(table.split, words).all())
        advice = "give one file with all rows, or leave split out"
        check_array(alone, table.path, "split", f"has values other than {words[0]}: {advice}")
    matrix = train.features if len(tables) == 1 else np.concatenate([table.features for table, _ in tables])
    files, ends = ", ".join(table.digest for table, _ in tables), np.cumsum([len(table) for table, _ in tables])
    return [
        FeatureRows(np.arange(end - len(table), end), *targets_in(table, train), str(table.path), matrix=matrix, files=files)
        for (table, _), end in zip(tables, ends, strict=True)
    ]


def targets_in(table: FeatureTable, train: FeatureTable) -> tuple[np.ndarray, list[str]]:
    """Return the targets of a table (N,) in the classes of `train`, and the names of these.

    Classes are matched by name, see `folders.match_classes`; those of a table without names are called by their numbers.
    """
    class_names, names = named_classes(table), named_classes(train)
    if len(names) < 2:
        raise UserError(f"{train.path} holds one class; at least two are needed")
    assert table.targets is not None
    used, places = np.unique(table.targets, return_inverse=True)
    if table.class_names is None and table is not train:
        check_counted_from_0(used.tolist(), table.path, len(names))
    found = match_classes([class_names[k] for k in used], names, table.path)
    return np.array(list(found.values()))[places], names


def named_classes(table: FeatureTable) -> list[str]:
    """Return the names of the classes of a table, or else their numbers."""
    assert table.targets is not None
    return table.class_names or [str(k) for k in range(int(table.targets.max()) + 1)]
