#!/usr/bin/env python3
"""Name what is on image files, with a checkpoint of a training script or a released one.

  python3 predict.py --checkpoint_path checkpoint/ours/0/name_ckpt.pth.tar photo.jpg folder

prints a line an image, tabs between: the file, then the most probable classes and their probabilities in per cent. Folders
are read at any depth. Images may have any size and format that Pillow reads; they are resized to 32x32, as in training.
"""

if __name__ == "__main__":
    from harness.before_loading import prepare_process
    prepare_process()

import argparse
import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from harness.checkpoint import load_checkpoint
from harness.devices import choose_device
from harness.errors import UserError, run_main
from harness.evaluation import no_answers
from harness.flags import Parser, add_checkpoint_flags, add_device_flags, require
from harness.image_files import LISTED, OTHER_FORMAT, counted, files_below, readable_endings
from harness.image_sets import SIZE, changes, read_or_fault
from harness.progress import progress
from harness.text import say
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
    files, left_out = images_among(args.images)
    problems: list[str] = []
    sizes: list[tuple[int, int]] = []
    clear = 0
    starts = range(0, len(files), AT_ONCE)
    print_freq = None if sys.stdout.isatty() else 0  # lines of results on a terminal show how far it is
    for start in progress(starts, len(starts), f"batches of {AT_ONCE} images", print_freq=print_freq, file=sys.stderr):
        read = [(file, read_or_fault(file)) for file in files[start : start + AT_ONCE]]
        problems += [str(found) for _, found in read if isinstance(found, UserError)]
        good = [(file, found) for file, found in read if not isinstance(found, UserError)]
        pixels = stacked([found.pixels for _, found in good])
        for (file, _), found in zip(good, probabilities(model, pixels), strict=True):
            if any(map(math.isnan, found)):
                raise no_answers(path)
            say([str(file), *most_probable(found, names, args.top)])
        sizes += [found.size for _, found in good]
        clear += sum(found.laid_on_white for _, found in good)
    say(*(f"note: {note}" for note in (*left_out, *changes(sizes, clear))), file=sys.stderr)
    if problems:
        several = f"{len(problems)} of {len(files)} images cannot be read, see above"
        raise UserError(several, problems) if len(problems) > 1 else UserError(problems[0])


def images_among(given: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Return the files, folders replaced by the images below them, and lines that say what is left out there."""
    files: list[Path] = []
    lines = []
    for path in given:
        if not os.path.isdir(path):
            files.append(path)
            continue
        try:
            below = files_below(path, readable_endings())
        except OSError as error:
            why = f"{error.filename} cannot be read ({error.strerror})"
            raise UserError(f"{why}: make it readable, or move it away") from error
        images = [path / file for file, reason in below if not reason]
        if not images:
            raise UserError(f"{path} holds no image in a format that can be read")
        files += images
        left_out = Counter(reason for _, reason in below if reason)
        if left_out:
            lines.append(f"{path}: files left out: {counted(left_out)}")
        foreign = [file for file, reason in below if reason.startswith(OTHER_FORMAT)]
        if foreign:
            more = f" and {len(foreign) - LISTED} more" if len(foreign) > LISTED else ""
            lines.append(f"{path}: {OTHER_FORMAT}: {', '.join(foreign[:LISTED])}{more}")
    return files, lines


def parser() -> Parser:
    """Return the parser of the flags."""
    made = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files, or folders of them")
    made.add_argument("--top", type=int, default=5, help="how many classes to name (default: %(default)s)")
    add_checkpoint_flags(made)
    add_device_flags(made)
    return made


def stacked(images: Sequence[np.ndarray]) -> torch.Tensor:
    """Return pixels (N, 32, 32, 3) of images."""
    return torch.from_numpy(np.array(images, dtype=np.uint8).reshape(-1, SIZE, SIZE, 3))


def most_probable(found: Sequence[float], names: Sequence[str], top: int) -> list[str]:
    """Return name and per cent of the `top` most probable classes, the first of equals first."""
    order = sorted(range(len(names)), key=lambda k: -found[k])[:top]
    return [f"{names[k]} {100 * found[k]:.2f}" for k in order]


if __name__ == "__main__":
    run_main(main)
