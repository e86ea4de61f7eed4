"""Text of others (names of files, runs and classes) on its way to a terminal."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

JOINERS = "\u200c\u200d"  # letters of Persian and Indic words, and parts of emoji, stand apart or together by these
WRITTEN_OUT = "backslashreplace"  # `errors` of a text file with names in it: bytes that are no text become \\udcff and so on
# The end of a command whose output nobody takes any more, by the error of writing it: as signals would end it.
LOST = {errno.EPIPE: ("the reader of its output has exited", 141), errno.EIO: ("its terminal was closed", 129)}


class Ending(Exception):  # noqa: N818  (not always an error)
    """What ends a command in one line, if any, and with this exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class OutputLostError(Ending):
    """Stdout cannot be written any more. `status` is the matching signal's exit status, else 2."""


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
    """Print lines, letter by letter, on stdout or `file`; a line given as several fields has tabs between them.

    Without lines what waits to be written is. Where it cannot be, an `OutputLostError` says so once; then it is dropped.
    """
    shown = ["\t".join(map(printable, [line] if isinstance(line, str) else line)) + "\n" for line in lines]
    try:
        print("".join(shown), end="", file=file, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), (file or sys.stdout).fileno())
        if file is not sys.stderr:
            full = f"stdout cannot be written ({error.strerror})", 2
            raise OutputLostError(*LOST.get(error.errno or 0, full)) from error
