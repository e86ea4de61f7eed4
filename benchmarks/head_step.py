#!/usr/bin/env python3
"""Time and memory of one MetaSAug step of the linear head, against a straightforward version of the published one.

  python3 benchmarks/head_step.py [--cells 1000x64 1000x256 8142x8 8142x32 8142x64] [--rounds 2] [--json FILE]

A cell is CxN: C classes, N training and N meta features of size A = 2048. Both versions run in turn, each time in a fresh
process; memory is what that process took at most beyond what it had after its imports. The straightforward version
(published_head.py) makes (N, C, A) tensors, up to seven at once; it is left out where eight would not fit into memory.
A round of all cells takes about two minutes, nearly all of it in the straightforward version, which needs 15 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import in_fresh_process, measure, peak_mb, write_rows
from harness.errors import UserError, run_main
from harness.flag_parser import Parser, require

CELLS = ("1000x64", "1000x256", "8142x8", "8142x32", "8142x64")
LR, META_LR, LAM_T = 3e-4, 0.1, 0.1


def make_step(version: str, classes: int, batch: int, size: int) -> Callable[[], object]:
    """Return one step of "ours" or "published" on random features, covariances already estimated from one batch."""
    torch.manual_seed(0)
    head = torch.nn.Linear(size, classes)
    counts = [max(1, round(1000 * 0.005 ** (k / classes))) for k in range(classes)]
    batches = [(torch.rand(batch, size), torch.randint(0, classes, (batch,))) for _ in range(2)]
    if version == "published":
        from benchmarks.published_head import PublishedHead

        published = PublishedHead(head.weight.detach(), head.bias.detach(), counts, LR, META_LR)
        return lambda: published.step(*batches[0], *batches[1], lam_t=LAM_T)
    from heads.head_step import head_step
    from loss import EstimatorCV, MetaSAugCE

    criterion, estimator = MetaSAugCE(counts), EstimatorCV(size, classes, diagonal=True)
    optimizer = torch.optim.SGD(head.parameters(), LR, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    return lambda: head_step(
        head, criterion, estimator, optimizer, *batches, lam_t=LAM_T, virtual_lr=LR, meta_lr=META_LR
    )  # fmt: skip


def child(version: str, classes: int, batch: int, size: int) -> None:
    """Measure one version in this process and print the figures as JSON."""
    make_step(version, 2, 2, 2)()  # imports all there is, and loads the libraries of matrix products
    bare = peak_mb()
    step = make_step(version, classes, batch, size)
    repeats = 1 if version == "published" else 15
    if version == "ours":
        for _ in range(5):  # also while the system clears the memory of the process before
            step()
    times = [measure(step, torch.device("cpu")) for _ in range(repeats)]
    print(json.dumps({"times": times, "peak_mb": peak_mb() - bare}))


def memory_mb() -> float:
    """Return the machine's memory in MB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6


def read_cell(text: str) -> tuple[int, int]:
    """Read "CxN"."""
    classes, _, batch = text.partition("x")
    if not (classes.isdigit() and batch.isdigit() and int(classes) > 1 and int(batch) > 0):
        raise UserError(f"--cells {text!r}: write classes and batch size as 1000x256")
    return int(classes), int(batch)


def measure_cell(classes: int, batch: int, size: int, rounds: int) -> dict[str, Any]:
    """Return the row of a cell, both versions in turn."""
    fits = 8 * 4e-6 * classes * batch * size < memory_mb()
    versions = ("published", "ours") if fits else ("ours",)
    times: dict[str, list[float]] = {version: [] for version in versions}
    peaks: dict[str, float] = dict.fromkeys(versions, 0.0)
    for _ in range(rounds):
        for version in versions:
            found = in_fresh_process("--child", version, str(classes), str(batch), str(size))
            times[version] += found["times"]
            peaks[version] = max(peaks[version], found["peak_mb"])
    seconds = statistics.median(times["ours"])
    baseline = statistics.median(times["published"]) if fits else None
    return {
        "name": f"C {classes}, N {batch}",
        "seconds": seconds,
        "min": min(times["ours"]),
        "max": max(times["ours"]),
        "baseline_seconds": baseline,
        "speedup": baseline / seconds if baseline else None,
        "peak_mb": peaks["ours"],
        "baseline_peak_mb": peaks.get("published"),
    }


def main() -> None:
    """Measure cell by cell, print a table, write the rows."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=CELLS, metavar="CxN")
    parser.add_argument("--size", type=int, default=2048, help="feature size A (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each version (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], *map(int, args.child[1:]))
        return
    require(args.rounds >= 1, "--rounds", args.rounds, "at least 1")
    require(args.size >= 1, "--size", args.size, "at least 1")
    cells = [read_cell(text) for text in args.cells]
    print(f"a head step, A {args.size}, float32, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'':16}{'s':>9}{'min':>9}{'max':>9}{'published s':>13}{'speedup':>9}{'MB':>8}{'published MB':>14}{'share':>7}")
    rows = []
    for classes, batch in cells:
        row = measure_cell(classes, batch, args.size, args.rounds)
        baseline, peak = row["baseline_seconds"], row["baseline_peak_mb"]
        compared = "" if baseline is None else f"{baseline:13.1f}{row['speedup']:9.0f}"
        memory = "does not fit" if peak is None else f"{peak:14.0f}{row['peak_mb'] / peak:7.3f}"
        print(f"{row['name']:16}{row['seconds']:9.4f}{row['min']:9.4f}{row['max']:9.4f}{compared or ' ' * 22}"
              f"{row['peak_mb']:8.0f}{memory:>14}", flush=True)  # fmt: skip
        rows.append(row)
    write_rows(rows, args.json)


if __name__ == "__main__":
    run_main(main)
