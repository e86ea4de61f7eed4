"""Image files on disk: which of them a folder holds, class by class, and their pixels."""

from __future__ import annotations

import os
import warnings
from collections.abc import Container
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from harness.errors import UserError


class ClassFolders(NamedTuple):
    """Image files below a folder: M paths relative to it, M labels, class names, and how many files are not images."""

    paths: list[str]
    labels: list[int]
    class_names: list[str]
    passed_over: int

    def notes(self, folder: Path) -> list[str]:
        """Return a line that counts the files passed over, if any."""
        return [f"{folder}: {self.passed_over} files are not images and were passed over"] if self.passed_over else []


def class_folders(folder: Path, class_names: list[str] | None, advice: str) -> ClassFolders:
    """List `folder/<class>/**`: the files whose ending Pillow reads; classes, if not given, in alphabetical order.

    What is hidden or no image is passed over and counted. `advice` says what a folder should hold.
    """
    endings = {ending for ending, form in Image.registered_extensions().items() if form in Image.OPEN}
    try:
        found = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        names = found if class_names is None else class_names
        for name in found:
            if name not in names:
                raise UserError(f"{folder / name} is a class that the training set does not have: move it away")
        label_of = {name: label for label, name in enumerate(names)}
        files = [(path, label_of[name]) for name in found for path in files_below(folder, name)]
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): {advice}") from error
    chosen = [(path, label) for path, label in files if is_image(folder, path, endings)]
    if not chosen:
        raise UserError(f"{folder} holds no image in a format that can be read: {advice}")
    paths, labels = [path for path, _ in chosen], [label for _, label in chosen]
    return ClassFolders(paths, labels, names, len(files) - len(chosen))


def files_below(folder: Path, name: str) -> list[str]:
    """Return the files at any depth below `folder / name` as paths relative to `folder`, sorted."""

    def stop(error: OSError) -> None:
        raise error  # os.walk would pass over a folder that cannot be read

    walk = os.walk(folder / name, onerror=stop)
    return sorted(os.path.join(os.path.relpath(place, folder), file) for place, _, files in walk for file in files)


def is_image(folder: Path, path: str, endings: Container[str]) -> bool:
    """Return whether a file is one to read: by its ending, without one by its content; hidden files are not.

    Nothing is opened that has an ending, as a look at a million files takes long.
    """
    ending = os.path.splitext(path)[1]
    if any(part.startswith(".") for part in path.split(os.sep)):
        return False
    if ending:
        return ending.lower() in endings
    try:
        with Image.open(folder / path):
            return True
    except Image.DecompressionBombError:
        return True  # to be named when it is read
    except OSError:
        return False


def decode(path: Path, upright: bool) -> Image.Image:
    """Return the image in RGB at its own size, turned as its EXIF says if `upright`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large images and odd metadata are no reason to stop
            with Image.open(path) as image:
                return to_rgb(ImageOps.exif_transpose(image) if upright else image)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: check the path, or the list and the folder of the data") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is absurdly large ({error}): remove it or make it smaller") from error
    except Exception as error:  # what a decoder raises on a damaged file depends on the format
        size = os.path.getsize(path) if path.exists() else 0
        raise UserError(f"{path} ({size} bytes) cannot be read as an image: remove or replace it ({error})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB, greys of more than 8 bits scaled down."""
    if image.mode.startswith("I") or image.mode == "F":  # Pillow would cut these off at 255
        grey = np.nan_to_num(np.asarray(image, dtype=np.float64))
        largest = float(grey.max())
        top = 65535.0 if image.mode.startswith("I;16") else next((t for t in (1.0, 255.0, 65535.0) if largest <= t), largest)
        image = Image.fromarray(np.clip(grey * (255 / top), 0, 255).astype(np.uint8))
    return image.convert("RGB")
