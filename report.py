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

    prepare_process("jinja2", "vl_convert", help_of="harness.command_flags:ReportFlags")

import os
import sys
import time

from harness.command_flags import ReportFlags
from harness.errors import UserError, run_main
from harness.files import writing
from harness.flag_parser import parse_flags
from harness.progress import progress
from harness.text import printable, say, shown_names
from reporting.answers import read_answer
from reporting.finished_runs import grouped, long_tails, markdown, published_tables, run_table
from reporting.found_runs import Found, find_runs
from reporting.page import Block, Page
from reporting.page_contents import Section, make_section
from reporting.page_tables import PageTable, from_text, from_words, overview
from reporting.phrases import quoted
from reporting.report_files import TABLES, write_figures, write_latex, write_page, write_tables

PAGE, LATEX_TABLE, FIGURE_FOLDER = "report.html", "table.tex", "figures"


def main() -> None:
    """Read the runs, print the verdict, write the report."""
    options = parse_flags(ReportFlags)
    if not options.force:
        check_new(options)
    found = find_runs(options.runs)
    settings, notes = make(found, options)
    print_report(found, settings, notes, options)


def check_new(options: ReportFlags) -> None:
    """Refuse to replace a report, or what a user has under the names of its files."""
    names = [PAGE, *TABLES, *([LATEX_TABLE] if options.latex is not None else [])]
    there = [path for path in (options.out / name for name in names) if os.path.isfile(path)]
    figures = options.out / FIGURE_FOLDER
    if options.figures and os.path.isdir(figures) and any(figures.iterdir()):
        there.append(figures)
    if there:
        raise UserError(f"{there[0]} is there already: give --force to replace it, or another --out")


def make(found: Found, options: ReportFlags) -> tuple[list[Section], list[str]]:
    """Write the report; return what its page shows, and notes to print."""
    sets = {title: grouped(own) for title, own in long_tails(found.runs).items()}
    known = [name for groups in sets.values() for name in shown_names(groups)]
    if options.baseline is not None and options.baseline not in known:
        named = ", ".join(map(quoted, known))
        raise UserError(f"--baseline {options.baseline}: there is no such group; there are {named}")
    shown = progress(enumerate(sets.items()), len(sets), "comparing", file=sys.stderr)
    settings = [make_section(k, title, groups, options.baseline) for k, (title, groups) in shown]
    for one, groups in zip(settings, sets.values(), strict=True):
        one.verdict = read_answer([run.path for own in groups.values() for run in own]) or one.verdict
    with writing(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    write_page(page_of(found, settings), options.out / PAGE)  # first, as it takes the longest
    notes = [f"note: --baseline {options.baseline} is the highest group of {one.title}, which is compared with {one.pair[1]}"
             for one in settings if one.pair and one.pair[0] == options.baseline]  # fmt: skip
    write_tables(sets, options.out)
    if options.latex is not None:
        write_latex(found.runs, options.latex, options.out / LATEX_TABLE)
    if options.figures:
        notes += write_figures(settings, options.out / FIGURE_FOLDER)
    return settings, notes


def page_of(found: Found, settings: list[Section]) -> Page:
    """Return the page: the settings, what is compared beyond one of them, and what is left out."""
    of = settings[0].title if len(settings) == 1 else f"{len(settings)} data sets"
    runs = len(found.runs)
    title = f"{runs} run{'s' * (runs != 1)} on {of}"
    blocks = []
    published = published_tables(found.runs)
    if any("".join(table[2][1:]) for table in published.values()):
        text = "Top-1 error in per cent. Ours is that of the last epoch of runs at the published length and settings."
        tables = [from_text(name, table) for name, table in published.items() if "".join(table[2][1:])]
        blocks.append(Block("published", "Against the publication", text, tables))
    if found.left_out:
        rows = [[one.name, str(one.path), one.reason] for one in found.left_out]
        blocks.append(
            Block("left-out", "Left out, and why", "", [from_words("Runs and files", ["name", "file", "why"], rows)])
        )
    made = time.strftime("Made on %Y-%m-%d at %H:%M by report.py of MetaSAug.")
    foot = "This page is complete in one file and needs no network."
    several = overview({one.title: one.means for one in settings}) if len(settings) > 1 else None
    return Page(printable(title), made, settings, blocks, foot, several)


def print_report(found: Found, settings: list[Section], notes: list[str], options: ReportFlags) -> None:
    """Print the verdict, the tables, what is left out, and what was written where."""
    for setting in settings:
        if len(settings) > 1:
            say(setting.title)
        say(*(f"- {sentence}" for sentence in setting.verdict), "", *markdown(as_text(setting.means)), "")
    say(*markdown(run_table(found.runs)))
    say(*notes, *(printable(f"note: left out {one.name}: {one.reason}") for one in found.left_out))
    more = [name for name, made in ((LATEX_TABLE, options.latex), (f"{FIGURE_FOLDER}/", options.figures)) if made]
    say(f"wrote {options.out / PAGE}; beside it {', '.join([*TABLES, *more])}")


def as_text(table: PageTable) -> list[list[str]]:
    """Return a table of the page as text."""
    return [table.heads, *([cell.text for cell in row] for row in table.rows)]


if __name__ == "__main__":
    run_main(main)
