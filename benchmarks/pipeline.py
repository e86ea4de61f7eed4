#!/usr/bin/env python3
"""Time of the input pipeline: a batch, and an epoch of plain cross-entropy, against image-by-image transforms in a loader.

  python3 benchmarks/pipeline.py [--images 3000] [--batch-size 100] [--repeats 5] [--json FILE]

The baseline is published_pipeline.py, torchvision's transforms one image after the other in one worker process, and for the
epoch also a contiguous ResNet-32 and torch.optim.SGD as it is. Batches are timed within a running epoch, so the start of
the worker does not count; in the epochs, which run in turn, it does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import measure, write_rows
from benchmarks.published_pipeline import make_loader
from data_utils import epoch_batches
from datasets.small_sets import ImageSet, image_set
from harness.errors import run_main
from harness.flags import Parser, require
from resnet import make_model

CLASSES = 100
CPU = torch.device("cpu")
Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


def random_images(images: int) -> ImageSet:
    """Return random pixels and labels."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (images, 32, 32, 3), np.uint8)
    return image_set(pixels, generator.integers(0, CLASSES, images), [str(k) for k in range(CLASSES)])


def train(batches: Batches, channels_last: bool, arch: str) -> None:
    """Train one epoch of plain cross-entropy on a new network."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = make_model(arch, CLASSES).to(memory_format=layout).train()
    fused = {"fused": True} if channels_last else {}
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, **fused)
    for images, target in batches:
        loss = F.cross_entropy(model(images)[1], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def medians(versions: dict[str, Callable[[], object]], repeats: int, warm_up: int = 1) -> dict[str, float]:
    """Return the median seconds of each version; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in versions}
    for repeat in range(repeats + warm_up):
        for name, version in versions.items():
            seconds = measure(version, CPU)
            if repeat >= warm_up:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def endless(data: ImageSet, batch_size: int) -> Batches:
    """Yield our batches, epoch after epoch."""
    for epoch in count():
        yield from epoch_batches(data, batch_size, 0, epoch)


def take(batches: Iterator[Any], number: int) -> None:
    """Get the next batches."""
    for _ in range(number):
        next(batches)


def batch_times(data: ImageSet, batch_size: int, repeats: int) -> dict[str, float]:
    """Return the median seconds that the next batch takes; one pipeline is done before the other's worker starts.

    Two batches are fetched ahead of time by the worker, so the first two are left out and all others of an epoch timed.
    """
    batches = len(data) // batch_size - 4
    ours = endless(data, batch_size)
    own = medians({"ours": partial(take, ours, batches)}, repeats)["ours"]
    published = []
    for _ in range(repeats):
        loader = iter(make_loader(data.pixels, data.target, batch_size))
        for _ in range(2):
            next(loader)
        published.append(measure(partial(take, loader, batches), CPU))
    return {"ours": own / batches, "published": statistics.median(published) / batches}


def main() -> None:
    """Measure, print a table, write the rows."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--arch", default="resnet32")
    parser.add_argument("--repeats", type=int, default=2, help="epochs that count (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    args = parser.parse_args()
    require(args.batch_size >= 1, "--batch-size", args.batch_size, "at least 1")
    require(args.images >= 6 * args.batch_size, "--images", args.images, "six batches or more")
    require(args.repeats >= 1, "--repeats", args.repeats, "at least 1")
    data = random_images(args.images)
    batch = batch_times(data, args.batch_size, args.repeats)
    epoch = medians(
        {
            "ours": lambda: train(epoch_batches(data, args.batch_size, 0, 0), True, args.arch),
            "published": lambda: train(iter(make_loader(data.pixels, data.target, args.batch_size)), False, args.arch),
        },
        args.repeats,
        warm_up=0,
    )
    where = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"batch {args.batch_size}, {args.images} images, {args.arch}, {where}")
    print(f"{'':28}{'s':>10}{'published':>11}{'ratio':>8}")
    rows: list[dict[str, Any]] = []
    for name, found in (("an augmented batch", batch), ("an epoch of cross-entropy", epoch)):
        ratio = found["published"] / found["ours"]
        print(f"{name:28}{found['ours']:10.4f}{found['published']:11.4f}{ratio:8.2f}")
        rows.append({"name": name, "seconds": found["ours"], "baseline_seconds": found["published"], "speedup": ratio})
    write_rows(rows, args.json)


if __name__ == "__main__":
    run_main(main)
