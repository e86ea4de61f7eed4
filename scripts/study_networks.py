"""Part `cifar` of the study: candidates, choices on held-out images, the runs that are shown, and their figures."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice, product
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
    cell_of,
    number,
    read_lines,
    write_lines,
)
from reporting.study_tables import SHARED, choose, chosen_constants
from scripts import study_training
from scripts.study_jobs import (
    AT_PUBLISHED_RATE,
    CHOICE_LOSS,
    CHOICE_SEED,
    GRIDS,
    LOSSES,
    ROWS,
    SHOWN,
    Cell,
    Job,
    finished,
    job,
    stage1,
)
from scripts.study_stops import Stops
from scripts.study_training import read_seen, write_seen


def choices_of(cell: Cell) -> dict[str, Line]:
    """Return the chosen constants of the rows whose choice is written down."""
    return chosen_constants(read_lines(cell.choices, CHOICE_COLUMNS), cell_of(cell.line))


def candidates(row: str) -> list[Job]:
    """Return the trainings among which the constants of a row are chosen."""
    return [job(row, CHOICE_LOSS, CHOICE_SEED, constants) for constants in GRIDS[row]]


def choose_row(cell: Cell, row: str) -> None:
    """Write down which of a row's candidates, all of which are trained, is best on held-out images."""
    lines = []
    for one in candidates(row):
        found = finished(cell, one)
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


@dataclass(frozen=True)
class Plan:
    """What is asked for: rows, losses and seeds of these cells, "choose" or "test" alone, and how many trainings at once."""

    cells: Sequence[Cell]
    seeds: Sequence[int]
    losses: Sequence[str]
    rows: Sequence[str]
    only: str | None = None
    at_once: int = 1

    @property
    def chooses_any(self) -> bool:
        """Whether there is anything to choose with."""
        return any(self.chooses(seed, loss) for seed, loss in product(self.seeds, self.losses))

    def chooses(self, seed: int, loss: str) -> bool:
        """Return whether constants are chosen with this seed and loss."""
        return self.only != "test" and (seed, loss) == (CHOICE_SEED, CHOICE_LOSS)

    def check(self) -> None:
        """Refuse to test what is not chosen, and will not be."""
        if self.chooses_any:
            return
        for cell in self.cells:
            if self.only == "choose" or not choices_of(cell):
                advice = f"run --seeds {CHOICE_SEED} --losses {CHOICE_LOSS} first"
                raise UserError(f"no constants are chosen yet for {cell.name}: {advice}")

    def open_choices(self) -> Iterator[tuple[Cell, str]]:
        """Yield the rows whose constants are to be chosen."""
        if self.chooses_any:
            for cell in self.cells:
                chosen = choices_of(cell)
                yield from ((cell, row) for row in GRIDS if row in self.rows and row not in chosen)

    def jobs(self) -> Iterator[tuple[Cell, Job]]:
        """Yield the runs that are known to be needed, in order of work."""
        rows = [row for row in SHOWN if row in self.rows]
        to_choose = list(self.open_choices())
        for seed, loss, cell in product(self.seeds, self.losses, self.cells):
            yield cell, job("plain", "CE", seed)  # for its stage 1
            if self.chooses(seed, loss):
                yield from ((cell, one) for of, row in to_choose if of == cell for one in candidates(row))
            if self.only != "choose":
                yield from ((cell, one) for one in tested_jobs(rows, loss, seed, choices_of(cell)))


class Study:
    """The study at work: what is done, and what is being trained, by cell and name."""

    def __init__(self, plan: Plan, stops: Stops) -> None:
        self.plan, self.stops = plan, stops
        self.done: set[tuple[str, str]] = set()
        self.running: dict[tuple[str, str], tuple[Cell, Job, Future[None]]] = {}
        self.began: dict[tuple[str, str], float] = {}

    def work(self) -> Iterator[None]:
        """Do all that is left; yield when there is something new for the results."""
        self.plan.check()
        with ExitStack() as stack:
            for cell in self.plan.cells:
                stack.enter_context(alone(cell.folder, cell.name))
            pool = stack.enter_context(ThreadPoolExecutor(self.plan.at_once))
            stack.callback(self.stops.pass_on, signal.SIGTERM)  # if one failed, the others save and end
            while True:
                self.stops.check()
                if self.take_finished():
                    yield
                self.start(pool)
                if not self.running:
                    return
                self.wait()

    def take_finished(self) -> bool:
        """Take in what is finished, and choose where all candidates are; return whether there was anything."""
        found = [(cell, one, run) for cell, one in self.left() if (run := finished(cell, one))]
        for cell, one, run in found:
            self.done.add((cell.name, one.name))
            if not read_seen(cell, one.name):
                write_seen(cell, one, {})
            say(f"{cell.name} {one.name}: held-out accuracy {run.last.heldout_acc1:.2f}")
        ripe = [
            (cell, row) for cell, row in self.plan.open_choices()
            if all((cell.name, one.name) in self.done for one in candidates(row))
        ]  # fmt: skip
        for cell, row in ripe:
            choose_row(cell, row)
        if ripe:  # what is tested with these constants may be finished too
            self.take_finished()
        return bool(found or ripe)

    def left(self) -> Iterator[tuple[Cell, Job]]:
        """Yield the runs that are known to be needed, neither done nor running, in order of work, each once."""
        seen = self.done | self.running.keys()
        for cell, one in self.plan.jobs():
            key = cell.name, one.name
            if key not in seen:
                seen.add(key)
                yield cell, one

    def start(self, pool: ThreadPoolExecutor) -> None:
        """Start the next trainings, as many as there is room for."""
        ready = ((cell, one) for cell, one in self.left() if one.row == "plain" or self.has_stage1(cell, one.seed))
        for cell, one in islice(ready, self.plan.at_once - len(self.running)):
            self.began[cell.name, one.name] = time.time()
            self.running[cell.name, one.name] = cell, one, pool.submit(study_training.train, cell, one, self.stops)

    def has_stage1(self, cell: Cell, seed: int) -> bool:
        """Return whether a plain run of this study has ended its stage 1; a file of that name may be of an older one."""
        path, plain = stage1(cell, seed), (cell.name, job("plain", "CE", seed).name)
        if plain not in self.running:
            return plain in self.done and os.path.isfile(path)
        return os.path.isfile(path) and os.path.getmtime(path) > self.began[plain]

    def wait(self) -> None:
        """Wait a second, or until a training ends; its stage 1 may be there before."""
        wait([future for *_, future in self.running.values()], timeout=1, return_when=FIRST_COMPLETED)
        for key, (cell, one, future) in list(self.running.items()):
            if future.done():
                del self.running[key]
                future.result()
                if finished(cell, one) is None:
                    raise UserError(f"{summary_path(cell.folder, one.name)} is of another run: move it away")


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
