"""The answer of a comparison, kept beside its runs: the report opens with the same words as the terminal had."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import msgspec

from harness.errors import UserError
from harness.files import read_bytes, replacing
from harness.text import printable

ANSWER_FILE = "answer.json"


class ComparedRuns(msgspec.Struct):
    """What is kept: the names of the summaries that were compared, and the sentences."""

    compared: list[str]
    sentences: list[str]


def write_answer(folder: Path, summaries: Iterable[Path], sentences: Sequence[str]) -> None:
    """Write the answer of the comparison of these runs, which lie in the folder."""
    with replacing(folder / ANSWER_FILE, shared=True) as part:
        part.write_bytes(msgspec.json.encode(ComparedRuns(sorted(path.name for path in summaries), list(sentences))))


def read_answer(summaries: Collection[Path]) -> list[str]:
    """Return the sentences of the comparison of these runs and no others, [] if there was none."""
    for folder in {path.parent for path in summaries}:
        path = folder / ANSWER_FILE
        if not os.path.isfile(path):
            continue
        try:
            found = msgspec.json.decode(read_bytes(path), type=ComparedRuns)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read ({error}): remove it, and compare again") from error
        if {folder / name for name in found.compared} == {*summaries}:
            return [*map(printable, found.sentences)]
    return []
