"""Readers of the data sets: CIFAR through torchvision, scikit-learn's digits, folders of one's own images.

Everything ends as an `ImageSet`: all pixels of a set in memory, 32x32, uint8.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.examples import Examples, row_digests
from datasets.folders import Layout, read_layout
from datasets.image_lists import read_tree
from datasets.pictures import Decoded, decode, done_notes, read_or_fault, unreadable
from harness.errors import UserError
from harness.progress import progress

SIZE = 32
PUBLISHED_FOLDERS = {"cifar10": "../cifar-10", "cifar100": "../cifar-100"}
SMALL_SETS = (*PUBLISHED_FOLDERS, "digits", "folder")
DIGITS_TEST_SHARE = 0.3


@dataclass(frozen=True)
class ImageSet(Examples):
    """Images in memory, whose items are digests of them: pixels (M, 32, 32, 3) uint8, and whether mirroring is allowed.

    `faults` are lines about images that cannot be read.
    """

    pixels: Tensor = torch.empty(0)
    flip: bool = True
    faults: Sequence[str] = ()

    @cached_property
    def target(self) -> Tensor:
        """The targets (M,), on the pixels' device."""
        return torch.from_numpy(self.targets).to(self.pixels.device)

    def subset(self, index: np.ndarray) -> ImageSet:
        """Return the images at `index`."""
        return replace(super().subset(index), pixels=self.pixels[torch.from_numpy(index)])

    def joined(self, other: ImageSet) -> ImageSet:
        """Return these images and after them those of `other`."""
        return replace(super().joined(other), pixels=torch.cat([self.pixels, other.pixels]))

    def picture(self, index: int) -> Image.Image:
        """Return the image at `index`."""
        return Image.fromarray(self.pixels[index].cpu().numpy())

    def to(self, device: torch.device | str) -> ImageSet:
        """Return the set on `device`."""
        return replace(self, pixels=self.pixels.to(device))


def image_set(pixels: np.ndarray, targets: np.ndarray, class_names: list[str], **more: Any) -> ImageSet:
    """Return images in memory, see `ImageSet`."""
    items = np.array(row_digests(pixels), dtype=object)
    return ImageSet(items, targets.astype(np.int64), class_names, pixels=torch.from_numpy(pixels), **more)


def read_images(dataset: str, root: str, train: bool, class_names: list[str] | None = None) -> ImageSet:
    """Read the training or the test images of a data set.

    Parameters
    ----------
    dataset:
        "cifar10" and "cifar100" lie under `root` in torchvision's layout, or are downloaded; "digits" comes with
        scikit-learn; "folder" is `root/{train,test}/<class>/*`.
    class_names:
        The classes of the training set: a test folder must hold no others.
    """
    if dataset in PUBLISHED_FOLDERS:
        return read_cifar(dataset, root, train)
    if dataset == "digits":
        return read_digits(train)
    layout = read_layout(Path(root))
    if layout.tested is None:
        layout = Layout(Path(root) / "train", test=Path(root) / "test")  # one of which is missing
    folder = layout.train if train else layout.tested
    assert folder is not None
    images = read_folder(folder, class_names)
    return replace(images, notes=(*(layout.notes if train else ()), *images.notes))


def read_cifar(dataset: str, root: str, train: bool) -> ImageSet:
    """Read CIFAR through torchvision, which checks each file's md5 before it is unpickled; fetch it when absent."""
    from torchvision import datasets

    reader = datasets.CIFAR10 if dataset == "cifar10" else datasets.CIFAR100
    places = [Path(f) / n for n in (reader.base_folder, reader.filename) for f in (root, PUBLISHED_FOLDERS[dataset])]
    found = next((place.parent for place in places if os.path.exists(place)), Path(root))
    unpacked = found / reader.base_folder
    try:
        data = reader(found, train=train, download=not os.path.exists(unpacked))
    except (OSError, RuntimeError) as error:
        advice = f"delete what is there, and put {reader.url} into {root}, or name its folder by --data_root"
        raise UserError(f"{dataset} cannot be read from {unpacked} or downloaded ({error}): {advice}") from error
    pixels = np.ascontiguousarray(data.data)  # torchvision's is a transposed view; augment wants whole pixels in a row
    return image_set(pixels, np.array(data.targets), list(data.classes), source=str(unpacked))


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
    return image_set(pixels.numpy(), digits.target[chosen], [str(d) for d in range(10)], source="digits", flip=False)


def read_folder(folder: Path, class_names: list[str] | None) -> ImageSet:
    """Read `folder/<class>/**`, resized to 32x32; see `image_lists.read_tree`.

    Notes say which files were left out and what was done to the others.
    """
    found = read_tree(folder, class_names, None, "--dataset folder reads DATA_ROOT/{train,test}/<class>/*")
    shown = progress(found.paths, len(found.paths), f"reading {folder}", file=sys.stderr)
    read = {path: read_or_fault(folder / path, read_image) for path in shown}
    bad = {path: str(image) for path, image in read.items() if isinstance(image, UserError)}
    good = [image for image in read.values() if not isinstance(image, UserError)]
    if not good:  # in training there are none left
        raise unreadable([*bad.values()], len(read), skippable=False)
    lines = done_notes(image.done for image in good)
    lines.append(f"images are taken in {SIZE} x {SIZE} (train_own.py takes photographs at the size that its network wants)")
    pixels, targets = np.stack([np.asarray(image.image) for image in good]), found.without(bad).targets
    notes = (*found.notes, *(f"{folder}: {line}" for line in lines))
    return image_set(pixels, targets, found.class_names, source=str(folder), notes=notes, faults=[*bad.values()])


def read_image(path: Path) -> Decoded:
    """Read an image, upright as its EXIF says, in 32 x 32; see `pictures.decode`."""
    image, done = decode(path, upright=True)
    return Decoded(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR), done)
