#!/usr/bin/env python3
"""Seconds and file sizes of report.py, by the number of runs and of classes.

  python3 benchmarks/report_pages.py [--cells 10x100,100x100,1000x100,6x8142] [--images 10000] [--epochs 200] [--json FILE]

A cell is runs x classes: groups of up to five seeds, made up, with a log of so many epochs and predictions for about so many
test images, as many of every class. What is measured is the whole command, the start of Python and the reading of the runs
included. MB are 10^6 bytes; the tables are all files beside the page.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support.studies import WAYS, Way, write_study

from benchmarks.common import write_rows
from harness.errors import UserError, run_main
from harness.flag_parser import Parser, require

ROOT = Path(__file__).resolve().parent.parent
MOST_SEEDS = 5
PAGE = "report.html"


def parse_cells(words: str) -> list[tuple[int, int]]:
    """Return runs and classes of each cell."""
    try:
        cells = [(int(runs), int(classes)) for runs, classes in (word.split("x") for word in words.split(","))]
    except ValueError as error:
        raise UserError(f"--cells {words!r} makes no sense: it must be like 10x100,6x8142, runs x classes") from error
    for runs, classes in cells:
        require(min(runs, classes) >= 2, "--cells", words, "of at least 2 runs and 2 classes")
    return cells


def seeds_of(runs: int) -> int:
    """Return how many seeds each group of so many runs has: there are two groups or more."""
    return max(seeds for seeds in range(1, MOST_SEEDS + 1) if runs % seeds == 0 and runs // seeds >= 2)


def measure_cell(folder: Path, runs: int, classes: int, images: int, epochs: int) -> dict[str, Any]:
    """Write the runs of a cell, and report them."""
    seeds = seeds_of(runs)
    ways = [WAYS[k % len(WAYS)] for k in range(runs // seeds)]
    groups = [Way(f"{way.name}{k}", way.loss, way.stage2, way.many, way.few, (*way.flags, "--lr", f"{0.1 + k / 1000:g}"))
              for k, way in enumerate(ways)]  # fmt: skip
    names = [f"the class that is number {k}" for k in range(classes)]
    write_study(folder / "runs", classes, groups, seeds, names=names, test_per_class=-(-images // classes), epochs=epochs)
    began = time.perf_counter()
    command = [sys.executable, str(ROOT / "report.py"), "runs", "--out", "out"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if result.returncode != 0:
        raise RuntimeError(f"report.py ended with status {result.returncode}: {result.stderr.strip()[-2000:]}")
    sizes = {path.name: path.stat().st_size / 1e6 for path in (folder / "out").iterdir()}
    name, page = f"{runs} runs of {classes} classes", sizes.pop(PAGE)
    return {"name": name, "seconds": seconds, "page_mb": page, "tables_mb": sum(sizes.values())}


def main() -> None:
    """Measure, print, write the rows."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default="10x100,100x100,1000x100,6x8142")
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    args = parser.parse_args()
    cells = parse_cells(args.cells)
    require(args.images >= 1, "--images", args.images, "at least 1")
    require(args.epochs >= 2, "--epochs", args.epochs, "at least 2")
    print(f"about {args.images} test images, logs of {args.epochs} epochs")
    print(f"{'':28}{'s':>9}{'page MB':>10}{'tables MB':>11}")
    rows = []
    for runs, classes in cells:
        with tempfile.TemporaryDirectory() as folder:
            row = measure_cell(Path(folder), runs, classes, args.images, args.epochs)
        print(f"{row['name']:28}{row['seconds']:9.1f}{row['page_mb']:10.2f}{row['tables_mb']:11.2f}", flush=True)
        rows.append(row)
    write_rows(rows, args.json)


if __name__ == "__main__":
    run_main(main)
