#!/usr/bin/env python3
"""Name what is on image files, with a checkpoint of a training script or a released one.

  python3 predict.py --checkpoint_path checkpoint/ours/0/name_ckpt.pth.tar photo.jpg more/*.png

prints a line an image, tabs between: the file, then the most probable classes and their probabilities in per cent. Images
may have any size and format that Pillow reads; they are resized to 32x32, as in training.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from harness.checkpoint import load_checkpoint
from harness.devices import choose_device
from harness.errors import UserError, run_main
from harness.flags import Parser, add_checkpoint_flags, add_device_flags, require
from harness.image_sets import SIZE, read_image
from meta_layers import head_of
from reporting.trained import FromPixels, names_of_classes, probabilities, restored

AT_ONCE = 256  # images


def main() -> None:
    """Load the network, read images in batches, print."""
    args = parser().parse_args()
    require(args.top >= 1, "--top", args.top, "at least 1")
    path = Path(args.checkpoint_path)
    state = load_checkpoint(path)
    network = restored(state, path, args.arch)
    names = names_of_classes(state, head_of(network).out_features)
    device = choose_device(args.gpu, args.no_cuda)
    model = FromPixels(network).to(device).to(memory_format=torch.channels_last)
    problems: list[str] = []
    for start in range(0, len(args.images), AT_ONCE):
        files = args.images[start : start + AT_ONCE]
        read = [read_or_reason(file) for file in files]
        problems += [str(found) for found in read if isinstance(found, UserError)]
        good = [(file, found) for file, found in zip(files, read, strict=True) if not isinstance(found, UserError)]
        pixels = stacked([found for _, found in good])
        for (file, _), found in zip(good, probabilities(model, pixels), strict=True):
            print("\t".join([str(file), *most_probable(found, names, args.top)]))
    if problems:
        others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"{problems[0]}{others}")


def parser() -> Parser:
    """Return the parser of the flags."""
    made = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files")
    made.add_argument("--top", type=int, default=5, help="how many classes to name (default: %(default)s)")
    add_checkpoint_flags(made)
    add_device_flags(made)
    return made


def read_or_reason(file: Path) -> np.ndarray | UserError:
    """Return the pixels of an image (32, 32, 3), or why there are none."""
    try:
        return read_image(file)
    except UserError as error:
        return error


def stacked(images: Sequence[np.ndarray]) -> torch.Tensor:
    """Return pixels (N, 32, 32, 3) of images."""
    return torch.from_numpy(np.array(images, dtype=np.uint8).reshape(-1, SIZE, SIZE, 3))


def most_probable(found: Sequence[float], names: Sequence[str], top: int) -> list[str]:
    """Return name and per cent of the `top` most probable classes, the first of equals first."""
    order = sorted(range(len(names)), key=lambda k: -found[k])[:top]
    return [f"{names[k]} {100 * found[k]:.2f}" for k in order]


if __name__ == "__main__":
    run_main(main)
