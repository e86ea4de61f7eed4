"""The figures of a report, as PNG files."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from harness.files import writing
from harness.metrics import PER_CLASS_MEAN, SHOTS
from reporting.drawn_names import class_labels, group_labels
from reporting.finished_runs import FinishedRun, figure, grouped, long_tails

CURVES = {
    "train_loss": "training loss",
    "test_acc1": "test accuracy, %",
    "test_few": "test accuracy of few-shot classes, %",
    "meta_loss": "meta loss",
    "grad_norm": "norm of the meta gradient",
    "trace_estimated_few": "trace of Σ, few-shot classes",
}
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)  # above 0
ALL_NAMED = 40  # classes
Draw = Callable[[Any], object]  # on a matplotlib figure; what returns False has nothing to show


def save(path: Path, size: tuple[float, float], draw: Draw) -> bool:
    """Draw a figure of `size` (inches) and write it; return whether there was anything to draw."""
    from matplotlib.figure import Figure  # slow to import

    made = Figure(figsize=size, layout="constrained")
    if draw(made) is False:
        return False
    with writing(path), TemporaryDirectory(dir=path.parent) as folder:  # so that there is never a part of a picture
        made.savefig(Path(folder) / path.name, dpi=120)
        os.replace(Path(folder) / path.name, path)
    return True


def colour(i: int, count: int) -> Any:
    """Return the colour of group `i` of `count`: matplotlib's ten, or as many as it takes."""
    from matplotlib import colormaps

    return f"C{i}" if count <= 10 else colormaps["turbo"](i / (count - 1))


