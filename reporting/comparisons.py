"""Is one group of runs better than another beyond chance: the mean of paired differences and its interval (Student's t).

Differences are paired by seed where two groups have two or more seeds in common, else by test image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from harness.metrics import PER_CLASS_MEAN, percent, shot_of
from reporting.finished_runs import FinishedRun

ALPHA = 0.05
FEWEST_IMAGES = 30  # of fewer, differences of images are too far from normal
MOST_NEEDED = {"seeds": 100, "test images": 10**6}  # of more, a number says no more than that it is many
ROUNDING = 1e-9  # points; figures of as many images differ by rounding less than that, and by an image more


@dataclass(frozen=True)
class Gap:
    """A difference of two groups in percentage points: the mean over seeds, or over test images, and its standard error."""

    mean: float
    error: float
    number: int
    unit: Literal["seeds", "test images"]

    def __str__(self) -> str:
        if not self.number:
            return "-"
        return f"{self.mean:+.2f}{'' if math.isnan(self.error) else f' ± {self.half():.2f}'} ({self.number})"

    @property
    def same_at_every_seed(self) -> bool:
        """Whether the seeds changed nothing, and say nothing of chance: of copies, or where a test set is so small."""
        return self.unit == "seeds" and self.error < ROUNDING

    def half(self, alpha: float = ALPHA) -> float:
        """Return half the width of the interval of level 1 - alpha."""
        return float(stdtrit(self.number - 1, 1 - alpha / 2)) * self.error

    def interval(self, alpha: float = ALPHA) -> tuple[float, float]:
        """Return the ends of the interval of level 1 - alpha."""
        return self.mean - self.half(alpha), self.mean + self.half(alpha)

    def significant(self, alpha: float = ALPHA) -> bool:
        """Return whether the interval leaves out 0."""
        return abs(self.mean) > max(self.half(alpha), ROUNDING) and not self.same_at_every_seed

    def more_needed(self, alpha: float = ALPHA) -> int | None:
        """Return about how many more seeds or images would decide, if mean and deviation stay; None: more than are tried."""
        numbers = np.unique(np.geomspace(self.number + 1, MOST_NEEDED[self.unit], 2000).astype(int))
        halves = stdtrit(numbers - 1, 1 - alpha / 2) * self.error * np.sqrt(self.number / numbers)
        enough = numbers[halves < abs(self.mean)]
        return int(enough[0]) - self.number if len(enough) else None


def gap_of(differences: np.ndarray, unit: Literal["seeds", "test images"]) -> Gap:
    """Return the gap of paired differences (n,); its error is nan for fewer than two."""
    n = len(differences)
    mean = float(differences.mean()) if n else math.nan
    same = n > 1 and np.ptp(differences) < ROUNDING
    return Gap(mean, 0.0 if same else float(differences.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan, n, unit)


def paired(first: Sequence[FinishedRun], second: Sequence[FinishedRun], key: str) -> Gap:
    """Return the difference of the last epochs by seed, over the seeds that both groups have with that figure."""
    own, others = ({run.seed: run.figure(key) for run in runs if run.seed is not None} for runs in (first, second))
    differences = np.array([own[seed] - others[seed] for seed in own if seed in others])
    return gap_of(differences[~np.isnan(differences)], "seeds")


def mean_figure(runs: Sequence[FinishedRun], key: str) -> float:
    """Return the mean over the runs that have the figure, nan if none has."""
    return float(pd.Series([run.figure(key) for run in runs]).mean())


def class_means(runs: Sequence[FinishedRun]) -> np.ndarray:
    """Return the mean accuracy of each class over the runs (C,), nan where a run has no test images of it."""
    mean: np.ndarray = np.mean([run.per_class for run in runs], axis=0)
    return mean


def spread(values: Sequence[float]) -> str:
    """Return mean ± standard deviation (n − 1), the mean alone of one value, "-" if there is none."""
    there = pd.Series(values, dtype=float).dropna()
    return percent(there.mean()) if len(there) < 2 else f"{there.mean():.2f} ± {there.std():.2f}"


def image_weights(target: np.ndarray, cls_num_list: Sequence[int], key: str) -> np.ndarray:
    """Return the weight of each test image (M,) in a figure, so that weights of those recognised sum to it, as a fraction.

    In a mean over classes an image weighs 1 / (images of its class × classes of the group that have test images).
    """
    if key == "acc1":
        return np.full(len(target), 1 / max(len(target), 1))
    images = np.bincount(target, minlength=len(cls_num_list))  # (C,)
    of_group = np.array([key == PER_CLASS_MEAN or shot_of(count) == key for count in cls_num_list]) & (images > 0)
    share: np.ndarray = of_group / np.maximum(images, 1) / max(of_group.sum(), 1)
    return share[target]


def image_gap(first: Sequence[FinishedRun], second: Sequence[FinishedRun], key: str) -> Gap | None:
    """Return the difference over the test images that all runs share; None without predictions, of other or few images."""
    tested = [run.tested for run in (*first, *second) if run.tested is not None]
    if not first or not second or len(tested) < len(first) + len(second):
        return None
    target = tested[0].target
    if not all(np.array_equal(one.target, target) for one in tested):
        return None
    right = np.array([one.target == one.predicted for one in tested])  # (runs, M)
    weights = image_weights(target, first[0].summary.cls_num_list, key)
    values = 100 * weights * (right[: len(first)].mean(axis=0) - right[len(first) :].mean(axis=0))
    values = values[weights > 0]
    return gap_of(values * len(values), "test images") if len(values) >= FEWEST_IMAGES else None


def gap(first: Sequence[FinishedRun], second: Sequence[FinishedRun], key: str) -> Gap | None:
    """Return the difference of two groups of runs on one long-tailed set; None: nothing can be said of chance.

    Over seeds where two or more are in common; where there are not, or all give the same difference, over the test images
    with the runs of the seeds in common. Runs of other seeds never count: what a seed changes would be taken for what a
    method does.
    """
    found = paired(first, second, key)
    if found.number > 1 and (not found.same_at_every_seed or abs(found.mean) < ROUNDING):
        return found
    common = {run.seed for run in first} & {run.seed for run in second}
    own, others = ([run for run in runs if run.seed in common] for runs in (first, second))
    return image_gap(own, others, key) or (found if found.number > 1 else None)
