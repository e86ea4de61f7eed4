#!/usr/bin/env python3
"""Time and memory of an epoch of the head over cached features of ImageNet-LT's size, against plain cross-entropy.

  python3 benchmarks/head_epoch.py [--images 115846] [--num_classes 1000] [--batch_size 256] [--json FILE]

The features are random, on disk in the cache's form (shards of fp16, memory-mapped, 474 MB); classes are long-tailed as in
ImageNet-LT, the meta set has 10 images a class. Each epoch runs in a fresh process; memory is what it took at most beyond
what it had after its imports, mapped pages of the files included. The plain epoch is nn.Linear, autograd and the same
optimizer on the same batches, without meta batches.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


from benchmarks.common import in_fresh_process, peak_mb, write_rows
from harness.errors import run_main
from harness.flag_parser import Parser, require
from harness.process_group import Group
from harness.progress import Meter, StepFigures, progress
from heads.batches import Batches, RowViews, ShardedRows
from heads.feature_shards import Shards
from heads.head_step import head_step
from loss import EstimatorCV, MetaSAugCE
from meta_step import plain_step
from passes import Passes

SIZE = 2048


def long_tailed_labels(images: int, classes: int) -> torch.Tensor:
    """Return labels (M,): one image a class, all others in shares from 256 down to 1; ImageNet-LT has 1,280 to 5."""
    shares = (1 / 256) ** (torch.arange(classes) / max(classes - 1, 1))
    edges = (shares.cumsum(0) / shares.sum() * (images - classes)).round() + torch.arange(1, classes + 1)
    return torch.bucketize(torch.arange(images), edges, right=True).clamp(max=classes - 1)


def write_features(folder: Path, images: int, classes: int) -> None:
    """Write random features."""
    generator = np.random.default_rng(0)
    for name, rows in (("train", images), ("meta", 10 * classes)):
        shards = Shards(folder / name, rows, SIZE)
        shards.begin({})
        for k in range(len(shards)):
            part = generator.random((len(shards.of(k)), SIZE), np.float32)
            shards.write(shards.path(k), part.astype(np.float16).tobytes())


class Linear(torch.nn.Linear):
    """A head that returns features and logits, as `passes.Passes` expects of a network."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        """Return x (N, A) and the logits (N, C)."""
        return x, super().forward(x)


def child(version: str, folder: Path, images: int, classes: int, batch_size: int) -> None:
    """Train one epoch in this process and print the figures as JSON."""
    bare = peak_mb()
    labels = {"train": long_tailed_labels(images, classes), "meta": torch.arange(10 * classes) // 10}
    parts = {
        name: RowViews([ShardedRows(Shards(folder / name, len(part), SIZE).read(), np.arange(len(part)))], part)
        for name, part in labels.items()
    }
    batches = Batches(parts, Group(0, 1, torch.device("cpu")), batch_size, 100, 0)
    head, steps = Linear(SIZE, classes), -(-images // batch_size)
    optimizer = torch.optim.SGD(head.parameters(), 3e-4, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    counts = labels["train"].bincount(minlength=classes).tolist()
    criterion, estimator = MetaSAugCE(counts), EstimatorCV(SIZE, classes, diagonal=True)
    passes, meter, meta = Passes(head), Meter(), batches.meta()
    start = time.perf_counter()
    for batch in progress(islice(batches.train(), steps), steps, version, meter, 50):
        seen: StepFigures
        if version == "plain":
            seen = plain_step(passes, optimizer, batch)
        else:
            seen = head_step(
                head, criterion, estimator, optimizer, batch, next(meta), lam_t=0.1, virtual_lr=3e-4, meta_lr=0.1
            )
        meter.update(seen, batch[1])
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb() - bare, "loss": meter.read()[0]}))


def main() -> None:
    """Write the features, measure both epochs, print, write the rows."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=115846)
    parser.add_argument("--num_classes", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    require(args.images >= args.num_classes >= 2, "--num_classes", args.num_classes, "from 2 to the number of images")
    require(args.batch_size >= 1, "--batch_size", args.batch_size, "at least 1")
    if args.child:
        child(args.child[0], Path(args.child[1]), args.images, args.num_classes, args.batch_size)
        return
    sizes = [f"--images={args.images}", f"--num_classes={args.num_classes}", f"--batch_size={args.batch_size}"]
    with tempfile.TemporaryDirectory() as folder:
        write_features(Path(folder), args.images, args.num_classes)
        found = {version: in_fresh_process(*sizes, "--child", version, folder) for version in ("plain", "MetaSAug")}
    ours, plain = found["MetaSAug"], found["plain"]
    print(f"an epoch over {args.images} x {SIZE} cached features, {args.num_classes} classes, batch {args.batch_size}, "
          f"{torch.get_num_threads()} threads, torch {torch.__version__}")  # fmt: skip
    for version, figures in found.items():
        print(f"{version:10}{figures['seconds']:8.1f} s{figures['peak_mb']:8.0f} MB  mean loss {figures['loss']:.4f}")
    row = {
        "name": f"cached epoch, {args.images} images, C {args.num_classes}, N {args.batch_size}",
        "seconds": ours["seconds"],
        "baseline_seconds": plain["seconds"],
        "speedup": plain["seconds"] / ours["seconds"],
        "peak_mb": ours["peak_mb"],
        "baseline_peak_mb": plain["peak_mb"],
    }
    write_rows([row], args.json)


if __name__ == "__main__":
    run_main(main)