def name_classes(axis: Any, names: Sequence[str]) -> None:
    """Put the names of the classes on an axis whose places are 0 to C − 1, as many as there is room for."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    shown = class_labels(names)
    if len(shown) <= ALL_NAMED:
        axis.set_ticks(range(len(shown)), shown)
    else:
        axis.set_major_locator(MaxNLocator(ALL_NAMED // 2, integer=True))
        axis.set_major_formatter(FuncFormatter(lambda x, _: shown[int(x)] if x in range(len(shown)) else ""))
    longest = max(map(len, shown))
    if axis.axis_name == "x" and longest > 2:
        axis.set_tick_params(rotation=90)
    axis.set_tick_params(labelsize=8 if longest <= 8 else 6)


def name_groups(groups: dict[str, list[FinishedRun]], made: Any, *entries: Any) -> None:
    """Draw the legend above all panels, if there is more than one group, in as many columns as the names leave room for."""
    if len(groups) > 1:
        widest = 0.5 + 0.07 * max(map(len, groups))  # inches, of a line and a name in this size
        columns = max(1, min(len(groups), 4, int(made.get_figwidth() / widest)))
        made.legend(*entries, loc="outside upper center", ncols=columns, fontsize=8)


def values_of(log: Sequence[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """Return the epochs that have a figure, and the figure."""
    there = [(line["epoch"], line[key]) for line in log if isinstance(line.get(key), int | float)]
    return [epoch for epoch, _ in there], [value for _, value in there]


def draw_curves(groups: dict[str, list[FinishedRun]], made: Any) -> bool:
    """Draw what the logs hold, a colour a group, a line a seed; return whether there is anything."""
    from matplotlib.ticker import MaxNLocator

    labels = group_labels(groups)
    logs = {name: [run.log for run in runs] for name, runs in groups.items()}
    shown = {key: title for key, title in CURVES.items()
             if any(values_of(log, key)[0] for group in logs.values() for log in group)}  # fmt: skip
    if not shown:
        return False
    rows = -(-len(shown) // 2)
    made.set_size_inches(8, 0.7 + 2.3 * rows)
    panels = made.subplots(rows, 2, squeeze=False).flatten()
    for panel, (key, title) in zip(panels, shown.items(), strict=False):
        for i, (name, group) in enumerate(logs.items()):
            for j, log in enumerate(group):
                epochs, values = values_of(log, key)
                own = {"color": colour(i, len(logs)), "label": labels[name] if j == 0 else None}
                marker = "o" if len(values) == 1 else None  # there is no line through one point
                panel.plot(epochs, values, lw=1, ms=4, marker=marker, **own)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    name_groups(groups, made, *panels[0].get_legend_handles_labels())
    return True


def means(runs: Sequence[FinishedRun], key: str) -> list[float]:
    """Return, for each class, the mean over the seeds of a figure of the last epoch, nan where there is none."""
    columns = zip(*(run.summary["last"][key] for run in runs), strict=True)
    return [math.nan if None in column else statistics.mean(column) for column in columns]


def smoothed(values: Sequence[float]) -> list[float]:
    """Return, for each class, the mean over it and the four on either side, as far as there are any."""
    near = (np.array(values[max(k - 4, 0) : k + 5]) for k in range(len(values)))
    return [math.nan if np.isnan(part).all() else float(np.nanmean(part)) for part in near]


def draw_classes(groups: dict[str, list[FinishedRun]], made: Any) -> None:
    """Draw the accuracy of each class in the last epoch, above its training images."""
    counts: Sequence[int] = next(iter(groups.values()))[0].summary["cls_num_list"]
    upper, lower = made.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bars = len(counts) <= 20
    width, labels = 0.8 / len(groups), group_labels(groups)
    for i, (name, runs) in enumerate(groups.items()):
        values = means(runs, "per_class")
        if bars:
            places = [k + (i - (len(groups) - 1) / 2) * width for k in range(len(values))]
            upper.bar(places, values, width, label=labels[name], color=colour(i, len(groups)))
        else:
            upper.plot(values, ".", ms=2, alpha=0.4, color=colour(i, len(groups)))
            upper.plot(smoothed(values), label=labels[name], lw=1.5, color=colour(i, len(groups)))
    for k, each in enumerate(zip(*(means(runs, "per_class") for runs in groups.values()), strict=True)):
        if bars and np.isnan(each).all():
            upper.text(k, 2, "no test images", rotation=90, ha="center", va="bottom", fontsize=7, color="0.4")
    upper.set_ylabel("test accuracy, %")
    upper.set_ylim(0, 105)
    name_groups(groups, made)
    lower.bar(range(len(counts)), counts, color="0.6")
    lower.set_yscale("log")
    lower.set_ylabel("training images")
    lower.set_xlabel("class")
    name_classes(lower.xaxis, next(iter(groups.values()))[0].class_names)


def draw_shots(groups: dict[str, list[FinishedRun]], made: Any) -> None:
    """Draw bars of the accuracy overall and by shot group: means, where there are seeds with standard deviations.

    The mean over classes comes beside the first where the test set is uneven.
    """
    panel = made.subplots()
    last = [[run.summary["last"] for run in runs] for runs in groups.values()]
    keys = "acc1", PER_CLASS_MEAN, *SHOTS
    found = {key: [[figure(outcome, key) for outcome in group] for group in last] for key in keys}
    shown = {key: columns for key, columns in found.items() if not np.isnan(np.concatenate(columns)).all()}
    width, labels = 0.8 / len(groups), group_labels(groups)
    for i, name in enumerate(groups):
        columns = [of_group[i] for of_group in shown.values()]
        errors = [np.std(column, ddof=1) for column in columns] if len(columns[0]) > 1 else None
        places = [k + (i - (len(groups) - 1) / 2) * width for k in range(len(shown))]
        own = colour(i, len(groups))
        panel.bar(places, np.mean(columns, axis=1), width, yerr=errors, label=labels[name], capsize=2, color=own)
    names = {"acc1": "overall", PER_CLASS_MEAN: "mean over\nclasses", **{shot: f"{shot}-shot" for shot in SHOTS}}
    panel.set_xticks(range(len(shown)), [names[key] for key in shown])
    panel.set_ylabel("test accuracy, %")
    name_groups(groups, made)


def learning(groups: dict[str, list[FinishedRun]]) -> dict[str, list[FinishedRun]]:
    """Return the groups with runs whose meta steps moved covariances, and those runs."""
    both = {"trace_learned", "trace_estimated"}
    found = {name: [run for run in runs if both <= run.summary["last"].keys()] for name, runs in groups.items()}
    return {name: runs for name, runs in found.items() if runs}


def draw_covariances(groups: dict[str, list[FinishedRun]], made: Any) -> bool:
    """Draw each class's trace of Σ, estimated and as the meta steps moved it; return whether there is anything."""
    there, labels = learning(groups), group_labels(groups)
    if not there:
        return False
    panels = made.subplots(len(there), 2, squeeze=False, sharex=True)
    for (left, right), (name, runs) in zip(panels, there.items(), strict=True):
        estimated, learned = (np.array(means(runs, f"trace_{kind}")) for kind in ("estimated", "learned"))
        left.plot(estimated, "o", ms=4, label="estimated")
        left.plot(learned, "x", ms=4, label="learned")
        left.set_title(labels[name], fontsize=8, loc="left")
        left.set_ylabel("trace of Σ")
        left.legend(fontsize=8)
        nowhere = np.full_like(estimated, math.nan)
        moved = 100 * np.divide(learned - estimated, estimated, out=nowhere, where=estimated >= SMALLEST)
        right.plot(moved, "x", ms=4, color="C1")
        right.set_title("learned against estimated", fontsize=8, loc="right")
        right.set_ylabel("difference, %")
        if np.isnan(moved).all():  # of no class two images were seen
            right.set_axis_off()
    for panel in panels[-1]:
        panel.set_xlabel("class")
        name_classes(panel.xaxis, next(iter(there.values()))[0].class_names)
    return True


