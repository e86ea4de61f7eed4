"""What predict.py writes for use without this code: any trained network, checked on one's own images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.pictures import decode, numbered
from datasets.small_sets import SIZE, read_image, read_or_fault
from harness.errors import UserError
from harness.files import beside, check_output
from inference.classifiers import Classifier
from inference.exports import ENDINGS, export
from inference.photographs import FromPhotographs
from inference.trained import FromPixels

SMALL, LARGE = 64, 8  # images that a file is checked on; a photograph of 12 million pixels takes a second
MADE_UP = ((1, 300, 400), (3, 61, 47))  # numbers, heights and widths of photographs


def exported_file(network: Classifier, checkpoint: Path, form: str) -> Path:
    """Return what `export_classifier` is to write beside a checkpoint; refuse now what could not be written at the end."""
    if network.prepared is None and not isinstance(network.model, FromPixels):
        raise UserError(f"{checkpoint} takes features and no images: leave --export out")
    path = beside(checkpoint, ENDINGS[form])
    check_output(path, keep_previous=True)
    return path


def export_classifier(
    network: Classifier, form: str, path: Path, files: Sequence[Path], shift: Tensor, prior: str | None
) -> str:
    """Write a network as `exports.export` does; return a line that says so.

    Parameters
    ----------
    network:
        It is moved to the CPU.
    files:
        Images to compare on, the first that can be read. If there is none, images are made up.
    shift, prior:
        What is added to the logits (C,), in the file too, and where it comes from.
    """
    subtracted = None if prior is None else -shift
    model = network.model.cpu()
    if network.prepared is not None:
        given = [pixels.unsqueeze(0) for pixels in readable(files, large_pixels, LARGE)]
        noise = [made_up(*size) for size in MADE_UP]
        number = len(given) or sum(map(len, noise))
        whole = FromPhotographs(model, network.prepared, subtracted).eval()
        difference = export(whole, form, path, network.names, [*given, *noise])
    else:
        assert isinstance(model, FromPixels)
        given = readable(files, small_pixels, SMALL)
        pixels = torch.stack(given) if given else made_up(SMALL, SIZE, SIZE)
        number = len(pixels)
        difference = export(FromPixels(model.network, subtracted).eval(), form, path, network.names, pixels)
    images = numbered(number, "image", "images") if given else f"{number} made-up images"
    shifted = "" if prior is None else f"; what --prior {prior} adds is in them"
    return f"wrote {path}: logits of {images} within {difference:.1e} of PyTorch's{shifted}"


def readable(files: Sequence[Path], read: Callable[[Path], Tensor], most: int) -> list[Tensor]:
    """Return the pixels of the first images that can be read."""
    found = (read_or_fault(file, read) for file in files)
    return list(islice((pixels for pixels in found if isinstance(pixels, Tensor)), most))


def large_pixels(file: Path) -> Tensor:
    """Read a photograph (H, W, 3), turned as its EXIF says."""
    return torch.tensor(np.asarray(decode(file, upright=True).image))


def small_pixels(file: Path) -> Tensor:
    """Read an image (32, 32, 3), resized."""
    return torch.tensor(read_image(file).pixels)


def made_up(number: int, height: int, width: int) -> Tensor:
    """Return pixels (N, H, W, 3) at random, the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (number, height, width, 3), dtype=torch.uint8, generator=generator)
