"""Image files: which formats are read, and an image's pixels in RGB, whatever its form."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pillow_heif
from PIL import Image, ImageOps

from harness.errors import UserError

T = TypeVar("T")
LISTED = 20  # faults that are named
# Formats of pictures; others that Pillow opens hold no pixels, are of instruments, or start an interpreter (PostScript).
FORMATS = (
    "AVIF", "BMP", "DDS", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "PSD", "QOI", "SGI", "TGA",
    "TIFF", "WEBP",
)  # fmt: skip
SEVERAL = ("AVIF", "GIF", "HEIF", "PNG", "TIFF", "WEBP")  # hold several pictures
RESIZED = 256  # the short side of photographs, of the published networks and most others
FLOAT_MOST = 2.0  # floats are from 0 to 1, a little more is a glint
# What is done to an image besides reading it.
ON_WHITE = "images with transparent parts, which were laid on white"
CLIPPED = "images with values outside 0 to 1, which were clipped"
DARK = "16-bit images with values below 4,096 of 65,535, which look black: multiply them by 16 if they have 12 bits"
FIRST = "files of several pages or frames, of which the first was taken"


class Decoded(NamedTuple):
    """An image in RGB at its own size, and what was done to it: some of ON_WHITE, CLIPPED, DARK and FIRST."""

    image: Image.Image
    done: frozenset[str]


Seen = frozenset[str] | UserError  # what was done to an image, or why it cannot be read


def some_of(names: Sequence[str], most: int = LISTED) -> str:
    """Return names with commas between, the first of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def done_notes(seen: Iterable[Seen]) -> list[str]:
    """Return lines that count what was done to images besides reading them."""
    done = Counter(what for one in seen if not isinstance(one, UserError) for what in one)
    return [f"{what}: {number}" for what, number in sorted(done.items())]


@cache
def readable_endings() -> frozenset[str]:
    """Return the endings of the files that are read, after making their formats known to Pillow."""
    Image.init()
    pillow_heif.register_heif_opener()
    return frozenset(ending for ending, form in Image.registered_extensions().items() if form in FORMATS)


def decode(path: Path, upright: bool, coarse: bool = False, resize_size: int = 0) -> Decoded:
    """Read an image, turned as its EXIF says if `upright`; a `UserError` names the file that cannot be read.

    If `coarse`, a JPEG is read at an eighth of its size, which takes less time and finds the same faults. An image is
    refused that would be too large when its short side is `resize_size`.
    """
    if not os.path.isfile(path):  # a pipe, which has no end, would be waited for
        what = "not an image file" if os.path.exists(path) else "missing"
        raise UserError(f"{path} is {what}: check the path, or the list and the folder of the data")
    readable_endings()
    done: set[str] = set()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large images and odd metadata are no reason to stop
            with Image.open(path, formats=FORMATS) as image:
                if image.format in SEVERAL and getattr(image, "n_frames", 1) > 1:
                    done.add(FIRST)
                if coarse:
                    image.draft("RGB", (1, 1))
                image.load()
                rgb = to_rgb(ImageOps.exif_transpose(image) if upright else image, image.format, done)
    except UserError as error:
        raise UserError(f"{path} {error}") from error
    except Exception as error:  # what a decoder raises on a damaged file depends on the format
        raise UserError(
            f"{path} ({os.path.getsize(path)} bytes) cannot be read as an image: remove or replace it ({error})"
        ) from error
    (width, height), most = rgb.size, Image.MAX_IMAGE_PIXELS
    if most is not None and resize_size**2 * max(width, height) > most * min(width, height):
        raise UserError(f"{path} is far too narrow ({width} x {height}): remove it or crop it")
    return Decoded(rgb, frozenset(done))


def read_or_fault(path: Path, read: Callable[[Path], T]) -> T | UserError:
    """Return what `read` makes of an image file, or why it cannot."""
    try:
        return read(path)
    except UserError as error:
        return error


def to_rgb(image: Image.Image, form: str | None, done: set[str]) -> Image.Image:
    """Convert to RGB, greys of more than 8 bits by the range of their kind, what is transparent laid on white.

    16 bits go from 0 to 65,535, floats from 0 to 1. Nothing says the range of 32 bits, or of floats that are larger: a
    `UserError` without the name of the file. `form` is the file's format; `done` takes what is done.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and form == "PPM"):
        grey = np.asarray(image)
        if grey.max() < 4096:
            done.add(DARK)
        image = Image.fromarray((grey // 257).astype(np.uint8))
    elif image.mode == "I":
        raise UserError("has 32-bit integers, whose range is unknown: save it with 8 or 16 bits")
    elif image.mode == "F":
        floats = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=-1)
        if floats.max() > FLOAT_MOST:
            raise UserError(f"has floats up to {floats.max():g}, outside 0 to 1: rescale them, or save it with 8 or 16 bits")
        clipped = np.clip(floats, 0, 1)
        if (clipped != floats).any():
            done.add(CLIPPED)
        image = Image.fromarray((clipped * 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() < 255:
            done.add(ON_WHITE)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def unreadable(faults: Sequence[str], total: int, skippable: bool) -> UserError:
    """Return the error that lists images that cannot be read, `faults` of `total`, the first LISTED of them.

    `skippable` says whether --skip_bad would leave them out.
    """
    if len(faults) == 1:
        return UserError(faults[0])
    more = [f"and {len(faults) - LISTED} more"] if len(faults) > LISTED else []
    advice = "remove or replace them" + (", or skip them with --skip_bad" if skippable else "")
    return UserError(f"{len(faults)} of {total} images cannot be read, see above: {advice}", [*faults[:LISTED], *more])


def left_out(faults: Sequence[str], total: int) -> str:
    """Return the note on unreadable images that --skip_bad left out."""
    return f"--skip_bad: {len(faults)} of {total} images cannot be read and are left out: {some_of(faults, 3)}"