def draw_confusion(confusion: np.ndarray, names: Sequence[str], made: Any) -> None:
    """Draw a confusion matrix (C, C), each row in per cent of its class."""
    panel = made.subplots()
    images = confusion.sum(axis=1, keepdims=True)
    share = np.where(images, 100 * confusion / np.maximum(images, 1), math.nan)  # rows without test images stay empty
    shown = panel.imshow(share, cmap="Blues", vmin=0, vmax=100)
    panel.set_xlabel("predicted class")
    panel.set_ylabel("true class")
    made.colorbar(shown, ax=panel, label="% of the true class")
    if len(confusion) <= 12:
        for (i, j), value in np.ndenumerate(share):
            if not np.isnan(value):
                panel.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7, color="w" if value > 50 else "k")
    for axis in (panel.xaxis, panel.yaxis):
        name_classes(axis, names)


def draw_all(runs: Iterable[FinishedRun], folder: Path) -> list[tuple[str, str]]:
    """Write all figures that the runs have data for into `folder`; return file name and caption of each."""
    sets = long_tails(runs)
    made: list[tuple[str, str]] = []
    for number, (name, own) in enumerate(sets.items()):
        several = len(sets) > 1
        made += draw_set(grouped(own), folder, f"{number}_" if several else "", f"{name}: " if several else "")
    return made


def draw_set(
    groups: dict[str, list[FinishedRun]], folder: Path, before_file: str, before_caption: str
) -> list[tuple[str, str]]:
    """Write the figures of runs on one long-tailed set; names and captions begin as the last two arguments say."""
    made: list[tuple[str, str]] = []

    def add(file: str, caption: str, size: tuple[float, float], draw: Draw) -> None:
        if save(folder / (before_file + file), size, draw):
            made.append((before_file + file, before_caption + caption))

    add("shots.png", "Accuracy in the last epoch by shot group, mean and standard deviation over seeds.", (8, 4),
        lambda new: draw_shots(groups, new))  # fmt: skip
    add("accuracy.png", "Accuracy of each class in the last epoch, mean over seeds, and its training images. With more than "
        "20 classes the lines are means over nine neighbours.", (8, 5),
        lambda new: draw_classes(groups, new))  # fmt: skip
    add("curves.png", "Training curves, one line a run.", (8, 7), lambda new: draw_curves(groups, new))
    caption = "Trace of each class's covariance in the last epoch: estimated, as the meta steps moved it, and how far."
    add("covariances.png", caption, (8, 1 + 2.5 * max(len(learning(groups)), 1)), lambda new: draw_covariances(groups, new))
    for number, (name, runs) in enumerate(groups.items()):
        found = ((run, run.confusion()) for run in runs)
        run, confusion = next((pair for pair in found if pair[1] is not None), (runs[0], None))
        if confusion is not None:
            add(f"confusion_{number}.png", f"Confusion matrix of {run.name} ({name}), last epoch.", (6, 5),
                partial(draw_confusion, confusion, run.class_names))  # fmt: skip
    return made
