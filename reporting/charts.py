"""The charts of a report, as Vega-Lite specifications made with altair: for the page and for papers.

Colours are the names of CSS variables, so that one chart serves light and dark pages; a group has a mark and a dash of its
own besides. Classes are points or bars, which no line joins. A chart holds the values of all groups that its reader may
choose; it draws those in the domain of its scales, of which there are at most six.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from harness.metrics import BINS, SHOTS
from reporting.comparisons import class_means, mean_figure
from reporting.finished_runs import FinishedRun
from reporting.groups import Groups
from reporting.tables import ACCURACIES, HEADINGS, epochs_table, figures_of, images_table

RANGES: dict[Any, list[Any]] = {  # by which groups differ
    alt.Color: [f"var(--g{k + 1})" for k in range(6)],
    alt.Shape: ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"],
    alt.StrokeDash: [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [12, 3], [4, 4]],
}
MOST_GROUPS = 6  # that are drawn at once
NAMED_CLASSES = 20  # as many as have their names on an axis; of more, points are means of neighbours
MOST_BARS = 200  # of classes; of more, bars are means of neighbours
MATRIX_CLASSES = 30  # at most, of a confusion matrix
FEWEST_IN_BIN = 20  # images, whose accuracy is shown beside their confidence
LABEL = 110  # pixels, of a name
ROWS = alt.NamedData(name="rows")
SEPARATOR = "\x01"  # which no printable name has; as names of a list Vega would take "constructor" for something else
CURVES = {  # figures of a log line: the title of their chart, and of its axis
    "test_acc1": ("Test accuracy", "accuracy, %"),
    "test_few": ("Test accuracy of few-shot classes", "accuracy, %"),
    "train_loss": ("Training loss", "loss"),
    "grad_norm": ("Norm of the meta gradient", "norm"),
}


class Chart(NamedTuple):
    """A chart: a name for files, a title, a text that says the same, and its Vega-Lite specification without a width."""

    name: str
    title: str
    text: str
    spec: dict[str, Any]


def finished(name: str, title: str, text: str, chart: Any, height: int, rows: pd.DataFrame) -> Chart:
    """Return a chart of the rows of a table, which altair would check value by value."""
    spec = chart.properties(height=height).to_dict(validate=False)
    values = json.loads(rows.to_json(orient="records", double_precision=4))
    return Chart(name, title, text, {**spec, "datasets": {**spec.get("datasets", {}), "rows": values}})


def drawn(groups: Groups) -> list[str]:
    """Return the groups that are drawn until the reader chooses others."""
    return list(groups)[:MOST_GROUPS]


def by_group(chart: Any, groups: Groups, *channels: Any, **encodings: Any) -> Any:
    """Return a chart of the groups that are drawn, told apart by colour and by other channels."""
    names, found = drawn(groups), []
    legend = alt.Legend(title=None, orient="top", columns=1, labelLimit=190, symbolOpacity=1) if len(names) > 1 else None
    for channel in (alt.Color, *channels):
        scale = alt.Scale(domain=names, range=RANGES[channel][: len(names)])
        found.append(channel("group:N", scale=scale, legend=legend))
    return chart.encode(*found, **encodings).transform_filter(alt.FieldOneOfPredicate(field="group", oneOf=names))


def shots(groups: Groups) -> Chart:
    """Return overall accuracy and that of the shot groups: means and standard deviations."""
    keys, names = figures_of(groups, ACCURACIES), drawn(groups)
    rows = pd.DataFrame([
        {"figure": HEADINGS[key] + "-shot" * (key in SHOTS), "group": name, "value": run.figure(key)}
        for key in keys for name, runs in groups.items() for run in runs
    ])  # fmt: skip
    means = rows.groupby(["figure", "group"], sort=False)["value"].agg(["mean", "std"]).dropna(subset="mean").reset_index()
    means["low"], means["high"] = (means["mean"] - means["std"]).clip(0), (means["mean"] + means["std"]).clip(upper=100)
    x = alt.X("mean:Q", title="test accuracy, %", scale=alt.Scale(zero=False))
    axis = alt.Axis(ticks=False, domain=False, minExtent=70)
    y = alt.Y("figure:N", sort=[*means["figure"].unique()], title=None, axis=axis)
    base = alt.Chart(ROWS).encode(y=y, yOffset=alt.YOffset("group:N", scale=alt.Scale(domain=names)))
    layers = [by_group(base.mark_point(filled=True, size=70, opacity=1), groups, alt.Shape, x=x)]
    if means["std"].notna().any():
        layers.insert(0, by_group(base.mark_rule(strokeWidth=1.5), groups, x="low:Q", x2="high:Q"))
    height = means["figure"].nunique() * (14 * len(names) + 20)
    text = "; ".join(f"{figure}: " + ", ".join(f"{row.group} {row.mean:.2f}" for row in own.itertuples())
                     for figure, own in means.groupby("figure", sort=False))  # fmt: skip
    title = "Accuracy by training images of the class"
    return finished("shots", title, f"{text}.", alt.layer(*layers), height, means)


def class_order(counts: Sequence[int]) -> np.ndarray:
    """Return the classes (C,) by their training images, most first."""
    return np.argsort(-np.asarray(counts), kind="stable")


def neighbours(values: np.ndarray, most: int) -> pd.DataFrame:
    """Return place, counted from 1, and mean of neighbouring classes in order, so that there are `most` at most."""
    places = np.arange(1, len(values) + 1)
    bins = (places - 1) * min(most, len(values)) // len(values)
    return pd.DataFrame({"place": places, "value": values}).groupby(bins).mean().dropna()


def class_axis(run: FinishedRun, order: np.ndarray) -> alt.X:
    """Return the axis of the classes by training images; few ones have their names on it, of others the images are told."""
    size, few = len(order), len(order) <= NAMED_CLASSES
    ticks = [*range(1, size + 1)] if few else sorted({1 + round(i * (size - 1) / 6) for i in range(7)})
    told: Sequence[Any] = run.summary.class_names if few else run.summary.cls_num_list
    text = SEPARATOR.join(str(told[order[tick - 1]]) for tick in ticks)
    labels = f"split({json.dumps(text)}, {json.dumps(SEPARATOR)})[indexof({ticks}, datum.value)]"
    angle = -40 if few and max(map(len, run.summary.class_names)) > 3 else 0
    axis = alt.Axis(values=ticks, labelExpr=labels, labelAngle=angle, labelLimit=LABEL, labelOverlap=not few, grid=False)
    title = None if few else "classes, by their training images"
    return alt.X("place:Q", axis=axis, title=title, scale=alt.Scale(domain=[0.5, size + 0.5], nice=False))


def by_class(groups: Groups) -> Chart:
    """Return the accuracy of each class, of more than 20 means of neighbours, by their training images."""
    run = next(iter(groups.values()))[0]
    order = class_order(run.summary.cls_num_list)
    means = {name: class_means(runs)[order] for name, runs in groups.items()}
    rows = pd.concat([neighbours(own, NAMED_CLASSES).assign(group=name) for name, own in means.items()])
    y = alt.Y("value:Q", title="test accuracy, %", scale=alt.Scale(domain=[0, 100]))
    chart = alt.Chart(ROWS).mark_point(filled=True, size=45, opacity=0.9)
    chart = by_group(chart, groups, alt.Shape, x=class_axis(run, order), y=y)
    thirds = {name: ", ".join(map("{:.1f}".format, neighbours(own, 3)["value"])) for name, own in means.items()}
    told = "; ".join(f"{name} {own}" for name, own in thirds.items())
    title = "Accuracy of each class" if len(order) <= NAMED_CLASSES else "Accuracy of neighbouring classes"
    text = f"Mean of the third of the classes with the most, the middle and the fewest training images: {told}."
    return finished("classes", title, text, chart, 260, rows)


def differences(change: np.ndarray, run: FinishedRun, first: str, second: str) -> Chart:
    """Return by how many points each class, or neighbouring ones, is better or worse with the first of two groups."""
    order = class_order(run.summary.cls_num_list)
    rows = neighbours(change[order], MOST_BARS)
    if len(order) <= MOST_BARS:
        rows["class"] = [run.summary.class_names[order[int(place) - 1]] for place in rows["place"]]
    colour = alt.condition("datum.value < 0", alt.value("var(--worse)"), alt.value("var(--better)"))
    chart = alt.Chart(ROWS).mark_bar(width=alt.ExprRef(f"max(1, 0.7 * width / {max(min(len(order), MOST_BARS), 4)})"))
    chart = chart.encode(x=class_axis(run, order), y=alt.Y("value:Q", title="points better or worse"), color=colour)
    better, worse = (change > 0).sum(), (change < 0).sum()
    text = f"With {first} {better:,} classes are better, {worse:,} worse than with {second}."
    return finished("differences", f"{first} against {second}, by class", text, chart, 180, rows)


def calibration_table(images: pd.DataFrame) -> pd.DataFrame:
    """Return mean confidence and share recognised, in per cent, of each bin of confidence, over the images of all runs.

    The bins are those of the ECE that trainings log (Guo et al., arXiv 1706.04599); those of few images are left out.
    """
    sure, right = images["confidence"].astype(float), images["target"] == images["predicted"]
    bins = np.ceil(sure * BINS).clip(1, BINS)
    rows = pd.DataFrame({"group": images["group"], "bin": bins, "confidence": 100 * sure, "right": 100.0 * right})
    of_bin = rows.groupby(["group", "bin"], sort=False)
    found = of_bin.mean().assign(images=of_bin.size()).reset_index()
    return found[found["images"] >= FEWEST_IN_BIN].sort_values("bin")


def reliability(groups: Groups) -> list[Chart]:
    """Return how often a prediction is right by how sure the network is of it; [] where no bin has images enough."""
    rows = calibration_table(images_table(groups))
    if rows.empty:
        return []
    scale = alt.Scale(domain=[0, 100])
    x, y = alt.X("confidence:Q", title="confidence, %", scale=scale), alt.Y("right:Q", title="right, %", scale=scale)
    ends = alt.InlineData([{"confidence": end, "right": end} for end in (0, 100)])
    exact = alt.Chart(ends).mark_line(color="var(--soft)", strokeDash=[4, 4]).encode(x=x, y=y)
    marks = by_group(alt.Chart(ROWS).mark_point(filled=True, size=45, opacity=0.9), groups, alt.Shape, x=x, y=y)
    told = ", ".join(f"{name} {mean_figure(runs, 'ece'):.2f}" for name, runs in groups.items())
    text = f"Expected calibration error in %: {told}. Bins of fewer than {FEWEST_IN_BIN} images are left out."
    both, title = alt.layer(exact, marks), "Confidence against how often it is right"
    return [finished("reliability", title, text, both, 260, rows)]


def curves(groups: Groups, begins: Sequence[int]) -> list[Chart]:
    """Return what the logs hold over the epochs, means over the runs of a group; a dashed line is where stage 2 begins."""
    means = epochs_table(groups).groupby(["group", "epoch"], sort=False)[[*CURVES]].mean().reset_index()
    found, starts = [], alt.InlineData([{"epoch": epoch} for epoch in begins])
    for key, (title, axis) in CURVES.items():
        rows = means[["group", "epoch", key]].dropna().sort_values("epoch").rename(columns={key: "value"})
        if rows.empty:
            continue
        x = alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(zero=False, nice=False))
        y = alt.Y("value:Q", title=axis, scale=alt.Scale(zero=False))
        lines = alt.Chart(ROWS).mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=14))
        chart = by_group(lines, groups, alt.StrokeDash, x=x, y=y)
        rule = alt.Chart(starts).mark_rule(color="var(--soft)", strokeDash=[3, 3]).encode(x=x)
        last = rows.groupby("group", sort=False).last().itertuples()
        told = ", ".join(f"{row.Index} {row.value:.4g} in epoch {row.epoch}" for row in last)
        both = alt.layer(chart, rule) if begins else chart
        found.append(finished(f"curve_{key}", title, f"At the end: {told}.", both, 200, rows))
    return found


def confusion(name: str, runs: Sequence[FinishedRun]) -> list[Chart]:
    """Return the confusion matrix of a group's runs, rows in per cent of the true class; [] of too many classes."""
    images, names = images_table({name: [*runs]}), runs[0].summary.class_names
    if images.empty or len(names) > MATRIX_CLASSES:
        return []
    shares = 100 * pd.crosstab(images["target"], images["predicted"], normalize="index").stack().rename("share")
    labels = f"split({json.dumps(SEPARATOR.join(names))}, {json.dumps(SEPARATOR)})[datum.value]"
    scale = alt.Scale(domain=[*range(len(names))])
    axis = alt.Axis(labelExpr=labels, labelLimit=LABEL, labelOverlap=True)
    x = alt.X("predicted:O", title="predicted class", axis=axis, scale=scale)
    y = alt.Y("target:O", title="true class", axis=axis, scale=scale)
    colour = alt.Color("share:Q", title="%", scale=alt.Scale(scheme="blues", domain=[0, 100]))
    chart = alt.Chart(ROWS).mark_rect().encode(x=x, y=y, color=colour)
    right = (images["target"] == images["predicted"]).mean()
    text = f"Each row in per cent of the test images of its class; {right:.1%} of all images are on the diagonal."
    rows = shares[shares > 0].reset_index()
    return [finished("confusion", f"Confusion matrix of {name}", text, chart, 80 + 15 * len(names), rows)]
