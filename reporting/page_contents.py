"""What a report's page shows of each long-tailed set, made of its runs: words, tables, charts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.metrics import FEW, MANY, PER_CLASS_MEAN, percent
from harness.text import printable, shown_names
from reporting import charts
from reporting.chart_parts import CLASS_BINS, EACH_CLASS, MOST_GROUPS, NAMED_CLASSES, Chart, bin_edges, class_order
from reporting.confusions import confused, count_of
from reporting.finished_runs import FinishedRun, figure, run_table, spread
from reporting.meta_facts import has_meta_step, moved, step_seconds
from reporting.page_tables import (
    MOST_ROWS,
    Cell,
    PageTable,
    all_settings,
    class_table,
    differing_settings,
    from_text,
    groups_table,
    number_cell,
)
from reporting.rankings import Groups, main_figure
from reporting.reliability import bins_of
from reporting.verdict_sentences import class_means
from reporting.verdicts import Verdict, judge

EXPLAINED_MEAN = "Mean over classes: of those that have test images, for some have more of them than others. "
EXPLAINED = (
    f"many, medium, few: mean over the classes with more than {MANY}, {FEW} to {MANY}, fewer than {FEW} training images. "
    "ECE: expected calibration error, smaller is better. Bold: better than every other group beyond chance."
)


Runs = dict[str, list[FinishedRun]]  # by group


@dataclass
class Section:
    """The runs on one long-tailed set, as the template shows them."""

    id: str
    title: str
    names: list[str]
    verdict: list[str]
    details: list[str]
    means: PageTable
    runs: PageTable
    shown: Runs  # the groups in the charts
    shots: Chart | None
    by_class: Chart
    classes: PageTable
    class_data: dict[str, Any]
    settings: PageTable
    differing: PageTable | None
    explained: str
    shown_note: str = ""
    untested: str = ""
    by_class_note: str = ""
    pair: tuple[str, str] | None = None
    pair_words: str = ""
    choices: list[str] = field(default_factory=list)
    differences: Chart | None = None
    classes_note: str = ""
    confused: PageTable | None = None
    reliability: Chart | None = None
    reliability_table: PageTable | None = None
    curves: list[Chart] = field(default_factory=list)
    curves_note: str = ""
    meta: PageTable | None = None
    meta_note: str = ""
    covariances: Chart | None = None


def make_section(place: int, title: str, groups: Runs, baseline: str | None) -> Section:
    """Return everything that the page shows of the groups of runs on one long-tailed set."""
    groups = with_printable_names(groups)
    runs = [run for own in groups.values() for run in own]
    counts, names = runs[0].summary["cls_num_list"], [printable(name) for name in runs[0].class_names]
    verdict = judge(title, groups, baseline)
    groups, shown = by_rank(groups, verdict)
    pair = (verdict.best, verdict.reference) if verdict.best is not None and verdict.reference is not None else None
    choices = list(dict.fromkeys([*(pair or ()), *groups]))
    means = {name: class_means(groups[name]).tolist() for name in choices}
    compared = list(pair) if pair else choices[:1]
    gaps = [a - b for a, b in zip(*(means[name] for name in pair), strict=True)] if pair else None
    tested = test_counts(runs)
    setting = Section(
        id=f"set{place}",
        title=printable(title),
        names=names,
        verdict=[printable(sentence) for sentence in verdict.sentences],
        details=[printable(sentence) for sentence in verdict.details],
        means=groups_table(groups, verdict.beyond),
        runs=from_text("Each run: the last and the best epoch", run_table(runs)),
        shown=shown,
        shots=charts.shots(shown),
        by_class=charts.by_class(shown, counts, names, compared),
        classes=class_table({name: means[name] for name in compared}, gaps, names, counts, tested),
        class_data=class_data(means, pair, compared, names, counts, tested),
        settings=all_settings(runs),
        differing=differing_settings(groups),
        untested=untested_words(runs, names),
        explained=EXPLAINED_MEAN * (main_figure(groups) == PER_CLASS_MEAN) + EXPLAINED,
    )
    if len(names) > NAMED_CLASSES:
        setting.by_class_note = near_words(len(names), compared)
    if len(groups) > len(shown):
        setting.shown_note = f"The charts show {len(shown)} of the {len(groups)} groups: the highest ones and the reference."
    if len(names) > MOST_ROWS:
        which = "those that changed most" if pair else "those with the most training images"
        setting.classes_note = f"{MOST_ROWS} of {len(names):,} classes: {which}; search for others. All are in classes.csv."
    if pair and gaps is not None:
        better, worse, same = (len(own or ()) for own in (verdict.gained, verdict.lost, verdict.same))
        setting.pair, setting.choices = pair, choices
        setting.pair_words = f"{pair[0]} against {pair[1]}: {better:,} classes better, {worse:,} worse, {same:,} the same."
        setting.differences = charts.differences(means[pair[0]], means[pair[1]], counts, names)
    setting.confused = mistakes(groups, compared, names)
    add_calibration(setting, shown)
    setting.curves, setting.curves_note = charts.curves_of(shown)
    add_meta(setting, groups, counts, names)
    return setting


def with_printable_names(groups: Runs) -> Runs:
    """Return groups under names that a page can show, still different ones."""
    return dict(zip(shown_names(groups), groups.values(), strict=True))


def by_rank(groups: Groups, verdict: Verdict) -> tuple[Runs, Runs]:
    """Return the groups by their main figure, highest first, and those that charts show, the reference among them."""
    key = main_figure(groups)
    means = {name: charts.group_means(own, key)[0] for name, own in groups.items()}
    order = sorted(groups, key=lambda name: (name != verdict.best, -np.nan_to_num(means[name], nan=-1.0)))
    shown = order[:MOST_GROUPS]
    if verdict.reference is not None and verdict.reference not in shown:
        shown[-1] = verdict.reference
    return {name: [*groups[name]] for name in order}, {name: [*groups[name]] for name in shown}


def test_counts(runs: Sequence[FinishedRun]) -> list[int] | None:
    """Return the test images of each class (C,), None where no run has kept predictions."""
    run = next((run for run in runs if run.tested is not None), None)
    if run is None or run.tested is None:
        return None
    return np.bincount(run.tested.target, minlength=len(run.summary["cls_num_list"])).tolist()


def near_words(classes: int, compared: Sequence[str]) -> str:
    """Return what the points of the chart of more classes than have names are."""
    if classes > EACH_CLASS:
        return f"Each point is the mean of {classes // CLASS_BINS} or so neighbouring classes."
    return f"Each point is a class with {' or '.join(compared)}."


def untested_words(runs: Sequence[FinishedRun], names: Sequence[str]) -> str:
    """Return which classes have no test images in some run, in words."""
    none = [k for k in range(len(names)) if any(run.summary["last"]["per_class"][k] is None for run in runs)]
    if not none:
        return ""
    told = ", ".join(names[k] for k in none[:10]) + (f" and {len(none) - 10:,} more" if len(none) > 10 else "")
    return f"{len(none):,} of {len(names):,} classes have no test images and are in none of the figures: {told}."


def class_data(
    means: Mapping[str, Sequence[float]],
    pair: tuple[str, str] | None,
    compared: Sequence[str],
    names: Sequence[str],
    counts: Sequence[int],
    tested: Sequence[int] | None,
) -> dict[str, Any]:
    """Return what the page needs to compare the classes of two chosen groups."""
    order = class_order(counts)
    made: dict[str, Any] = {
        "pair": pair,
        "shown": list(compared),
        "order": order,
        "names": names,
        "train": counts,
        "test": tested,
    }
    made["means"] = {name: [None if math.isnan(value) else round(value, 4) for value in own] for name, own in means.items()}
    made["bins"] = bin_edges(len(order)) if len(order) > EACH_CLASS else None
    return made


def mistakes(groups: Groups, compared: Sequence[str], names: Sequence[str]) -> PageTable | None:
    """Return the classes that the first of the compared groups confuses most often, beside the counts of the others."""
    first, *others = compared
    pairs = confused(groups[first])
    if not pairs:
        return None
    counted = {name: own for name in others if (own := count_of(groups[name], pairs)) is not None}
    rows = []
    for k, pair in enumerate(pairs):
        shares = [number_cell(value, f"{value:.1f}") for value in (pair.share, *(own[k] for own in counted.values()))]
        cells = [number_cell(pair.mean_count, f"{pair.mean_count:.1f}"), number_cell(pair.tested, f"{pair.tested:g}")]
        rows.append([Cell(names[pair.true]), Cell(names[pair.predicted]), *cells, *shares])
    heads = ["class", "taken for", f"{first}: images", "of", "%", *(f"{name}: images" for name in counted)]
    return PageTable("Classes most confused: test images, mean over runs", heads, rows)


def add_calibration(setting: Section, shown: Groups) -> None:
    """Add the reliability diagram and its figures."""
    bins = {name: found for name, runs in shown.items() if (found := bins_of(runs))}
    eces = {name: spread([figure(run.summary["last"], "ece") for run in runs]) for name, runs in shown.items()}
    setting.reliability = charts.reliability(bins, shown, eces)
    rows = [
        [
            Cell(printable(name)),
            number_cell(one.low, f"{one.low:.0f} to {one.high:.0f}"),
            number_cell(one.confidence, percent(one.confidence)),
            number_cell(one.accuracy, percent(one.accuracy)),
            number_cell(one.images, str(one.images)),
        ]
        for name, found in bins.items()
        for one in found
    ]
    setting.reliability_table = PageTable(
        "Bins of confidence, the images of all runs of a group",
        ["group", "bin, %", "mean confidence, %", "right, %", "images"],
        rows,
    )


def add_meta(setting: Section, groups: Groups, counts: Sequence[int], names: Sequence[str]) -> None:
    """Add what the meta step did, and what a training step costs."""
    found = {name: moved(runs) for name, runs in groups.items() if any(map(has_meta_step, runs))}
    changes = {name: one for name, one in found.items() if one is not None}
    rows = []
    for name, runs in groups.items():
        seconds, change = step_seconds(runs), changes.get(name)
        cells = [
            number_cell(math.nan if one is None else 1000 * one, "-" if one is None else f"{1000 * one:.3g}")
            for one in seconds
        ]
        figures = [math.nan] * 2 if change is None else [change.median, change.per_shot["few"]]
        cells += [number_cell(value, "-" if math.isnan(value) else f"{value:+.3g}".replace("-", "−")) for value in figures]
        largest = "-" if change is None or change.largest is None else names[change.largest]
        rows.append([Cell(printable(name)), *cells, Cell(largest)])
    if not changes and all(cell.text == "-" for row in rows for cell in row[1:3]):
        return
    heads = ["group", "stage 1, ms", "stage 2, ms", "Σ moved, %", "few-shot, %", "moved most"]
    setting.meta = PageTable("Cost of a step, and what the meta step did", heads, rows)
    setting.meta_note = (
        "Milliseconds a step: median over the epochs, the first of each stage left out, the test of the epoch included; "
        "they depend on the machine and on what else ran there. Σ moved: how far the meta steps of the last epoch moved "
        "the trace of a class's covariance, median over classes, where a run recorded it."
    )
    shown = {name: setting.shown[name] for name in setting.shown if name in changes}
    if shown:
        own = {name: changes[name].change for name in shown}
        setting.covariances = charts.covariance_changes(own, setting.shown, counts, names)
