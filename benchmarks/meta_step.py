#!/usr/bin/env python3
"""Time and memory of a MetaSAug step, against cross-entropy and against a straightforward version of the published step.

  python3 benchmarks/meta_step.py [--batch-size 100] [--num_classes 100] [--repeats 3] [--compile] [--json FILE]
  python3 benchmarks/meta_step.py --grow          the table over batch sizes and class counts instead

All versions take turns in one process, and medians are compared: the machine may be shared. Both MetaSAug versions include
getting the meta batch. Memory is what a fresh process takes at most for three steps beyond what it had after its imports; on
CUDA what three steps allocate at most. In units of a forward pass a MetaSAug step is 10 and a plain one 3.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import meta_step
from benchmarks.common import in_fresh_process, measure, peak_mb, write_rows
from data_utils import meta_batches
from harness.devices import choose_device
from harness.errors import run_main
from harness.flags import Parser, require
from harness.image_sets import ImageSet
from loss import EstimatorCV, MetaSAugLDAM
from passes import lacks_bf16, make_passes
from resnet import make_model

Step = Callable[[], object]
PRECISIONS = {"float32": None, "bf16": torch.bfloat16}
WARM_UP = 2


def random_set(count: int, num_classes: int) -> ImageSet:
    """Return random images with every class among them."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count) % num_classes, [str(k) for k in range(num_classes)])


def class_counts(num_classes: int) -> list[int]:
    """Return the counts of a long tail of ratio 100."""
    return [max(1, round(500 * 0.01 ** (k / num_classes))) for k in range(num_classes)]


