"""Is one group of runs better than another beyond chance: 95 % intervals of differences, over seeds or over test images."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import stdtrit
from scipy.stats import bootstrap, ttest_rel

from harness.metrics import PER_CLASS_MEAN, shot_of
from reporting.finished_runs import FinishedRun, figure

LEVEL = 0.95
RESAMPLES = 2000
FEWEST_IMAGES = 30  # percentile intervals of fewer are too narrow: of 4 images, all right against all wrong, the width is 0
MOST_NEEDED = {"seeds": 100, "images": 10**6}  # of more, a number says no more than that it is many
AT_ONCE = 100  # resamples at a time
ROUNDING = 1e-9  # points; figures of as many images differ by rounding less than that, and by an image more


@dataclass(frozen=True)
class Difference:
    """A paired difference: its mean over n seeds, and half the width of its 95 % interval, nan for one seed."""

    n: int
    mean: float
    half: float

    def __str__(self) -> str:
        if not self.n:
            return "-"
        interval = "" if math.isnan(self.half) else f" ± {self.half:.2f}"
        return f"{self.mean:+.2f}{interval} ({self.n})"


@dataclass(frozen=True)
class Gap:
    """A difference of two groups, first minus second, in percentage points, with its 95 % interval.

    `number` is that of the common seeds, or of the test images that the figure is made of; `common` are the seeds that both
    groups have, None if these are all of both.
    """

    mean: float
    low: float
    high: float
    method: Literal["seeds", "images"]
    number: int
    common: tuple[str, ...] | None = None

    def __neg__(self) -> Gap:
        return Gap(-self.mean, -self.high, -self.low, self.method, self.number, self.common)

    @property
    def same_at_every_seed(self) -> bool:
        """Whether the interval has the width 0 for the seeds made no difference to the difference."""
        return self.method == "seeds" and self.high - self.low < ROUNDING

    @property
    def beyond_chance(self) -> bool:
        """Whether the interval excludes 0.

        Differences that are the same at every seed never are: the seeds changed nothing (copies, a training without
        chance), or the test set is so small that figures coincide. Neither says what other seeds or images would give.
        """
        return (self.low > 0 or self.high < 0) and not self.same_at_every_seed


def paired(values: Mapping[str, float], reference: Mapping[str, float]) -> Difference:
    """Return the difference of two rows' figures by seed, over the seeds that both have: Student's t, n − 1 degrees."""
    common = [seed for seed in values if seed in reference]
    gaps = [values[seed] - reference[seed] for seed in common]
    mean = statistics.fmean(gaps) if gaps else math.nan
    if len(gaps) < 2:
        return Difference(len(gaps), mean, math.nan)
    if max(gaps) - min(gaps) < ROUNDING:  # of which scipy warns
        return Difference(len(gaps), mean, 0.0)
    found = ttest_rel([values[seed] for seed in common], [reference[seed] for seed in common])
    return Difference(len(gaps), mean, float(found.confidence_interval(LEVEL).high) - mean)


def figure_of_run(run: FinishedRun, key: str) -> float:
    """Return a figure of the last epoch; the mean over classes also where the summary has none, for all have as many."""
    last = run.summary["last"]
    if key == PER_CLASS_MEAN and key not in last:
        there = [value for value in last["per_class"] if value is not None]
        return statistics.fmean(there) if there else math.nan
    return figure(last, key)


def figures_by_seed(runs: Sequence[FinishedRun], key: str) -> dict[str, float]:
    """Return the figure at each seed that is known, the mean where runs have the same one."""
    found: dict[str, list[float]] = {}
    for run in runs:
        seed, value = run.summary.get("flags", {}).get("seed"), figure_of_run(run, key)
        if seed is not None and not math.isnan(value):
            found.setdefault(str(seed), []).append(value)
    return {seed: statistics.fmean(values) for seed, values in found.items()}


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


def share_right(runs: Sequence[FinishedRun]) -> np.ndarray:
    """Return the share of the runs that recognise each test image (M,)."""
    right = [run.tested.target == run.tested.predicted for run in runs if run.tested is not None]
    return np.mean(right, axis=0)


def same_test_set(first: Sequence[FinishedRun], second: Sequence[FinishedRun]) -> bool:
    """Whether there are predictions of all runs, for the same test images by their labels."""
    tested = [run.tested for run in (*first, *second)]
    return bool(first and second) and all(
        one is not None and tested[0] is not None and np.array_equal(one.target, tested[0].target) for one in tested
    )


def seed_gap(first: Sequence[FinishedRun], second: Sequence[FinishedRun], key: str) -> Gap | None:
    """Return the difference paired over the seeds in common, None of fewer than two."""
    found = paired(figures_by_seed(first, key), figures_by_seed(second, key))
    if found.n < 2:
        return None
    return Gap(found.mean, found.mean - found.half, found.mean + found.half, "seeds", found.n)


def at_common_seeds(
    first: Sequence[FinishedRun], second: Sequence[FinishedRun]
) -> tuple[list[FinishedRun], list[FinishedRun]]:
    """Return the runs of the seeds that both groups have; those that do not say their seed are of one."""
    common = {run.seed for run in first} & {run.seed for run in second}
    return [run for run in first if run.seed in common], [run for run in second if run.seed in common]


def image_gap(first: Sequence[FinishedRun], second: Sequence[FinishedRun], key: str) -> Gap | None:
    """Return the difference of two groups on one test set, by bootstrap over its images; None of too few images.

    The interval is between the percentiles of RESAMPLES means, each over as many images drawn with replacement. The
    weights of images stay as they are, so a class may be drawn more often than it has images: intervals of means over
    classes are a little wider than those of a bootstrap within each class.
    """
    one = first[0]
    assert one.tested is not None
    weights = image_weights(one.tested.target, one.summary["cls_num_list"], key)
    number = int((weights > 0).sum())
    if number < FEWEST_IMAGES:
        return None
    values = 100 * weights * (share_right(first) - share_right(second))  # (M,), paired by image
    drawn = bootstrap(
        (values,), np.sum, n_resamples=RESAMPLES, batch=AT_ONCE, confidence_level=LEVEL, method="percentile", random_state=0
    )
    low, high = drawn.confidence_interval
    return Gap(float(values.sum()), float(low), float(high), "images", number)


def seeds_in_part(
    first: Sequence[FinishedRun], other: Sequence[FinishedRun], own: Sequence[FinishedRun], others: Sequence[FinishedRun]
) -> tuple[str, ...] | None:
    """Return the seeds in common, of runs `own` and `others`; None if these are all runs."""
    return None if len(own) + len(others) == len(first) + len(other) else tuple(dict.fromkeys(str(run.seed) for run in own))


def gap(first: Sequence[FinishedRun], second: Sequence[FinishedRun], key: str) -> Gap | None:
    """Return the difference of two groups of runs on one long-tailed set; None: nothing can be said.

    Paired over seeds where two or more are in common; where there are not, or all give the same difference (they say
    nothing of chance then), by bootstrap over the test images, with the runs of the seeds in common, if their predictions
    are there. Runs of other seeds never count: what a seed changes would be taken for what a method does.
    """
    found, pair = seed_gap(first, second, key), at_common_seeds(first, second)
    if (found is None or (found.same_at_every_seed and abs(found.mean) > ROUNDING)) and same_test_set(*pair):
        found = image_gap(*pair, key) or found
    return found and replace(found, common=seeds_in_part(first, second, *pair))


def gaps(first: Sequence[FinishedRun], others: Sequence[Sequence[FinishedRun]], key: str) -> list[Gap | None]:
    """Return the difference of a group from each other one."""
    return [gap(first, other, key) for other in others]


def needed(found: Gap) -> int | None:
    """Return how many seeds or images a difference that is not 0 needs to be beyond chance, if it stays; None: too many.

    The deviation of the seeds' differences stays too; the interval over images is narrower as the root of their number.
    """
    half = found.mean - found.low if found.mean > 0 else found.high - found.mean  # the side of 0
    most = MOST_NEEDED[found.method]
    if found.method == "images":
        number = math.ceil(found.number * (half / abs(found.mean)) ** 2) + 1
        return number if number <= most else None
    quantile = (1 + LEVEL) / 2
    deviation = half * math.sqrt(found.number) / stdtrit(found.number - 1, quantile)
    more = range(found.number + 1, most + 1)
    return next((n for n in more if stdtrit(n - 1, quantile) * deviation / math.sqrt(n) < abs(found.mean)), None)


def better_and_worse(gaps: Sequence[float]) -> tuple[int, int, int]:
    """Return how many differences are above 0, below, and 0 but for rounding; nan is none of them."""
    better, worse = sum(gap > ROUNDING for gap in gaps), sum(gap < -ROUNDING for gap in gaps)
    return better, worse, sum(abs(gap) <= ROUNDING for gap in gaps)
