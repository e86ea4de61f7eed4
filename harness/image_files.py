"""Image files on disk: which of them a folder holds, class by class, and their pixels."""

from __future__ import annotations

import os
import stat
import warnings
from collections import Counter
from collections.abc import Container, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from harness.errors import UserError
from harness.image_formats import OTHER_FORMATS, is_image, other_format, png_without_extras, readable_endings

LISTED = 20  # images that cannot be read
# Why a file is left out.
HIDDEN, NO_IMAGE, STRAY = "hidden", "not images", "in no class folder"
DEAD_LINK, LOOP, NOT_REGULAR = "links to nothing", "links to a folder above", "not regular files"
OTHER_FORMAT = "in a format that cannot be read here"
OF_ONE = {
    NO_IMAGE: "not an image", NOT_REGULAR: "not a regular file",
    DEAD_LINK: "link to nothing", LOOP: "link to a folder above",
}  # fmt: skip


class ClassFolders(NamedTuple):
    """Image files below a folder: M paths relative to it, M labels, class names, how many files are left out by reason."""

    paths: list[str]
    labels: list[int]
    class_names: list[str]
    left_out: Counter[str]
    shared: list[str]  # pairs of classes whose images are the same ones, by a link

    def notes(self, folder: Path) -> list[str]:
        """Return lines that count the files left out, if any, and name classes that share their images."""
        lines = [f"{folder}: files left out: {counted(self.left_out)}"] if self.left_out else []
        return lines + [f"{folder}: the classes {pair} are one folder, by a link" for pair in self.shared]


def counted(reasons: Counter[str]) -> str:
    """Return for instance "3 hidden, 2 not images"."""
    return ", ".join(numbered(number, OF_ONE.get(reason, reason), reason) for reason, number in sorted(reasons.items()))


def numbered(number: int, one: str, more: str) -> str:
    """Return the number and the words that go with it."""
    return f"{number} {one if number == 1 else more}"


def class_folders(folder: Path, class_names: list[str] | None, advice: str) -> ClassFolders:
    """List `folder/<class>/**`: the files whose ending Pillow reads; classes, if not given, in alphabetical order.

    Links are followed. What is left out is counted by reason. `advice` says what a folder should hold.
    """
    endings = readable_endings()
    left_out: Counter[str] = Counter()
    chosen: list[tuple[str, int]] = []
    try:
        found = sorted(p.name for p in folder.iterdir() if os.path.isdir(p) and not p.name.startswith("."))
        names = found if class_names is None else class_names
        for name in found:
            if name not in names:
                raise UserError(f"{folder / name} is a class that the training set does not have: move it away")
        label_of = {name: label for label, name in enumerate(names)}
        for path, reason in files_below(folder, endings):
            name, _, inside = path.partition(os.sep)
            if not reason and inside:
                chosen.append((path, label_of[name]))
            elif inside or reason not in (NO_IMAGE, HIDDEN, NOT_REGULAR):  # beside the class folders only images count
                left_out[reason or STRAY] += 1
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): {advice}") from error
    if not chosen:
        if left_out[STRAY] and not found:
            told = f"{folder} holds {numbered(left_out[STRAY], 'image', 'images')}, but no folder of a class"
            raise UserError(f"{told}: {advice}")
        there = f" (files left out: {counted(left_out)})" if left_out else ""
        raise UserError(f"{folder} holds no image in a format that can be read{there}: {advice}")
    paths, labels = [path for path, _ in chosen], [label for _, label in chosen]
    return ClassFolders(paths, labels, names, left_out, one_folder(folder, found))


def one_folder(folder: Path, names: Sequence[str]) -> list[str]:
    """Return "a and b" for each class b whose folder is, by a link, that of a class a before it."""
    first: dict[str, str] = {}
    real = [(name, first.setdefault(os.path.realpath(folder / name), name)) for name in names]
    return [f"{earlier} and {name}" for name, earlier in real if earlier != name]


