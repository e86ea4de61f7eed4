"""The transform of photographs in a graph: pixels of any size in, what a network takes out.

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
    """The transform of test images: pixels (N, H, W, 3) uint8 RGB, of any size, to (N, 3, crop, crop).

    It holds N·h·w·3 numbers of 8 bytes, (h, w) being the part of the images that the middle crop covers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, prepared: Preparation) -> None:
        super().__init__()
        self.crop, self.short, self.squash = prepared.image_size, prepared.resize_size, prepared.squash
        self.cubic = prepared.interpolation == "bicubic"
        self.register_buffer("mean", torch.tensor(prepared.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(prepared.std).view(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the same values as `heads.preparation` makes in tests."""
        rows, used_rows = self.weights(pixels, 1, 2)  # (crop, h), (h,)
        columns, used_columns = self.weights(pixels, 2, 1)  # (crop, w), (w,)
        used = pixels.index_select(1, used_rows).index_select(2, used_columns)
        images = used.permute(0, 3, 1, 2).contiguous().double()  # (N, 3, h, w)
        levels = rounded(rows @ rounded(images @ columns.T)).to(self.mean.dtype)  # 0 to 255, (N, 3, crop, crop)
        return (levels * (1 / 255) - self.mean) / self.std

    def weights(self, images: Tensor, along: int, across: int) -> tuple[Tensor, Tensor]:
        """Return what the pixels along a side weigh in those of the crop (crop, n), and which are used (n,).

        Weights are multiples of 2^-22.
        """
        # Tensors, as what follows from a number that an exporter keeps as a symbol would take it minutes.
        side, other = (torch.scalar_tensor(images.shape[k], dtype=torch.float64, device=images.device)
                       for k in (along, across))  # fmt: skip
        resized = (self.short * side / (side if self.squash else other)).floor().clamp(min=self.short)
        start = ((resized - self.crop) / 2).round()  # halves to even, as torchvision's
        rows = torch.arange(self.crop, dtype=side.dtype, device=side.device).unsqueeze(1) + start  # of the resized image
        pixels = torch.arange(images.shape[along], dtype=side.dtype, device=side.device)
        scale = side / resized  # pixels of the image to one resized
        distances = (pixels - (rows + 0.5) * scale + 0.5) * (1 / scale.clamp(min=1))  # in this order in Pillow
        weights = keys_cubic(distances) if self.cubic else (1 - distances.abs()).clamp(min=0)
        weights = weights / weights.sum(1, keepdim=True) * 2.0**22  # PRECISION_BITS of Pillow's Resample.c
        weights = weights.sign() * (weights.abs() + 0.5).floor() / 2.0**22
        used = weights.any(0).nonzero().squeeze(1)
        return weights.index_select(1, used), used


def keys_cubic(distances: Tensor) -> Tensor:
    """Return the weights of Keys' cubic with a = -0.5, not yet of sum 1."""
    x = distances.abs()
    inner, outer = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    return inner.where(x < 1, outer.where(x < 2, 0.0))


def rounded(sums: Tensor) -> Tensor:
    """Return the nearest levels, halves rounded up."""
    return (sums + 0.5).floor().clamp(0, 255)
