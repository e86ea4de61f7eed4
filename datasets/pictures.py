"""Image files: which formats are read, and an image's pixels in RGB, whatever its form."""

from __future__ import annotations

import os
import stat
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pillow_heif
from PIL import Image, ImageOps

from harness.errors import UserError

LISTED = 20  # faults that are named
# Formats of pictures; others that Pillow opens hold no pixels, are of instruments, or start an interpreter (PostScript).
FORMATS = (
    "AVIF", "BMP", "DDS", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "PSD", "QOI", "SGI", "TGA",
    "TIFF", "WEBP",
)  # fmt: skip
MPO = "MPO"  # of several JPEGs, read as the first
SEVERAL = ("AVIF", "GIF", "HEIF", "PNG", "TIFF", "WEBP")  # hold several pictures
RESIZED = 256  # the short side of photographs, of the published networks and most others
FLOAT_MOST = 2.0  # floats are from 0 to 1, a little more is a glint
PNG_BEGIN = b"\x89PNG\r\n\x1a\n"
ON_WHITE, CLIPPED, FIRST = "on white", "clipped", "first"
WORDS = {  # what was done to one image, to several
    ON_WHITE: (
        "image is transparent somewhere: it was laid on white",
        "images are transparent somewhere: they were laid on white",
    ),
    CLIPPED: ("image has values outside 0 to 1: they were clipped", "images have values outside 0 to 1: they were clipped"),
    FIRST: (
        "file has several pages or frames: the first was taken",
        "files have several pages or frames: the first was taken",
    ),
}  # fmt: skip


class Decoded(NamedTuple):
    """An image in RGB at its own size, and what was done to it, some of `WORDS`."""

    image: Image.Image
    done: frozenset[str] = frozenset()


def numbered(number: int, one: str, more: str) -> str:
    """Return the number and the words that go with it."""
    return f"{number} {one if number == 1 else more}"


def done_notes(done: Iterable[frozenset[str]]) -> list[str]:
    """Return lines that count what was done to images besides reading them."""
    number = Counter(what for one in done for what in one)
    return [numbered(number[what], *words) for what, words in WORDS.items() if number[what]]


@cache
def readable_endings() -> frozenset[str]:
    """Return the endings of the files that are read, after making their formats known to Pillow."""
    Image.init()
    pillow_heif.register_heif_opener()
    return frozenset(ending for ending, form in Image.registered_extensions().items() if form in (*FORMATS, MPO))


def is_image(path: Path) -> bool:
    """Return whether the content is that of an image."""
    readable_endings()
    try:
        with Image.open(path, formats=FORMATS):
            return True
    except Image.DecompressionBombError:
        return True  # to be named when it is read
    except OSError:
        return False


def decode(path: Path, upright: bool, coarse: bool = False) -> Decoded:
    """Read an image, turned as its EXIF says if `upright`; a `UserError` names the file that cannot be read.

    If `coarse`, a JPEG is read at an eighth of its size, which takes less time and finds the same faults.
    """
    check_regular(path)
    readable_endings()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large images and odd metadata are no reason to stop
            return read_pixels(path, upright, coarse)
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is absurdly large ({error}): remove it or make it smaller") from error
    except UserError as error:
        raise UserError(f"{path} {error}") from error
    except Exception as error:  # what a decoder raises on a damaged file depends on the format
        size = os.path.getsize(path) if os.path.exists(path) else 0
        raise UserError(f"{path} ({size} bytes) cannot be read as an image: remove or replace it ({error})") from error


def check_regular(path: Path) -> None:
    """Raise a `UserError` if there is no file at `path`; a pipe, which has no end, would be waited for."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path} is missing: check the path, or the list and the folder of the data") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({getattr(error, 'strerror', error)}): check the path") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise UserError(f"{path} is {kind}, not an image file: check the path, or remove it")


def read_pixels(path: Path, upright: bool, coarse: bool) -> Decoded:
    """Read an image, see `decode`. What surrounds the pixels of a PNG may be damaged: then they are read without it."""
    try:
        return opened_pixels(path, upright, coarse)
    except (Image.DecompressionBombError, UserError):
        raise
    except Exception:  # as in decode
        pixels = png_without_extras(path)
        with suppress(Exception):  # what is told is what is wrong with the whole file
            if pixels is not None:
                return opened_pixels(BytesIO(pixels), upright, coarse)
        raise


def opened_pixels(source: Path | BytesIO, upright: bool, coarse: bool) -> Decoded:
    """Read an image from a file or from memory, see `decode`."""
    with Image.open(source, formats=FORMATS) as image:
        several = image.format in SEVERAL and getattr(image, "n_frames", 1) > 1
        if coarse:
            image.draft("RGB", (1, 1))
        image.load()
        rgb = to_rgb(turned(image) if upright else image, image.format)
    return Decoded(rgb.image, rgb.done | {FIRST} if several else rgb.done)


def turned(image: Image.Image) -> Image.Image:
    """Return the image turned as its EXIF says; where that block is damaged, as it is."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the pixels were read before
        return image


