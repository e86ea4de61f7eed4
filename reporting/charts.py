"""The charts of a report as Vega-Lite specifications: plain data, drawn by `drawings`.

Every chart is as wide as its place; nothing in it takes a row of pixels for each class where there are many. Colours are
the names of CSS variables, so that one chart serves light and dark pages; a group has a mark and a dash of its own besides.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from harness.metrics import PER_CLASS_MEAN, SHOTS
from reporting.chart_parts import (
    EACH_CLASS,
    NAMED_CLASSES,
    Chart,
    Values,
    as_list,
    axis_title,
    binned,
    by_dash,
    by_group,
    by_shape,
    class_axis,
    class_order,
    in_chart,
    over_epochs,
)
from reporting.comparisons import better_and_worse, figure_of_run
from reporting.finished_runs import FinishedRun
from reporting.rankings import Groups, compared_figures
from reporting.reliability import ReliabilityBin
from reporting.verdict_sentences import class_means

MATRIX_CLASSES = 100  # at most, of a confusion matrix
MATRIX_LABEL = 90  # pixels
FIGURE_WORDS = {"acc1": "overall", PER_CLASS_MEAN: "mean over classes", **{shot: f"{shot}-shot" for shot in SHOTS}}
CURVES = {  # figures of a log line: the title of their chart, and of its axis
    "test_acc1": ("Test accuracy", "accuracy, %"),
    "test_few": ("Test accuracy of few-shot classes", "accuracy, %"),
    "train_loss": ("Training loss", "loss"),
    "meta_loss": ("Meta loss", "loss"),
    "lr": ("Learning rate", "rate"),
    "grad_norm": ("Norm of the meta gradient", "norm"),
}
POINT = {"type": "point", "filled": True, "size": 50, "opacity": 1}


def group_means(runs: Sequence[FinishedRun], key: str) -> tuple[float, float]:
    """Return mean and standard deviation (n − 1; nan of one run) of a figure of the last epoch."""
    values = [value for run in runs if not math.isnan(value := figure_of_run(run, key))]
    if not values:
        return math.nan, math.nan
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def shots(groups: Groups) -> Chart | None:
    """Return overall accuracy and that of the shot groups: means and standard deviations."""
    values: Values = []
    words = []
    places = {name: place for place, name in enumerate(groups)}
    for key in compared_figures(groups):
        word = FIGURE_WORDS[key]
        found = {name: group_means(runs, key) for name, runs in groups.items()}
        there = {name: pair for name, pair in found.items() if not math.isnan(pair[0])}
        for name, (mean, deviation) in there.items():
            low, high = max(mean - deviation, 0), min(mean + deviation, 100)
            ends = {} if math.isnan(deviation) else {"low": in_chart(low), "high": in_chart(high)}
            values.append({"figure": word, "group": name, "place": places[name], "mean": in_chart(mean), **ends})
        if there:
            words.append(f"{word}: " + ", ".join(f"{name} {mean:.2f}" for name, (mean, _) in there.items()))
    if not values:
        return None
    order = [word for word in FIGURE_WORDS.values() if any(value["figure"] == word for value in values)]
    y = {
        "field": "figure",
        "type": "nominal",
        "sort": order,
        "title": None,
        "axis": {"ticks": False, "domain": False, "minExtent": 86},
    }
    offset = {"yOffset": {"field": "place", "type": "ordinal", "sort": list(range(len(groups)))}}
    x = {"field": "mean", "type": "quantitative", "scale": {"zero": False, "nice": True}, **axis_title("test accuracy, %")}
    spread: dict[str, Any] = {
        "mark": {"type": "rule", "strokeWidth": 1.5},
        "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, **by_group(groups)},
    }
    told = [
        {"field": name, "type": kind}
        for name, kind in (("group", "nominal"), ("figure", "nominal"), ("mean", "quantitative"))
    ]
    mean_marks = {
        "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
        "encoding": {"x": x, **by_group(groups), **by_shape(groups), "tooltip": told},
    }
    layers = [spread, mean_marks] if any("low" in value for value in values) else [mean_marks]
    height = len(order) * (14 * len(groups) + 20)
    spec = {"data": {"values": values}, "height": height, "encoding": {"y": y, **offset}, "layer": layers}
    return Chart("shots", "Accuracy by training images of the class", "; ".join(words) + ".", spec)


def class_values(
    groups: Groups, counts: Sequence[int], names: Sequence[str], order: Sequence[int]
) -> tuple[Values, list[str]]:
    """Return the accuracies that `by_class` shows, and in words those of the thirds of the classes."""
    values: Values = []
    words = []
    for name, runs in groups.items():
        means = class_means(runs).tolist()
        for place, mean in binned(means, order):
            value = {"group": name, "place": place, "mean": in_chart(mean)}
            if len(order) <= EACH_CLASS:
                index = int(place) - 1
                value |= {"class": names[order[index]], "images": counts[order[index]]}
            values.append(value)
        thirds = [order[i * len(order) // 3 : (i + 1) * len(order) // 3] for i in range(3)]
        parts = [[means[k] for k in third if not math.isnan(means[k])] for third in thirds]
        told = ", ".join(f"{statistics.mean(part):.1f}" if part else "-" for part in parts)
        words.append(f"{name} {told}")
    return [value for value in values if value["mean"] is not None], words


def by_class(groups: Groups, counts: Sequence[int], names: Sequence[str], compared: Sequence[str]) -> Chart:
    """Return the accuracy of each class, or of neighbouring ones, from the most to the fewest training images.

    Of more classes than have names on the axis, single ones are shown for the groups `compared` alone.
    """
    order = class_order(counts)
    each = len(order) <= EACH_CLASS
    kept, words = class_values(groups, counts, names, order)
    tooltip = [
        {"field": "class", "type": "nominal"},
        {"field": "images", "type": "quantitative", **axis_title("training images")},
        {"field": "group", "type": "nominal"},
        {"field": "mean", "type": "quantitative", **axis_title("accuracy, %")},
    ]
    y = {"field": "mean", "type": "quantitative", "scale": {"domain": [0, 100]}, **axis_title("test accuracy, %")}
    x = {"field": "place", **class_axis(counts, names, order)}
    if NAMED_CLASSES < len(order) <= EACH_CLASS:
        kept = [value for value in kept if value["group"] in compared]
    spec = {
        "data": {"values": kept},
        "height": 260,
        "mark": {"type": "point", "filled": True, "size": 28, "opacity": 0.8 if each else 1},
        "encoding": {"x": x, "y": y, **by_group(groups), **by_shape(groups), **({"tooltip": tooltip} if each else {})},
    }
    text = "Mean accuracy of the third of the classes with the most, the middle and the fewest training images: "
    heading = "Accuracy of each class" if each else "Accuracy of the classes, means of neighbours"
    return Chart("classes", heading, text + "; ".join(words) + ".", spec)


def differences(first: Sequence[float], second: Sequence[float], counts: Sequence[int], names: Sequence[str]) -> Chart:
    """Return by how many points each class, or neighbouring ones, is better or worse in the first of two lists."""
    order = class_order(counts)
    gaps = [a - b for a, b in zip(first, second, strict=True)]
    bins = [(place, gap) for place, gap in binned(gaps, order) if not math.isnan(gap)]
    values = [
        {
            "place": place,
            "gap": in_chart(gap),
            **({"class": names[order[int(place) - 1]]} if len(order) <= EACH_CLASS else {}),
        }
        for place, gap in bins
    ]
    colour = {"condition": {"test": "datum.gap < 0", "value": "var(--worse)"}, "value": "var(--better)"}
    encoding = {
        "x": {"field": "place", **class_axis(counts, names, order)},
        "y": {"field": "gap", "type": "quantitative", **axis_title("points better or worse")},
        "color": colour,
        "tooltip": [{"field": "class", "type": "nominal"}, {"field": "gap", "type": "quantitative"}],
    }
    bar = {"type": "bar", "width": {"expr": f"max(1, 0.7 * width / {max(len(values), 4)})"}}
    spec = {"data": {"name": "gaps", "values": values}, "height": 180, "mark": bar, "encoding": encoding}
    better, worse, _ = better_and_worse(gaps)
    return Chart("differences", "Difference of each class", f"{better:,} classes are better, {worse:,} worse.", spec)


def reliability(bins: Mapping[str, Sequence[ReliabilityBin]], groups: Groups, eces: Mapping[str, str]) -> Chart | None:
    """Return how often a prediction is right by how sure the network is of it."""
    values = [
        {"group": name, "confidence": in_chart(one.confidence), "right": in_chart(one.accuracy), "images": one.images}
        for name, found in bins.items()
        for one in found
    ]
    if not values:
        return None
    scale = {"domain": [0, 100]}
    x = {
        "field": "confidence",
        "type": "quantitative",
        "scale": scale,
        "axis": {"tickCount": 6},
        **axis_title("confidence, %"),
    }
    y = {"field": "right", "type": "quantitative", "scale": scale, **axis_title("right, %")}
    told = [{"field": name} for name in ("group", "confidence", "right", "images")]
    exact: dict[str, Any] = {
        "data": {"values": [{"confidence": 0, "right": 0}, {"confidence": 100, "right": 100}]},
        "mark": {"type": "line", "color": "var(--soft)", "strokeDash": [4, 4]},
        "encoding": {"x": x, "y": y},
    }
    lines = {
        "data": {"values": values},
        "mark": {"type": "line", "strokeWidth": 1.6},
        "encoding": {"x": x, "y": y, **by_group(groups), **by_dash(groups)},
    }
    points = {
        "data": {"values": values},
        "mark": {"type": "point", "filled": True, "size": 36, "opacity": 1},
        "encoding": {"x": x, "y": y, **by_group(groups), **by_shape(groups), "tooltip": told},
    }
    text = "Expected calibration error in %: " + ", ".join(f"{name} {ece}" for name, ece in eces.items()) + "."
    return Chart(
        "reliability", "Confidence against how often it is right", text, {"height": 260, "layer": [exact, lines, points]}
    )


def curve(groups: Groups, key: str, stage2_from: Sequence[int] = ()) -> Chart | None:
    """Return a figure over the epochs: a thin line a run, a thick one for the mean of a group, the begin of stage 2."""
    single, mean = over_epochs(groups, key)
    if not mean:
        return None
    epochs = Counter(value["group"] for value in mean)
    words = [f"{value['group']} {value['value']} in epoch {value['epoch']}"
             for value in {one["group"]: one for one in mean}.values()]  # fmt: skip
    x = {
        "field": "epoch",
        "type": "quantitative",
        "axis": {"tickMinStep": 1, "format": "d"},
        "scale": {"zero": False, "nice": False},
    }
    y: dict[str, Any] = {"field": "value", "type": "quantitative", "scale": {"zero": False}, **axis_title(CURVES[key][1])}
    if key in ("grad_norm", "lr"):  # far from 1
        y["axis"] = {"format": "~e"}
    encoding = {"x": x, "y": y, **by_group(groups)}
    thick: dict[str, Any] = {
        "data": {"values": mean},
        "encoding": {**encoding, **by_dash(groups)},
        "mark": {"type": "line", "strokeWidth": 2},
    }
    thin = {
        "data": {"values": single},
        "mark": {"type": "line", "strokeWidth": 0.8, "opacity": 0.45},
        "encoding": {**encoding, "detail": {"field": "run"}},
    }
    layers = [thin, thick] if len(single) > len(mean) else [thick]
    begun = [value for value in mean if epochs[value["group"]] == 1]
    if begun:  # there is no line through one point
        layers.append({"data": {"values": begun}, "encoding": {**encoding, **by_shape(groups)}, "mark": POINT})
    if stage2_from:
        layers.append(
            {
                "data": {"values": [{"epoch": epoch} for epoch in stage2_from]},
                "encoding": {"x": x},
                "mark": {"type": "rule", "color": "var(--soft)", "strokeDash": [3, 3]},
            }
        )
    return Chart(f"curve_{key}", CURVES[key][0], f"At the end: {', '.join(words)}.", {"height": 200, "layer": layers})


def curves_of(shown: Groups) -> tuple[list[Chart], str]:
    """Return the curves of what the logs hold, and what their dashed lines are."""
    starts = {
        run.summary["flags"].get("meta_start") or 0
        for runs in shown.values()
        for run in runs
        if run.summary.get("flags", {}).get("stage2") not in (None, "none")
    } - {0}  # where there is no stage 1 there is nothing to mark
    begins = sorted(starts)
    found = [made for key in CURVES if (made := curve(shown, key, begins)) is not None]
    note = ""
    if found and len(begins) == 1:
        note = f"The upright dashed line is the beginning of stage 2, epoch {begins[0]}. "
    elif found and begins:
        told = f"{', '.join(map(str, begins[:-1]))} and {begins[-1]}"
        note = f"The upright dashed lines are where stage 2 of different groups begins: epochs {told}. "
    return found, f"{note}Thick: the mean of a group; thin: each run." if found else ""


def covariance_changes(
    changes: Mapping[str, Sequence[float]], groups: Groups, counts: Sequence[int], names: Sequence[str]
) -> Chart | None:
    """Return by how many per cent the meta step moved the trace of each class's covariance; `changes` are by group."""
    order = class_order(counts)
    values = [
        {"group": name, "place": place, "change": in_chart(change)}
        for name, found in changes.items()
        for place, change in binned(found, order)
        if not math.isnan(change)
    ]
    if not values:
        return None
    encoding = {
        "x": {"field": "place", **class_axis(counts, names, order)},
        "y": {"field": "change", "type": "quantitative", **axis_title("change of the trace of Σ, %")},
        **by_group(groups),
        **by_shape(groups),
    }
    spec = {
        "data": {"values": values},
        "height": 200,
        "mark": {"type": "point", "filled": True, "size": 30},
        "encoding": encoding,
    }
    found = {name: [c for c in own if not math.isnan(c)] for name, own in changes.items()}
    words = ", ".join(f"{name} {statistics.median(own):.3g} %" for name, own in found.items() if own)
    return Chart("covariances", "What the meta step did to Σ", f"Median over the classes: {words}.", spec)


