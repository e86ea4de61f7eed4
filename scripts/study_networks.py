"""Part `cifar` of the study: candidates, choices on held-out images, the runs that are shown, and their figures."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from harness.errors import UserError
from harness.run_files import summary_path
from harness.text import say
from reporting.study_results import (
    CHOICE_COLUMNS,
    CHOSEN,
    TESTED_FIGURES,
    Line,
    alone,
    constants_of,
    number,
    read_lines,
    write_lines,
)
from reporting.study_tables import SHARED, choose
from scripts.study_jobs import AT_PUBLISHED_RATE, CHOICE_LOSS, CHOICE_SEED, GRIDS, LOSSES, ROWS, SHOWN, Cell, Job, job
from scripts.study_stops import Stops
from scripts.study_training import ensure, read_seen, write_seen


def choices_of(cell: Cell) -> dict[str, Line]:
    """Return the chosen constants of the rows whose choice is written down."""
    lines = read_lines(cell.choices, CHOICE_COLUMNS)
    return {line["row"]: constants_of(line) for line in lines if line["chosen"] == CHOSEN}


def choose_row(cell: Cell, row: str, stops: Stops) -> None:
    """Train a row's candidates and write down which is best on held-out images."""
    lines = []
    for constants in GRIDS[row]:
        one = job(row, CHOICE_LOSS, CHOICE_SEED, constants)
        found = ensure(cell, one, stops)
        assert found is not None
        share = read_seen(cell, one.name).get("share", "")
        lines.append({**one.line(cell), "heldout_acc1": number(found.last.heldout_acc1), "share": share, "chosen": ""})
    best = choose(lines)
    best["chosen"] = CHOSEN
    write_lines(cell.choices, CHOICE_COLUMNS, [*read_lines(cell.choices, CHOICE_COLUMNS), *lines])
    say(f"{cell.name} {row}: chosen {' '.join(f'{key} {best[key]}' for key in GRIDS[row][0])}")


def tested_jobs(rows: Sequence[str], loss: str, seed: int, chosen: Mapping[str, Line]) -> Iterator[Job]:
    """Yield the runs of a loss and a seed that are shown, as far as their constants are chosen."""
    for row in rows:
        if row in ("published", "plain"):
            yield job(row, loss, seed)
            continue
        of = SHARED.get(row, row)
        if of not in chosen:
            continue
        constants = {key: chosen[of][key] for key in GRIDS[of][0]}
        if row in AT_PUBLISHED_RATE and constants["stage2_lr"] != "1":
            yield job(row, loss, seed, {"stage2_lr": "1"})
        yield job(row, loss, seed, constants)


def time_plain(cell: Cell, stops: Stops) -> None:
    """See that the time of a plain step is known, with which the others are compared.

    Of a plain run that was trained elsewhere stage 2 is trained again.
    """
    plain = job("plain", "CE", CHOICE_SEED)
    if read_seen(cell, plain.name).get("step_seconds") or not read_seen(cell, plain.name):
        return
    again = replace(plain, row="plain_again")
    ensure(cell, again, stops)
    if seconds := read_seen(cell, again.name).get("step_seconds"):
        write_seen(cell, plain, {"step_seconds": seconds})


def study(
    cells: Sequence[Cell], seeds: Iterable[int], losses: Sequence[str], rows: Sequence[str], only: str | None, stops: Stops
) -> Iterator[None]:
    """Do all the work that is left, seed by seed; yield when there is something new for the results."""
    rows = [row for row in SHOWN if row in rows]
    with ExitStack() as stack:
        for cell in cells:
            stack.enter_context(alone(cell.folder, cell.name))
        for seed in seeds:
            for loss in losses:
                for cell in cells:
                    yield from study_cell(cell, seed, loss, rows, only, stops)


def study_cell(
    cell: Cell, seed: int, loss: str, rows: Sequence[str], only: str | None, stops: Stops
) -> Iterator[None]:
    """Do the work that is left of a cell, a seed and a loss."""
    if only != "test" and (seed, loss) == (CHOICE_SEED, CHOICE_LOSS):
        for row in rows:
            if row in GRIDS and row not in choices_of(cell):
                choose_row(cell, row, stops)
            yield
    if only == "choose":
        return
    chosen = choices_of(cell)
    if not chosen:
        advice = f"run --seeds {CHOICE_SEED} --losses {CHOICE_LOSS} first"
        raise UserError(f"no constants are chosen yet for {cell.name}: {advice}")
    for one in tested_jobs(rows, loss, seed, chosen):
        ensure(cell, one, stops)
        yield
    if seed == CHOICE_SEED:
        time_plain(cell, stops)
        yield


def shown(line: Mapping[str, str], chosen: Mapping[str, Line]) -> bool:
    """Return whether a run's test figures may be read: its constants are fixed, or chosen and written down."""
    row = line["row"]
    if row in ("plain", "published"):
        return True
    of = SHARED.get(row, row)
    if of not in chosen:
        return False
    at_published = row in AT_PUBLISHED_RATE and line["stage2_lr"] == "1"
    return at_published or all(line.get(key) == chosen[of][key] for key in GRIDS[of][0])


def collected(cell: Cell) -> tuple[list[Line], list[Line]]:
    """Return the lines of a cell in both CSVs: finished runs whose constants are chosen, and the choices."""
    chosen, runs = choices_of(cell), []
    for path in sorted(cell.folder.glob("*_study.json")):
        name = path.name.removesuffix("_study.json")
        line = read_seen(cell, name)
        if line and shown(line, chosen) and os.path.isfile(summary_path(cell.folder, name)):
            last = json.loads(summary_path(cell.folder, name).read_text(encoding="utf-8"))["last"]
            runs.append({**line, **{key: number(last.get(key)) for key in (*TESTED_FIGURES, "heldout_acc1")}})
    order = list(ROWS)
    runs.sort(key=lambda line: (LOSSES[::-1].index(line["loss"]), order.index(line["row"]), line["stage2_lr"], line["seed"]))
    return runs, read_lines(cell.choices, CHOICE_COLUMNS)


def cells_in(workdir: Path) -> list[Cell]:
    """Return the cells that have runs of the study below `workdir`, whoever trained them."""
    found = []
    for folder in sorted((workdir / "checkpoint" / "ours" / "study").glob("*-*")):
        dataset, _, imb_factor = folder.name.rpartition("-")
        found.append(Cell(Path(dataset), imb_factor, workdir))
    return found
