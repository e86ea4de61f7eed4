"""What the runs of a long-tailed set say, in words: which group is best, by how much, for which classes, and is it chance.

"Best", "better" and "beyond chance" are said only of differences whose 95 % interval excludes 0; "highest" of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reporting.comparisons import ROUNDING
from reporting.rankings import Groups, better_than_all, compared_figures, main_figure, ranking
from reporting.verdict_sentences import (
    about,
    cautions,
    class_means,
    class_sentences,
    doubts,
    method_sentences,
    plain_training,
    short_verdict,
    without_comparison,
)


@dataclass(frozen=True)
class Verdict:
    """What can be said of the groups of one long-tailed set: four sentences at most, and details.

    `best` has the highest main figure, beyond chance or not; its classes are compared with those of `reference`: indices of
    those with a higher, a lower and the same accuracy, means over the runs; None without a reference. `beyond` names for
    each figure the group that is better than every other beyond chance, where there is one.
    """

    sentences: list[str]
    details: list[str]
    best: str | None
    reference: str | None
    beyond: dict[str, str]
    gained: list[int] | None
    lost: list[int] | None
    same: list[int] | None


def reference_of(groups: Groups, order: Sequence[str], baseline: str | None) -> str | None:
    """Return the group that the best, first in order, is compared with by class: baseline, plain cross-entropy or second."""
    plain = [name for name in order if all(plain_training(run) for run in groups[name])]
    wanted = [name for name in (baseline, *plain[:1]) if name in order[1:]]
    return wanted[0] if wanted else order[1] if len(order) > 1 else None


def judge(title: str, groups: Groups, baseline: str | None = None) -> Verdict:
    """Say what the runs on one long-tailed set, called `title`, show; `baseline` is the group to compare with, if any."""
    details = [*about(title, groups), *cautions(groups)]
    main = ranking(groups, main_figure(groups))
    if main is None or not main.others:
        told = without_comparison(title, groups, main)
        return Verdict(told, details, main.first if main else None, None, {}, None, None, None)
    best = main.first
    reference = reference_of(groups, list(main.means), baseline)
    assert reference is not None
    others = [key for key in compared_figures(groups) if key != main.key]
    beyond = {key: name for key in others if (name := better_than_all(groups, key)) is not None}
    if main.first_is_best and len(main.means) == len(groups):
        beyond[main.key] = best
    change = class_means(groups[best]) - class_means(groups[reference])  # (C,)
    gained, lost = np.flatnonzero(change > ROUNDING), np.flatnonzero(change < -ROUNDING)
    same = np.flatnonzero(np.abs(change) <= ROUNDING)
    told, looked_at = short_verdict(groups, main, reference)
    details += doubts(groups, main)
    details += class_sentences(groups, best, reference, change)
    details += method_sentences([*main.first_minus.values(), *looked_at])
    return Verdict(told, details, best, reference, beyond, gained.tolist(), lost.tolist(), same.tolist())
