"""The classes that a group of runs takes most often for one another, and the test images concerned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reporting.finished_runs import FinishedRun

IMAGES_A_PAIR = 5


class Mistaken(NamedTuple):
    """A test image by its place in the test set: how many runs took it for the class, and how sure they were on average."""

    place: int
    runs: int
    confidence: float


class ClassPair(NamedTuple):
    """Images of the class `true` that were taken for `predicted`.

    `mean_count` is the mean over runs, `tested` the number of test images of the true class, a mean too where test sets
    differ; `images` are those mistaken by most runs, then with the highest confidence, then by their place.
    """

    true: int
    predicted: int
    mean_count: float
    tested: float
    images: list[Mistaken]

    @property
    def share(self) -> float:
        """The part of the true class's test images, in per cent."""
        return 100 * self.mean_count / self.tested


def confused(runs: Sequence[FinishedRun], most: int = 10) -> list[ClassPair]:
    """Return the pairs of classes that the runs of a group mistake most often, by their mean count, then by class.

    Runs without predictions are left out. The images are those of the first run's test set, and of the runs that were tested
    on the same labels in the same order. There may be any number of classes: no matrix of them is made.
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
    alike = [one for one in tested if np.array_equal(one.target, tested[0].target)]
    found = []
    for pair, count in zip(pairs[chosen].tolist(), counts[chosen].tolist(), strict=True):
        true, predicted = divmod(pair, classes)
        took = np.stack([(one.target == true) & (one.predicted == predicted) for one in alike])  # (runs, M)
        index = np.flatnonzero(took.any(axis=0))
        times = took[:, index].sum(axis=0)
        sure = np.stack([np.where(t[index], one.confidence[index], 0) for t, one in zip(took, alike, strict=True)])
        mean = sure.sum(axis=0, dtype=np.float64) / times
        order = np.lexsort((index, -mean, -times))[:IMAGES_A_PAIR]
        images = [Mistaken(int(index[i]), int(times[i]), float(mean[i])) for i in order]
        found.append(ClassPair(true, predicted, count / len(tested), int(total[true]) / len(tested), images))
    return found


def count_of(runs: Sequence[FinishedRun], pairs: Sequence[ClassPair]) -> list[float] | None:
    """Return how many images of each pair the runs of another group mistake so, the mean over them; None: no predictions."""
    tested = [run.tested for run in runs if run.tested is not None]
    if not tested:
        return None
    return [sum(int(((t == pair.true) & (p == pair.predicted)).sum()) for t, p, _ in tested) / len(tested) for pair in pairs]
