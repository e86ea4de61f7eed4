"""Groups of runs that differ in their seed only, and what a report calls them and their long-tailed sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from harness.text import shown_names
from reporting.finished_runs import FinishedRun

Groups = dict[str, list[FinishedRun]]  # by name
SPELLED = {  # values of flags as one writes them; those of these flags need no name
    "none": "plain cross-entropy", "reweight": "re-weighting", "isda": "ISDA", "metasaug": "MetaSAug",
    "cifar10": "CIFAR-10-LT", "cifar100": "CIFAR-100-LT",
}  # fmt: skip
SAY_ALONE = ("loss", "stage2", "dataset", "arch")


def long_tails(runs: Iterable[FinishedRun]) -> dict[str, Groups]:
    """Return the groups by the title of the long-tailed set that they were trained on; a figure compares those of one set.

    Sets are told apart by data set, imb_factor, class sizes and class names.
    """
    sets: dict[tuple[Any, ...], list[FinishedRun]] = {}
    for run in runs:
        key = (
            run.flags.get("dataset"),
            run.flags.get("imb_factor"),
            (*run.summary.cls_num_list,),
            (*run.summary.class_names,),
        )
        sets.setdefault(key, []).append(run)
    titles = [set_title(*key[:2]) for key in sets]
    return {
        title if titles.count(title) == 1 else f"{title}, {len(own[0].per_class)} classes ({own[0].name})": grouped(own)
        for title, own in zip(titles, sets.values(), strict=True)
    }


def set_title(dataset: Any, imb_factor: Any) -> str:
    """Return what a set is called: its name and, where it was cut, the largest class over the smallest."""
    name = SPELLED.get(dataset, str(dataset))
    return name if imb_factor is None else f"{name}, imbalance ratio {1 / imb_factor:g}"


def grouped(runs: Iterable[FinishedRun]) -> Groups:
    """Return the runs that differ in their seed only, by name; a second run of the same seed begins a second group."""
    groups: dict[tuple[str, int], list[FinishedRun]] = {}
    times: Counter[tuple[str, Any]] = Counter()
    for run in runs:
        groups.setdefault((run.kind, times[run.kind, run.seed]), []).append(run)
        times[run.kind, run.seed] += 1
    members = list(groups.values())
    return dict(zip(shown_names(group_names(members)), members, strict=True))


def group_names(members: Sequence[Sequence[FinishedRun]]) -> list[str]:
    """Return a name for each group.

    Words of the folder's file come first. Then, where no two runs belong together, each keeps its own name; else the flags
    tell the groups apart.
    """
    names = [group[0].name for group in members]
    if any(len(group) > 1 for group in members):
        names = flag_names(members)
    said = [{run.words for run in group} for group in members]
    return [(next(iter(words)) if len(words) == 1 else "") or name for words, name in zip(said, names, strict=True)]


def flag_names(members: Sequence[Sequence[FinishedRun]]) -> list[str]:
    """Return names made of the flags that differ."""
    flags = [group[0].flags for group in members]
    known = {key: None for own in flags for key in own}  # in order
    telling = [key for key in known if len({str(own[key]) for own in flags if key in own}) > 1]
    names = []
    for own in flags:
        words = {key: SPELLED.get(own[key], str(own[key])) for key in telling if key in own}
        names.append(" ".join(word if key in SAY_ALONE else f"{key} {word}" for key, word in words.items()) or "all")
    return names
