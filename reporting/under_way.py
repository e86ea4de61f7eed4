"""The curves of runs on a report's page, and what it shows of runs that are not finished."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.metrics import percent
from harness.text import printable, shown_names
from reporting import charts
from reporting.chart_parts import MOST_GROUPS, Chart, Logged
from reporting.found_runs import UnfinishedRun
from reporting.page_tables import Cell, PageTable, number_cell


@dataclass(frozen=True)
class UnderWay:
    """The runs on one long-tailed set that are not finished, as the template shows them."""

    id: str
    title: str
    shown: Logged
    table: PageTable
    curves: list[Chart]
    curves_note: str


def make_under_way(place: int, title: str, runs: Sequence[UnfinishedRun]) -> UnderWay:
    """Return what the page shows of runs that go on: how far each is, and curves of as many as there are marks for."""
    named = dict(zip(shown_names(run.name for run in runs), ([run] for run in runs), strict=True))
    rows = []
    for name, (run,) in named.items():
        accuracy = next((line["test_acc1"] for line in reversed(run.log) if line.get("test_acc1") is not None), math.nan)
        rows.append([Cell(name), Cell(run.progress, run.epochs_done), number_cell(accuracy, percent(accuracy))])
    table = PageTable("Runs under way or interrupted", ["run", "epochs", "test accuracy, %"], rows)
    shown = dict(list(named.items())[:MOST_GROUPS])
    more = f" The charts show {len(shown)} of the {len(named)} runs." if len(named) > len(shown) else ""
    curves, note = curves_of(shown)
    return UnderWay(f"way{place}", printable(title), shown, table, curves, note + more)


def curves_of(shown: Logged) -> tuple[list[Chart], str]:
    """Return the curves of what the logs hold, and what their dashed lines are."""
    starts = {
        run.summary["flags"].get("meta_start") or 0
        for runs in shown.values()
        for run in runs
        if run.summary.get("flags", {}).get("stage2") not in (None, "none")
    } - {0}  # where there is no stage 1 there is nothing to mark
    begins = sorted(starts)
    found = [made for key in charts.CURVES if (made := charts.curve(shown, key, begins)) is not None]
    note = ""
    if found and len(begins) == 1:
        note = f"The upright dashed line is the beginning of stage 2, epoch {begins[0]}. "
    elif found and begins:
        told = f"{', '.join(map(str, begins[:-1]))} and {begins[-1]}"
        note = f"The upright dashed lines are where stage 2 of different groups begins: epochs {told}. "
    return found, f"{note}Thick: the mean of a group; thin: each run." if found else ""
