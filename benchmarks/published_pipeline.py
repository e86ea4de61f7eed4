"""The input pipeline as the published code has it, the baseline of a benchmark: image by image, through PIL and torchvision.

Written anew after the structure of the published code (github.com/BIT-DA/MetaSAug); nothing else uses it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data_utils import MEAN, STD
from datasets.small_sets import ImageSet


def reflect_pad(x: Tensor) -> Tensor:
    """Pad an image (3, 32, 32) to (3, 40, 40) by reflection.

    A function and not a lambda, so that workers can also be started where that takes pickling.
    """
    return F.pad(x.unsqueeze(0), (4, 4, 4, 4), mode="reflect").squeeze(0)


class Images(Dataset[tuple[Tensor, int]]):
    """Augmented images."""

    def __init__(self, images: ImageSet) -> None:
        self.pixels = images.pixels.numpy()
        self.targets = images.target.tolist()
        self.transform = transforms.Compose(
            [
                transforms.ToTensor(),
                transforms.Lambda(reflect_pad),
                transforms.ToPILImage(),
                transforms.RandomCrop(32),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.pixels[index])
        return self.transform(image), self.targets[index]

    def __len__(self) -> int:
        return len(self.targets)


def make_loader(images: ImageSet, batch_size: int) -> DataLoader[Any]:
    """Return a loader of batches (N, 3, 32, 32) and (N,); every iterator over it starts its worker process anew."""
    return DataLoader(Images(images), batch_size, shuffle=True, num_workers=1, pin_memory=torch.cuda.is_available())
