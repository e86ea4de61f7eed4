#!/usr/bin/env python3
"""Time and memory against a straightforward version of the published code: of a step, of the linear head, of a batch.

  python3 benchmarks/compare.py [step] [head] [pipeline] [--rounds 3] [--batch_size N] [--num_classes C] [--json FILE]

step: ResNet-32 on images of CIFAR's size, meta batch included; head: a linear head on 2,048 features; pipeline: an augmented
batch. Each version is measured by torch.utils.benchmark in a process of its own, in turns; medians are compared, as the
machine may be shared. Memory is what the process (on CUDA: the device) took at most beyond what it had after its imports.
The published head needs 3.7 GB at the default sizes, and seven tensors (N, C, 2048) at others.
"""

from __future__ import annotations

import json
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.versions import VERSIONS, Sizes
from harness.devices import choose_device
from harness.errors import run_main
from harness.flag_parser import Parser, require
from harness.machine import processor

USUAL = {"step": (100, 100), "head": (64, 1000), "pipeline": (100, 100)}  # batch size, classes


def peak_mb(device: torch.device) -> float:
    """Return the most memory that this process, or its CUDA device, has had so far, in MB (10^6 bytes)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status").read_text()  # ru_maxrss begins with the size of the process that started this one
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def measure(case: str, name: str, sizes: Sizes, seconds: float) -> dict[str, Any]:
    """Return the times of a version in this process, and its memory."""
    from torch.utils import benchmark  # logs a line where there is no GPU

    VERSIONS[case][name](Sizes(2, 2, "resnet8", sizes.device))()  # loads all libraries
    before = peak_mb(sizes.device)
    step = VERSIONS[case][name](sizes)
    found = benchmark.Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads())
    return {"times": found.blocked_autorange(min_run_time=seconds).times, "mb": peak_mb(sizes.device) - before}


def compare(case: str, sizes: Sizes, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Measure all versions of a case in turns, print a table, return its rows."""
    where = f"{processor()}, {torch.get_num_threads()} threads, {sizes.device.type}, torch {torch.__version__}"
    print(f"{case}: batch {sizes.batch_size}, {sizes.num_classes} classes, {where}")
    times: dict[str, list[float]] = {name: [] for name in VERSIONS[case]}
    peaks = dict.fromkeys(times, 0.0)
    for _ in range(rounds):
        for name in times:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                found = pool.submit(measure, case, name, sizes, seconds).result()
            times[name] += found["times"]
            peaks[name] = max(peaks[name], found["mb"])
    medians = {name: statistics.median(values) for name, values in times.items()}
    baseline = next(iter(medians.values()))
    print(f"{'':20}{'median s':>10}{'min':>9}{'max':>9}{'faster':>8}{'MB':>8}")
    for name, values in times.items():
        print(f"{name:20}{medians[name]:10.4f}{min(values):9.4f}{max(values):9.4f}{baseline / medians[name]:8.2f}"
              f"{peaks[name]:8.0f}", flush=True)  # fmt: skip
    return [{"case": case, "name": name, "seconds": medians[name], "mb": peaks[name]} for name in times]


def main() -> None:
    """Measure, print, write the rows."""
    parser = Parser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(VERSIONS)} (default: all)")
    parser.add_argument("--batch_size", type=int, help="default: 100, of the head 64")
    parser.add_argument("--num_classes", type=int, help="default: 100, of the head 1,000")
    parser.add_argument("--arch", default="resnet32", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="number of processes per version (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3, help="of each process, at least (default: %(default)s)")
    parser.add_argument("--no_cuda", action="store_true", help="use the CPU")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    args = parser.parse_args()
    require(args.rounds >= 1, "--rounds", args.rounds, "at least 1")
    require(set(args.cases) <= set(VERSIONS), "CASE", " ".join(args.cases), f"of {', '.join(VERSIONS)}")
    rows = []
    for case in args.cases or VERSIONS:
        device = choose_device(0, args.no_cuda or case != "step")
        sizes = Sizes(args.batch_size or USUAL[case][0], args.num_classes or USUAL[case][1], args.arch, device)
        rows += compare(case, sizes, args.rounds, args.seconds)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_main(main)
