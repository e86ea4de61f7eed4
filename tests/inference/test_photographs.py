"""Pixels of any size: what the test transform does with PIL, as a graph."""

import math

import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from heads.preparation import Preparation, transforms
from inference.photographs import FromPhotographs

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}


def noise(height, width, kind="levels", seed=0):
    """Pixels (H, W, 3): all levels, only the outermost two, or a smooth picture as of a camera."""
    generator = np.random.default_rng(seed)
    if kind == "smooth":
        coarse = Image.fromarray(generator.integers(0, 256, (5, 4, 3), dtype=np.uint8))
        return np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))
    pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return pixels if kind == "levels" else np.uint8(255) * (pixels > 127)


def slow(pixels, prepared):
    """The test transform (3, crop, crop), the resize in two calls: as of Pillow 13 one call may do the columns first."""
    image, mode = Image.fromarray(pixels), FILTERS[prepared.interpolation]
    width, height = (int(prepared.resize_size * side / min(image.size)) for side in image.size)
    image = image.resize((width, image.height), mode).resize((width, height), mode)
    return transforms(prepared, train=False)(image)


def batch(*images):
    return torch.from_numpy(np.stack(images))


def prepared_pixels(pixels, prepared):
    return FromPhotographs(prepared)(batch(pixels))[0]


def levels_apart(one, other):
    """The largest difference in levels, and the share of numbers that differ."""
    apart = (255 * (one - other)).abs().round()
    return float(apart.max()), float((apart > 0).double().mean())


@settings(max_examples=60)
@given(
    sides=st.tuples(*[st.one_of(st.integers(1, 12), st.integers(1, 700))] * 2),
    short=st.integers(1, 300),
    crop=st.integers(1, 300),
    interpolation=st.sampled_from(sorted(FILTERS)),
    kind=st.sampled_from(["levels", "extremes", "smooth"]),
    seed=st.integers(0, 9),
)
@example(sides=(41, 30), short=30, crop=27, interpolation="bicubic", kind="levels", seed=0)  # a half on one side
@example(sides=(700, 1), short=30, crop=9, interpolation="bicubic", kind="extremes", seed=0)
def test_the_pixels_are_those_of_pillow(sides, short, crop, interpolation, kind, seed):
    short = min(short, max(1, math.isqrt(500_000 * min(sides) // max(sides))))  # Pillow makes the whole of thin images
    prepared = Preparation(min(crop, short), short, interpolation=interpolation, **PLAIN)
    pixels = noise(*sides, kind, seed)
    most, share = levels_apart(prepared_pixels(pixels, prepared), slow(pixels, prepared))
    assert most <= 1
    assert share <= 1e-3


def test_a_resize_that_skips_pixels_is_seen():
    """The control."""
    pixels = noise(300, 400)
    image = batch(pixels).permute(0, 3, 1, 2).float()
    wrong = F.interpolate(image, (256, 341), mode="bilinear")[0, :, 16:240, 58:282].round().clamp(0, 255) / 255
    most, share = levels_apart(wrong, slow(pixels, Preparation(224, 256, **PLAIN)))
    assert most > 9
    assert share > 0.5
