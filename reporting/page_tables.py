"""The tables of a report's page, as its template takes them: what is shown, and what columns are sorted by."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from harness.metrics import percent
from harness.progress import duration
from harness.text import printable
from heads.run_flags import FREE_FLAGS
from reporting.chart_parts import class_order
from reporting.comparisons import ROUNDING, figure_of_run
from reporting.finished_runs import HEADINGS, FinishedRun, Table, figures_of, spread
from reporting.rankings import Groups, mean_figure

MOST_ROWS = 200  # of classes
NOT_SETTINGS = {"save_name", "idx", "seed", "resume", "workdir", "print_freq", "workers", "gpu", "no_cuda", "threads"}


class Cell(NamedTuple):
    """A cell: its text, the number that it is sorted by ("" of none), None of words, and whether it is bold."""

    text: str
    number: float | str | None = None
    bold: bool = False


class PageTable(NamedTuple):
    """A table with a caption; the first cell of a row says what the row is of."""

    caption: str
    heads: list[str]
    rows: list[list[Cell]]


def number_cell(value: float, text: str, bold: bool = False) -> Cell:
    """Return a cell of a number; nan is sorted as none."""
    return Cell(text, "" if math.isnan(value) else value, bold)


def from_text(caption: str, table: Table) -> PageTable:
    """Return a table of texts, whose cells are numbers where they begin with one."""
    return PageTable(caption, [printable(head) for head in table[0]], [[*map(from_word, row)] for row in table[1:]])


def from_words(caption: str, heads: list[str], rows: Sequence[Sequence[str]]) -> PageTable:
    """Return a table of words."""
    return PageTable(caption, heads, [[Cell(printable(word)) for word in row] for row in rows])


def from_word(word: str) -> Cell:
    """Return a text as a cell."""
    first = word.split(" ")[0]
    try:
        return number_cell(float(first), printable(word))
    except ValueError:
        return Cell(printable(word), "" if word == "-" else None)


def groups_table(groups: Groups, beyond: Mapping[str, str]) -> PageTable:
    """Return mean ± standard deviation of the last epoch of each group; bold is what is best beyond chance."""
    keys = figures_of(run for runs in groups.values() for run in runs)
    rows = []
    for name, runs in groups.items():
        row = [Cell(printable(name)), number_cell(len(runs), str(len(runs)))]
        for key in keys:
            told = spread([figure_of_run(run, key) for run in runs])
            row.append(number_cell(mean_figure(runs, key), told, beyond.get(key) == name))
        rows.append(row)
    caption = "Last epoch, mean ± standard deviation over seeds, in per cent"
    return PageTable(caption, ["group", "n", *(HEADINGS.get(key, key) for key in keys)], rows)


def overview(means: Mapping[str, PageTable]) -> PageTable:
    """Return the first line of each data set's `groups_table`: its highest group; bold is again what is beyond chance."""
    heads = list(dict.fromkeys(head for table in means.values() for head in table.heads[2:]))
    rows = []
    for title, table in means.items():
        name, *figures = table.rows[0]
        found = dict(zip(table.heads[2:], figures[1:], strict=True))
        groups = number_cell(len(table.rows), str(len(table.rows)))
        rows.append([Cell(title), groups, name, *(found.get(head, Cell("-", "")) for head in heads)])
    return PageTable("The highest group of each data set, in per cent", ["data set", "groups", "highest", *heads], rows)


def signed(value: float) -> str:
    """Return points with their sign, which 0 has none of."""
    return "-" if math.isnan(value) else f"{value:+.2f}".replace("-", "−") if abs(value) > ROUNDING else "0.00"


