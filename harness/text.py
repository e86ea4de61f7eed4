"""Text of others (names of files, runs and classes) on its way to a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return the text with what is no printable character written out, so that it is one line and moves no cursor.

    Line breaks, escape sequences and bytes of file names that are no text become for instance \n, \x1b and \udcff.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
