#!/usr/bin/env python3
"""Time and memory of a MetaSAug step, against cross-entropy and against a straightforward version of the published step.

  python3 benchmarks/meta_step.py [--batch-size 100] [--num_classes 100] [--repeats 3] [--compile] [--json FILE]
  python3 benchmarks/meta_step.py --grow          the table over batch sizes and class counts instead

All versions take turns in one process, and medians are compared: the machine may be shared. All MetaSAug versions include
getting the meta batch. Memory is what a fresh process takes at most for three steps beyond what it had after its imports; on
CUDA what three steps allocate at most. In units of a forward pass a MetaSAug step is 10, one whose virtual step is that of
the head alone (metasaug-head) 4, and a plain one 3. What the relative rule for the covariances costs on top stands in a line
of its own; a random batch holds more classes than one of a long tail, for each of which it pays.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import in_fresh_process, measure, peak_mb, write_rows
from benchmarks.measured_steps import PRECISIONS, UNITS, Ours, Step, make_step
from benchmarks.step_parts import forward_gflop, peak_rates, time_parts, time_rule
from harness.devices import choose_device
from harness.errors import run_main
from harness.flag_parser import Parser, require
from passes import lacks_bf16


def in_turn(steps: dict[str, Step], device: torch.device, repeats: int, counted: int = 2) -> dict[str, list[float]]:
    """Return the times of each step: they take turns of one step that does not count and `counted` that do.

    It pays for the memory that the version before it gave back to the system; in a training there is no other version.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            step()
            times[name] += [measure(step, device) for _ in range(counted)]
    return times


def memory(name: str, args: argparse.Namespace, device: torch.device) -> float | None:
    """Return the peak memory of a step in MB: of the CUDA device, or of a fresh process on the CPU.

    None on other devices, and for compiled passes, whose compilation would be measured instead.
    """
    if "compiled" in name or device.type not in ("cpu", "cuda"):
        return None
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        step = make_step(name, device, args.batch_size, args.num_classes, args.arch)
        torch.cuda.reset_peak_memory_stats(device)
        for _ in range(3):
            step()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    sizes = [f"--batch-size={args.batch_size}", f"--num_classes={args.num_classes}", f"--arch={args.arch}"]
    found: float = in_fresh_process(*sizes, "--child", name)["peak_mb"]
    return found


def child(name: str, args: argparse.Namespace) -> None:
    """Take three steps in this process and print what they took at most."""
    device = torch.device("cpu")
    make_step(name, device, 2, 2, "resnet8")()  # loads all libraries
    bare = peak_mb()
    step = make_step(name, device, args.batch_size, args.num_classes, args.arch)
    for _ in range(3):
        step()
    print(json.dumps({"peak_mb": peak_mb() - bare}))


