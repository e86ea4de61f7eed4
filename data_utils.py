"""Long-tailed image sets: which images are kept, and whole batches of them, augmented on the device.

A set is small enough to sit in memory as uint8 pixels. `build_dataset` makes the training, meta and test sets as the
published code draws them (index by index, see tests/golden); `augment` crops and flips a whole batch with one gather.
The readers of the pixels are in `datasets/small_sets.py`, the draws that all data sets share in `datasets/drawing.py`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.drawing import check_classes, check_held_out, hold_out, shared_note, split_meta
from datasets.pictures import left_out, unreadable
from datasets.repeats import repeat_notes, row_digests
from datasets.small_sets import ImageSet, detail_note, read_images
from harness.errors import UserError

PUBLISHED_SIZES = {"cifar10": (50000, 10), "cifar100": (50000, 100)}  # training images, classes
SUBSET_SEED = 42  # fixed in the published code: --seed does not change the subsets
MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)
PAD = 4
TRAIN_STREAM, META_STREAM = 0, 1  # so that no two generators of a run are the same


def long_tailed_counts(img_max: int, cls_num: int, imb_factor: float) -> list[int]:
    """Return how many images class k of C keeps: ⌊img_max · imb_factor^(k / (C − 1))⌋."""
    return [int(img_max * imb_factor ** (k / max(cls_num - 1, 1))) for k in range(cls_num)]


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


def long_tailed_subset(targets: np.ndarray, candidates: np.ndarray, cls_num_list: Sequence[int]) -> np.ndarray:
    """Draw `cls_num_list[k]` of the `candidates` of each class k; return their indices, ascending."""
    generator = random.Random(SUBSET_SEED)
    kept: list[int] = []
    for k, count in enumerate(cls_num_list):
        indices = candidates[targets[candidates] == k].tolist()
        generator.shuffle(indices)
        kept.extend(indices[:count])
    return np.sort(np.array(kept, dtype=np.int64))


@dataclass(frozen=True)
class LongTailedData:
    """The sets of an experiment, the counts of the training set and how they came about.

    `heldout` are training images to choose settings on, `joined` training and meta images together, None unless asked for.
    `notes` are lines for the user: classes that hold fewer images than the long tail asks for, files passed over.
    """

    train: ImageSet
    meta: ImageSet
    test: ImageSet
    cls_num_list: list[int]
    notes: list[str]
    heldout: ImageSet | None = None
    joined: ImageSet | None = None

    def to(self, device: torch.device) -> LongTailedData:
        """Return the same with its images on `device`."""
        names = ("train", "meta", "test", "heldout", "joined")
        return replace(self, **{name: part.to(device) for name in names if (part := getattr(self, name)) is not None})

    def of_stage(self, second: bool) -> ImageSet:
        """Return the images that stage 1 or the second trains on."""
        return self.joined if second and self.joined is not None else self.train

    @property
    def stage2_counts(self) -> list[int]:
        """How many images of each class stage 2 trains on."""
        joined = self.joined
        return self.cls_num_list if joined is None else joined.targets.bincount(minlength=len(self.cls_num_list)).tolist()

    @property
    def parts(self) -> list[ImageSet]:
        """Training, meta and test set, and the held-out images if there are any."""
        return [self.train, self.meta, self.test, *([self.heldout] if self.heldout else [])]

    def about(self) -> list[str]:
        """Return lines that say how many images there are of what."""
        sizes = zip(("training", "meta", "test", "held out"), self.parts, strict=False)
        words = "  ".join(f"{name} {len(part.targets)}" for name, part in sizes)
        both = [] if self.joined is None else [f"stage 2: {len(self.joined.targets)} images, training and meta, each once"]
        return [f"training images a class: {self.cls_num_list}", words, *both, *(f"note: {note}" for note in self.notes)]

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint says of the training set."""
        names, digest = self.train.class_names, self.train.digest()
        joined = {} if self.joined is None else {"stage2_counts": self.stage2_counts}
        return {"class_names": names, "cls_num_list": self.cls_num_list, "train_digest": digest, **joined}

    def digest(self) -> str:
        """Return eight digits that tell these images and labels from others."""
        value = 0
        for part in self.parts:
            value = part.crc(value)
        return f"{value:08x}"


