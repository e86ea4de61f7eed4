#!/usr/bin/env python3
"""Compare finished runs: tables and figures, as markdown and as an HTML page that opens without a server.

  python3 report.py demo_runs/checkpoint/ours/digits --out demo_runs
  python3 report.py checkpoint/ours/LDAM checkpoint/ours/CE

A run is named by the <save_name>_summary.json that training writes; a folder stands for all runs in it. Prints the table of
runs, and with several seeds the means; writes report.md, report.html, runs.csv and PNG files into the folder of --out.
"""

from __future__ import annotations

if __name__ == "__main__":
    from harness.before_loading import prepare_process
    prepare_process()

import argparse
import csv
import html
import os
import re
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UserError, run_main
from harness.files import replacing, writing
from harness.flags import Parser
from harness.metrics import FEW, MANY, PER_CLASS_MEAN
from harness.text import WRITTEN_OUT, printable, say
from reporting.drawn_names import replaced_names
from reporting.finished_runs import (
    MOST_CLASSES,
    FinishedRun,
    Table,
    figures_of,
    group_table,
    grouped,
    long_table,
    markdown,
    published_tables,
    run_table,
)
from reporting.found_runs import find_runs
from reporting.lam_sweeps import find_sweeps, sweep_table, write_choices
from reporting.plots import draw_all

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; color: #222; }
p, figcaption { overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.wide { overflow-x: auto; } summary { margin: 1rem 0; cursor: pointer; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .6rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; } img { width: 100%; min-width: 34rem; height: auto; } figcaption { color: #555; font-size: .9rem; }
"""
EXPLAINED = (
    f"Test accuracy in per cent. many, medium, few: mean over the classes with more than {MANY}, {FEW} to {MANY}, and fewer "
    f"than {FEW} training images. ECE: expected calibration error in per cent, smaller is better. The best epoch, of those "
    "of stage 2 if there are any, is chosen on the test set unless --select_on heldout is given, so compare the last ones."
)
FOLDED = 12  # longer tables open at a click
Section = tuple[str, str, list[tuple[str, Table]]]  # heading, text, titled tables


def main() -> None:
    """Read the runs, print the tables, write the report."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="<save_name>_summary.json of a run, or a folder")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="replace a report that is in the folder of --out")
    args = parser.parse_args()
    page = args.out / "report.html"
    if os.path.exists(page) and not args.force:
        raise UserError(f"{page} is there already: give --force to replace it, or another --out")
    found = find_runs(args.runs)
    runs = found.runs
    groups = grouped(runs)
    sections = make_sections(runs, groups)
    shown = [*("\n".join(markdown(table)) for _, table in sections[0][2]), *remarks(runs)]
    say(*"\n\n".join(shown).split("\n"))
    sweeps = find_sweeps(runs)
    for sweep in sweeps:
        say("", f"λ on held-out training images, {sweep.title}", *markdown(sweep_table(sweep)))
    with writing(args.out):
        args.out.mkdir(parents=True, exist_ok=True)
    figures = draw_all(runs, args.out)
    notes = write_choices(sweeps, args.out / "chosen_lam.csv")
    for end, page in (("md", markdown_page), ("html", html_page)):
        with replacing(args.out / f"report.{end}") as part:
            part.write_text(page(sections, figures), encoding="utf-8")
    with (
        replacing(args.out / "runs.csv") as part,
        open(part, "w", encoding="utf-8", errors=WRITTEN_OUT, newline="") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows(long_table(runs))
    names = ", ".join(name for name, _ in figures)
    say(*notes, *(f"note: left out {one.name}: {one.reason}" for one in found.left_out))
    say(f"wrote {args.out / 'report.html'}, report.md, runs.csv and {names} beside it")


def remarks(runs: Sequence[FinishedRun]) -> list[str]:
    """Return sentences about what only some runs have."""
    found = []
    if PER_CLASS_MEAN in figures_of(runs):
        found.append("Mean over classes: of the classes that have test images, where some have more of them than others.")
    gaps = [f"{run.untested} of {len(run.class_names)} in {printable(run.name)}" for run in runs if run.untested]
    if gaps:
        found.append(f"Classes without test images, which are in none of the figures: {', '.join(gaps)}.")
    plain = [printable(run.name) for run in runs if run.is_plain("last")]
    if plain:
        found.append(f"Without a stage 2, so plain cross-entropy without MetaSAug: {', '.join(plain)}.")
    large = [printable(run.name) for run in runs if run.tested and len(run.summary["cls_num_list"]) > MOST_CLASSES]
    if large:
        found.append(f"Without a confusion matrix, for they have more than {MOST_CLASSES} classes: {', '.join(large)}.")
    return [*found, *replaced_names(runs)]


def make_sections(runs: Sequence[FinishedRun], groups: dict[str, list[FinishedRun]]) -> list[Section]:
    """Return the tables of the report, those that have something to show."""
    tables = [("Each run", run_table(runs))]
    if any(len(group) > 1 for group in groups.values()):
        tables.insert(0, ("Last epoch, mean ± standard deviation over seeds", group_table(groups)))
    sections: list[Section] = [("Runs", " ".join([EXPLAINED, *remarks(runs)]), tables)]
    published = published_tables(runs)
    if any("".join(table[2][1:]) for table in published.values()):
        text = "Top-1 error in per cent. Ours is that of the last epoch of runs at the published length and settings."
        sections.append(("Against the publication", text, list(published.items())))
    sweeps = find_sweeps(runs)
    if sweeps:
        text = "Chosen: the highest accuracy on held-out training images, mean over classes, last epoch; see chosen_lam.csv."
        sections.append(("λ chosen without the test set", text, [(sweep.title, sweep_table(sweep)) for sweep in sweeps]))
    return sections


def escaped(text: str) -> str:
    """Return a text as markdown shows it letter by letter."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&!@^])", r"\\\1", printable(text))


def markdown_page(sections: Sequence[Section], figures: Sequence[tuple[str, str]]) -> str:
    """Return the report as markdown."""
    parts = ["# Report"]
    for heading, text, tables in sections:
        parts += [f"## {heading}", escaped(text)]
        for title, table in tables:
            parts += [*([f"**{escaped(title)}**"] if title else []), "\n".join(markdown(table, escaped))]
    parts.append("## Figures")
    for name, caption in figures:
        words = escaped(caption)
        parts.append(f"{words}\n\n![{words}]({name})")
    return "\n\n".join(parts) + "\n"


def html_table(title: str, table: Table) -> str:
    """Return a table that scrolls sideways where the page is narrow, folded if it is long."""
    head, *rows = [[html.escape(printable(cell)) for cell in row] for row in table]
    lines = ["<tr><th>" + "</th><th>".join(head) + "</th></tr>"]
    lines += ["<tr><td>" + "</td><td>".join(row) + "</td></tr>" for row in rows]
    words = f"<b>{html.escape(printable(title))}</b>"
    inner = '<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>"
    if len(rows) > FOLDED:
        return f"<details><summary>{words} ({len(rows)} lines)</summary>\n{inner}\n</details>"
    return f"<p>{words}</p>\n{inner}" if title else inner


def html_page(sections: Sequence[Section], figures: Sequence[tuple[str, str]]) -> str:
    """Return the report as a page; the PNG files lie beside it."""
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Report</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f"<style>{STYLE}</style></head><body>\n<h1>Report</h1>",
    ]
    for heading, text, tables in sections:
        parts.append(f"<h2>{html.escape(heading)}</h2>\n<p>{html.escape(text)}</p>")
        parts += [html_table(title, table) for title, table in tables]
    parts.append("<h2>Figures</h2>")
    for name, caption in figures:
        words = html.escape(printable(caption))
        file = html.escape(name)
        image = f'<div class="wide"><a href="{file}"><img src="{file}" alt="{words}"></a></div>'
        parts.append(f"<figure>{image}<figcaption>{words}</figcaption></figure>")
    return "\n".join([*parts, "</body></html>"]) + "\n"


if __name__ == "__main__":
    run_main(main)