def chosen_classes(order: Sequence[int], gaps: Sequence[float] | None) -> list[int]:
    """Return the classes that a table shows, all or the MOST_ROWS that changed most either way, in order."""
    if len(order) <= MOST_ROWS:
        return [*order]
    if gaps is None:
        return [*order[:MOST_ROWS]]
    ranked = sorted((k for k in order if not math.isnan(gaps[k])), key=lambda k: -gaps[k])
    ends = {*ranked[: MOST_ROWS // 2], *ranked[-MOST_ROWS // 2 :]}
    return [k for k in order if k in ends]


def class_table(
    means: Mapping[str, Sequence[float]],
    gaps: Sequence[float] | None,
    names: Sequence[str],
    counts: Sequence[int],
    tested: Sequence[int] | None,
) -> PageTable:
    """Return the accuracy of each class in the groups that are compared, and their difference, most images first."""
    rows = []
    for k in chosen_classes(class_order(counts), gaps):
        images = [
            number_cell(counts[k], str(counts[k])),
            *([number_cell(tested[k], str(tested[k]))] if tested is not None else []),
        ]
        figures = [number_cell(own[k], percent(own[k])) for own in means.values()]
        rows.append(
            [Cell(names[k]), *images, *figures, *([number_cell(gaps[k], signed(gaps[k]))] if gaps is not None else [])]
        )
    heads = ["class", "train", *(["test"] if tested is not None else []), *means]
    return PageTable(
        "Accuracy of each class, %",
        [*heads, *(["difference"] if gaps is not None else [])],
        rows,
    )


def setting_words(value: Any) -> str:
    """Return a flag's value as one reads it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else printable(str(value))


def differing_settings(groups: Groups) -> PageTable | None:
    """Return the flags that tell the groups apart, a column each; None if there are none."""
    flags = {name: runs[0].flags for name, runs in groups.items()}
    known = dict.fromkeys(key for own in flags.values() for key in own)
    telling = [key for key in known if len({json.dumps(own.get(key, "absent")) for own in flags.values()}) > 1]
    if not telling:
        return None
    rows = [[Cell(printable(name)), *(as_setting(own.get(key)) for key in telling)] for name, own in flags.items()]
    return PageTable("Settings that differ", ["group", *telling], rows)


def as_setting(value: Any) -> Cell:
    """Return a flag's value as a cell; numbers are sorted as such."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(setting_words(value), value if plain else None)


def all_settings(runs: Sequence[FinishedRun]) -> PageTable:
    """Return every flag that all runs share or the values that they have, then commits, versions, machines and hours."""
    flags: dict[str, list[str]] = {}
    for run in runs:
        for key, value in {"loss": run.summary.get("loss"), **run.summary.get("flags", {})}.items():
            if key not in NOT_SETTINGS | (FREE_FLAGS - {"epochs"}):
                flags.setdefault(key, []).append(setting_words(value))
    rows = [[Cell(f"--{key}" if key != "loss" else key), Cell(distinct(values))] for key, values in flags.items()]
    facts: dict[str, Callable[[FinishedRun], Iterable[str]]] = {
        "commit": lambda run: [str(run.summary.get("commit") or "not recorded")],
        "versions": lambda run: [" ".join(map(str, pair)) for pair in (run.summary.get("versions") or {}).items()],
        "machine": lambda run: [", ".join(str(value) for value in (run.summary.get("machine") or {}).values() if value)],
        "device": lambda run: [str(run.summary.get("device") or "")],
        "processes": lambda run: [str(run.summary.get("processes") or "")],
    }
    for name, read in facts.items():
        rows.append([Cell(name), Cell(distinct([word for run in runs for word in read(run) if word]) or "not recorded")])
    seconds = [run.summary["seconds"] for run in runs if run.summary.get("seconds") is not None]
    told = (
        f"{duration(sum(seconds))} in all, {duration(max(seconds))} at most, {len(seconds)} runs"
        if seconds
        else "not recorded"
    )
    return PageTable("Settings of all runs", ["setting", "value"], [*rows, [Cell("time"), Cell(told)]])


def distinct(words: Sequence[str], most: int = 12) -> str:
    """Return different words once each, in order, of many the first."""
    found = list(dict.fromkeys(words))
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return printable(", ".join(found[:most])) + more
