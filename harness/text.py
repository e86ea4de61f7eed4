"""Text of others (names of files, runs and classes) on its way to a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TextIO

JOINERS = "\u200c\u200d"  # letters of Persian and Indic words, and parts of emoji, stand apart or together by these
WRITTEN_OUT = "backslashreplace"  # `errors` of a text file with names in it: bytes that are no text become \\udcff and so on


def printable(text: str) -> str:
    r"""Return the text with what is no printable character written out, so that it is one line and moves no cursor.

    Line breaks, escape sequences and bytes of file names that are no text become for instance \n, \x1b and \udcff.
    """
    return "".join(c if c.isprintable() or c in JOINERS else c.encode("unicode_escape").decode() for c in text)


def shown_names(names: Iterable[str]) -> list[str]:
    """Return names as `printable` shows them, those that would then be the same with a number after them."""
    found: dict[str, None] = {}
    for name in names:
        shown, number = printable(name), 1
        while shown in found:
            number += 1
            shown = f"{printable(name)} ({number})"
        found[shown] = None
    return list(found)


def say(*lines: str | Sequence[str], file: TextIO | None = None) -> None:
    """Print lines, letter by letter, on stdout or `file`; a line given as several fields has tabs between them."""
    for line in lines:
        print("\t".join(map(printable, [line] if isinstance(line, str) else line)), file=file, flush=True)
