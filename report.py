#!/usr/bin/env python3
"""Compare finished runs: which is better, for which classes, and can it be chance. Writes a page that one can send by mail.

  python3 report.py demo_runs/checkpoint/ours/digits --out demo_runs
  python3 report.py checkpoint/ours/LDAM checkpoint/ours/CE --latex --figures
A run is named by the <save_name>_summary.json that training writes; a folder stands for all runs in it. Prints the verdict
and the table of runs; writes report.html, one file without others beside it, runs.csv, means.csv and classes.csv.
"""

from __future__ import annotations

if __name__ == "__main__":
    from harness.before_loading import prepare_process

    prepare_process("jinja2", "pandas", "altair", "vl_convert", help_of="harness.command_flags:ReportFlags")

import os
import time
from pathlib import Path

import pandas as pd

from harness.command_flags import ReportFlags
from harness.errors import UserError, run_main
from harness.files import make_folder, write_whole
from harness.flag_parser import parse_flags
from harness.text import say
from reporting.finished_runs import Found, find_runs
from reporting.groups import long_tails
from reporting.page import Page, render, write_figures
from reporting.sections import Section, Table, sections
from reporting.tables import (
    classes_table,
    latex_table,
    markdown,
    means_table,
    published_table,
    runs_table,
    shown_means,
    shown_runs,
    write_csv,
)
from reporting.verdict import Compared, compare

PAGE, LATEX_TABLE, FIGURE_FOLDER = "report.html", "table.tex", "figures"
TABLES = ("runs.csv", "means.csv", "classes.csv")


def check_new(out: Path, more: list[str]) -> None:
    """Refuse to replace a report, or what a user has under the names of its files."""
    for path in (out / name for name in (PAGE, *TABLES, *more)):
        if os.path.isfile(path) or (os.path.isdir(path) and any(path.iterdir())):
            raise UserError(f"{path} exists already: give --force to replace it, or another --out")


def compare_all(found: Found, baseline: str | None) -> list[Compared]:
    """Return what is compared on each long-tailed set."""
    sets = long_tails(found.runs)
    known = dict.fromkeys(name for groups in sets.values() for name in groups)
    if baseline is not None and baseline not in known:
        raise UserError(
            f"--baseline {baseline}: no such group; there are {', '.join(f'“{name}”' for name in known)}"
        )
    return [compare(title, groups, baseline) for title, groups in sets.items()]


def sections_of_all(found: Found, sets: list[Compared]) -> list[Section]:
    """Return the sections of the page that are not about one set."""
    more = []
    published = published_table(sets)
    if len(published):
        words = "Top-1 error in %. Ours: last epoch of runs with the published length and settings."
        more.append(Section("Against the publication", [words, Table("Published and ours", published)]))
    if found.left_out:
        rows = pd.DataFrame(found.left_out, columns=["name", "file", "why"])
        more.append(Section("Left out, and why", [Table("Runs and files", rows)]))
    return more


def main() -> None:
    """Read the runs, write the report, print the verdict and the tables."""
    args = parse_flags(ReportFlags)
    more = [name for name, wanted in ((LATEX_TABLE, args.latex), (FIGURE_FOLDER, args.figures)) if wanted]
    found = find_runs(args.runs)
    if not args.force:
        check_new(args.out, more)
    sets = compare_all(found, args.baseline)
    runs = len(found.runs)
    title = f"Report of {runs} run{'s' * (runs != 1)}" + (f" on {len(sets)} data sets" if len(sets) > 1 else "")
    made = time.strftime("Made on %Y-%m-%d at %H:%M by report.py of MetaSAug.")
    page = Page(title, made, [(one, sections(one)) for one in sets], sections_of_all(found, sets))
    make_folder(args.out)
    write_whole(args.out / PAGE, render(page).encode())  # first, as it takes the longest
    for name, table in zip(TABLES, (runs_table(sets), means_table(sets), classes_table(sets)), strict=True):
        write_csv(table, args.out / name)
    if args.latex:
        write_whole(args.out / LATEX_TABLE, latex_table(sets, args.latex).encode())
    if args.figures:
        write_figures(page, args.out / FIGURE_FOLDER)
    for one in sets:
        say(*[one.title] * (len(sets) > 1), *(f"- {sentence}" for sentence in one.sentences), "")
        say(*markdown(shown_means(one.groups)), "", *markdown(shown_runs(one)), "")
    say(*(f"note: left out {one.name}: {one.reason}" for one in found.left_out))
    say(f"wrote {args.out / PAGE}; beside it {', '.join([*TABLES, *more])}")


if __name__ == "__main__":
    run_main(main)
