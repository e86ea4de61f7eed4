"""Finished runs as reports see them: read from disk, grouped over seeds, compared with the publication."""

from __future__ import annotations

import csv
import math
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.flags import PUBLISHED_RULE, in_stage1
from harness.metrics import PER_CLASS_MEAN, SHOTS, percent
from harness.text import printable
from reporting.group_names import group_names
from reporting.run_contents import (
    LOG,
    Tested,
    distinct_names,
    no_runs,
    places_below,
    read_log,
    read_summary,
    read_tested,
    save_name,
)
from reporting.run_facts import RunFacts

FIGURES = ("acc1", PER_CLASS_MEAN, *SHOTS, "macro_f1", "ece")
HEADINGS = {"acc1": "overall", PER_CLASS_MEAN: "mean over classes", "macro_f1": "macro-F1", "ece": "ECE"}
PUBLISHED = Path(__file__).resolve().parent.parent / "results" / "published_errors.csv"
FULL_LENGTH = {"arch": "resnet32", "epochs": 200, "batch_size": 100, "stage2": "metasaug", "meta_start": 160, "num_meta": 10,
               "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "meta_lr": 0.1, "stage2_lr": 1.0,
               "meta_update": PUBLISHED_RULE, "virtual": "all", "meta_images": "apart", "balance": "weights"}  # fmt: skip
MOST_CLASSES = 1000  # of a confusion matrix
Table = list[list[str]]  # the first row is the heading


@dataclass(frozen=True)
class FinishedRun(RunFacts):
    """A finished run: its name, what its summary holds, a dict an epoch of its log, and what it said of its test set."""

    tested: Tested | None
    path: Path  # of the summary

    def is_plain(self, which: str) -> bool:
        """Whether the "last" or "best" epoch is before stage 2."""
        return in_stage1(self.summary.get("flags", {}), self.summary[which]["epoch"])

    def confusion(self) -> np.ndarray | None:
        """Return the last epoch's confusion matrix (C, C), rows the true classes; None without predictions, or too large."""
        classes = len(self.summary["cls_num_list"])
        if self.tested is None or classes > MOST_CLASSES:
            return None
        places = self.tested.target * classes + self.tested.predicted
        return np.bincount(places, minlength=classes**2).reshape(classes, classes)


def read_run(name: str, path: Path, words: str = "") -> FinishedRun:
    """Read the files of a run, of which `path` is the summary; `words` are what a report calls it and its like."""
    summary, first = read_summary(path), save_name(path)
    log = read_log(path.with_name(first + LOG), summary)
    tested = read_tested(path.with_name(f"{first}_last_predictions.npz"), len(summary["cls_num_list"]))
    return FinishedRun(name, summary, log, tested, path, words=words)


def read_runs(paths: Sequence[Path]) -> list[FinishedRun]:
    """Read the runs of summaries, and of all those below folders: all their files, of which a damaged one is an error."""
    different: dict[Path, Path] = {}
    for path in paths:
        found = list(filter(os.path.isfile, places_below(path))) if os.path.isdir(path) else [path]
        for file in found or no_runs(path):
            different.setdefault(file.resolve(), file)
    places = list(different.values())
    return [read_run(name, path) for name, path in zip(distinct_names(places), places, strict=True)]