def to_rgb(image: Image.Image, form: str | None = None) -> Decoded:
    """Convert to RGB, greys of more than 8 bits by the range of their kind, what is transparent laid on white.

    16 bits go from 0 to 65,535, floats from 0 to 1. Nothing says the range of 32 bits, or of floats that are larger: a
    `UserError` without the name of the file. `form` is the file's format.
    """
    done = set[str]()
    if image.mode.startswith("I;16") or (image.mode == "I" and form == "PPM"):
        image = Image.fromarray((np.asarray(image).astype(np.float64) * (255 / 65535)).astype(np.uint8))
    elif image.mode == "I":
        raise UserError("has whole numbers of 32 bits, of which nothing says how bright they are: save it with 8 or 16 bits")
    elif image.mode == "F":
        grey = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=-1.0)
        if grey.max() > FLOAT_MOST:
            most = f"has floats up to {grey.max():g}, which are read from 0 to 1"
            raise UserError(f"{most}: divide them, or save it with 8 or 16 bits")
        done |= {CLIPPED} if (grey < 0).any() or (grey > 1).any() else set()
        image = Image.fromarray((np.clip(grey, 0, 1) * 255).astype(np.uint8))
    if not image.has_transparency_data:
        return Decoded(image.convert("RGB"), frozenset(done))
    image = image.convert("RGBA")
    done |= {ON_WHITE} if int(np.asarray(image)[..., 3].min()) < 255 else set()
    return Decoded(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"), frozenset(done))


def png_without_extras(path: Path) -> bytes | None:
    """Return a PNG without the chunks that its pixels do not need (PNG 3, section 5.4), None for another format."""
    content = path.read_bytes()
    if not content.startswith(PNG_BEGIN):
        return None
    kept, start = [PNG_BEGIN], len(PNG_BEGIN)
    while start < len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")  # length, name, data, CRC
        name = content[start + 4 : start + 8]
        if name == b"tRNS" or not name[:1].islower():  # a capital: the pixels need it
            kept.append(content[start:end])
        start = end
    return b"".join(kept)


def is_thin(size: tuple[int, int], resize_size: int = RESIZED) -> bool:
    """Return whether an image of that width and height would be too large when its short side is `resize_size`."""
    (short, long), most = sorted(size), Image.MAX_IMAGE_PIXELS
    return most is not None and resize_size**2 * long > most * short


def thin(path: Path, size: tuple[int, int]) -> str:
    """Return what is said of such an image."""
    return f"{path} is absurdly thin ({size[0]} x {size[1]}): remove it or crop it"


def unreadable(faults: Sequence[str], total: int, skippable: bool) -> UserError:
    """Return the error that lists images that cannot be read, `faults` of `total`, the first LISTED of them.

    `skippable` says whether --skip_bad would leave them out.
    """
    if len(faults) == 1:
        return UserError(faults[0])
    more = [f"and {len(faults) - LISTED} more"] if len(faults) > LISTED else []
    advice = "remove or replace them" + (", or leave them out by --skip_bad" if skippable else "")
    return UserError(f"{len(faults)} of {total} images cannot be read, see above: {advice}", [*faults[:LISTED], *more])


def left_out(faults: Sequence[str], total: int) -> str:
    """Return the line that says that --skip_bad left out images that cannot be read."""
    first = "; ".join(faults[:3]) + ("; ..." if len(faults) > 3 else "")
    were = "was" if len(faults) == 1 else "were"
    return f"--skip_bad: {len(faults)} of {total} images cannot be read and {were} left out: {first}"
