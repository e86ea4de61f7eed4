"""λ chosen on held-out training images: sweeps among finished runs, their table, and the file that the scripts read."""

from __future__ import annotations

import csv
import json
import os
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from harness.files import link_previous, previous, replacing, writing
from harness.text import WRITTEN_OUT
from reporting.finished_runs import FinishedRun, Table, figure, spread

COLUMNS = ("dataset", "loss", "imb_factor", "lam", "source")
HELDOUT = "heldout_acc1"


class Sweep(NamedTuple):
    """Runs that differ in λ and seed only, by λ, all with the same seeds, and the λ with the highest held-out accuracy."""

    cell: tuple[str, str, str]  # data set, loss, imb_factor
    network: str  # stage 2, architecture and length
    runs: dict[float, list[FinishedRun]]
    chosen: float

    @property
    def title(self) -> str:
        """Data set, loss, imb_factor and network in words."""
        dataset, loss, imb_factor = self.cell
        return ", ".join([loss, dataset, *([f"imb_factor {imb_factor}"] if imb_factor else []), self.network])


def heldout_mean(runs: Sequence[FinishedRun]) -> float:
    """Return the mean held-out accuracy of the last epoch over seeds."""
    return statistics.mean(figure(run.summary["last"], HELDOUT) for run in runs)


def of_common_seeds(by_lam: dict[float, list[FinishedRun]]) -> dict[float, list[FinishedRun]]:
    """Return the runs of those seeds that every λ has, λ ascending: others would compare seeds, not λ."""
    seeds = {lam: {run.summary["flags"].get("seed"): run for run in runs} for lam, runs in by_lam.items()}
    common = set.intersection(*(set(own) for own in seeds.values()))
    return {lam: [own[seed] for seed in sorted(common)] for lam, own in sorted(seeds.items())} if common else {}


def find_sweeps(runs: Sequence[FinishedRun]) -> list[Sweep]:
    """Return the sweeps over λ among `runs`: of those with held-out images that differ in λ and seed only, two λ or more.

    The last epoch's accuracy counts. Of equally good λ the smallest is chosen.
    """
    found: dict[str, dict[float, list[FinishedRun]]] = {}
    for run in runs:
        if HELDOUT in run.summary["last"] and "lam" in run.flags:
            others = {key: value for key, value in run.flags.items() if key != "lam"}
            kind = json.dumps([others, run.trained_on], sort_keys=True)
            found.setdefault(kind, {}).setdefault(float(run.flags["lam"]), []).append(run)
    sweeps = []
    for key, by_lam in found.items():
        flags, common = json.loads(key)[0], of_common_seeds(by_lam)
        if len(common) > 1:
            imb_factor = flags.get("imb_factor")
            cell = str(flags.get("dataset")), str(flags.get("loss")), "" if imb_factor is None else f"{imb_factor:g}"
            network = f"{flags.get('stage2')}, {flags.get('arch')}, {flags.get('epochs')} epochs"
            sweeps.append(Sweep(cell, network, common, max(common, key=lambda lam: heldout_mean(common[lam]))))
    return sweeps


def sweep_table(sweep: Sweep) -> Table:
    """Return held-out and test accuracy of each λ, mean ± standard deviation over seeds."""
    rows = [["λ", "seeds", "held-out", "test", ""]]
    for lam, runs in sweep.runs.items():
        columns = [[figure(run.summary["last"], key) for run in runs] for key in (HELDOUT, "acc1")]
        mark = "chosen" if lam == sweep.chosen else ""
        rows.append([repr(lam), str(len(runs)), *map(spread, columns), mark])
    return rows


def write_choices(sweeps: Sequence[Sweep], path: Path) -> list[str]:
    """Write the chosen λ as CSV, in the form of results/lam.csv; without a choice there is no file.

    A file that is there becomes its `previous`. Returns lines to print: that this happened and nothing took its place, and
    which cells have several sweeps, as of two networks: none of them is written.
    """
    notes = []
    number = Counter(sweep.cell for sweep in sweeps)
    alone = [sweep for sweep in sweeps if number[sweep.cell] == 1]
    if os.path.exists(path) and not alone:
        with writing(path):
            link_previous(path)
            path.unlink()
        notes.append(f"note: these runs choose no λ: the earlier {path} is now {previous(path)}")
    if alone:
        with (
            replacing(path, keep_previous=True) as part,
            open(part, "w", encoding="utf-8", errors=WRITTEN_OUT, newline="") as file,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for sweep in alone:
                runs = sweep.runs[sweep.chosen]
                tried = " ".join(map(repr, sweep.runs))
                source = f"best of {tried} on held-out training images ({heldout_mean(runs):.2f} %; seeds: {len(runs)})"
                writer.writerow((*sweep.cell, repr(sweep.chosen), source))
    several = (" ".join(cell) for cell, times in number.items() if times > 1)
    return [*notes, *(f"note: several sweeps of {cell}: not in {path}" for cell in several)]
