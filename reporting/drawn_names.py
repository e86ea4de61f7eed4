"""Names of classes and runs as figures show them, letter by letter or, where the font lacks them, as numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from harness.text import printable
from reporting.finished_runs import FinishedRun, grouped, long_tails


def plain(text: str) -> str:
    """Return a name as matplotlib draws it letter by letter: between dollars it reads formulas, and _names it hides."""
    text = printable(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


@cache
def drawn_characters() -> frozenset[int]:
    """Return the characters that matplotlib's own font has."""
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(findfont("DejaVu Sans")).get_charmap())


def labelled(names: Sequence[str], word: str, first: int) -> dict[int, str]:
    """Return, by its place, `word` and a number for each name in a script that the font lacks."""
    return {k: f"{word} {k + first}" for k, name in enumerate(names) if {*map(ord, printable(name))} - drawn_characters()}


def class_labels(names: Sequence[str]) -> list[str]:
    """Return names of classes as they are drawn: shortened, and numbers for those that cannot be."""
    numbers, names = labelled(names, "no.", 0), list(map(printable, names))
    return [numbers.get(k) or plain(name if len(name) <= 24 else f"{name[:23]}…") for k, name in enumerate(names)]


def group_labels(groups: Iterable[str]) -> dict[str, str]:
    """Return the names of groups of runs as they are drawn: numbers for those that cannot be."""
    names = list(groups)
    numbers = labelled(names, "run", 1)
    return {name: numbers.get(k) or plain(name) for k, name in enumerate(names)}


def replaced_names(runs: Iterable[FinishedRun]) -> list[str]:
    """Return sentences about the names that are numbers in the figures, one for each long-tailed set that has any."""
    found, sets = [], long_tails(runs)
    for title, own in sets.items():
        lists = dict.fromkeys(tuple(run.class_names) for run in own)
        kinds = *((names, "no.", 0) for names in lists), (tuple(grouped(own)), "run", 1)
        pairs = [
            f"{label} is {names[k]}" for names, word, first in kinds for k, label in labelled(names, word, first).items()
        ]
        if pairs:
            of = f" of {title}" if len(sets) > 1 else ""
            found.append(printable(f"Names that the figures{of} cannot show are numbers there: {', '.join(pairs)}."))
    return found