def compare(args: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Measure all versions, print the table, the parts and the share of the machine's peak; return the rows."""
    suffixes = ["", " compiled"] if args.compile else [""]
    precisions = ["float32"] if args.no_bf16 or lacks_bf16(device) else list(PRECISIONS)
    names = [f"{kind} {precision}{end}" for end in suffixes for kind in UNITS for precision in precisions]
    # Smallest memory right after the largest: a step that follows the published one pays for memory it gave back.
    order = ("published", *sorted(names, key=lambda name: ("metasaug" in name, "float32" in name)))
    steps = {name: make_step(name, device, args.batch_size, args.num_classes, args.arch) for name in order}
    repeats = args.repeats or 3
    times = in_turn(steps, device, repeats)
    medians = {name: statistics.median(values) for name, values in times.items()}
    peaks = {name: memory(name, args, device) for name in steps}
    print(f"{'':28}{'median s':>10}{'min':>8}{'max':>8}{'to plain':>10}{'published':>11}{'MB':>8}")
    rows = []
    for name in ("published", *names):
        values = times[name]
        plain = medians.get(" ".join(["plain", *name.split()[1:]]), medians["plain float32"])
        row = {
            "name": name,
            "seconds": medians[name],
            "min": min(values),
            "max": max(values),
            "baseline_seconds": medians["published"],
            "speedup": medians["published"] / medians[name],
            "ratio_to_ce": medians[name] / plain,
            "peak_mb": peaks[name],
            "baseline_peak_mb": peaks["published"],
        }
        shown = "-" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
        print(f"{name:28}{row['seconds']:10.4f}{row['min']:8.4f}{row['max']:8.4f}{row['ratio_to_ce']:10.2f}"
              f"{row['speedup']:11.2f}{shown:>8}")  # fmt: skip
        rows.append(row)
    if len(precisions) == 1:
        print("bf16 left out" + (": this device has no bfloat16 arithmetic" if lacks_bf16(device) else ""))
    del steps
    if device.type == "cpu":
        found = peak_rates(2 * repeats + 2)
        unit = forward_gflop(Ours("plain", device, args.batch_size, args.num_classes, args.arch))
        shares = {name: UNITS[name.split()[0]] * unit / medians[name] / max(found.values()) for name in names}
        print("float32 GFLOP/s: " + ", ".join(f"{name} {rate:.0f}" for name, rate in found.items())
              + "; shares of the larger: " + ", ".join(f"{name} {share:.2f}" for name, share in shares.items()))  # fmt: skip
    return rows + parts_of(args, device, repeats, medians)


def parts_of(
    args: argparse.Namespace, device: torch.device, repeats: int, medians: dict[str, float]
) -> list[dict[str, Any]]:
    """Measure the parts of both MetaSAug steps and the relative rule beside them, print and return them as rows."""
    rows: list[dict[str, Any]] = []
    whole = {kind: medians[f"{kind} float32"] for kind in ("metasaug", "metasaug-head")}
    for kind in whole:
        parts = time_parts(Ours(kind, device, args.batch_size, args.num_classes, args.arch), device, repeats)
        print(f"parts of {kind} float32: " + ", ".join(f"{name} {seconds:.3f}" for name, seconds in parts.items()))
        rows.append({"name": f"parts of {kind} float32", "parts": parts})
    seconds = time_rule(Ours("metasaug-head", device, args.batch_size, args.num_classes, args.arch), device, repeats)
    shares = {kind: seconds / median for kind, median in whole.items()}
    print(f"relative rule: {seconds:.4f} s, " + ", ".join(f"{share:.3f} of {kind}" for kind, share in shares.items()))
    return [*rows, {"name": "relative rule", "seconds": seconds, "shares": shares}]


def grow(args: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Measure our step over batch sizes and class counts, print the table, return the rows."""
    rows = []
    print(f"{'classes':>8}{'batch':>7}{'metasaug s':>12}{'plain s':>10}{'ratio':>7}")
    for num_classes in (10, 100, 1000):
        for batch_size in (50, 100, 200, 400):
            steps: dict[str, Step] = {
                kind: Ours(kind, device, batch_size, num_classes, args.arch) for kind in ("metasaug", "plain")
            }
            times = in_turn(steps, device, args.repeats or 1, 1)
            ours, plain = (statistics.median(times[kind]) for kind in ("metasaug", "plain"))
            print(f"{num_classes:8}{batch_size:7}{ours:12.3f}{plain:10.3f}{ours / plain:7.2f}", flush=True)
            name = f"metasaug float32, C {num_classes}, N {batch_size}"
            rows.append({"name": name, "seconds": ours, "ce_seconds": plain, "ratio_to_ce": ours / plain})
    return rows


def main() -> None:
    """Measure, print, write the rows."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--num_classes", type=int, default=100)
    parser.add_argument("--arch", default="resnet32")
    parser.add_argument("--repeats", type=int, help="turns of each version (default: 3; --grow: 1)")
    parser.add_argument("--grow", action="store_true", help="the table over batch sizes and class counts")
    parser.add_argument("--compile", action="store_true", help="also the compiled passes, which take minutes to compile")
    parser.add_argument("--no_bf16", action="store_true", help="without the steps in bf16, as where the device lacks it")
    parser.add_argument("--no-cuda", action="store_true")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    require(args.batch_size >= 1, "--batch-size", args.batch_size, "at least 1")
    require(args.repeats is None or args.repeats >= 1, "--repeats", args.repeats, "at least 1")
    require(args.num_classes >= 2, "--num_classes", args.num_classes, "at least 2")
    if args.child:
        child(args.child, args)
        return
    device = choose_device(0, args.no_cuda)
    where = f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    sizes = "" if args.grow else f"batch {args.batch_size}, {args.num_classes} classes, "
    print(f"{args.arch}, {sizes}{where}")
    write_rows(grow(args, device) if args.grow else compare(args, device), args.json)


if __name__ == "__main__":
    run_main(main)
