"""Long-tailed image sets: which images are kept, and whole batches of them, augmented on the device.

A set is small enough to sit in memory as uint8 pixels. `build_dataset` makes the training, meta and test sets as the
published code draws them (index by index, see tests/golden); `augment` crops and flips a whole batch with one gather.
The readers of the pixels are in `datasets/small_sets.py`, the draws that all data sets share in `datasets/drawing.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from datasets.drawing import long_tailed_counts
from datasets.drawn_sets import Lists, Sets
from datasets.examples import repeat_notes
from datasets.pictures import left_out, unreadable
from datasets.small_sets import ImageSet, read_images

PUBLISHED_SIZES = {"cifar10": (50000, 10), "cifar100": (50000, 100)}  # training images, classes
MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)
PAD = 4
TRAIN_STREAM, META_STREAM = 0, 1  # so that no two generators of a run are the same


def get_img_num_per_cls(dataset: str, imb_factor: float | None = None, num_meta: int = 0) -> list[int]:
    """Return the published counts per class of "cifar10" or "cifar100".

    Parameters
    ----------
    imb_factor:
        Smallest class over largest; None keeps the classes balanced.
    num_meta:
        Meta images taken out of the training set, all classes together.
    """
    total, cls_num = PUBLISHED_SIZES[dataset]
    return long_tailed_counts((total - num_meta) // cls_num, cls_num, 1.0 if imb_factor is None else imb_factor)


def build_dataset(
    dataset: str,
    num_meta: int,
    imb_factor: float | None = None,
    root: str = "data",
    num_heldout: int = 0,
    skip_bad: bool = False,
    join_meta: bool = False,
    device: torch.device | str = "cpu",
) -> Sets[ImageSet]:
    """Read a data set, set a balanced meta set aside and make the rest long-tailed.

    Parameters
    ----------
    dataset:
        "cifar10", "cifar100", "digits" or "folder"; see `small_sets.read_images`.
    num_meta, num_heldout, join_meta:
        See `drawn_sets.Lists.sets`. Meta images are not in the training set.
    imb_factor:
        Smallest class over largest. Class k of C keeps (largest class − num_meta) · imb_factor^(k / (C − 1)) images, or
        all it has when that is fewer. None keeps every image.
    skip_bad:
        Leave out images that cannot be read; else they are a `UserError` that lists them.
    device:
        Where the pixels of the sets are.
    """
    everything = read_images(dataset, root, train=True).to(device)
    test = read_images(dataset, root, train=False, class_names=everything.class_names).to(device)
    faults = [*everything.faults, *test.faults]
    total = len(everything) + len(test) + len(faults)
    if faults and not skip_bad:
        raise unreadable(faults, total, skippable=True)
    repeats = repeat_notes(everything.items.tolist(), everything.targets, test.items.tolist())
    notes = [*everything.notes, *test.notes, *repeats, *([left_out(faults, total)] if faults else [])]
    lists = Lists(everything, everything, test, "take out", notes)
    return replace(lists.sets(num_meta, num_heldout, join_meta, imb_factor), lists=None)  # whose other pixels are freed


def normalize(pixels: Tensor) -> Tensor:
    """Map uint8 pixels (N, 32, 32, 3) to normalised floats (N, 3, 32, 32), channels last in memory."""
    scale, shift = normalisation(pixels.device, torch.get_default_dtype())
    return pixels.to(scale.dtype).mul_(scale).sub_(shift).permute(0, 3, 1, 2)


@cache
def normalisation(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return what pixels are multiplied by, and what is then taken off, (3,) each; kept, as a new copy makes a GPU wait."""
    mean, std = torch.tensor(MEAN, dtype=dtype), torch.tensor(STD, dtype=dtype)
    return (1 / (255 * std)).to(device), (mean / std).to(device)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on `device`; a GPU's work does not wait for the copy."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def crops_and_flips(count: int, generator: torch.Generator, flip: bool = True) -> Tensor:
    """Draw where images are cropped and whether they are mirrored, (3, N): top and left in [0, 2 · PAD], 1 for mirrored.

    Drawn on the CPU, so that every device sees the same.
    """
    top, left = (torch.randint(0, 2 * PAD + 1, (count,), generator=generator) for _ in range(2))
    return torch.stack([top, left, torch.randint(0, 2, (count,), generator=generator) * flip])