def build_dataset(
    dataset: str,
    num_meta: int,
    imb_factor: float | None = None,
    root: str = "data",
    num_heldout: int = 0,
    skip_bad: bool = False,
    join_meta: bool = False,
) -> LongTailedData:
    """Read a data set, set a balanced meta set aside and make the rest long-tailed.

    Parameters
    ----------
    dataset:
        "cifar10", "cifar100", "digits" or "folder"; see `small_sets.read_images`.
    num_meta:
        Meta images a class; they are not in the training set.
    imb_factor:
        Smallest class over largest. Class k of C keeps (largest class − num_meta) · imb_factor^(k / (C − 1)) images, or
        all it has when that is fewer. None keeps every image.
    num_heldout:
        Images a class to hold out, see `hold_out`; -1: 2,000 in all.
    skip_bad:
        Leave out images that cannot be read; else they are a `UserError` that lists them.
    join_meta:
        Also make one set of the training and the meta images, each once; the training set stays what it is.
    """
    faults: list[str] = []
    everything, notes = read_images(dataset, root, train=True, faults=faults)
    test, test_notes = read_images(dataset, root, train=False, class_names=everything.class_names, faults=faults)
    notes += detail_note(everything, root)
    same = [row_digests(part.pixels.numpy()) for part in (everything, test)]
    notes += repeat_notes(same[0], everything.targets.numpy(), same[1])
    total = len(everything.targets) + len(test.targets) + len(faults)
    if faults and not skip_bad:
        raise unreadable(faults, total, skippable=True)
    if faults:
        notes.append(left_out(faults, total))
    targets = everything.targets.numpy()
    names = everything.class_names
    available = np.bincount(targets, minlength=len(names))
    check_classes(available.tolist(), names, "training image")
    notes += shared_note(available.tolist(), names, num_meta)
    meta, rest = split_meta(targets, num_meta, len(names))
    left = [int(n) - num_meta if n > num_meta else int(n) for n in available]
    wanted = left if imb_factor is None else long_tailed_counts(max(left), len(names), imb_factor)
    counts = [min(n, w) for n, w in zip(left, wanted, strict=True)]
    for k, count in enumerate(counts):
        if count < 1:
            raise UserError(f"--imb_factor {imb_factor} leaves class {names[k]} no image: raise it")
        if count < wanted[k]:
            notes.append(f"class {names[k]} has {count} images, the long tail would keep {wanted[k]}")
    train, heldout = long_tailed_subset(targets, rest, counts), None
    if num_heldout:
        kept, train = hold_out(targets, train, rest, num_heldout, len(names))
        check_held_out(len(kept))
        heldout, counts = everything.subset(kept), np.bincount(targets[train], minlength=len(names)).tolist()
    joined = everything.subset(np.union1d(train, meta)) if join_meta else None
    sets = everything.subset(train), everything.subset(meta), test
    return LongTailedData(*sets, counts, notes + test_notes, heldout, joined)


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


@dataclass(frozen=True)
class CropsAndFlips:
    """Where each image is cropped and whether it is mirrored: top and left in [0, 2 · PAD], all (N,)."""

    top: Tensor
    left: Tensor
    flip: Tensor

    @classmethod
    def draw(cls, count: int, generator: torch.Generator, flip: bool = True) -> CropsAndFlips:
        """Draw for `count` images; on the CPU, so that every device sees the same."""
        top = torch.randint(0, 2 * PAD + 1, (count,), generator=generator)
        left = torch.randint(0, 2 * PAD + 1, (count,), generator=generator)
        mirrored = torch.randint(0, 2, (count,), generator=generator) == 1
        return cls(top, left, mirrored & flip)

    def __getitem__(self, index: Tensor | slice) -> CropsAndFlips:
        return CropsAndFlips(self.top[index], self.left[index], self.flip[index])

    def to(self, device: torch.device) -> CropsAndFlips:
        """Return the same draws on `device`."""
        return CropsAndFlips(sent(self.top, device), sent(self.left, device), sent(self.flip, device))


def augment(pixels: Tensor, index: Tensor, draws: CropsAndFlips) -> Tensor:
    """Return images `index` of pixels (M, S, S, 3): reflect-padded by 4, cropped to S, mirrored, still uint8.

    Padding, crop and flip only say where each pixel comes from, so all three are one gather: no padded copy is made.
    """
    size = pixels.shape[1]
    grid = torch.arange(size, device=pixels.device) - PAD

    def reflected(offset: Tensor) -> Tensor:  # (N,) -> source coordinates (N, S)
        position = (offset.unsqueeze(1) + grid).abs()
        return size - 1 - (size - 1 - position).abs()

    rows = index.unsqueeze(1) * size + reflected(draws.top)  # (N, S)
    columns = reflected(draws.left)
    columns = torch.where(draws.flip.unsqueeze(1), columns.flip(1), columns)
    source = rows.unsqueeze(2) * size + columns.unsqueeze(1)  # (N, S, S)
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
    count = len(data.targets)
    order = sent(torch.randperm(count, generator=generator), data.targets.device)
    draws = CropsAndFlips.draw(count, generator, data.flip).to(data.targets.device)
    for start in range(taken * batch_size, count, batch_size):
        part = slice(start, start + batch_size)
        index = order[part]
        yield normalize(augment(data.pixels, index, draws[part])), data.targets[index]


def meta_batches(data: ImageSet, batch_size: int, seed: int, taken: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield augmented batches of the meta set without end, from one shuffled pass after the other.

    Each image comes once a pass; a batch larger than the set is cut to the set's size. The first `taken` are left out.
    """
    generator = seeded(seed, META_STREAM)
    for number, chosen in enumerate(shuffled_passes(len(data.targets), batch_size, generator)):
        index = sent(chosen, data.targets.device)
        draws = CropsAndFlips.draw(len(index), generator, data.flip).to(data.targets.device)
        if number < taken:
            continue
        yield normalize(augment(data.pixels, index, draws)), data.targets[index]


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
    for start in range(0, len(data.targets), batch_size):
        part = slice(start, start + batch_size)
        yield normalize(data.pixels[part]), data.targets[part]
