"""Image files on disk: which of them a folder holds, class by class, and their pixels."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Container, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from harness.errors import UserError

# Photographs and drawings in formats that Pillow does not read, or not everywhere.
OTHER_FORMATS = {".heic", ".heif", ".avif", ".jxl", ".svg", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"}
LISTED = 20  # images that cannot be read
# Why a file is left out.
HIDDEN, NO_IMAGE, STRAY = "hidden", "not images", "in no class folder"
DEAD_LINK, LOOP = "links to nothing", "links to a folder above"


class ClassFolders(NamedTuple):
    """Image files below a folder: M paths relative to it, M labels, class names, how many files are left out by reason."""

    paths: list[str]
    labels: list[int]
    class_names: list[str]
    left_out: Counter[str]

    def notes(self, folder: Path) -> list[str]:
        """Return a line that counts the files left out, if any."""
        return [f"{folder}: files left out: {counted(self.left_out)}"] if self.left_out else []


def counted(reasons: Counter[str]) -> str:
    """Return for instance "3 hidden, 2 not images"."""
    return ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))


def class_folders(folder: Path, class_names: list[str] | None, advice: str) -> ClassFolders:
    """List `folder/<class>/**`: the files whose ending Pillow reads; classes, if not given, in alphabetical order.

    Links are followed. What is left out is counted by reason. `advice` says what a folder should hold.
    """
    endings = readable_endings()
    left_out: Counter[str] = Counter()
    chosen: list[tuple[str, int]] = []
    try:
        found = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        names = found if class_names is None else class_names
        for name in found:
            if name not in names:
                raise UserError(f"{folder / name} is a class that the training set does not have: move it away")
        label_of = {name: label for label, name in enumerate(names)}
        for path, reason in files_below(folder, endings):
            name, _, inside = path.partition(os.sep)
            if not reason and inside:
                chosen.append((path, label_of[name]))
            elif inside or reason not in (NO_IMAGE, HIDDEN):  # beside the class folders only images are of interest
                left_out[reason or STRAY] += 1
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): {advice}") from error
    if not chosen:
        there = f" (files left out: {counted(left_out)})" if left_out else ""
        raise UserError(f"{folder} holds no image in a format that can be read{there}: {advice}")
    return ClassFolders([path for path, _ in chosen], [label for _, label in chosen], names, left_out)


def readable_endings() -> set[str]:
    """Return the endings of the files that Pillow reads."""
    return {ending for ending, form in Image.registered_extensions().items() if form in Image.OPEN}


def files_below(folder: Path, endings: Container[str]) -> list[tuple[str, str]]:
    """Return the files at any depth, in order, as paths relative to `folder`, each with why it is left out, or "".

    Links are followed, but not to a folder that they lie in. Folders that are hidden are not looked into.
    """
    found: list[tuple[str, str]] = []

    def look(place: str, above: tuple[str, ...]) -> None:
        for entry in os.scandir(folder / place):
            path = os.path.join(place, entry.name) if place else entry.name
            if entry.is_symlink() and not os.path.exists(entry.path):
                found.append((path, DEAD_LINK))
            elif entry.is_dir():
                real = os.path.realpath(entry.path)
                if entry.name.startswith("."):
                    found.extend([(path, HIDDEN)] if place else [])
                elif real in above:
                    found.append((path, LOOP))
                else:
                    look(path, (*above, real))
            else:
                found.append((path, why_left_out(folder / path, endings)))

    look("", (os.path.realpath(folder),))
    return sorted(found, key=lambda item: (item[0].partition(os.sep)[0], item[0]))  # class by class


def why_left_out(path: Path, endings: Container[str]) -> str:
    """Return why a file is not one to read, or "": by its ending, without one by its content.

    Nothing is opened that has an ending, as a look at a million files takes long.
    """
    ending = path.suffix.lower()
    if path.name.startswith("."):
        return HIDDEN
    if ending in endings:
        return ""
    if ending in OTHER_FORMATS:
        return f"in a format that cannot be read here ({ending}: convert them to JPEG or PNG)"
    return NO_IMAGE if ending or not is_image(path) else ""


def is_image(path: Path) -> bool:
    """Return whether the content is that of an image."""
    try:
        with Image.open(path):
            return True
    except Image.DecompressionBombError:
        return True  # to be named when it is read
    except OSError:
        return False


class Decoded(NamedTuple):
    """An image in RGB at its own size, and whether it was laid on white because it is transparent somewhere."""

    image: Image.Image
    laid_on_white: bool


def decode(path: Path, upright: bool, coarse: bool = False) -> Decoded:
    """Read an image, turned as its EXIF says if `upright`; a `UserError` names the file that cannot be read.

    If `coarse`, a JPEG is read at an eighth of its size, which takes less time and finds the same faults.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large images and odd metadata are no reason to stop
            with Image.open(path) as image:
                if coarse:
                    image.draft("RGB", (1, 1))
                image.load()
                return to_rgb(turned(image) if upright else image)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: check the path, or the list and the folder of the data") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is absurdly large ({error}): remove it or make it smaller") from error
    except Exception as error:  # what a decoder raises on a damaged file depends on the format
        size = os.path.getsize(path) if path.exists() else 0
        raise UserError(f"{path} ({size} bytes) cannot be read as an image: remove or replace it ({error})") from error


def unreadable(faults: Sequence[str], total: int) -> UserError:
    """Return the error that lists images that cannot be read, `faults` of `total`, the first LISTED of them."""
    if len(faults) == 1:
        return UserError(faults[0])
    more = [f"and {len(faults) - LISTED} more"] if len(faults) > LISTED else []
    advice = "remove or replace them, or leave them out by --skip_bad"
    return UserError(f"{len(faults)} of {total} images cannot be read, see above: {advice}", [*faults[:LISTED], *more])


def left_out(faults: Sequence[str], total: int) -> str:
    """Return the line that says that --skip_bad left out images that cannot be read."""
    first = "; ".join(faults[:3]) + ("; ..." if len(faults) > 3 else "")
    return f"--skip_bad: {len(faults)} of {total} images cannot be read and were left out: {first}"


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