class Ours:
    """Our step on one network and random batches: MetaSAug, or plain cross-entropy."""

    def __init__(
        self, kind: str, device: torch.device, batch_size: int, num_classes: int, arch: str,
        amp: torch.dtype | None = None, compiled: bool = False,
    ) -> None:  # fmt: skip
        self.kind = kind
        images, self.target = random_batch(device, batch_size, num_classes)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.model = make_model(arch, num_classes).to(device).to(memory_format=torch.channels_last).train()
        self.passes = make_passes(self.model, amp, "default" if compiled else None)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=device.type != "mps"
        )
        self.criterion = MetaSAugLDAM(class_counts(num_classes)).to(device)
        self.estimator = EstimatorCV(64, num_classes).to(device)
        self.meta_stream = meta_batches(random_set(10 * num_classes, num_classes).to(device), batch_size, 0)

    def __call__(self) -> None:
        """Take one step."""
        if self.kind == "metasaug":
            meta_step.meta_step(
                self.model, self.criterion, self.estimator, self.optimizer, (self.images, self.target),
                next(self.meta_stream), lam_t=0.6, virtual_lr=0.01, meta_lr=0.1, passes=self.passes,
            )  # fmt: skip
            return
        loss = F.cross_entropy(self.passes.plain(self.images)[1], self.target)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def random_batch(device: torch.device, batch_size: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random images (N, 3, 32, 32) and target (N,)."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 3, 32, 32, generator=generator).to(device)
    return images, torch.randint(0, num_classes, (batch_size,), generator=generator).to(device)


def make_step(name: str, device: torch.device, batch_size: int, num_classes: int, arch: str) -> Step:
    """Return a step by its name: "published", or "metasaug" or "plain", a precision, and "compiled" or not."""
    if name != "published":
        kind, precision, *rest = name.split()
        return Ours(kind, device, batch_size, num_classes, arch, PRECISIONS[precision], "compiled" in rest)
    from benchmarks.published_pipeline import make_loader
    from benchmarks.published_step import PublishedStep

    batch = random_batch(device, batch_size, num_classes)
    published = PublishedStep(num_classes, class_counts(num_classes), 0.01, 0.1, int(arch[6:]) // 6, device=device)
    meta_set = random_set(10 * num_classes, num_classes)
    loader = make_loader(meta_set.pixels, meta_set.targets, batch_size)
    return lambda: published.step(*batch, loader, lam_t=0.6)


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


def peak_rates(tries: int) -> dict[str, float]:
    """Return the best float32 rates, in GFLOP/s, of a 2048 x 2048 matrix product and of a large 3x3 convolution.

    Two libraries compute them, and on some processors the one of matrix products leaves the wider vector units idle.
    """
    a, b = torch.randn(2, 2048, 2048).unbind()
    x = torch.randn(64, 128, 32, 32).contiguous(memory_format=torch.channels_last)
    w = torch.randn(128, 128, 3, 3).contiguous(memory_format=torch.channels_last)
    work: dict[str, tuple[float, Step]] = {
        "sgemm": (2 * 2048**3, lambda: a @ b),
        "convolution": (2 * 64 * 1024 * 128 * 128 * 9, lambda: F.conv2d(x, w, padding=1)),
    }
    best = {name: min(measure(step, torch.device("cpu")) for _ in range(tries)) for name, (_, step) in work.items()}
    return {name: flop / best[name] / 1e9 for name, (flop, _) in work.items()}


def forward_gflop(step: Ours) -> float:
    """Return the operations of convolutions and matrix products in a forward pass."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        step.model(step.images)
    return counter.get_total_flops() / 1e9


def time_parts(step: Ours, device: torch.device, repeats: int) -> dict[str, float]:
    """Return the median seconds of each part of a MetaSAug step."""
    found: dict[str, list[float]] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            kept: list[Any] = []
            found.setdefault(name, []).append(measure(lambda: kept.append(function(*args, **kwargs)), device))
            return kept[0]

        return call

    functions = {name: getattr(meta_step, name) for name in ("gradients", "virtual_step", "mixed_gradient")}
    names = {"shared": "forward: shared", "moved": "forward: meta", "directional": "directional pass"}
    for method, name in names.items():
        setattr(step.passes, method, timed(name, getattr(step.passes, method)))
    step.optimizer.step = timed("optimizer", step.optimizer.step)  # type: ignore[method-assign]
    step.estimator.update = timed("class statistics", step.estimator.update)  # type: ignore[method-assign]
    try:
        for name, function in functions.items():
            setattr(meta_step, name, timed(name, function))
        whole = [measure(step, device) for _ in range(repeats + WARM_UP)][WARM_UP:]
    finally:
        for name, function in functions.items():
            setattr(meta_step, name, function)
    backward = found.pop("gradients")
    found |= {"backward: virtual": backward[::2], "backward: meta": backward[1::2]}
    parts = {name: statistics.median(values[-repeats:]) for name, values in found.items()}
    rest = statistics.median(whole) - sum(parts.values())
    return {**parts, "backward: real, losses, meta batch": rest}


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
    names = [f"{kind} {precision}{end}" for end in suffixes for kind in ("metasaug", "plain") for precision in precisions]
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
        plain = medians.get(name.replace("metasaug", "plain"), medians["plain float32"])
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
    parts = time_parts(Ours("metasaug", device, args.batch_size, args.num_classes, args.arch), device, repeats)
    print("parts of a float32 step: " + ", ".join(f"{name} {seconds:.3f}" for name, seconds in parts.items()))
    if device.type == "cpu":
        found = peak_rates(2 * repeats + 2)
        unit = forward_gflop(Ours("plain", device, args.batch_size, args.num_classes, args.arch))
        work = {"metasaug": 10 * unit, "plain": 3 * unit}
        shares = {name: work[name.split()[0]] / medians[name] / max(found.values()) for name in names}
        print("float32 GFLOP/s: " + ", ".join(f"{name} {rate:.0f}" for name, rate in found.items())
              + "; shares of the larger: " + ", ".join(f"{name} {share:.2f}" for name, share in shares.items()))  # fmt: skip
    rows.append({"name": "parts of metasaug float32", "parts": parts})
    return rows


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
