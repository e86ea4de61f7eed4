"""Stratified folds over training rows: how good ways of making a head are, and whether one is significantly better.

Rows of tests are never read here. A way is judged by the accuracy of the rows that were left out, the mean over classes, and
by their log-loss where accuracies cannot be distinguished.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from harness.files import make_folder
from harness.record import save_arrays
from harness.signals_and_lock import HeldError, only_run

T = TypeVar("T")
FOLDS = 5
ONE_ERROR = 1.0  # standard errors by which constants must be better than milder ones
ONE_ROW = 0.25  # squares of rights that are all alike, which of few rows is no certainty
SECONDS_BETWEEN, TOLD_AFTER = 0.5, 10  # seconds until what others compute is looked for again; looks until that is said
MEASURABLE = 1.96  # those by which a way must be better than a simpler one: 95 %


def fold_numbers(target: np.ndarray) -> np.ndarray:
    """Return the fold of each row (N,), −1 for the only row of a class, which is always trained on.

    A class of fewer than FOLDS rows has one row in each of as many folds.
    """
    generator, found, taken = np.random.default_rng(0), np.full(len(target), -1), 0
    for k in range(int(target.max()) + 1):
        own = generator.permutation(np.flatnonzero(target == k))
        if len(own) > 1:
            found[own] = (taken + np.arange(len(own))) % FOLDS
            taken += len(own)  # so that folds are of equal size
    return found


@dataclass(frozen=True)
class Score:
    """What was found of the rows that were left out: labels (M,), whether each was right (M,), its log-loss (M,)."""

    target: np.ndarray
    right: np.ndarray
    loss: np.ndarray

    @property
    def accuracy(self) -> float:
        """The accuracy in per cent, the mean over classes."""
        return 100 * over_classes(self.right, self.target)[0]

    @property
    def error(self) -> float:
        """The standard error of `accuracy`, for other rows of the same classes."""
        return 100 * over_classes(self.right, self.target, ONE_ROW)[1]

    def gain(self, other: Score) -> tuple[float, float]:
        """Return by how many points the accuracy is above another's, paired by rows, and the standard error of that."""
        mean, error = over_classes(self.right.astype(float) - other.right, self.target, ONE_ROW)
        return 100 * mean, 100 * error

    def improves(self, other: Score) -> bool:
        """Return whether accuracy or, if that is no worse, log-loss improves by a standard error."""
        gain, error = self.gain(other)
        loss, loss_error = over_classes(other.loss - self.loss, self.target)
        return gain > ONE_ERROR * error or (gain >= 0 and loss > ONE_ERROR * loss_error)


def over_classes(values: np.ndarray, target: np.ndarray, least: float = 0.0) -> tuple[float, float]:
    """Return the mean over classes of the classes' means of values (M,), and its standard error.

    The variance within classes is pooled, as that of a class of two rows says nothing; the sum of squares about the means is
    taken to be `least` at least.
    """
    count = np.bincount(target)
    seen = count > 0
    means = np.bincount(target, values)[seen] / count[seen]
    squares = np.bincount(target, np.square(values))[seen].sum() - (count[seen] * np.square(means)).sum()
    pooled = max(squares, least) / max(len(target) - len(means), 1)
    return float(means.mean()), float(np.sqrt(pooled * (1 / count[seen]).sum()) / len(means))


def scored(logits: np.ndarray, target: np.ndarray) -> Score:
    """Return the score of logits (M, C) of rows that were left out."""
    logits = logits - logits.max(axis=1, keepdims=True)
    own = logits[np.arange(len(target)), target]
    return Score(target, logits.argmax(axis=1) == target, np.log(np.exp(logits).sum(axis=1)) - own)


def score_file(folder: Path, key: object) -> Path:
    """Return the file of the score that depends on a key, of plain types, and make its folder."""
    make_folder(folder)
    words = json.dumps(key, sort_keys=True, default=str)
    return folder / f"{hashlib.sha256(words.encode()).hexdigest()[:16]}.npz"


def kept(path: Path, compute: Callable[[], Score]) -> Score:
    """Return the score in a file, computed if it is not there; a `HeldError` if another process computes it now."""
    found = read_score(path)
    if found is None:
        with only_run(path.with_suffix(".lock")):
            found = read_score(path) or compute()  # another process may just have made it
            save_arrays(vars(found), path)
    return found


def read_score(path: Path) -> Score | None:
    """Return the score in a file, None if there is none."""
    with suppress(Exception), open(path, "rb") as file:  # whatever a damaged archive raises
        return Score(**np.load(file, allow_pickle=False))
    return None


def done_between(works: Sequence[Callable[[], T]], tell: Callable[[str], object]) -> Iterator[tuple[int, T]]:
    """Do works that several processes share, and yield index and result of each; a `HeldError` says that another is at it.

    While others are at all that is left, `tell` is called once, after a while.
    """
    left, waits = dict(enumerate(works)), 0
    while left:
        before, holder = len(left), ""
        for i, work in list(left.items()):
            try:
                result = work()
            except HeldError as held:
                holder = held.holder
                continue
            del left[i]
            yield i, result
        if len(left) == before:
            waits += 1
            if waits == TOLD_AFTER:
                tell(f"waiting for {holder}, which is at what is left")
            time.sleep(SECONDS_BETWEEN)
