#!/usr/bin/env python3
"""Time of a MetaSAug step against a plain cross-entropy step, in turn in one run: medians and spread.

  python3 benchmarks/meta_step.py [--batch-size 100] [--num_classes 100] [--repeats 10] [--json FILE]

The machine may be shared: the ratio of the two medians is the figure to compare. In units of a forward pass the steps
cost 11 and 3.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from errors import run_main
from loss import EstimatorCV, MetaSAugLDAM
from meta_step import meta_step
from options import Parser, choose_device, require
from training import make_model


def make_steps(device: torch.device, batch_size: int, num_classes: int, arch: str) -> dict[str, Callable[[], object]]:
    """Return the two steps, each on its own network, on the same random batches."""
    generator = torch.Generator().manual_seed(0)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(batch_size, 3, 32, 32, generator=generator).to(device)
        y = torch.randint(0, num_classes, (batch_size,), generator=generator).to(device)
        return x.contiguous(memory_format=torch.channels_last), y

    train, meta = batch(), batch()
    models = [make_model(arch, num_classes).to(device).to(memory_format=torch.channels_last).train() for _ in range(2)]
    optimizers = [torch.optim.SGD(m.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4) for m in models]
    criterion = MetaSAugLDAM([500 - 4 * k for k in range(num_classes)]).to(device)
    estimator = EstimatorCV(64, num_classes).to(device)

    def cross_entropy() -> None:
        loss = F.cross_entropy(models[0](train[0])[1], train[1])
        optimizers[0].zero_grad(set_to_none=True)
        loss.backward()
        optimizers[0].step()

    def metasaug() -> None:
        meta_step(models[1], criterion, estimator, optimizers[1], train, meta, ratio=0.6, virtual_lr=0.01, meta_lr=0.1)

    return {"cross-entropy step": cross_entropy, "MetaSAug step": metasaug}


def measure(step: Callable[[], object], device: torch.device) -> float:
    """Return the seconds one call takes, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main() -> None:
    """Measure in turn, print a table, write the rows."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--num_classes", type=int, default=100)
    parser.add_argument("--arch", default="resnet32")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--no-cuda", action="store_true")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    args = parser.parse_args()
    for flag, value in (("--batch-size", args.batch_size), ("--repeats", args.repeats)):
        require(value >= 1, flag, value, "at least 1")
    require(2 <= args.num_classes <= 124, "--num_classes", args.num_classes, "from 2 to 124")
    device = choose_device(0, args.no_cuda)
    steps = make_steps(device, args.batch_size, args.num_classes, args.arch)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(args.repeats + 2):
        for name, step in steps.items():
            seconds = measure(step, device)
            if repeat >= 2:  # the first two warm up
                times[name].append(seconds)
    baseline = statistics.median(times["cross-entropy step"])
    print(f"{args.arch}, batch {args.batch_size}, {args.num_classes} classes, {device}, {torch.get_num_threads()} threads, "
          f"torch {torch.__version__}")  # fmt: skip
    print(f"{'':20}{'median s':>10}{'min s':>10}{'max s':>10}{'ratio':>8}")
    rows = []
    for name, values in times.items():
        median = statistics.median(values)
        ratio = median / baseline
        print(f"{name:20}{median:10.4f}{min(values):10.4f}{max(values):10.4f}{ratio:8.2f}")
        rows.append({"name": name, "seconds": median, "min": min(values), "max": max(values), "ratio_to_ce": ratio})
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    run_main(main)
