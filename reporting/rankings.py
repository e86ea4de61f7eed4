"""Groups of runs ranked by a figure, with the differences of the first from the others, for verdicts and other programs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.metrics import PER_CLASS_MEAN
from reporting.comparisons import ROUNDING, Gap, figure_of_run, gap, gaps
from reporting.finished_runs import FinishedRun, Table, figures_of

Groups = Mapping[str, Sequence[FinishedRun]]  # runs that differ in their seed only, by the name of their group


@dataclass(frozen=True)
class Ranking:
    """The groups by a figure, the highest first, their means, and the differences of the first from each other one."""

    key: str
    means: dict[str, float]
    first_minus: dict[str, Gap | None]

    @property
    def first(self) -> str:
        """The first group."""
        return next(iter(self.means))

    @property
    def others(self) -> list[str]:
        """The other groups, the second first."""
        return list(self.means)[1:]

    @property
    def first_is_best(self) -> bool:
        """Whether the first is better than every other one beyond chance."""
        found = self.first_minus.values()
        return bool(found) and all(gap is not None and gap.beyond_chance and gap.mean > 0 for gap in found)


def mean_figure(runs: Sequence[FinishedRun], key: str) -> float:
    """Return the mean over the runs that have the figure, nan if none has."""
    there = [value for run in runs if not math.isnan(value := figure_of_run(run, key))]
    return statistics.fmean(there) if there else math.nan


def main_figure(groups: Groups) -> str:
    """Return the figure by which groups are ranked: the mean over classes where a test set is uneven, else overall."""
    return PER_CLASS_MEAN if PER_CLASS_MEAN in compared_figures(groups) else "acc1"


def compared_figures(groups: Groups) -> list[str]:
    """Return the figures that are compared: the accuracies of a table."""
    return [key for key in figures_of(run for runs in groups.values() for run in runs) if key not in ("macro_f1", "ece")]


def ranked(groups: Groups, key: str) -> list[str]:
    """Return the groups that have the figure, the highest first; equals, but for rounding, keep their order."""
    means = {name: round(mean_figure(runs, key), 9) for name, runs in groups.items()}
    return sorted((name for name, mean in means.items() if not math.isnan(mean)), key=lambda name: -means[name])


def better_than_all(groups: Groups, key: str) -> str | None:
    """Return the group that is better than every other one beyond chance.

    Each difference has its own 95 % interval: that all of them exclude 0 is at most as likely by chance as that one does
    (an intersection-union test), so nothing is to be corrected for their number.
    """
    order = ranked(groups, key)
    if len(groups) < 2 or len(order) < len(groups):
        return None
    found = (gap(groups[order[0]], groups[name], key) for name in order[1:])  # no more than are needed
    return order[0] if all(own is not None and own.beyond_chance and own.mean > 0 for own in found) else None


def ranking(groups: Groups, key: str, prefer: str | None = None) -> Ranking | None:
    """Rank the groups, of equals `prefer` first; None if none has the figure."""
    order = ranked(groups, key)
    if not order:
        return None
    means = {name: mean_figure(groups[name], key) for name in order}
    if prefer in means and means[order[0]] - means[prefer] < ROUNDING:
        order = [prefer, *(name for name in order if name != prefer)]
    found = gaps(groups[order[0]], [groups[name] for name in order[1:]], key)
    return Ranking(key, {name: means[name] for name in order}, dict(zip(order[1:], found, strict=True)))


def not_told_apart(of: Ranking) -> list[str]:
    """Return the groups whose difference from the first is known, and not beyond chance."""
    return [name for name, gap in of.first_minus.items() if gap is not None and not gap.beyond_chance]


def means_rows(title: str, groups: Groups, keys: Sequence[str]) -> Iterator[list[str]]:
    """Yield a row of `means_table` for each group of a long-tailed set."""
    main = main_figure(groups)
    best, *others = ranked(groups, main) or [""]
    found = dict(zip(others, gaps(groups[best], [groups[name] for name in others], main), strict=True)) if best else {}
    for name, runs in groups.items():
        figures = [[value for run in runs if not math.isnan(value := figure_of_run(run, key))] for key in keys]
        cells = [cell for own in figures for cell in (
            repr(statistics.fmean(own)) if own else "", repr(statistics.stdev(own)) if len(own) > 1 else "")]  # fmt: skip
        seeds = " ".join(str(run.summary.get("flags", {}).get("seed", "?")) for run in runs)
        own_gap = found.get(name)
        numbers = [""] * 5
        if own_gap is not None:
            turned = -own_gap
            numbers = [*(repr(x) for x in (turned.mean, turned.low, turned.high)), turned.method, str(turned.number)]
        yield [title, name, str(len(runs)), seeds, *cells, main, best, *numbers]


def means_table(sets: Mapping[str, Groups]) -> Table:
    """Return, for other programs, each group's means and standard deviations (n − 1) of the last epoch, unrounded.

    `sets` are groups by the title of their long-tailed set. The last columns are the difference from the set's best group
    in the figure that ranks them, with its 95 % interval, its method and the number of common seeds or images.
    """
    keys = figures_of(run for groups in sets.values() for runs in groups.values() for run in runs)
    columns = [column for key in keys for column in (f"{key}_mean", f"{key}_std")]
    compared = ["difference", "low", "high", "method", "number"]
    heading = ["data set", "group", "n", "seeds", *columns, "ranked_by", "best", *compared]
    return [heading, *(row for title, groups in sets.items() for row in means_rows(title, groups, keys))]
