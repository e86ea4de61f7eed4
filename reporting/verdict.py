"""What the runs of a long-tailed set say, in at most four sentences: what to take, and is it chance."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from harness.metrics import FEW, PER_CLASS_MEAN, shot_of
from harness.text import printable
from reporting.comparisons import ALPHA, MOST_NEEDED, ROUNDING, Gap, class_means, gap, mean_figure
from reporting.finished_runs import FinishedRun, decoded, write_json
from reporting.groups import Groups

WHERE = {"acc1": "overall", PER_CLASS_MEAN: "in the mean over classes"}
ANSWER_FILE = "answer.json"


@dataclass(frozen=True)
class Compared:
    """The groups on one long-tailed set, and what is said of them.

    `groups` are by rank, the highest first, in the figure `key`; `taken` is the one that the sentences are about,
    `reference` the one that it is compared with (None: there is no other), `gaps` the differences of `taken` from the
    others, `alpha` the level at which each of them is significant.
    """

    title: str
    groups: Groups
    key: str
    taken: str
    reference: str | None
    gaps: dict[str, Gap | None]
    alpha: float
    sentences: list[str] = field(default_factory=list)

    @property
    def runs(self) -> list[FinishedRun]:
        """All runs."""
        return [run for runs in self.groups.values() for run in runs]

    @property
    def pair(self) -> list[str]:
        """The group that the sentences are about, and its reference if there is one."""
        return [name for name in (self.taken, self.reference) if name is not None]

    def change(self) -> np.ndarray:
        """Return what each class gains with `taken` instead of the reference (C,), means over the runs, nan of untested."""
        means = [class_means(self.groups[name]) for name in self.pair]
        change = means[0] - means[-1]
        return np.where(np.abs(change) <= ROUNDING, 0.0, change)


def compare(title: str, groups: Groups, baseline: str | None = None) -> Compared:
    """Compare the groups of a set; `baseline` is the one to compare with, else plain cross-entropy, else the next.

    A group that is better than every other one, each by its own 95 % interval, is so by chance in at most 5 % of cases (an
    intersection-union test). Where there is none, the others are held against the reference, the highest first, each at
    the level of 5 % over their number (Bonferroni), since the highest of many stands out by chance more often.
    """
    key = main_figure(groups)
    order = ranked(groups, key)
    groups = {name: groups[name] for name in order}
    plain = [name for name in order if all(map(is_plain_training, groups[name]))]
    reference = next((name for name in (baseline, *plain, *order[1:]) if name in order), None)
    best = best_of(groups, key)
    alpha = ALPHA if best else ALPHA / max(len(order) - 1, 1)
    above = order[: order.index(reference)] if reference else []
    shown = (name for name in above if is_better(gap(groups[name], groups[reference or name], key), alpha))
    better = best or next(shown, None)
    taken = better or order[0]
    if taken == reference:  # the highest of all is the reference itself
        reference = next(iter(order[1:]), None)
    gaps = {name: gap(groups[taken], groups[name], key) for name in order if name != taken}
    one = Compared(title, groups, key, taken, reference, gaps, alpha)
    one.sentences.extend(read_answer([run.path for run in one.runs]) or sentences(one, better is not None, plain))
    return one


def main_figure(groups: Groups) -> str:
    """Return the figure by which groups are ranked: the mean over classes where a test set is uneven, else overall."""
    uneven = any(run.summary.last.mean_per_class is not None for runs in groups.values() for run in runs)
    return PER_CLASS_MEAN if uneven else "acc1"


def ranked(groups: Groups, key: str) -> list[str]:
    """Return the groups that have a figure, the highest first; equals, but for rounding, keep their order."""
    means = {name: round(mean_figure(runs, key), 9) for name, runs in groups.items()}
    return sorted((name for name, mean in means.items() if mean == mean), key=lambda name: -means[name])


def best_of(groups: Groups, key: str) -> str | None:
    """Return the group that is significantly better than every other one, if there is one."""
    order = ranked(groups, key)
    if len(groups) < 2 or len(order) < len(groups):
        return None
    return order[0] if all(is_better(gap(groups[order[0]], groups[name], key)) for name in order[1:]) else None


def is_better(found: Gap | None, alpha: float = ALPHA) -> bool:
    """Return whether a difference is above 0 beyond chance."""
    return found is not None and found.mean > 0 and found.significant(alpha)


def is_plain_training(run: FinishedRun) -> bool:
    """Return whether a run is of plain cross-entropy, also as it never came to stage 2; of heads, logistic regression."""
    if "way" in run.flags:  # of a head
        return bool(run.flags["way"] == "logistic")
    return (run.flags.get("stage2") == "none" or run.is_plain("last")) and not run.flags.get("logit_adjust")


def sentences(one: Compared, better: bool, plain: Sequence[str]) -> list[str]:
    """Return the verdict; `better`: the group is significantly better; `plain`: groups of plain cross-entropy."""

    def reached(name: str) -> str:
        return f"{mean_figure(one.groups[name], one.key):.2f} % {WHERE[one.key]}"

    if one.reference is None:
        return [f"“{one.taken}” reaches {reached(one.taken)}: train another group with the same seeds to compare it."]
    if better:
        first = f"Take “{one.taken}”: it reaches {reached(one.taken)}."
    elif plain and plain[0] in one.pair:
        first = f"Take “{plain[0]}”, the simplest, which reaches {reached(plain[0])}: nothing is significantly better."
    else:
        first = f"“{one.taken}” is highest with {reached(one.taken)}, but not significantly better than “{one.reference}”."
    others = list(dict.fromkeys([one.reference, next(name for name in one.groups if name != one.taken)]))
    told = [first, f"“{one.taken}” is {'; and '.join(distance(one, name, one.key) for name in others)}."]
    run = one.groups[one.taken][0]
    few = sum(
        shot_of(count) == "few" for count, own in zip(run.summary.cls_num_list, run.per_class, strict=True) if own == own
    )
    if few:
        reach = mean_figure(one.groups[one.taken], "few")
        classes = f"{few:,} few-shot class{'es' * (few > 1)} (fewer than {FEW} training images)"
        told.append(f"On the {classes} it reaches {reach:.2f} %, {distance(one, one.reference, 'few')}.")
    undecided = [name for name in others if (own := one.gaps[name]) is None or not own.significant(one.alpha)]
    return [*told, *(what_decides(one, name) for name in undecided[:1])]


def distance(one: Compared, other: str, key: str) -> str:
    """Return for instance: 1.50 points above “isda” (95 % interval 0.50 to 2.50), significant."""
    found = one.gaps[other] if key == one.key else gap(one.groups[one.taken], one.groups[other], key)
    means = [mean_figure(one.groups[name], key) for name in (one.taken, other)]
    mean = means[0] - means[1] if found is None else found.mean
    told = f"{points(abs(mean))} points {'above' if mean > 0 else 'below'}" if abs(mean) > ROUNDING else "level with"
    if found is None:
        return f"{told} “{other}”; whether by chance cannot be said"
    if found.same_at_every_seed:
        return f"{told} “{other}” at each common seed, which says nothing of chance"
    unit = " over the test images" if found.unit == "test images" else ""
    low, high = found.interval(one.alpha)
    interval = f"{100 * (1 - one.alpha):.3g} % interval{unit} {points(low)} to {points(high)}"
    return f"{told} “{other}” ({interval}), {'' if found.significant(one.alpha) else 'not '}significant"


def points(value: float, sign: str = "") -> str:
    """Return points with two decimals and, if `sign` is "+", their sign, which 0 has none of."""
    if math.isnan(value):
        return "-"
    return "0.00" if abs(value) <= ROUNDING else f"{value:{sign}.2f}".replace("-", "−")


def what_decides(one: Compared, other: str) -> str:
    """Return how many seeds or test images would tell the group from another."""
    found, between = one.gaps[other], f"“{one.taken}” and “{other}”"
    if found is None or found.same_at_every_seed:
        return f"To decide between {between}, train both with two or more common seeds (--seed), or test on more images."
    more = found.more_needed(one.alpha)
    number = f"About {more:,} more" if more is not None else f"More than {MOST_NEEDED[found.unit]:,}"
    return f"{number} {found.unit} would decide between {between}, if their difference stays the same."


class HeadsAnswer(msgspec.Struct):
    """The answer of a comparison of heads, kept beside its runs: a report of these summaries opens with the same words."""

    compared: list[str]
    sentences: list[str]


def write_answer(folder: Path, summaries: Iterable[Path], told: Sequence[str]) -> None:
    """Write the answer of the comparison of these runs, which lie in the folder."""
    write_json(folder / ANSWER_FILE, {"compared": sorted(path.name for path in summaries), "sentences": [*told]})


def read_answer(summaries: Collection[Path]) -> list[str]:
    """Return the sentences of the comparison of these runs and no others, [] if there was none."""
    for path in {summary.with_name(ANSWER_FILE) for summary in summaries}:
        found = decoded(path, HeadsAnswer) if os.path.isfile(path) else None
        if found and {path.with_name(name) for name in found.compared} == {*summaries}:
            return [*map(printable, found.sentences)]
    return []
