"""The files of a report: its page, tables as CSV and LaTeX, figures for papers."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from harness.files import replacing, writing
from harness.text import WRITTEN_OUT
from reporting.chart_parts import Chart
from reporting.charts import MATRIX_CLASSES, confusion_chart
from reporting.drawings import on_paper
from reporting.finished_runs import FinishedRun, Table, long_table
from reporting.latex_tables import latex_table
from reporting.page import Page, render
from reporting.page_contents import Section
from reporting.rankings import Groups, means_table
from reporting.verdict_sentences import class_means

TABLES = ("runs.csv", "means.csv", "classes.csv")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how what a spreadsheet computes may begin
LINE = 40  # letters, of a title in a figure


def write_page(page: Page, path: Path) -> None:
    """Write the page."""
    with replacing(path, shared=True) as part:
        part.write_text(render(page), encoding="utf-8")


def guarded(cell: str) -> str:
    """Return a cell of a table as a spreadsheet shows it as it is: numbers too may begin with a sign, and stay."""
    if not cell.startswith(FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def write_csv(table: Table, path: Path) -> None:
    """Write a table as CSV; a text that a spreadsheet would take for a formula has an apostrophe before it."""
    with replacing(path, shared=True) as part, open(part, "w", encoding="utf-8", errors=WRITTEN_OUT, newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([*map(guarded, row)] for row in table)


def write_tables(sets: Mapping[str, Groups], folder: Path) -> None:
    """Write every run, the means of the groups, and the accuracy of every class in each group."""
    for name, table in zip(TABLES, (runs_table(sets), means_table(sets), classes_table(sets)), strict=True):
        write_csv(table, folder / name)


def runs_table(sets: Mapping[str, Groups]) -> Table:
    """Return `long_table` with the data set and the group of each run before its name."""
    members = [(title, name, run) for title, groups in sets.items() for name, runs in groups.items() for run in runs]
    head, *rows = long_table([run for _, _, run in members])
    places = [(title, name) for title, name, _ in members for _ in ("last", "best")]
    return [["data set", "group", *head], *([*place, *row] for place, row in zip(places, rows, strict=True))]


def classes_table(sets: Mapping[str, Groups]) -> Table:
    """Return a line for each class and group: training images and mean accuracy in per cent, empty without test images."""
    rows = [["data set", "group", "class", "training images", "accuracy"]]
    for title, groups in sets.items():
        for name, runs in groups.items():
            counts, names = runs[0].summary["cls_num_list"], runs[0].class_names
            for own, count, mean in zip(names, counts, class_means(runs).tolist(), strict=True):
                rows.append([title, name, own, str(count), "" if mean != mean else repr(mean)])
    return rows


def write_latex(runs: Sequence[FinishedRun], measure: Any, path: Path) -> None:
    """Write the table of a paper."""
    kind: Literal["accuracy", "error"] = measure
    with replacing(path, shared=True) as part:
        part.write_text(latex_table(runs, kind), encoding="utf-8")


def write_figures(settings: Sequence[Section], folder: Path) -> list[str]:
    """Write the charts of each setting as PNG and SVG in the width of a column; return which are missing, and why."""
    notes = []
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for setting in settings:
        first = next(iter(setting.shown))
        matrix = confusion_chart(setting.shown[first], setting.names)
        if matrix is None:
            why = f"has more than {MATRIX_CLASSES} classes" if len(setting.names) > MATRIX_CLASSES else "has no predictions"
            notes.append(f"note: no figure of a confusion matrix: {setting.title} {why}")
        own = [
            setting.shots,
            setting.by_class,
            setting.differences,
            setting.reliability,
            *setting.curves,
            setting.covariances,
            matrix,
        ]
        titles = {"confusion": in_lines("Confusion matrix of", first)}
        if setting.pair:
            titles["differences"] = in_lines(f"{setting.pair[0]} against", setting.pair[1])
        for chart in filter(None, own):
            path = folder / (f"{setting.id}_{chart.name}" if len(settings) > 1 else chart.name)
            write_figure(chart, path, titles.get(chart.name))
    return notes


def in_lines(first: str, second: str) -> list[str]:
    """Return one line of two parts, or two where it would be longer than a column is wide."""
    whole = f"{first} {second}"
    return [whole] if len(whole) <= LINE else [first, second]


def write_figure(chart: Chart, path: Path, title: Sequence[str] | None = None) -> None:
    """Write a chart as PNG and SVG; `title` is what it has above it, in lines."""
    for end, content in on_paper(chart, title).items():
        with replacing(path.with_name(f"{path.name}.{end}"), shared=True) as part:
            part.write_bytes(content)
