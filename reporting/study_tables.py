"""Choosing, paired differences and tables of the study of meta-learning: functions of the lines of its CSVs.

All read the lines as text, see `study_results`. A run is of a row (what stage 2 does), and rows are shown as VIEWS says.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.errors import UserError
from harness.metrics import percent
from reporting.comparisons import paired
from reporting.finished_runs import HEADINGS, markdown, spread
from reporting.study_results import CHOSEN, SEEN, TESTED_FIGURES, Line, cell_of, constants_of

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
REFERENCES = ("reweight", "isda")  # each other row is compared with them, at their chosen constants


@dataclass(frozen=True)
class View:
    """A line of a table: its name, the row that it shows, and constants that tell its runs from others of the row.

    `references` are the rows that it is compared with.
    """

    name: str
    row: str
    only: tuple[tuple[str, str], ...] = ()
    references: tuple[str, ...] = REFERENCES


JOINED = tuple(f"joined_{row}" for row in REFERENCES)
VIEWS = {  # by part, in order
    "cifar": (
        View("plain cross-entropy", "plain"),
        View("re-weighting, published rate", "reweight", (("stage2_lr", "1"),)),
        View("re-weighting", "reweight"),
        View("ISDA, published rate", "isda", (("stage2_lr", "1"),)),
        View("ISDA", "isda"),
        View("MetaSAug, published rule and rate", "published"),
        View("MetaSAug, relative rule", "relative_all"),
        View("MetaSAug, relative rule, virtual step of the head", "relative_head"),
        View("re-weighting, meta images trained on", "meta_train"),
        View("re-weighting, meta batch's loss added", "meta_loss"),
        View("log prior in place of the weights", "prior"),
    ),
    "features": (
        View("plain cross-entropy", "plain"),
        View("plain, log prior subtracted when testing", "plain_subtracted"),
        View("log prior added in stage 2", "prior"),
        View("log prior added from the start", "prior_throughout"),
        View("re-weighting", "reweight"),
        View("ISDA", "isda"),
        View("MetaSAug, published rule", "published"),
        View("MetaSAug, relative rule", "relative"),
        View("MetaSAug, relative rule, log prior in place of the weights", "relative_prior"),
        View("meta images trained on: plain, log prior subtracted", "joined_plain_subtracted", (), JOINED),
        View("meta images trained on: log prior added", "joined_prior", (), JOINED),
        View("meta images trained on from the start, as is the log prior added", "joined_prior_throughout", (), JOINED),
        View("meta images trained on: re-weighting", "joined_reweight", (), JOINED),
        View("meta images trained on: ISDA", "joined_isda", (), JOINED),
        View("meta images trained on: MetaSAug, relative rule", "joined_relative", (), JOINED),
    ),
}
PART_WORDS = {"cifar": "networks", "features": "linear heads on frozen features"}
SHARED = {"relative_all": "relative_head"}  # rows whose constants are another row's choice


def choose(candidates: Sequence[Line]) -> Line:
    """Return the candidate of the highest accuracy on held-out images, the first of them where there are several."""
    return max(candidates, key=lambda line: float(line["heldout_acc1"]))  # max keeps the first


def chosen_constants(choices: Iterable[Line], cell: tuple[str, ...]) -> dict[str, Line]:
    """Return the chosen constants of each row of a cell."""
    return {line["row"]: constants_of(line) for line in choices if cell_of(line) == cell and line["chosen"] == CHOSEN}


def runs_of(view: View, runs: Sequence[Line], chosen: Mapping[str, Line]) -> list[Line]:
    """Return the runs of one loss and cell that a line shows: of its constants, else of the chosen ones of its row."""
    own = [line for line in runs if line["row"] == view.row]
    if view.only:
        return [line for line in own if all(line[key] == value for key, value in view.only)]
    of = SHARED.get(view.row, view.row)
    if of not in chosen:
        return own
    same = [key for key in chosen[of] if key != "virtual"]
    return [line for line in own if all(line[key] == chosen[of][key] for key in same)]


def figure_of(line: Line, key: str) -> float:
    """Return a figure of a run, nan where it has none."""
    return float(line[key]) if line[key] else math.nan


def by_seed(runs: Iterable[Line], key: str = "acc1") -> dict[str, float]:
    """Return a figure of each seed."""
    return {line["seed"]: figure_of(line, key) for line in runs}


def mean_of(runs: Sequence[Line], key: str) -> float:
    """Return the mean of a figure over the runs that have it, nan if none has."""
    there = [value for line in runs if not math.isnan(value := figure_of(line, key))]
    return statistics.mean(there) if there else math.nan


def constants_words(runs: Sequence[Line], part: str) -> str:
    """Return the constants that were chosen, in words."""
    of_networks = {"stage2_lr": "rate ×", "step_size": "η "}
    names = {"cifar": of_networks, "features": {"lr": "rate ", "lam": "λ ", "step_size": "η "}}
    return ", ".join(f"{word}{runs[0][key]}" for key, word in names[part].items() if runs[0][key])


def result_table(views: Sequence[View], groups: Mapping[View, list[Line]], part: str, plain: float) -> list[list[str]]:
    """Return the table of accuracies, mean ± standard deviation over the seeds; `plain` is the seconds of a plain step."""
    headings = [HEADINGS.get(key, key) for key in TESTED_FIGURES]
    rows = [["stage 2", "constants", "n", *headings, "time", "share of the spread"]]
    for view in views:
        own = groups[view]
        cells = [spread([figure_of(line, key) for line in own]) for key in TESTED_FIGURES]
        share = 100 * mean_of(own, "share")
        share_word = "-" if math.isnan(share) else f"{share:.1f} %"
        relative = percent(mean_of(own, "step_seconds") / plain)
        rows.append([view.name, constants_words(own, part), str(len(own)), *cells, relative, share_word])
    return rows


def difference_table(views: Sequence[View], groups: Mapping[View, list[Line]]) -> list[list[str]]:
    """Return the paired differences of each row's accuracy from those that it is compared with."""
    by_row = {view.row: own for view, own in groups.items() if not view.only}
    rows = [["accuracy, minus that of", *("re-weighting", "ISDA")]]
    for view in views:
        gaps = [paired(by_seed(groups[view]), by_seed(by_row.get(row, []))) for row in view.references]
        same = [row == view.row and not view.only for row in view.references]
        rows.append([view.name, *("" if itself else str(gap) for gap, itself in zip(gaps, same, strict=True))])
    return rows


