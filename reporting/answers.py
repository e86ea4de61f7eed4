"""The answer of a comparison, kept beside its runs: the report opens with the same words as the terminal had."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from harness.errors import UserError
from harness.files import read_bytes, replacing
from harness.text import printable

ANSWER_FILE = "answer.json"


def write_answer(folder: Path, lines: Sequence[str]) -> None:
    """Write the sentences of an answer."""
    with replacing(folder / ANSWER_FILE) as part:
        part.write_bytes(msgspec.json.encode(list(lines)))


def read_answers(folders: Iterable[Path]) -> list[str]:
    """Return the sentences of the answers in these folders."""
    lines: list[str] = []
    for path in (folder / ANSWER_FILE for folder in dict.fromkeys(folders)):
        if not os.path.isfile(path):
            continue
        try:
            lines += map(printable, msgspec.json.decode(read_bytes(path), type=list[str]))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read ({error}): remove it, and compare again") from error
    return lines
