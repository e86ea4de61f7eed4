"""Tables of runs, in pandas: for the page, for spreadsheets and for papers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from msgspec.structs import asdict

from harness.files import write_whole
from harness.flags import PUBLISHED_RULE, in_stage1
from harness.metrics import PER_CLASS_MEAN, SHOTS, percent
from harness.text import WRITTEN_OUT
from reporting.comparisons import class_means, gap, mean_figure, spread
from reporting.finished_runs import EpochLine, FinishedRun, Tested
from reporting.groups import Groups, set_title
from reporting.verdict import Compared, best_of, main_figure

HEADINGS = {"acc1": "overall", PER_CLASS_MEAN: "mean over classes", **{name: name for name in SHOTS}, "macro_f1": "macro-F1",
            "ece": "ECE"}  # fmt: skip
ACCURACIES = ("acc1", PER_CLASS_MEAN, *SHOTS)
FIGURES = (*HEADINGS,)
COMPARED = ("difference", "low", "high", "method", "number")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how what a spreadsheet computes may begin
PUBLISHED = Path(__file__).resolve().parent.parent / "results" / "published_errors.csv"
FULL_LENGTH = {"arch": "resnet32", "epochs": 200, "batch_size": 100, "stage2": "metasaug", "meta_start": 160, "num_meta": 10,
               "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "meta_lr": 0.1, "stage2_lr": 1.0,
               "meta_update": PUBLISHED_RULE, "virtual": "all", "meta_images": "apart", "balance": "weights",
               "select_on": "test"}  # fmt: skip


def figures_of(groups: Groups, known: Sequence[str] = FIGURES) -> list[str]:
    """Return the figures that tables show; the mean over classes is one where some test set is uneven."""
    return [key for key in known if key != PER_CLASS_MEAN or main_figure(groups) == PER_CLASS_MEAN]


def groups_of(sets: Sequence[Compared]) -> Iterator[tuple[Compared, str, list[FinishedRun]]]:
    """Yield what is compared, name and runs of each group."""
    yield from ((one, name, runs) for one in sets for name, runs in one.groups.items())


def runs_table(sets: Sequence[Compared]) -> pd.DataFrame:
    """Return the last and the best epoch of each run, unrounded, with seed, flags, seconds, commit: for other programs."""
    rows: list[dict[str, Any]] = []
    for one, name, runs in groups_of(sets):
        for run, which in product(runs, ("last", "best")):
            row = {"data set": one.title, "group": name, "run": run.name, "which": which,
                   "epoch": getattr(run.summary, which).epoch}  # fmt: skip
            row |= {"stage": 1 if run.is_plain(which) else 2, **{key: run.figure(key, which) for key in FIGURES}}
            rows.append({**row, "seed": run.seed, **run.flags, "seconds": run.summary.seconds, "commit": run.summary.commit})
    return pd.DataFrame(rows)


def means_table(sets: Sequence[Compared]) -> pd.DataFrame:
    """Return each group's means and standard deviations (n − 1) of the last epoch, unrounded: for other programs.

    The last columns are the difference from the set's highest group in the figure that ranks them, with its 95 % interval
    (each on its own), and whether it is over seeds or over test images, and how many.
    """
    rows: list[dict[str, Any]] = []
    for one, name, runs in groups_of(sets):
        row = {"data set": one.title, "group": name, "n": len(runs), "seeds": " ".join(str(run.seed) for run in runs)}
        figures = pd.DataFrame({key: [run.figure(key) for run in runs] for key in FIGURES}).agg(["mean", "std"])
        row |= {f"{key}_{kind}": figures.loc[kind, key] for key in FIGURES for kind in ("mean", "std")}
        best = next(iter(one.groups))
        found = None if name == best else gap(runs, one.groups[best], one.key)
        told = (found.mean, *found.interval(), found.unit, found.number) if found else [None] * len(COMPARED)
        rows.append({**row, **dict(zip(COMPARED, told, strict=True)), "ranked_by": one.key, "best": best})
    return pd.DataFrame(rows)


def epochs_table(groups: Groups) -> pd.DataFrame:
    """Return the lines of all logs, with group, run and stage."""
    rows = [
        {"group": name, "run": run.name, "stage": 1 if in_stage1(run.summary.flags, line.epoch) else 2, **asdict(line)}
        for name, runs in groups.items() for run in runs for line in run.log
    ]  # fmt: skip
    columns = ["group", "run", "stage", *EpochLine.__struct_fields__]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[4:], float))


def images_table(groups: Groups) -> pd.DataFrame:
    """Return the test images of all runs, with group, run, label, prediction and its probability."""
    rows = [pd.DataFrame({"group": name, "run": run.name, **run.tested._asdict()})
            for name, runs in groups.items() for run in runs if run.tested is not None]  # fmt: skip
    return pd.concat(rows) if rows else pd.DataFrame(columns=["group", "run", *Tested._fields])


def classes_table(sets: Sequence[Compared]) -> pd.DataFrame:
    """Return a row for each class and group: training images and mean accuracy in per cent."""
    return pd.concat([
        pd.DataFrame({"data set": one.title, "group": name, "class": runs[0].summary.class_names,
                      "training images": runs[0].summary.cls_num_list, "accuracy": class_means(runs)})
        for one, name, runs in groups_of(sets)
    ])  # fmt: skip


def shown_means(groups: Groups) -> pd.DataFrame:
    """Return mean ± standard deviation of the last epoch of each group, as text."""
    return pd.DataFrame([
        {"group": name, "runs": str(len(runs))}
        | {HEADINGS[key]: spread([run.figure(key) for run in runs]) for key in figures_of(groups)}
        for name, runs in groups.items()
    ])  # fmt: skip


def best_cells(groups: Groups) -> dict[str, str]:
    """Return, by the heading of an accuracy, the group that is significantly better in it than every other one."""
    found = ((HEADINGS[key], best_of(groups, key)) for key in figures_of(groups, ACCURACIES))
    return {heading: name for heading, name in found if name is not None}


def shown_runs(one: Compared) -> pd.DataFrame:
    """Return the last and the best epoch of each run, as text."""
    rows, keys = runs_table([one]), figures_of(one.groups)
    rows["epoch"] = rows["which"] + " (" + rows["epoch"].astype(str) + rows["stage"].map({1: ", stage 1", 2: ""}) + ")"
    return (
        rows[["run", "epoch", *keys]]
        .map(lambda cell: percent(cell) if isinstance(cell, float) else cell)
        .rename(columns=HEADINGS)
    )


def published_table(sets: Sequence[Compared]) -> pd.DataFrame:
    """Return published error, ours (last epoch, mean ± std) and their difference, of runs at the published settings.

    λ and the precision are free, for the publication does not give them.
    """
    published = pd.read_csv(PUBLISHED).set_index(["dataset", "loss", "imb_factor"])["error"]
    rows = []
    for one, name, runs in groups_of(sets):
        flags = runs[0].flags
        error = published.get((flags.get("dataset"), flags.get("loss"), flags.get("imb_factor")))
        if error is not None and flags.items() >= FULL_LENGTH.items():
            ours = [100 - run.figure("acc1") for run in runs]
            rows.append({"group": f"{flags['loss']}, {name}", "set": one.title, "published error": f"{error:.2f}",
                         "ours": spread(ours), "difference": f"{np.mean(ours) - error:+.2f}"})  # fmt: skip
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> list[str]:
    """Return the lines of a table of texts as aligned markdown."""
    rows = [[str(cell) for cell in row] for row in (table.columns, *table.itertuples(index=False))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]


def guarded(cell: Any) -> Any:
    """Return a text so that a spreadsheet shows it as it is: with an apostrophe where it would take it for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV."""
    text = table.map(guarded).to_csv(index=False, lineterminator="\n")
    write_whole(path, text.encode(errors=WRITTEN_OUT))


def latex_table(sets: Sequence[Compared], measure: str) -> str:
    """Return the table of a paper, methods by imbalance ratio: the last epoch in per cent, "accuracy" or "error".

    Bold is what is significantly better than every other row. The accuracy is the mean over classes where a test set is
    uneven.
    """
    rows = []
    for one, name, runs in groups_of(sets):
        mean, values = mean_figure(runs, one.key), [run.figure(one.key) for run in runs]
        shown = f"{100 - mean if measure == 'error' else mean:.1f}"
        shown = rf"\mathbf{{{shown}}}" if name == best_of(one.groups, one.key) else shown
        shown += rf"_{{\pm {np.std(values, ddof=1):.1f}}}" if len(runs) > 1 else ""
        flags = runs[0].flags
        factor = flags.get("imb_factor")
        column = "natural" if factor is None else f"{1 / factor:g}"
        rows.append((set_title(flags.get("dataset"), None), name, column, f"${shown}$", len(runs)))
    table = pd.DataFrame(rows, columns=["data set", "method", "ratio", "cell", "n"])
    seeds = " to ".join(dict.fromkeys([str(table["n"].min()), str(table["n"].max())]))
    wide = table.pivot_table(index=["data set", "method"], columns="ratio", values="cell", aggfunc="; ".join, sort=False)
    wide = wide.sort_index(axis=1, key=lambda ratios: pd.to_numeric(ratios, errors="coerce"))
    style = wide.style.format(na_rep="--").format_index(escape="latex", axis=0).format_index(escape="latex", axis=1)
    head = (
        f"% Top-1 {measure} in per cent, last epoch, by imbalance ratio: mean and standard deviation (n - 1) over {seeds}",
        "% seeds. Bold: significantly better than every other row, each by its 95 % interval. Needs booktabs, and XeLaTeX",
        "% or LuaLaTeX where names have letters that pdfLaTeX does not print.",
    )
    return "\n".join([*head, style.to_latex(hrules=True, multirow_align="naive")])
