"""A trained network together with the transform of its images: photographs of any size in, logits out, in one graph.

The resize is that of Pillow, by which torchvision resizes PIL images: a triangle or Keys' cubic (a = -0.5) that is as wide
as the step between output pixels, along rows first and columns next, with weights of 22 bits and levels rounded after each
pass. Each pass is a product with a matrix that is made in the graph from the image's size. In float64 its sums are exact, as
they are those of integers, so that the pixels are Pillow's own. (Of images more than twice as high as wide, and where both
sides are squashed, Pillow may do the columns first: there levels may differ, mostly by one.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from heads.preparation import Preparation  # torchvision, which exports of small networks need not load


class FromPhotographs(nn.Module):
    """A network with the transform of its test images: pixels (N, H, W, 3) uint8 RGB, of any size, to logits (N, C).

    It holds N·h·w·3 numbers of 8 bytes, (h, w) being the part of the images that the middle crop covers. `subtracted` (C,)
    is taken off the logits, None takes nothing.
    """

    mean: Tensor
    std: Tensor
    subtracted: Tensor | None

    def __init__(self, network: nn.Module, prepared: Preparation, subtracted: Tensor | None = None) -> None:
        super().__init__()
        self.network, self.prepared = network, prepared
        self.crop, self.short, self.cubic = prepared.image_size, prepared.resize_size, prepared.interpolation == "bicubic"
        self.register_buffer("subtracted", subtracted)
        self.register_buffer("mean", torch.tensor(prepared.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(prepared.std).view(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits (N, C)."""
        logits: Tensor = self.network(self.prepare(pixels))
        return logits if self.subtracted is None else logits - self.subtracted

    def prepare(self, pixels: Tensor) -> Tensor:
        """Return what the network takes (N, 3, crop, crop): the same values as `heads.preparation` makes in tests."""
        levels = self.middle(pixels).to(self.mean.dtype)
        return (levels * (1 / 255) - self.mean) / self.std

    def middle(self, pixels: Tensor) -> Tensor:
        """Resize so that the short side fits, and cut the middle out: levels of 0 to 255, (N, 3, crop, crop) in float64."""
        height = torch.scalar_tensor(pixels.shape[1], dtype=torch.int64, device=pixels.device)
        width = torch.scalar_tensor(pixels.shape[2], dtype=torch.int64, device=pixels.device)
        rows, used_rows = self.weights(pixels.shape[1], height, width)  # (crop, h), (h,)
        columns, used_columns = self.weights(pixels.shape[2], width, height)  # (crop, w), (w,)
        used = pixels.index_select(1, used_rows).index_select(2, used_columns)
        images = used.permute(0, 3, 1, 2).contiguous().double()  # (N, 3, h, w)
        return rounded(rows @ rounded(images @ columns.T))

    def weights(self, count: int, side: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the pixels along a side weigh in those of the crop (crop, n), and which are used (n,).

        `count` and `side` are the side's pixels, as a number and as a tensor: what follows from a number that an exporter
        keeps as a symbol would take it minutes. Weights are multiples of 2^-22. They are 0 where the crop goes beyond the
        resized image, as torchvision fills it up with black there.
        """
        resized = (self.short * side // (side if self.prepared.squash else other)).clamp(min=self.short)
        cut, filled = (resized - self.crop).clamp(min=0), (self.crop - resized).clamp(min=0)
        half = cut // 2
        start = half + (cut % 2) * (half % 2) - filled // 2  # what is cut off is rounded to even, what is filled up down

        rows = torch.arange(self.crop, dtype=torch.float64, device=side.device).unsqueeze(1) + start  # of the resized image
        pixels = torch.arange(count, dtype=torch.float64, device=side.device)
        scale = side.double() / resized  # pixels of the image to one resized
        distances = (pixels - (rows + 0.5) * scale + 0.5) * (1 / scale.clamp(min=1))  # in this order in Pillow
        weights = keys_cubic(distances) if self.cubic else triangle(distances)
        weights = weights / weights.sum(1, keepdim=True) * 2.0**22  # PRECISION_BITS of Pillow's Resample.c
        weights = weights.sign() * (weights.abs() + 0.5).floor() / 2.0**22
        weights = torch.where((rows >= 0) & (rows < resized), weights, torch.zeros_like(weights))
        used = weights.any(0).nonzero().squeeze(1)
        return weights.index_select(1, used), used


def triangle(distances: Tensor) -> Tensor:
    """Return the weights of linear interpolation, not yet of sum 1."""
    return (1 - distances.abs()).clamp(min=0)


def keys_cubic(distances: Tensor) -> Tensor:
    """Return the weights of Keys' cubic with a = -0.5, not yet of sum 1."""
    x = distances.abs()
    inner, outer = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    return torch.where(x < 1, inner, torch.where(x < 2, outer, torch.zeros_like(x)))


def rounded(sums: Tensor) -> Tensor:
    """Return the nearest levels, halves rounded up."""
    return (sums + 0.5).floor().clamp(0, 255)
