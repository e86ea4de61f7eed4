"""Readers of the data sets: CIFAR through torchvision, scikit-learn's digits, folders of one's own images.

Everything ends as an `ImageSet`: all pixels of a set in memory, 32x32, uint8.
"""

from __future__ import annotations

import os
import shlex
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeVar
from urllib.error import URLError

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.archives import fetch, unpack
from datasets.folders import class_folders, read_layout
from datasets.pictures import decode, done_notes, numbered, unreadable
from harness.errors import UserError
from harness.progress import progress

SIZE = 32
PUBLISHED_FOLDERS = {"cifar10": "../cifar-10", "cifar100": "../cifar-100"}
SHA256 = {
    "cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "cifar-100-python.tar.gz": "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
}
DIGITS_TEST_SHARE = 0.3
MUCH_LARGER = 64  # a short side of images that lose detail when they are shrunk
T = TypeVar("T")


@dataclass(frozen=True)
class ImageSet:
    """Images in memory: pixels (M, 32, 32, 3) uint8, targets (M,) int64, class names, and whether mirroring is allowed.

    `shrunk_from` is the median short side of those that were larger before, 0 if none was.
    """

    pixels: Tensor
    targets: Tensor
    class_names: list[str]
    flip: bool = True
    shrunk_from: float = 0.0

    def subset(self, index: np.ndarray) -> ImageSet:
        """Return the images at `index`."""
        rows = torch.from_numpy(index)
        return replace(self, pixels=self.pixels[rows], targets=self.targets[rows])

    def crc(self, value: int = 0) -> int:
        """Return a checksum of pixels and targets, which are on the CPU, going on from `value`."""
        return zlib.crc32(self.targets.numpy().tobytes(), zlib.crc32(self.pixels.numpy().tobytes(), value))

    def digest(self) -> str:
        """Return eight digits that tell these images and labels from others."""
        return f"{self.crc():08x}"

    def to(self, device: torch.device) -> ImageSet:
        """Return the set on `device`."""
        return replace(self, pixels=self.pixels.to(device), targets=self.targets.to(device))


def read_images(
    dataset: str, root: str, train: bool, class_names: list[str] | None = None, faults: list[str] | None = None
) -> tuple[ImageSet, list[str]]:
    """Read the training or the test images of a data set; return them and lines to tell the user.

    Parameters
    ----------
    dataset:
        "cifar10" and "cifar100" lie under `root` in torchvision's layout, or are downloaded; "digits" comes with
        scikit-learn; "folder" is `root/{train,test}/<class>/*`.
    class_names:
        The classes of the training set: a test folder must hold no others.
    faults:
        Takes a line for every image that cannot be read and is left out; None: such images are a `UserError`.
    """
    if dataset in PUBLISHED_FOLDERS:
        return read_cifar(dataset, root, train), []
    if dataset == "digits":
        return read_digits(train), []
    if dataset == "folder":
        layout = read_layout(Path(root))
        if not layout.split:
            layout = layout._replace(train=Path(root) / "train", test=Path(root) / "test")  # one of which is missing
        images, notes = read_folder(layout.train if train else layout.test or layout.val, class_names, faults)
        return images, [*(layout.notes if train else ()), *notes]
    raise UserError(f"unknown data set {dataset!r}: choose from {', '.join((*PUBLISHED_FOLDERS, 'digits', 'folder'))}")


def read_cifar(dataset: str, root: str, train: bool) -> ImageSet:
    """Read CIFAR through torchvision, which checks each file's md5 before it is unpickled; fetch it when absent."""
    from torchvision import datasets

    reader = datasets.CIFAR10 if dataset == "cifar10" else datasets.CIFAR100
    folders = [root, PUBLISHED_FOLDERS[dataset]]
    archive = reader.filename
    found = next((f for f in folders if os.path.isdir(Path(f) / reader.base_folder)), None)
    packed = next((f for f in folders if os.path.isfile(Path(f) / archive)), None)
    try:
        if found is None:
            found = packed or root
            fetch(reader.url, Path(found) / archive)
            unpack(Path(found) / archive, SHA256[archive], Path(found))
        data = reader(found, train=train)
    except (URLError, ConnectionError, TimeoutError) as error:
        looked = " and ".join(str(Path(f) / reader.base_folder) for f in folders)
        raise UserError(
            f"{dataset} is not in {looked}, and downloading it failed ({error}): fetch {reader.url} on a machine "
            f"with a network and put the file into {root}, or name the folder with --data_root"
        ) from error
    except RuntimeError as error:
        raise UserError(describe_damage(reader, Path(found or root))) from error
    except OSError as error:
        raise UserError(f"{dataset} cannot be read from or written to {found or packed or root}: {error}") from error
    targets = torch.tensor(data.targets, dtype=torch.int64)
    pixels = np.ascontiguousarray(data.data)  # torchvision's is a transposed view; augment wants whole pixels in a row
    return ImageSet(torch.from_numpy(pixels), targets, list(data.classes))


