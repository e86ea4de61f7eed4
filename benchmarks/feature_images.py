#!/usr/bin/env python3
"""Images a second of computing a backbone's features, against a plain loop with torchvision.

  python3 benchmarks/feature_images.py [--backbone mobilenet_v3_small] [--images 400] [--repeats 5] [--json FILE]

Both read the same JPEGs of 200 to 400 pixels from class folders, by two loading processes, in batches of 100, on all cores,
and have the weights at random. The plain loop is ImageFolder with the transforms of the network's weights, a DataLoader and
model.eval() without gradients; ours is what train_own.py does, the writing of the cache included. The two
take turns; what is shown are medians, and the smallest and the largest of the repeats.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import write_rows
from datasets.image_lists import read_tree
from harness.errors import run_main
from harness.flag_parser import Parser, require
from harness.process_group import Group
from heads.batches import extractor, plain_images
from heads.feature_shards import FeatureCache
from heads.networks import open_backbone
from heads.preparation import ImageFlags, transforms

BATCH, WORKERS, CLASSES = 100, 2, 4


def write_photographs(folder: Path, images: int) -> None:
    """Write JPEGs, smooth with some noise, as photographs are."""
    generator = np.random.default_rng(0)
    for i in range(images):
        width, height = generator.integers(200, 401, 2)
        coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
        path = folder / f"class{i % CLASSES}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noisy = smooth + generator.normal(0, 6, smooth.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def plain_loop(name: str, folder: Path) -> Callable[[], object]:
    """Return the loop that one writes with torchvision."""
    backbone = open_backbone(name, None, ImageFlags())
    model = backbone.model.to(memory_format=torch.contiguous_format)
    loader = DataLoader(ImageFolder(str(folder), transforms(backbone.prepared, train=False)), BATCH, num_workers=WORKERS)

    @torch.no_grad()
    def loop() -> object:
        return torch.cat([model(images) for images, _ in loader])

    return loop


def own_loop(name: str, folder: Path) -> Callable[[], object]:
    """Return what train_own.py does, into a new cache each time."""
    backbone = open_backbone(name, None, ImageFlags())
    group = Group(0, 1, torch.device("cpu"))
    images, extract = plain_images(read_tree(folder, None), backbone.prepared), extractor(backbone.model)

    def loop() -> object:
        with tempfile.TemporaryDirectory() as place:
            cache = FeatureCache(Path(place), extract, "weights", backbone.features, group, BATCH, WORKERS)
            return np.concatenate(cache.open("images", images, 0))

    return loop


def main() -> None:
    """Measure, print, write the rows."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="mobilenet_v3_small")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    args = parser.parse_args()
    require(args.images >= CLASSES, "--images", args.images, f"at least {CLASSES}")
    require(args.repeats >= 1, "--repeats", args.repeats, "at least 1")
    seconds: dict[str, list[float]] = {"plain loop": [], "train_own.py": []}
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), args.images)
        both = args.backbone, Path(folder)
        loops = {"plain loop": plain_loop(*both), "train_own.py": own_loop(*both)}
        for repeat in range(args.repeats + 1):
            for version, loop in loops.items():
                began = time.perf_counter()
                loop()
                if repeat:  # the first warms up
                    seconds[version].append(time.perf_counter() - began)
    print(f"{args.backbone}, {args.images} JPEGs of 200 to 400 pixels, {torch.get_num_threads()} threads, {WORKERS} loading "
          f"processes, torch {torch.__version__}")  # fmt: skip
    for version, took in seconds.items():
        rates = [args.images / one for one in took]
        print(f"{version:14}{statistics.median(rates):8.1f} images/s ({min(rates):.1f} to {max(rates):.1f})")
    ours, plain = (statistics.median(seconds[version]) for version in ("train_own.py", "plain loop"))
    print(f"ratio {plain / ours:.2f}")
    row = {"name": f"features, {args.backbone}", "seconds": ours, "baseline_seconds": plain, "speedup": plain / ours}
    write_rows([row], args.json)


if __name__ == "__main__":
    run_main(main)
