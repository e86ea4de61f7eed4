"""What a report's page shows of each long-tailed set: sections of words, tables and charts.

A section is a function of SECTIONS that takes what is compared and returns its parts; one without parts is left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harness.metrics import FEW, MANY, PER_CLASS_MEAN, percent
from harness.schemas import Confused
from harness.text import printable
from reporting import charts
from reporting.charts import Chart, class_order
from reporting.comparisons import ALPHA, class_means, mean_figure
from reporting.finished_runs import NOT_SETTINGS, FinishedRun
from reporting.groups import Groups
from reporting.tables import best_cells, epochs_table, images_table, shown_means, shown_runs
from reporting.verdict import Compared, points

MOST_OFFERED = 24  # groups that a reader can choose to see in charts
MOST_CLASSES = 200  # of a table
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)  # of a trace above 0
MOST_PAIRS = 10  # of classes taken for one another
EXPLAINED = (
    f"many, medium, few: mean over the classes with more than {MANY}, {FEW} to {MANY}, fewer than {FEW} training images. "
    "ECE: expected calibration error, smaller is better. Bold: significantly better than every other group."
)
PAIRED_WORDS = (
    "Differences are paired by the seeds that both groups have, if there are two or more and they change something "
    "(Student's t); such intervals do not cover the choice of the test images. Else they are paired by test image, which "
    "says nothing of other seeds. Without either, nothing can be said: train with two or more common seeds (--seed)."
)
META_WORDS = (
    "Seconds: median over the epochs, the first of each stage left out, tests included; they depend on the machine and on "
    "what else ran there. Σ moved: how far the meta steps of the last epoch moved the trace of a class's covariance, median "
    "over classes. Near 0 %, MetaSAug and ISDA must come out alike."
)
FACTS = ("loss", "commit", "versions", "machine", "device", "processes")


class Table(NamedTuple):
    """A table of texts; the first cell of a row says what the row is of. `bold` are rows by heading."""

    caption: str
    rows: pd.DataFrame
    folded: bool = False
    bold: Mapping[str, str] = MappingProxyType({})


class Pictures(NamedTuple):
    """Test images that a run got wrong, with the names of all classes; folded."""

    caption: str
    names: Sequence[str]
    pairs: Sequence[Confused]


PagePart = str | Table | Pictures | Chart


class Section(NamedTuple):
    """A heading and what stands below it."""

    title: str
    parts: list[PagePart]


def offered(one: Compared) -> Groups:
    """Return the groups that the charts offer, the one that the verdict is about and its reference first."""
    names = dict.fromkeys([*one.pair, *one.groups])
    return {name: one.groups[name] for name in list(names)[:MOST_OFFERED]}


def sections(one: Compared) -> list[Section]:
    """Return the sections of a page about one long-tailed set."""
    found = (Section(title, list(make(one))) for title, make in SECTIONS.items())
    return [section for section in found if section.parts]


def runs_section(one: Compared) -> Iterable[PagePart]:
    """Means and runs."""
    groups = one.groups
    yield Table(
        "Last epoch, mean ± standard deviation over seeds, in per cent", shown_means(groups), bold=best_cells(groups)
    )
    uneven = one.key == PER_CLASS_MEAN
    yield charts.shots(offered(one))
    told = "Mean over the classes with test images, because their numbers of test images differ. "
    yield told * uneven + EXPLAINED
    yield Table("Each run: the last and the best epoch", shown_runs(one), folded=True)


def data_section(one: Compared) -> Iterable[PagePart]:
    """What the trainings said of the data, such as test images that are trained on too."""
    notes = dict.fromkeys(note for run in one.runs for note in run.summary.notes)
    yield from map(printable, list(notes)[:MOST_OFFERED])


def classes_section(one: Compared) -> Iterable[PagePart]:
    """The accuracy of each class."""
    run, change = one.runs[0], one.change()
    names, order = np.array(run.summary.class_names), class_order(run.summary.cls_num_list)
    untested = names[np.isnan(change)]
    if len(untested):
        told = ", ".join(untested[:10]) + (f" and {len(untested) - 10:,} more" if len(untested) > 10 else "")
        yield f"{len(untested):,} of {len(names):,} classes have no test images and are in none of the figures: {told}."
    yield charts.by_class(offered(one))
    if one.reference is not None:
        yield charts.differences(change, run, *one.pair)
    if len(order) > MOST_CLASSES:
        changed = np.argsort(-np.nan_to_num(np.abs(change)), kind="stable")[:MOST_CLASSES]
        order = order[np.isin(order, changed)]
        yield f"The table has {MOST_CLASSES} of {len(names):,} classes, those that changed most; all are in classes.csv."
    rows = {"class": names[order], "training images": np.array(run.summary.cls_num_list)[order]}
    tested = next((run.tested for run in one.runs if run.tested is not None), None)
    if tested is not None:
        rows["test images"] = np.bincount(tested.target, minlength=len(names))[order]
    rows |= {name: [*map(percent, class_means(one.groups[name])[order])] for name in charts.drawn(offered(one))}
    if one.reference is not None:
        rows["difference"] = [points(value, "+") for value in change[order]]
    yield Table("Accuracy of each class, %", pd.DataFrame(rows))


def mistakes_section(one: Compared) -> Iterable[PagePart]:
    """The classes that the group confuses most often, and how often the reference does."""
    images, names = images_table({name: one.groups[name] for name in one.pair}), one.runs[0].summary.class_names
    wrong = images[images["target"] != images["predicted"]]
    counts = (
        wrong.groupby(["target", "predicted", "group"]).size().unstack(fill_value=0)
        / images.groupby("group")["run"].nunique()
    )
    if one.taken in counts:
        most = counts.sort_values(one.taken, ascending=False, kind="stable").head(MOST_PAIRS)
        pairs = {"class": [names[true] for true, _ in most.index], "taken for": [names[guess] for _, guess in most.index]}
        figures = {name: most[name].map("{:.1f}".format).tolist() for name in one.pair if name in most}
        yield Table("Most confused classes: number of test images, mean over runs", pd.DataFrame(pairs | figures))
    yield from charts.confusion(one.taken, one.groups[one.taken])
    for name in one.pair:
        run = next((run for run in one.groups[name] if run.mistakes), None)
        if run is not None:
            yield Pictures(f"Test images that “{name}” got wrong, run {run.name}", names, run.mistakes)


def calibration_section(one: Compared) -> Iterable[PagePart]:
    """How far confidences can be believed."""
    yield from charts.reliability(offered(one))


def training_section(one: Compared) -> Iterable[PagePart]:
    """What the logs hold."""
    staged = [run.summary.flags for run in one.runs if run.summary.flags.get("stage2") not in (None, "none")]
    begins = sorted({start for flags in staged if isinstance(start := flags.get("meta_start"), int) and start > 0})
    found = charts.curves(offered(one), begins)
    if found:
        stage2 = f" Stage 2 begins at the dashed line, epoch {' and '.join(map(str, begins))}." if begins else ""
        yield f"Each line is the mean over the runs of a group; TensorBoard shows single runs.{stage2}"
        yield from found


def meta_section(one: Compared) -> Iterable[PagePart]:
    """What the meta step did, and what an epoch costs."""
    epochs = epochs_table(one.groups)
    later = epochs[epochs.groupby(["run", "stage"]).cumcount() > 0]
    seconds = later.groupby(["group", "stage"])["seconds"].median().map("{:.3g}".format)
    rows = [{"group": name, **{f"stage {k}, s": seconds.get((name, k), "-") for k in (1, 2)}, "Σ moved, %": moved(runs)}
            for name, runs in one.groups.items()]  # fmt: skip
    if len(seconds) or any(row["Σ moved, %"] != "-" for row in rows):
        yield Table("Cost of an epoch, and what the meta step did", pd.DataFrame(rows))
        yield META_WORDS


def moved(runs: Sequence[FinishedRun]) -> str:
    """Return how far the meta steps moved the traces of Σ, in per cent: the median over the classes of all runs."""
    last = [run.summary.last for run in runs if run.summary.last.trace_learned]
    keys = ("trace_estimated", "trace_learned")
    before, after = (np.array([getattr(one, key) for one in last], float) for key in keys)  # (runs, C)
    change = 100 * (after - before) / np.where(before >= SMALLEST, before, np.nan)
    median = pd.Series(change.ravel()).median()
    return "-" if math.isnan(median) else f"{median:+.3g}".replace("-", "−")


def details_section(one: Compared) -> Iterable[PagePart]:
    """How the group differs from each other one, and what the intervals do not say."""
    rows = []
    for name, found in one.gaps.items():
        if found is None:
            mean = mean_figure(one.groups[one.taken], one.key) - mean_figure(one.groups[name], one.key)
            told = points(mean, "+"), "-", "-", "cannot be said"
        else:
            middle, low, high = (points(value, "+") for value in (found.mean, *found.interval(one.alpha)))
            significant = "yes" if found.significant(one.alpha) else "no"
            told = middle, f"{low} to {high}", f"{found.number:,} {found.unit}", significant
        rows.append((name, *told))
    if rows:
        table = pd.DataFrame(rows, columns=["group", "difference", "interval", "by", "significant"])
        yield Table(f"{one.taken} minus each other group, in points", table)
        several = (
            f" The highest of {len(rows) + 1} groups stands out by chance more often, so the level of each interval is "
            f"1 − 0.05 / {len(rows)} (Bonferroni)."
        )
        yield PAIRED_WORDS + several * (one.alpha < ALPHA)
    early = [name for name, runs in one.groups.items() if runs[0].is_plain("last") and runs[0].flags.get("stage2") != "none"]
    yield from [f"Not come to stage 2, and so plain cross-entropy: {', '.join(early)}."] if early else []


def settings_section(one: Compared) -> Iterable[PagePart]:
    """Flags, commits, versions, machines."""
    flags = pd.DataFrame([runs[0].flags for runs in one.groups.values()]).map(setting_words)
    differing = flags.loc[:, flags.nunique() > 1]
    differing.insert(0, "group", [*one.groups])
    if len(differing.columns) > 1:
        yield Table("Settings that differ", differing)
    facts = [
        {f"--{key}": setting_words(value) for key, value in run.summary.flags.items() if key not in NOT_SETTINGS}
        | {key: setting_words(getattr(run.summary, key)) for key in FACTS}
        for run in one.runs
    ]  # fmt: skip
    table = pd.DataFrame(facts)
    rows = [{"setting": key, "value": "; ".join(table[key].dropna().unique()[:MOST_PAIRS])} for key in table]
    yield Table("All settings, commit, versions, machine", pd.DataFrame(rows), folded=True)


def setting_words(value: Any) -> str:
    """Return a flag's value, or a fact, as one reads it."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {setting_words(own)}" for key, own in value.items() if own is not None)
    return printable(value) if isinstance(value, str) else "-" if value is None or value != value else json.dumps(value)


SECTIONS: dict[str, Callable[[Compared], Iterable[PagePart]]] = {
    "Runs": runs_section,
    "Data": data_section,
    "Classes": classes_section,
    "Mistakes": mistakes_section,
    "Calibration": calibration_section,
    "Training": training_section,
    "The meta step": meta_section,
    "Details of the comparison": details_section,
    "Settings": settings_section,
}
