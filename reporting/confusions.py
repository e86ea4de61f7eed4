"""The classes that a group of runs takes most often for one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reporting.finished_runs import FinishedRun


class ClassPair(NamedTuple):
    """Images of the class `true` that were taken for `predicted`.

    `mean_count` is the mean over runs, `tested` the number of test images of the true class, a mean too where test sets
    differ.
    """

    true: int
    predicted: int
    mean_count: float
    tested: float

    @property
    def share(self) -> float:
        """The part of the true class's test images, in per cent."""
        return 100 * self.mean_count / self.tested


def confused(runs: Sequence[FinishedRun], most: int = 10) -> list[ClassPair]:
    """Return the pairs of classes that the runs of a group mistake most often, by their mean count, then by class.

    Runs without predictions are left out. There may be any number of classes: no matrix of them is made.
    """
    tested = [run.tested for run in runs if run.tested is not None]
    if not tested or most < 1:
        return []
    classes = max(len(run.summary["cls_num_list"]) for run in runs)
    places = []
    for target, predicted, _ in tested:
        wrong = target != predicted
        places.append(target[wrong] * classes + predicted[wrong])  # (wrong images,)
    pairs, counts = np.unique(np.concatenate(places), return_counts=True)  # by class
    chosen = np.argsort(-counts, kind="stable")[:most]
    total = np.bincount(np.concatenate([target for target, _, _ in tested]), minlength=classes)  # (C,) of all runs
    found = []
    for pair, count in zip(pairs[chosen].tolist(), counts[chosen].tolist(), strict=True):
        true, predicted = divmod(pair, classes)
        found.append(ClassPair(true, predicted, count / len(tested), int(total[true]) / len(tested)))
    return found


def count_of(runs: Sequence[FinishedRun], pairs: Sequence[ClassPair]) -> list[float] | None:
    """Return how many images of each pair the runs of another group mistake so, the mean over them; None: no predictions."""
    tested = [run.tested for run in runs if run.tested is not None]
    if not tested:
        return None
    return [sum(int(((t == pair.true) & (p == pair.predicted)).sum()) for t, p, _ in tested) / len(tested) for pair in pairs]
