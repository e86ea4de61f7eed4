"""What charts are made of: marks and colours of groups, axes of any number of classes."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from reporting.rankings import Groups

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [12, 3], [4, 4], [1, 3], [10, 2, 2, 2, 2, 2])
MOST_GROUPS = len(SHAPES)  # that a chart shows
NAMED_CLASSES = 20  # as many as have their names on an axis
LABEL = 110  # pixels, of the name of a class
SEPARATOR = "\x01"  # which no printable name has
LAST_UNDIVIDED, LAST_ASCII = 0xFFFF, 0x7F  # letters that JavaScript has as one unit; those of the width of Latin ones
WIDE, NARROW = 17, 11  # pixels, at most
EACH_CLASS = 200  # classes; of more, a chart shows means of neighbours
CLASS_BINS = 40  # of neighbouring classes
Values = list[dict[str, Any]]  # the data of a chart


class Chart(NamedTuple):
    """A chart: a name for files, a title, a text that says the same, and its Vega-Lite specification without a width."""

    name: str
    title: str
    text: str
    spec: dict[str, Any]


def in_chart(value: float) -> float | None:
    """Return a figure as a chart holds it, None for nan, which Vega leaves out."""
    return None if not math.isfinite(value) else float(f"{value:.5g}")


def axis_title(text: str) -> dict[str, Any]:
    """Return the title of an axis."""
    return {"title": text}


def by_group(groups: Groups) -> dict[str, Any]:
    """Return encodings that tell groups apart by colour, in their order; the page has the legend."""
    names = list(groups)
    colours = [f"var(--g{i + 1})" for i in range(len(names))]
    return {"color": {"field": "group", "type": "nominal", "legend": None, "scale": {"domain": names, "range": colours}}}


def by_shape(groups: Groups) -> dict[str, Any]:
    """Return the encoding that tells groups apart by their marks."""
    scale = {"domain": list(groups), "range": list(SHAPES[: len(groups)])}
    return {"shape": {"field": "group", "type": "nominal", "legend": None, "scale": scale}}


def by_dash(groups: Groups) -> dict[str, Any]:
    """Return the encoding that tells groups apart by the dashes of their lines."""
    scale = {"domain": list(groups), "range": list(DASHES[: len(groups)])}
    return {"strokeDash": {"field": "group", "type": "nominal", "legend": None, "scale": scale}}


def class_order(cls_num_list: Sequence[int]) -> list[int]:
    """Return the classes by their training images, most first."""
    return sorted(range(len(cls_num_list)), key=lambda k: (-cls_num_list[k], k))


def binned(values: Sequence[float], order: Sequence[int]) -> list[tuple[float, float]]:
    """Return place and mean of neighbouring classes in order, so that there are CLASS_BINS at most; nan counts in none."""
    if len(order) <= EACH_CLASS:
        return [(place + 1, values[k]) for place, k in enumerate(order)]
    found = []
    for place, begin, end in bin_edges(len(order)):
        there = [value for value in (values[k] for k in order[begin:end]) if not math.isnan(value)]
        found.append((place, statistics.mean(there) if there else math.nan))
    return found


def over_epochs(groups: Groups, key: str) -> tuple[Values, Values]:
    """Return a figure of each run at each epoch, and the means over the runs of a group."""
    single: Values = []
    mean: Values = []
    for name, runs in groups.items():
        by_epoch: dict[int, list[float]] = {}
        for number, run in enumerate(runs):
            for line in run.log:
                value = line.get(key)
                if isinstance(value, int | float):
                    by_epoch.setdefault(line["epoch"], []).append(value)
                    single.append({"group": name, "run": number, "epoch": line["epoch"], "value": in_chart(value)})
        mean += [{"group": name, "epoch": k, "value": in_chart(statistics.mean(own))} for k, own in sorted(by_epoch.items())]
    return single, mean


def bin_edges(classes: int) -> list[tuple[float, int, int]]:
    """Return the middle place, counted from 1, the first and the end of each of CLASS_BINS bins of classes in order."""
    edges = [round(i * classes / CLASS_BINS) for i in range(CLASS_BINS + 1)]
    return [((begin + end + 1) / 2, begin, end) for begin, end in pairwise(edges)]


def as_list(names: Sequence[str], pixels: int) -> str:
    """Return a Vega expression for a list of labels, counted from 1, that are cut where there are so many pixels for each.

    Names are parts of one text there: Vega takes a text like "constructor" by itself for something of its own.
    """
    text = SEPARATOR.join(["", *(whole_letters(name, pixels) for name in names)])
    return f"split({json.dumps(text)}, {json.dumps(SEPARATOR)})"


def whole_letters(name: str, pixels: int) -> str:
    """Return a name cut between letters where it holds some, as emoji, of which Vega might leave half, which none can draw.

    Others stay as they are, for Vega knows better how wide they are.
    """
    if all(ord(letter) <= LAST_UNDIVIDED for letter in name):
        return name
    width = 0
    for k, letter in enumerate(name):
        width += WIDE if ord(letter) > LAST_ASCII else NARROW
        if width > pixels - WIDE:
            return name[:k] + "…" * (k < len(name))
    return name


def class_axis(counts: Sequence[int], names: Sequence[str], order: Sequence[int]) -> dict[str, Any]:
    """Return the axis of the classes by training images; few ones have their names on it, of others the images are told."""
    if len(order) <= NAMED_CLASSES:
        shown = [names[k] for k in order]
        words = None
        axis = {
            "labelAngle": 0 if max(map(len, shown)) <= 3 else -40,
            "labelLimit": LABEL,
            "labelOverlap": False,
            "values": list(range(1, len(order) + 1)),
            "labelExpr": f"{as_list(shown, LABEL)}[datum.value]",
        }
    else:
        places = sorted({1 + round(i * (len(order) - 1) / 6) for i in range(7)})
        shown_counts = {place: counts[order[place - 1]] for place in places}
        words = "classes, by their training images"
        axis = {"values": places, "labelExpr": f"{json.dumps(shown_counts)}[datum.value]", "labelOverlap": True}
    scale = {"domain": [0.5, len(order) + 0.5], "nice": False}
    return {"type": "quantitative", "axis": axis, "scale": scale, "title": words}