def title(cell: tuple[str, ...], loss: str) -> str:
    """Return the heading of a cell's tables."""
    part, dataset, imb_factor = cell
    name = dataset.upper().replace("CIFAR", "CIFAR-")
    return f"### {name}-LT, ratio {1 / float(imb_factor):g}, {loss}, {PART_WORDS[part]}"


def loss_lines(cell: tuple[str, ...], loss: str, runs: Sequence[Line], choices: Sequence[Line]) -> list[str]:
    """Return the tables of a cell and a loss."""
    own = [line for line in runs if cell_of(line) == cell and (line["loss"] == loss or line["row"] == "plain")]
    chosen = chosen_constants(choices, cell)
    found = {view: runs_of(view, own, chosen) for view in VIEWS[cell[0]]}
    views = [view for view in VIEWS[cell[0]] if found[view]]
    plain = mean_of([line for line in own if line["row"] == "plain"], "step_seconds")
    results, gaps = result_table(views, found, cell[0], plain), difference_table(views, found)
    return [title(cell, loss), "", *markdown(results), "", *markdown(gaps), ""]


def share_lines(choices: Sequence[Line]) -> list[str]:
    """Return a table of the augmentation's share of the logits' spread at each cell's chosen λ."""
    chosen = [line for line in choices if line["chosen"] == CHOSEN and line["share"]]
    if not chosen:
        return []
    rows = [["set", "ratio", "part", "row", "λ", "share of the spread", "held-out accuracy"]]
    for line in chosen:
        share = f"{100 * float(line['share']):.1f} %"
        ratio_word = f"{1 / float(line['imb_factor']):g}"
        heldout = percent(float(line[SEEN[0]]))
        rows.append([line["dataset"], ratio_word, line["part"], line["row"], line["lam"], share, heldout])
    return ["### The augmentation beside the logits, at the constants chosen (seed 1)", "", *markdown(rows), ""]


def table_lines(runs: Sequence[Line], choices: Sequence[Line]) -> list[str]:
    """Return all tables."""
    lines: list[str] = []
    for cell in dict.fromkeys(map(cell_of, runs)):
        losses = dict.fromkeys(line["loss"] for line in runs if cell_of(line) == cell and line["row"] != "plain")
        for loss in losses or ["CE"]:
            lines += loss_lines(cell, loss, runs, choices)
    return [*lines, *share_lines(choices)]


def with_tables(text: str, lines: Sequence[str], name: str) -> str:
    """Return a text of markdown with these lines between its two markers; `name` is its file's."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{name} has no lines {BEGIN} and {END}, between which the tables stand: add them")
    return f"{before}{BEGIN}\n\n" + "\n".join(lines).rstrip("\n") + f"\n\n{END}{after}"
