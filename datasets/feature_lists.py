"""Rows of files of features as examples, so that training, meta, held-out and test rows are drawn as images are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from datasets.drawn_sets import Lists
from datasets.examples import Examples
from datasets.feature_files import SPLIT_WORDS, FeatureTable, check_array
from datasets.folders import match_classes
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
    """Return the rows to train on, to test on and to draw meta rows from, with the classes of `train`.

    Test rows are those of `val`; without it those that the array split of `train` calls test, or val if it calls none so,
    else those are to choose on; without that a share `val_fraction` of each class, drawn by `val_seed`. Meta rows are all
    those of `meta` and those that split calls so, or else drawn from the training rows.
    """
    if val_fraction is not None and (val is not None or train.split is not None):
        given = f"{train.path} has an array split" if val is None else f"{val.path} is given"
        raise UserError(f"--val_fraction is for one file without a split, but {given}: leave one of the two out")
    if val_fraction is None and val is None and train.split is None:
        advice = "add it, with the words train, val and, if wanted, meta, or give a file of test rows, or --val_fraction"
        raise UserError(f"{train.path} has no array split that says which rows are for tests: {advice}")
    given_words = (train, SPLIT_WORDS if val is None else ("train",)), (val, ("test", "val")), (meta, ("meta",))
    tables = [(table, words) for table, words in given_words if table is not None]
    serves = np.concatenate([served(table, words, train) for table, words in tables])
    names = train.class_names
    if len(names) == 1:
        raise UserError(f"{train.path} holds one class; at least two are needed")
    targets = np.concatenate([targets_in(table, names) for table, _ in tables])
    matrix = train.features if len(tables) == 1 else np.concatenate([table.features for table, _ in tables])
    files, source = (", ".join(str(getattr(table, key)) for table, _ in tables) for key in ("digest", "path"))
    rows = FeatureRows(np.arange(len(serves)), targets, names, source, matrix=matrix, files=files)
    own, test, chosen, apart = (rows.subset(np.flatnonzero(serves == word)) for word in ("train", "test", "val", "meta"))
    if not test:
        test, chosen = chosen, test
    drawn = None if val_fraction is None else (val_fraction, val_seed)
    check_array(bool(own and (test or drawn)), train.path, "split", "calls no row train, or none val: call some so")
    return Lists(own, apart or own, test, "whole" if apart else "take out", [], chosen or None, drawn)


def served(table: FeatureTable, words: Sequence[str], train: FeatureTable) -> np.ndarray:
    """Return what each row (N,) of a table serves: the first of `words`, or what split says where all words may be in it."""
    if table.features.shape[1] != train.features.shape[1]:
        raise UserError(f"{table.path} has {table.features.shape[1]} features a row, {train.path} has "
                        f"{train.features.shape[1]}: both must come from the same network")  # fmt: skip
    if table.split is None:
        return np.full(len(table), words[0])
    told = f"has values other than {words[0]}: give one file with all rows, or leave split out"
    check_array(bool(np.isin(table.split, words).all()), table.path, "split", told)
    return table.split if words == SPLIT_WORDS else np.full(len(table), words[0])


def targets_in(table: FeatureTable, names: list[str]) -> np.ndarray:
    """Return the targets of a table (N,) in the classes `names`, which are matched by name, see `folders.match_classes`."""
    if table.targets is None:
        raise UserError(f"{table.path}: its array labels is not there: write it under that name")
    used, places = np.unique(table.targets, return_inverse=True)
    found = match_classes([table.class_names[k] for k in used], names, table.path)
    return np.array(list(found.values()))[places]