def augment(pixels: Tensor, index: Tensor, draws: Tensor) -> Tensor:
    """Return images `index` of pixels (M, S, S, 3): reflect-padded by 4, cropped to S, mirrored, still uint8.

    `draws` (3, N) are those of `crops_and_flips`. Padding, crop and flip only say where each pixel comes from, so all three
    are one gather: no padded copy is made.
    """
    size = pixels.shape[1]
    grid = torch.arange(size, device=pixels.device) - PAD
    position = (draws[:2].unsqueeze(2) + grid).abs()
    rows, columns = size - 1 - (size - 1 - position).abs()  # source coordinates, reflected, (N, S) each
    columns = torch.where(draws[2].unsqueeze(1) == 1, columns.flip(1), columns)
    source = (index.unsqueeze(1) * size + rows).unsqueeze(2) * size + columns.unsqueeze(1)  # (N, S, S)
    return pixels.view(-1, 3).index_select(0, source.flatten()).view(len(index), size, size, 3)


def mixed_seed(*numbers: int) -> int:
    """Return a seed that depends on all the numbers, and on nothing else."""
    state = np.random.SeedSequence(numbers).generate_state(2, np.uint32)
    return int(state[0]) << 31 ^ int(state[1])


def seeded(seed: int, stream: int, epoch: int = 0) -> torch.Generator:
    """Return a CPU generator that depends on the three numbers, and on nothing else."""
    return torch.Generator().manual_seed(mixed_seed(seed, epoch, stream))


def epoch_batches(data: ImageSet, batch_size: int, seed: int, epoch: int, taken: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the augmented batches of one epoch: normalised images (N, 3, 32, 32) and target (N,).

    Order, crops and flips depend on seed and epoch alone. The last batch may be smaller. The first `taken` are left out.
    """
    generator = seeded(seed, TRAIN_STREAM, epoch)
    count, device = len(data), data.pixels.device
    order = sent(torch.randperm(count, generator=generator), device)
    draws = sent(crops_and_flips(count, generator, data.flip), device)
    batches = zip(order.split(batch_size), draws.split(batch_size, dim=1), strict=True)
    for index, drawn in islice(batches, taken, None):
        yield normalize(augment(data.pixels, index, drawn)), data.target[index]


def meta_batches(data: ImageSet, batch_size: int, seed: int, taken: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield augmented batches of the meta set without end, from one shuffled pass after the other.

    Each image comes once a pass; a batch larger than the set is cut to the set's size. The first `taken` are left out.
    """
    generator = seeded(seed, META_STREAM)
    for number, chosen in enumerate(shuffled_passes(len(data), batch_size, generator)):
        index = sent(chosen, data.pixels.device)
        draws = sent(crops_and_flips(len(index), generator, data.flip), data.pixels.device)
        if number < taken:
            continue
        yield normalize(augment(data.pixels, index, draws)), data.target[index]


def shuffled_passes(count: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield batches of indices below `count` without end, one shuffled pass after the other, batches across their seams.

    A pass is shuffled when a batch needs it, so the generator may be drawn from in between.
    """
    batch_size = min(batch_size, count)
    order = torch.empty(0, dtype=torch.int64)
    while True:
        if len(order) < batch_size:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        index, order = order[:batch_size], order[batch_size:]
        yield index


def plain_batches(data: ImageSet, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the images as they are, in order, normalised: the test set."""
    for pixels, target in zip(data.pixels.split(batch_size), data.target.split(batch_size), strict=True):
        yield normalize(pixels), target
