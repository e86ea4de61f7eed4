"""The two CSVs of the study of meta-learning: the tested runs, and which constants were chosen on held-out images.

Lines are dicts of text, as csv reads them. A cell is a part of the study ("cifar" or "features"), a set and an imb_factor.
"""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness.errors import UserError
from harness.files import replacing, writing
from harness.signals_and_lock import HeldError, only_run

Line = dict[str, str]
CELL = ("part", "dataset", "imb_factor")
CONSTANTS = ("lr", "stage2_lr", "lam", "meta_lr", "step_size", "virtual", "balance", "meta_images")
TESTED_FIGURES = ("acc1", "many", "medium", "few", "macro_f1", "ece")
SEEN = ("heldout_acc1", "step_seconds", "share")  # the augmentation's share of the logits' spread, see loss.py
RUN_COLUMNS = (*CELL, "loss", "row", "seed", *CONSTANTS, *TESTED_FIGURES, *SEEN)
CHOICE_COLUMNS = (*CELL, "loss", "row", "seed", *CONSTANTS, "heldout_acc1", "share", "chosen")
RUNS_FILE, CHOICES_FILE = "meta_study.csv", "meta_study_choices.csv"
CHOSEN = "yes"
PATIENCE = 60  # seconds until another process that writes the same CSVs is given up


def read_lines(path: Path, columns: Sequence[str]) -> list[Line]:
    """Read a CSV with these columns; none if there is no file."""
    if not os.path.isfile(path):
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): move it away") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if tuple(reader.fieldnames or ()) != tuple(columns):
        raise UserError(f"{path} cannot be used: its first line must be {','.join(columns)}; move it away")
    found = list(reader)
    if any(None in line or None in line.values() for line in found):
        raise UserError(f"{path} cannot be used: a line has not {len(columns)} fields; move it away")
    return found


def write_lines(path: Path, columns: Sequence[str], lines: Iterable[Mapping[str, str]]) -> None:
    """Write a CSV whole; columns that a line lacks are empty."""
    with replacing(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def cell_of(line: Mapping[str, str]) -> tuple[str, ...]:
    """Return part, set and imb_factor."""
    return tuple(line[key] for key in CELL)


def constants_of(line: Mapping[str, str]) -> Line:
    """Return the constants that a line has, without those that are empty."""
    return {key: line[key] for key in CONSTANTS if line.get(key)}


def number(value: float | None) -> str:
    """Return a figure unrounded as the CSVs hold it, "" for none."""
    return "" if value is None or value != value else repr(float(value))


def merged(old: Sequence[Line], new: Sequence[Line]) -> list[Line]:
    """Return the lines of all cells: those of `new` in place of the old ones of the same cell, in the order of the cells."""
    replaced = {cell_of(line) for line in new}
    return sorted([*(line for line in old if cell_of(line) not in replaced), *new], key=cell_of)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, and wait for another process that does, which is soon done."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + PATIENCE
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(only_run(path))
                break
            except HeldError:
                if time.monotonic() > end:
                    raise
            time.sleep(0.1)
        yield


@contextmanager
def alone(folder: Path, name: str) -> Iterator[None]:
    """Keep other processes of the study off a cell's folder, which is made; `name` is the cell's."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(only_run(folder / "study.lock"))
        except HeldError as error:
            raise UserError(f"{name} is in work by {error.holder}: wait for it, or name other sets or ratios") from error
        yield


def merge_results(folder: Path, runs: Sequence[Line], choices: Sequence[Line]) -> None:
    """Bring the cells of these lines into the two CSVs in `folder`."""
    with held(folder / "meta_study.lock"):
        for name, columns, new in ((RUNS_FILE, RUN_COLUMNS, runs), (CHOICES_FILE, CHOICE_COLUMNS, choices)):
            old = read_lines(folder / name, columns)
            found = merged(old, new)
            if found != old or not os.path.isfile(folder / name):
                write_lines(folder / name, columns, found)