def files_below(folder: Path, endings: Container[str]) -> list[tuple[str, str]]:
    """Return the files at any depth, in order, as paths relative to `folder`, each with why it is left out, or "".

    Links are followed, but not to a folder that they lie in. Folders that are hidden are not looked into. One that cannot
    be read is an OSError.
    """
    found: list[tuple[str, str]] = []
    waiting: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(folder),))]  # a folder, and those it lies in
    while waiting:
        place, above = waiting.pop()
        for entry in os.scandir(folder / place):
            path = os.path.join(place, entry.name)
            if entry.is_symlink() and not os.path.exists(entry.path):
                found.append((path, DEAD_LINK))
            elif entry.is_dir():
                real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(above[-1], entry.name)
                if entry.name.startswith("."):
                    found.extend([(path, HIDDEN)] if place else [])
                elif real in above:
                    found.append((path, LOOP))
                else:
                    waiting.append((path, (*above, real)))
            else:
                found.append((path, why_left_out(entry, endings)))
    return sorted(found, key=lambda item: (item[0].partition(os.sep)[0], item[0]))  # class by class


def why_left_out(entry: os.DirEntry[str], endings: Container[str]) -> str:
    """Return why a file is not one to read, or "": by its ending, without one by its content.

    Nothing is opened that has an ending, as a look at a million files takes long; nor a pipe, which would be waited for.
    """
    if entry.name.startswith("."):
        return HIDDEN
    if not entry.is_file():
        return NOT_REGULAR
    ending = Path(entry.name).suffix.lower()
    if ending in endings:
        return ""
    form = OTHER_FORMATS.get(ending) if ending else other_format(Path(entry.path))
    if form:
        return f"{OTHER_FORMAT} ({ending or form}: convert to JPEG or PNG)"
    return NO_IMAGE if ending or not is_image(Path(entry.path)) else ""


class Decoded(NamedTuple):
    """An image in RGB at its own size, and whether it was laid on white because it is transparent somewhere."""

    image: Image.Image
    laid_on_white: bool


def decode(path: Path, upright: bool, coarse: bool = False) -> Decoded:
    """Read an image, turned as its EXIF says if `upright`; a `UserError` names the file that cannot be read.

    If `coarse`, a JPEG is read at an eighth of its size, which takes less time and finds the same faults.
    """
    check_regular(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large images and odd metadata are no reason to stop
            return read_pixels(path, upright, coarse)
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is absurdly large ({error}): remove it or make it smaller") from error
    except Exception as error:  # what a decoder raises on a damaged file depends on the format
        form = other_format(path)
        if form:
            raise UserError(f"{path} is {form}, which cannot be read here: convert it to JPEG or PNG") from error
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
    except Image.DecompressionBombError:
        raise
    except Exception:  # as in decode
        pixels = png_without_extras(path)
        with suppress(Exception):  # what is told is what is wrong with the whole file
            if pixels is not None:
                return opened_pixels(BytesIO(pixels), upright, coarse)
        raise


def opened_pixels(source: Path | BytesIO, upright: bool, coarse: bool) -> Decoded:
    """Read an image from a file or from memory, see `decode`."""
    with Image.open(source) as image:
        if coarse:
            image.draft("RGB", (1, 1))
        image.load()
        return to_rgb(turned(image) if upright else image)


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


def turned(image: Image.Image) -> Image.Image:
    """Return the image turned as its EXIF says; where that block is damaged, as it is."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the pixels were read before
        return image


def to_rgb(image: Image.Image) -> Decoded:
    """Convert to RGB, greys of more than 8 bits scaled down, what is transparent laid on white."""
    if image.mode.startswith("I") or image.mode == "F":  # Pillow would cut these off at 255
        grey = np.nan_to_num(np.asarray(image, dtype=np.float64))
        largest = float(grey.max())
        top = 65535.0 if image.mode.startswith("I;16") else next((t for t in (1.0, 255.0, 65535.0) if largest <= t), largest)
        image = Image.fromarray(np.clip(grey * (255 / top), 0, 255).astype(np.uint8))
    if not image.has_transparency_data:
        return Decoded(image.convert("RGB"), False)
    image = image.convert("RGBA")
    clear = int(np.asarray(image)[..., 3].min()) < 255
    return Decoded(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"), clear)
