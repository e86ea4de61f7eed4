"""What the runs of a long-tailed set say, in words: which group is best, by how much, for which classes, and is it chance.

"Best", "better" and "beyond chance" are said only of differences whose 95 % interval excludes 0; "highest" of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reporting.comparisons import ROUNDING
from reporting.finished_runs import FinishedRun
from reporting.rankings import Groups, better_than_all, compared_figures, main_figure, ranking
from reporting.verdict_sentences import (
    about,
    cautions,
    class_means,
    class_sentences,
    method_sentences,
    overall_sentences,
    shot_sentences,
    without_comparison,
)


@dataclass(frozen=True)
class Verdict:
    """What can be said of the groups of one long-tailed set.

    `best` has the highest main figure, beyond chance or not; its classes are compared with those of `reference`: indices of
    those with a higher, a lower and the same accuracy, means over the runs; None without a reference. `beyond` names for
    each figure the group that is better than every other beyond chance, where there is one.
    """

    sentences: list[str]
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


def plain_training(run: FinishedRun) -> bool:
    """Whether a run is of plain cross-entropy, by its flags or since it never came to its stage 2."""
    return (run.flags.get("stage2") == "none" or run.is_plain("last")) and not run.flags.get("logit_adjust")


def judge(title: str, groups: Groups, baseline: str | None = None) -> Verdict:
    """Say what the runs on one long-tailed set, called `title`, show; `baseline` is the group to compare with, if any."""
    told = [*about(title, groups), *cautions(groups)]
    main = ranking(groups, main_figure(groups))
    if main is None or not main.others:
        return Verdict([*told, *without_comparison(groups, main)], main.first if main else None, None, {}, None, None, None)
    best = main.first
    reference = reference_of(groups, list(main.means), baseline)
    assert reference is not None
    beyond = {key: name for key in compared_figures(groups) if (name := better_than_all(groups, key)) is not None}
    change = class_means(groups[best]) - class_means(groups[reference])  # (C,)
    gained, lost = np.flatnonzero(change > ROUNDING), np.flatnonzero(change < -ROUNDING)
    same = np.flatnonzero(np.abs(change) <= ROUNDING)
    plain = all(map(plain_training, groups[reference]))
    told += overall_sentences(groups, main, reference, plain)
    told_by_shot, looked_at = shot_sentences(groups, best, reference)
    told += told_by_shot
    told += class_sentences(groups, best, reference, change)
    told += method_sentences([*main.first_minus.values(), *looked_at])
    return Verdict(told, best, reference, beyond, gained.tolist(), lost.tolist(), same.tolist())
