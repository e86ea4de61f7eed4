"""λ chosen on held-out training images: sweeps among finished runs, their table, and the file that the scripts read."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from runs import Run, Table, figure, spread

COLUMNS = ("dataset", "loss", "imb_factor", "lam", "source")
HELDOUT = "heldout_acc1"


class Sweep(NamedTuple):
    """Runs that differ in λ and seed only, by λ, and the λ whose held-out accuracy in the last epoch is the highest."""

    cell: tuple[str, str, str]  # data set, loss, imb_factor
    runs: dict[float, list[Run]]
    chosen: float

    @property
    def title(self) -> str:
        """Data set, loss and imb_factor in words."""
        dataset, loss, imb_factor = self.cell
        return f"{loss}, {dataset}" + (f", imb_factor {imb_factor}" if imb_factor else "")


def heldout_mean(runs: Sequence[Run]) -> float:
    """Return the mean held-out accuracy of the last epoch over seeds."""
    return statistics.mean(figure(run.summary["last"], HELDOUT) for run in runs)


def find_sweeps(runs: Sequence[Run]) -> list[Sweep]:
    """Return the sweeps over λ among `runs`: of those with held-out images that differ in λ and seed only, two λ or more.

    Of equally good λ the smallest is chosen.
    """
    found: dict[str, dict[float, list[Run]]] = {}
    for run in runs:
        if HELDOUT in run.summary["last"] and "lam" in run.flags:
            others = json.dumps({key: value for key, value in run.flags.items() if key != "lam"}, sort_keys=True)
            found.setdefault(others, {}).setdefault(float(run.flags["lam"]), []).append(run)
    sweeps = []
    for key, by_lam in found.items():
        if len(by_lam) > 1:
            flags = json.loads(key)
            imb_factor = flags.get("imb_factor")
            cell = str(flags.get("dataset")), str(flags.get("loss")), "" if imb_factor is None else f"{imb_factor:g}"
            ordered = dict(sorted(by_lam.items()))
            sweeps.append(Sweep(cell, ordered, max(ordered, key=lambda lam: heldout_mean(ordered[lam]))))
    return sweeps


def sweep_table(sweep: Sweep) -> Table:
    """Return held-out and test accuracy of each λ, mean ± standard deviation over seeds."""
    rows = [["λ", "seeds", "held-out", "test", ""]]
    for lam, runs in sweep.runs.items():
        columns = [[figure(run.summary["last"], key) for run in runs] for key in (HELDOUT, "acc1")]
        mark = "chosen" if lam == sweep.chosen else ""
        rows.append([f"{lam:g}", str(len(runs)), *map(spread, columns), mark])
    return rows


def write_choices(sweeps: Sequence[Sweep], path: Path) -> None:
    """Write the chosen λ of each sweep as CSV, in the form of results/lam.csv."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for sweep in sweeps:
            accuracy, seeds = heldout_mean(sweep.runs[sweep.chosen]), len(sweep.runs[sweep.chosen])
            tried = " ".join(f"{lam:g}" for lam in sweep.runs)
            source = f"best of {tried} on held-out training images ({accuracy:.2f} %; seeds: {seeds})"
            writer.writerow((*sweep.cell, f"{sweep.chosen:g}", source))
