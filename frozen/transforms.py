"""From an image to what a backbone takes: its size, the normalisation, and what is drawn at random in training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

CROP, RESIZED = 224, 256  # of the published networks and most others
Triple = tuple[float, float, float]
IMAGENET: tuple[Triple, Triple] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and std
INATURALIST: tuple[Triple, Triple] = (0.466, 0.471, 0.380), (0.195, 0.194, 0.192)
Transform = Callable[[Any], Tensor]  # a PIL image -> (3, H, W)


@dataclass(frozen=True)
class Preparation:
    """How images become inputs of a backbone.

    Parameters
    ----------
    image_size:
        The crop, in pixels a side.
    resize_size:
        What the short side is made before the middle is cut out, in tests.
    mean, std:
        Of the channels, where pixels go from 0 to 1.
    interpolation:
        "bilinear" or "bicubic".
    upright:
        Whether images are turned as their EXIF says.
    jitter:
        Whether the colours of training images are varied.
    """

    image_size: int = CROP
    resize_size: int = RESIZED
    mean: Triple = IMAGENET[0]
    std: Triple = IMAGENET[1]
    interpolation: str = "bilinear"
    upright: bool = True
    jitter: bool = True


def preparation_of(dataset: str) -> Preparation:
    """Return that of the published code: iNaturalist has its own mean and std and no colour jitter.

    Images of the published sets are not turned as their EXIF says; one's own, of the set "custom", are.
    """
    inaturalist = dataset.startswith("iNaturalist")
    mean, std = INATURALIST if inaturalist else IMAGENET
    return Preparation(mean=mean, std=std, upright=dataset == "custom", jitter=not inaturalist)


def transforms(prepared: Preparation, train: bool) -> v2.Compose:
    """Return the transform of training images, a crop at random, or that of the others, the middle."""
    size, mode = prepared.image_size, InterpolationMode(prepared.interpolation)
    first: list[Any]
    if train:
        first = [v2.RandomResizedCrop(size, interpolation=mode), v2.RandomHorizontalFlip()]
        if prepared.jitter:
            first.append(v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0))
    else:
        first = [v2.Resize(prepared.resize_size, interpolation=mode), v2.CenterCrop(size)]
    normalise = v2.Normalize(prepared.mean, prepared.std)
    return v2.Compose([*first, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normalise])


def is_thin(size: tuple[int, int], resize_size: int = RESIZED) -> bool:
    """Return whether an image of that width and height would be too large when its short side is `resize_size`."""
    (short, long), most = sorted(size), Image.MAX_IMAGE_PIXELS
    return most is not None and resize_size**2 * long > most * short


def thin(path: Path, size: tuple[int, int]) -> str:
    """Return what is said of such an image."""
    return f"{path} is absurdly thin ({size[0]} x {size[1]}): remove it or crop it"
