#!/usr/bin/env python3
"""Compare finished runs: a table, and a plot of the accuracy of each class beside its number of training images.

  python3 report.py demo_runs/checkpoint/ours/digits/*_summary.json --out demo_runs

prints the table and writes report.md and accuracy.png into the folder of --out. A run is named by the
<save_name>_summary.json that training writes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from errors import UserError, run_main
from metrics import SHOTS, percent
from options import Parser

COLUMNS = ("run", "epoch", "overall", *SHOTS)


def main() -> None:
    """Read the summaries, print the table, write report.md and accuracy.png."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("summaries", nargs="+", type=Path, metavar="SUMMARY", help="<save_name>_summary.json of a run")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder to write to (default: %(default)s)")
    args = parser.parse_args()
    runs = dict(zip(run_names(args.summaries), map(read_summary, args.summaries), strict=True))
    table = markdown_table(runs)
    print(table)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "report.md").write_text(table + "\n\n![accuracy per class](accuracy.png)\n", encoding="utf-8")
        plot_classes(runs, args.out / "accuracy.png")
    except OSError as error:
        raise UserError(f"--out {args.out} cannot be written ({error.strerror})") from error
    print(f"wrote {args.out / 'report.md'} and {args.out / 'accuracy.png'}")


def run_names(paths: Sequence[Path]) -> list[str]:
    """Return the save_name of each summary, the whole path where two have the same."""
    short = [path.name.removesuffix("_summary.json") for path in paths]
    return [name if short.count(name) == 1 else str(path) for name, path in zip(short, paths, strict=True)]


def read_summary(path: Path) -> dict[str, Any]:
    """Read a summary.

    Raises
    ------
    UserError
        If the file is missing or not a summary.
    """
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a run's summary: name a <save_name>_summary.json ({error})") from error
    if not isinstance(summary, dict) or not {"best", "last", "cls_num_list"} <= summary.keys():
        raise UserError(f"{path} is not a run's summary: name a <save_name>_summary.json")
    return summary


def markdown_table(runs: dict[str, dict[str, Any]]) -> str:
    """Return accuracies in per cent, the last and the best epoch of each run; groups are means over classes."""
    rows: list[tuple[str, ...]] = [COLUMNS]
    for name, summary in runs.items():
        for which in ("last", "best"):
            outcome = summary[which]
            values = [outcome[key] for key in ("acc1", *SHOTS)]
            cells = ("-" if value is None else percent(value) for value in values)
            rows.append((name, f"{which} ({outcome['epoch']})", *cells))
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    rule = "| " + " | ".join("-" * w for w in widths) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def plot_classes(runs: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw the accuracy of each class in the last epoch, above the number of training images of the class."""
    from matplotlib.figure import Figure

    counts: Sequence[int] = next(iter(runs.values()))["cls_num_list"]
    figure = Figure(figsize=(8, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    width = 0.8 / len(runs)
    for i, (name, summary) in enumerate(runs.items()):
        values = [0 if v is None else v for v in summary["last"]["per_class"]]
        places = [k + (i - (len(runs) - 1) / 2) * width for k in range(len(values))]
        upper.bar(places, values, width, label=name)
    upper.set_ylabel("test accuracy, %")
    upper.set_ylim(0, 105)
    figure.legend(loc="outside upper center", ncols=len(runs))
    lower.bar(range(len(counts)), counts, color="0.6")
    lower.set_yscale("log")
    lower.set_ylabel("training images")
    lower.set_xlabel("class")
    if len(counts) <= 20:
        lower.set_xticks(range(len(counts)))
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    run_main(main)
