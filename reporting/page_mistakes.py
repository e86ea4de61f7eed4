"""The classes most confused as a report's page shows them, with pictures of the images concerned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.text import printable
from reporting.confusions import Mistaken, confused, count_of
from reporting.rankings import Groups
from reporting.tested_images import Opened, Thumbnail, Thumbnails, thumbnails


@dataclass(frozen=True)
class Confused:
    """The classes most confused: a line a pair, pictures of the images concerned where they are there."""

    words: str
    heads: list[str]
    pairs: list[dict[str, Any]]
    notes: list[str]


def mistakes(groups: Groups, compared: Sequence[str], names: Sequence[str], images: bool, opened: Opened) -> Confused | None:
    """Return the classes that the first of the compared groups confuses most often, beside the counts of the others."""
    first, *others = compared
    pairs = confused(groups[first])
    if not pairs:
        return None
    counted = {name: own for name in others if (own := count_of(groups[name], pairs)) is not None}
    tested = [run for run in groups[first] if run.tested is not None]
    places = [mistaken.place for pair in pairs for mistaken in pair.images]
    found = thumbnails(tested[0], places, opened) if images else Thumbnails({}, [])  # places are of the first's test set
    lines = []
    for k, pair in enumerate(pairs):
        cells = [
            f"{pair.mean_count:.1f}",
            f"{pair.tested:g}",
            f"{pair.share:.1f}",
            *(f"{own[k]:.1f}" for own in counted.values()),
        ]
        true, taken = names[pair.true], names[pair.predicted]
        those = [shown_picture(found.pictures[mistaken.place], mistaken, true, taken, len(tested))
                 for mistaken in pair.images if mistaken.place in found.pictures]  # fmt: skip
        lines.append({"true": true, "taken": taken, "cells": cells, "images": those})
    heads = ["mistake", f"{first}: images", "of", "%", *(f"{name}: images" for name in counted)]
    words = f"What {first} takes most often for another class: test images, mean over runs."
    notes = [f"Without pictures: {printable(reason)}." for reason in found.reasons]
    return Confused(words, heads, lines, notes)


def shown_picture(picture: Thumbnail, mistaken: Mistaken, true: str, taken_for: str, runs: int) -> dict[str, Any]:
    """Return a picture as the template takes it, with a text that says what the runs that were mistaken took it for."""
    small = max(picture.width, picture.height) <= 32
    scale = 64 // max(picture.width, picture.height) if small else 1
    by = f" by {mistaken.runs} of {runs} runs" if runs > 1 else ""
    alt = f"{true} taken for {taken_for}{by}, {100 * mistaken.confidence:.0f} % sure: {picture.name}"
    size = {"width": picture.width * scale, "height": picture.height * scale, "pixelated": small}
    return {"uri": picture.uri, "alt": alt, "title": alt, **size}
