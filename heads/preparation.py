"""From an image to what a backbone takes: its size, the normalisation, and what is drawn at random in training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torchvision.transforms import InterpolationMode, v2

from datasets.pictures import RESIZED
from harness.flags import require

CROP = 224  # of the published networks and most others
LEAST_SIDE, MOST_SIDE = 8, 4096  # pixels a side
LEAST_STD = 1e-3  # 1 / 255 is that of networks for pixels from 0 to 255
Triple = tuple[float, float, float]
ImageFlags = Mapping[str, Any]  # fields of a `Preparation` that flags say
IMAGENET: tuple[Triple, Triple] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and std
INATURALIST: tuple[Triple, Triple] = (0.466, 0.471, 0.380), (0.195, 0.194, 0.192)


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
    squash:
        Whether both sides are made `resize_size`, as some of timm's networks want it, in tests.
    """

    image_size: int = CROP
    resize_size: int = RESIZED
    mean: Triple = IMAGENET[0]
    std: Triple = IMAGENET[1]
    interpolation: str = "bilinear"
    upright: bool = True
    jitter: bool = True
    squash: bool = False


def of_config(config: Mapping[str, Any]) -> Preparation:
    """Return what timm's own transform of test images does, by a data config of timm.

    Raises
    ------
    TypeError, ValueError, LookupError, ArithmeticError
        If the config makes no sense, or there is no such preparation here.
    """
    (_, height, width), mode, interpolation = (config[key] for key in ("input_size", "crop_mode", "interpolation"))
    if height != width or mode not in ("center", "squash") or interpolation not in ("bilinear", "bicubic"):
        raise ValueError(f"crop_mode {mode!r} of {height} x {width}, {interpolation}, is not known here")
    (r, g, b), (of_r, of_g, of_b) = (map(float, config[key]) for key in ("mean", "std"))
    resized = math.floor(width / config["crop_pct"])
    return Preparation(width, resized, (r, g, b), (of_r, of_g, of_b), interpolation, squash=mode == "squash")


def as_said(prepared: Preparation, images: ImageFlags) -> Preparation:
    """Return the preparation with what the flags say; the short side grows with the crop unless it is said.

    A `UserError` names the flag that makes no sense.
    """
    size = images.get("image_size", prepared.image_size)
    grown = math.floor(size * prepared.resize_size / prepared.image_size)
    made = replace(prepared, **{"resize_size": grown, **images})
    require(LEAST_SIDE <= size <= MOST_SIDE, "--image_size", size, f"from {LEAST_SIDE} to {MOST_SIDE}")
    least = size if "resize_size" in images else LEAST_SIDE  # some of timm's networks have a black border
    rule = f"from the {size} of --image_size to {MOST_SIDE}"
    require(least <= made.resize_size <= MOST_SIDE, "--resize_size", made.resize_size, rule)
    for flag, values, lowest in (("--mean", made.mean, 0.0), ("--std", made.std, LEAST_STD)):
        words = ",".join(f"{value:g}" for value in values)
        right = all(lowest <= value <= 1 for value in values)
        require(right, flag, words, f"three numbers from {lowest:g} to 1, for pixels scaled to 0 to 1")
    return made


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
        sides = [prepared.resize_size] * (1 + prepared.squash)
        first = [v2.Resize(sides, interpolation=mode), v2.CenterCrop(size)]
    normalise = v2.Normalize(prepared.mean, prepared.std)
    return v2.Compose([*first, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normalise])