def describe_damage(reader: type, root: Path) -> str:
    """Name the first of CIFAR's files under `root` that is missing or whose md5 differs."""
    from torchvision.datasets.utils import check_integrity

    folder = root / reader.base_folder  # type: ignore[attr-defined]
    files = [*reader.train_list, *reader.test_list]  # type: ignore[attr-defined]
    files.append((reader.meta["filename"], reader.meta["md5"]))  # type: ignore[attr-defined]
    for name, md5 in files:
        if not os.path.isfile(folder / name):
            return f"{folder / name} is missing: delete {folder} to have it downloaded again"
        if not check_integrity(str(folder / name), md5):
            return f"{folder / name} is damaged or was changed (md5 differs): delete {folder} to have it downloaded again"
    return f"{folder} cannot be read as {reader.__name__}: delete it to have it downloaded again"


def read_digits(train: bool) -> ImageSet:
    """Read scikit-learn's 1,797 scans of digits: 8x8 grey scaled up to 32x32, a fixed stratified 70/30 split.

    A mirrored digit is another sign, so these images are never flipped.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    rows = np.arange(len(digits.target))
    parts = train_test_split(rows, test_size=DIGITS_TEST_SHARE, random_state=0, stratify=digits.target)
    chosen = np.sort(parts[0 if train else 1])
    grey = torch.from_numpy(digits.images[chosen]).float().unsqueeze(1) * (255 / 16)  # (M, 1, 8, 8)
    large = torch.nn.functional.interpolate(grey, size=SIZE, mode="bilinear", align_corners=False)
    pixels = large.round().to(torch.uint8).permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous()
    targets = torch.from_numpy(digits.target[chosen]).long()
    return ImageSet(pixels, targets, [str(d) for d in range(10)], flip=False)


def read_folder(
    folder: Path | None, class_names: list[str] | None, faults: list[str] | None = None
) -> tuple[ImageSet, list[str]]:
    """Read `folder/<class>/**`, resized to 32x32; see `folders.class_folders`.

    Returns the images and lines that say which files were left out and what was done to the others.
    """
    assert folder is not None
    found = class_folders(folder, class_names, "--dataset folder reads DATA_ROOT/{train,test}/<class>/*")
    if len(found.class_names) < 2:
        raise UserError(f"{folder} holds one class folder; at least two are needed")
    shown = progress(found.paths, len(found.paths), f"reading {folder}", file=sys.stderr)
    read = [read_or_fault(folder / path, read_image) for path in shown]
    bad = [str(image) for image in read if isinstance(image, UserError)]
    good = [(image, label) for image, label in zip(read, found.labels, strict=True) if not isinstance(image, UserError)]
    if bad and (faults is None or not good):
        raise unreadable(bad, len(read), skippable=False)  # in training there are none left
    if faults is not None:
        faults += bad
    images = [image for image, _ in good]
    pixels, targets = np.stack([image.pixels for image in images]), torch.tensor([label for _, label in good])
    sizes = [image.size for image in images]
    done = changes(sizes, [image.done for image in images])
    notes = [*found.notes(folder), *(f"{folder}: {line}" for line in done)]
    shrunk_from = median([min(size) for size in larger_ones(sizes)] or [0])
    return ImageSet(torch.from_numpy(pixels), targets, found.class_names, shrunk_from=shrunk_from), notes


class SmallImage(NamedTuple):
    """Pixels (32, 32, 3) uint8, the size before (width, height), and what was done, see `pictures.Decoded`."""

    pixels: np.ndarray
    size: tuple[int, int]
    done: frozenset[str]


def read_image(path: Path) -> SmallImage:
    """Read an image, upright as its EXIF says; see `pictures.decode`."""
    image, done = decode(path, upright=True)
    small = image if image.size == (SIZE, SIZE) else image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return SmallImage(np.asarray(small), image.size, done)


def read_or_fault(path: Path, read: Callable[[Path], T]) -> T | UserError:
    """Return an image as `read` reads it, or why there is none."""
    try:
        return read(path)
    except UserError as error:
        return error


def changes(sizes: Sequence[tuple[int, int]], done: Iterable[frozenset[str]]) -> list[str]:
    """Return lines that say what was done to images besides reading them; `sizes` are those (width, height) before."""
    lines = done_notes(done)
    larger = larger_ones(sizes)
    if larger:
        small, large = (f"{width} x {height}" for width, height in (f(larger, key=np.prod) for f in (min, max)))
        span = small if small == large else f"{small} to {large}"
        were = numbered(len(larger), f"image of {span} pixels was", f"images of {span} pixels were")
        lines.append(f"{were} shrunk to {SIZE} x {SIZE}")
    return lines


def larger_ones(sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the sizes of images that have to be shrunk."""
    return [size for size in sizes if max(size) > SIZE]


def detail_note(images: ImageSet, root: str) -> list[str]:
    """Return a line that names the way for photographs, if the training images of the folder `root` were much larger."""
    if images.shrunk_from < MUCH_LARGER:
        return []
    folder = os.path.join(root, "train")
    lost = f"{folder}: images lose detail at {SIZE} x {SIZE} (their median short side was {images.shrunk_from:g} pixels)"
    command = f"python3 train_own.py --data_root {shlex.quote(folder)} --val_fraction 0.2"
    return [f"{lost}; to train on photographs at full size, through a pretrained network: {command}"]