def grouped(runs: Iterable[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Return the runs that differ in their seed only, under a name made of what tells the groups apart.

    Where no two runs belong together, each keeps its own name. A second run of the same seed begins a second group. See
    `group_names` for the names.
    """
    groups: dict[tuple[str, int], list[FinishedRun]] = {}
    times: Counter[tuple[str, Any]] = Counter()
    for run in runs:
        groups.setdefault((run.kind, times[run.kind, run.seed]), []).append(run)
        times[run.kind, run.seed] += 1
    members = list(groups.values())
    return dict(zip(group_names(members), members, strict=True))


def long_tails(runs: Iterable[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Return the runs by the long-tailed set they were trained on, under a name; one figure can compare those of one set.

    Sets are told apart by data set, imb_factor, class sizes and class names.
    """
    sets: dict[tuple[str, str, str], list[FinishedRun]] = {}
    for run in runs:
        sets.setdefault((run.long_tail, str(run.summary["cls_num_list"]), str(run.class_names)), []).append(run)
    names = [name for name, *_ in sets]
    return {
        name if names.count(name) == 1 else f"{name}, {len(own[0].class_names)} classes ({own[0].name})": own
        for (name, *_), own in sets.items()
    }


def figure(outcome: dict[str, Any], key: str) -> float:
    """Return a figure of an outcome, nan where it is not there or null."""
    value = outcome.get(key)
    return math.nan if value is None else float(value)


def figures_of(runs: Iterable[FinishedRun]) -> list[str]:
    """Return the figures that the runs' tables show; the mean over classes is one where some test set is uneven."""
    uneven = any(PER_CLASS_MEAN in run.summary["last"] for run in runs)
    return [key for key in FIGURES if uneven or key != PER_CLASS_MEAN]


def run_table(runs: Sequence[FinishedRun]) -> Table:
    """Return accuracies in per cent, the last and the best epoch of each run; groups are means over classes."""
    figures = figures_of(runs)
    rows = [["run", "epoch", *(HEADINGS.get(key, key) for key in figures)]]
    for run in runs:
        for which in ("last", "best"):
            outcome = run.summary[which]
            epoch = f"{which} ({outcome['epoch']}{', stage 1' if run.is_plain(which) else ''})"
            rows.append([run.name, epoch, *(percent(figure(outcome, key)) for key in figures)])
    return rows


def long_table(runs: Sequence[FinishedRun]) -> Table:
    """Return the figures of `run_table` unrounded, with seed, flags, seconds and commit of each run: for other programs."""
    flags, keys = list({key: None for run in runs for key in run.flags}), figures_of(runs)
    rows = [["run", "which", "epoch", *keys, "seed", *flags, "seconds", "commit"]]
    for run in runs:
        seed = run.summary.get("flags", {}).get("seed")
        facts = [seed, *(run.flags.get(key) for key in flags), run.summary.get("seconds"), run.summary.get("commit")]
        words = ["" if fact is None else str(fact) for fact in facts]
        for which in ("last", "best"):
            outcome = run.summary[which]
            figures = (outcome.get(key) for key in keys)
            rows.append([run.name, which, str(outcome["epoch"]), *("" if x is None else repr(x) for x in figures), *words])
    return rows


def spread(values: Sequence[float]) -> str:
    """Return mean ± standard deviation (n − 1), the mean alone of one value, "-" if there is none."""
    there = [value for value in values if not math.isnan(value)]
    if len(there) < 2:
        return percent(there[0] if there else math.nan)
    return f"{statistics.mean(there):.2f} ± {statistics.stdev(there):.2f}"


def published_tables(runs: Sequence[FinishedRun]) -> dict[str, Table]:
    """Return, for each loss and set, published error, ours (last epoch, mean ± std) and the difference of the means.

    Only runs at the published length and settings count (λ and the precision are free, for the publication does not give
    them); cells are empty where there is none. Runs that belong to several groups are not averaged: each has its own figure.
    """
    with open(PUBLISHED, encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    tables: dict[str, Table] = {}
    for cell in cells:
        title = f"{cell['loss']}, {cell['dataset'].upper().replace('CIFAR', 'CIFAR-')}-LT"
        rows = tables.setdefault(title, [["imbalance ratio"], ["published error"], ["ours"], ["difference"]])
        wanted = {**FULL_LENGTH, "loss": cell["loss"], "dataset": cell["dataset"], "imb_factor": float(cell["imb_factor"])}
        whole = [run for run in runs if run.flags["select_on"] == "test"]  # the others trained on fewer images
        groups = grouped(run for run in whole if wanted.items() <= run.flags.items())
        column = [f"{1 / float(cell['imb_factor']):g}", cell["error"], *compared(groups, float(cell["error"]))]
        for row, word in zip(rows, column, strict=True):
            row.append(word)
    return tables


def compared(groups: dict[str, list[FinishedRun]], published: float) -> tuple[str, str]:
    """Return the groups' errors in the last epoch and their differences from the published one, in words."""
    ours, difference = [], []
    for name, runs in groups.items():
        errors = [100 - run.summary["last"]["acc1"] for run in runs]
        label = f"{name}: " if len(groups) > 1 else ""
        ours.append(label + spread(errors))
        difference.append(f"{statistics.mean(errors) - published:+.2f}")
    return "; ".join(ours), "; ".join(difference)


def markdown(table: Table, escape: Callable[[str], str] = printable) -> list[str]:
    """Return the lines of a table as aligned markdown, each cell as `escape` makes it."""
    table = [[escape(cell) for cell in row] for row in table]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in table]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return [lines[0], rule, *lines[1:]]