def confusion_chart(runs: Sequence[FinishedRun], names: Sequence[str]) -> Chart | None:
    """Return the confusion matrix of a group's runs, rows in per cent of the true class; None of too many classes."""
    matrices = [matrix for run in runs if (matrix := run.confusion()) is not None]
    if not matrices or len(names) > MATRIX_CLASSES:
        return None
    total = sum(matrices[1:], matrices[0])
    values = [
        {"true": i, "taken": j, "share": in_chart(100 * int(total[i, j]) / int(total[i].sum()))}
        for i in range(len(names))
        if total[i].any()
        for j in range(len(names))
        if total[i, j]
    ]
    few = len(names) <= NAMED_CLASSES
    labels = as_list(names, MATRIX_LABEL)
    axis = {"labelExpr": f"{labels}[datum.value + 1]", "labelLimit": MATRIX_LABEL, "labelOverlap": not few}
    scale = {"domain": list(range(len(names)))}
    x = {
        "field": "taken",
        "type": "ordinal",
        "axis": {**axis, "labelAngle": -90},
        "scale": scale,
        **axis_title("predicted class"),
    }
    y = {"field": "true", "type": "ordinal", "axis": axis, "scale": scale, **axis_title("true class")}
    colour = {"field": "share", "type": "quantitative", "scale": {"scheme": "blues", "domain": [0, 100]}, **axis_title("%")}
    spec = {"data": {"values": values}, "height": 220, "mark": "rect", "encoding": {"x": x, "y": y, "color": colour}}
    return Chart("confusion", "Confusion matrix", "Each row in per cent of the images of its class.", spec)
