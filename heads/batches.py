"""Batches of features to train and test a head on: of rows that are there, or of images as they are loaded.

Which rows a batch holds, and how each image is cropped, follows from the seed, the epoch and the row alone: not from the
number of processes or workers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, count, islice, tee
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import Compose

from data_utils import META_STREAM, TRAIN_STREAM, mixed_seed, seeded, shuffled_passes
from datasets.drawn_sets import Sets
from datasets.image_lists import ImageList, found_files
from datasets.pictures import Seen, decode
from harness.errors import UserError
from harness.evaluation import Batch
from harness.machine import workers_that_fit
from harness.process_group import Group, shard_sizes
from harness.signals_and_lock import leave_stopping
from heads.preparation import Preparation, transforms

Rows = TypeVar("Rows", range, np.ndarray, list[Any])
Extract = Callable[[Tensor], Tensor]  # images (N, 3, H, W) -> features (N, A)
Key = tuple[int, int]  # which image, and the number that its augmentation is drawn with
Indices = Iterator[tuple[int, Tensor]]  # the number of a pass, or of a batch, and the rows of a global batch
SeenBatch = tuple[Tensor, dict[Path, Seen]]  # images (N, 3, S, S), what is to be said of some
Drawn = Iterator[tuple[Any, Tensor]]  # global batches as a step takes them, features (N, A) or else, and target (N,)


@dataclass(frozen=True)
class ListedImages(Dataset[Any]):
    """The images of a list, transformed, and what was seen of each; one that cannot be read is black.

    Parameters
    ----------
    train:
        Whether by the transform of training images. In that of tests nothing is drawn at random.
    seed, stream:
        What the augmentations are drawn from, together with the image's index and the number in its key.
    """

    images: ImageList
    prepared: Preparation
    train: bool = False
    seed: int = 0
    stream: int = TRAIN_STREAM

    @cached_property
    def transform(self) -> Compose:
        """What is done to an image that was read."""
        return transforms(self.prepared, self.train)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> tuple[Tensor, Path, Seen]:
        index, number = key
        path = Path(self.images.root) / self.images.paths[index]
        try:
            image, done = decode(path, self.prepared.upright, resize_size=self.prepared.resize_size)
        except UserError as error:
            return torch.zeros(3, self.prepared.image_size, self.prepared.image_size), path, error
        with torch.random.fork_rng(devices=[]):
            # One more, since a trailing 0 does not change a seed. Not manual_seed, which seeds the GPU as well.
            torch.default_generator.manual_seed(mixed_seed(self.seed, number, self.stream, index + 1))
            return self.transform(image), path, done

    @cached_property
    def files(self) -> list[bytes]:
        """What tells each file from others: its path, size and time of change, and its place if that is drawn from."""
        found = zip(self.images.paths, found_files(self.images), strict=True)
        stats = ((path, at.st_size if at else None, at.st_mtime_ns if at else None) for path, at in found)
        return [os.fsencode(repr((k if self.train else None, *stat))) for k, stat in enumerate(stats)]


def drawn_images(sets: Sets, prepared: Preparation, seed: int) -> dict[str, ListedImages]:
    """Return the images of an experiment by set, those that are trained on and the meta images augmented."""
    augmented = {
        "train": ListedImages(sets.trained, prepared, True, seed),
        "meta": ListedImages(sets.meta, prepared, True, seed, META_STREAM),
    }
    return {name: augmented.get(name) or ListedImages(part, prepared) for name, part in sets.parts.items()}


def collate(items: list[tuple[Tensor, Path, Seen]], size: int) -> SeenBatch:
    """Return images (N, 3, S, S), N may be 0 and `size` is S, and what is to be said of some."""
    images = torch.stack([image for image, _, _ in items]) if items else torch.zeros(0, 3, size, size)
    return images, {path: seen for _, path, seen in items if seen}


def load_all(images: ListedImages, batches: Iterable[list[Key]], workers: int, device: torch.device) -> Iterator[SeenBatch]:
    """Yield the images (N, 3, S, S) of each batch of keys, on `device`, and what is to be said of some."""
    cuda, batches = device.type == "cuda", iter(batches)
    first = list(islice(batches, 1))
    most = max(map(len, first), default=0) * 12 * images.prepared.image_size**2  # bytes
    loader: DataLoader[Any] = DataLoader(
        images,
        batch_sampler=chain(first, batches),
        num_workers=workers_that_fit(workers, most),
        collate_fn=partial(collate, size=images.prepared.image_size),
        pin_memory=cuda,
        worker_init_fn=leave_stopping,
        generator=torch.Generator(),  # else an iterator draws from the global one
    )
    for pixels, seen in loader:
        yield pixels.to(device, non_blocking=cuda), seen


def load(images: ListedImages, batches: Iterable[list[Key]], workers: int, device: torch.device) -> Iterator[Tensor]:
    """Yield images (N, 3, S, S); one that cannot be read (any more) ends it by its `UserError`."""
    for pixels, seen in load_all(images, batches, workers, device):
        for one in seen.values():
            if isinstance(one, UserError):
                raise one
        yield pixels


def extractor(network: torch.nn.Module) -> Extract:
    """Return a function from images (N, 3, H, W) to the features (N, A) that a network has in eval mode, without gradients.

    It is left in the mode that it has; one that returns logits too returns features first.
    """

    @torch.no_grad()
    def extract(images: Tensor) -> Tensor:
        training = network.training
        found = network.eval()(images.contiguous(memory_format=torch.channels_last))
        network.train(training)
        features: Tensor = found[0] if isinstance(found, tuple) else found
        return features

    return extract


def parted(rows: Rows, size: int) -> list[Rows]:
    """Return the rows in batches."""
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def train_indices(images: int, batch_size: int, seed: int) -> Indices:
    """Yield (epoch, indices of a global batch) without end; every epoch is shuffled anew, its last batch may be smaller."""
    for epoch in count():
        order = torch.randperm(images, generator=seeded(seed, TRAIN_STREAM, epoch))
        yield from ((epoch, index) for index in order.split(batch_size))


def meta_indices(images: int, batch_size: int, seed: int) -> Indices:
    """Yield (number, indices of a global meta batch) without end, one shuffled pass after the other."""
    return enumerate(shuffled_passes(images, batch_size, seeded(seed, META_STREAM)))


DRAWN = {"train": (train_indices, 2), "meta": (meta_indices, 3)}  # and a stream of random numbers, beside data_utils' own


@dataclass(frozen=True)
class LiveViews:
    """A set of images whose features are computed when they are needed, cropped anew in every pass."""

    images: ListedImages
    extract: Extract
    workers: int

    def __len__(self) -> int:
        return len(self.images)

    def target(self, rows: Any, group: Group) -> Tensor:
        """Return the target (N,) of some rows."""
        return torch.from_numpy(self.images.images.targets[rows]).to(group.device)

    def shares(self, indices: Indices, group: Group) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's share of the images (n, 3, S, S) of each global batch, and the whole batch's target (N,)."""
        wanted, drawn = tee(indices)
        keys = ([(i, number) for i in index[group.share(len(index))].tolist()] for number, index in wanted)
        loaded = load(self.images, keys, self.workers, group.device)
        for (_, index), pixels in zip(drawn, loaded, strict=False):
            yield pixels, self.target(index.numpy(), group)

    def drawn(self, indices: Indices, generator: torch.Generator, taken: int, group: Group) -> Drawn:
        """Yield global batches without the first `taken`; each process computes its share, and gets those of the others."""
        for pixels, target in self.shares(islice(indices, taken, None), group):
            yield group.all_gather(self.extract(pixels), shard_sizes(len(target), group.world_size)), target

    def in_order(self, batch_size: int, group: Group) -> Iterator[Batch]:
        """Yield this process's share; all wait for one another after each batch."""
        own = parted(range(len(self))[group.share(len(self))], batch_size)
        keys = ([(i, 0) for i in batch] for batch in own)
        loaded = zip(own, load(self.images, keys, self.workers, group.device), strict=True)
        batches = ((self.extract(pixels), self.target(batch, group)) for batch, pixels in loaded)
        return group.with_barriers(batches, -(-len(self) // (batch_size * group.world_size)))


@dataclass(frozen=True)
class RowViews:
    """K views (M, A) of a set's rows and its target (M,); every row of a batch comes from a view drawn at random.

    `scale` is what is done to features (N, A) in float32 before they are used.
    """

    views: Sequence[np.ndarray]
    target: Tensor
    scale: Callable[[Tensor], Tensor] = lambda features: features

    def __len__(self) -> int:
        return len(self.target)

    def drawn(self, indices: Indices, generator: torch.Generator, taken: int, group: Group) -> Drawn:
        """Yield global batches, whole on every process, without the first `taken`."""
        for number, (_, index) in enumerate(indices):
            view = torch.randint(len(self.views), (len(index),), generator=generator).numpy()
            if number < taken:
                continue
            rows = np.empty((len(index), self.views[0].shape[1]), self.views[0].dtype)
            for k, matrix in enumerate(self.views):
                rows[view == k] = matrix[index.numpy()[view == k]]
            yield self.on_device(rows, self.target[index], group.device)

    def in_order(self, batch_size: int, group: Group) -> Iterator[Batch]:
        """Yield this process's share of the first view."""
        for batch in parted(range(len(self))[group.share(len(self))], batch_size):
            rows = list(batch)
            yield self.on_device(self.views[0][rows], self.target[rows], group.device)

    def on_device(self, rows: np.ndarray, target: Tensor, device: torch.device) -> Batch:
        """Return scaled features and their target on a device."""
        return self.scale(torch.from_numpy(rows).to(device).float()), target.to(device)


@dataclass(frozen=True)
class Batches:
    """Global batches of an experiment; `batch_size` is that of all processes together.

    `parts` are the sets "train" and "meta", whose batches are drawn, "test" and perhaps "heldout".
    """

    parts: Mapping[str, LiveViews | RowViews]
    group: Group
    batch_size: int
    test_batch_size: int
    seed: int

    def test(self, name: str = "test") -> Iterator[Batch]:
        """Yield this process's share of the test set, or of the "heldout" images."""
        return self.parts[name].in_order(self.test_batch_size, self.group)

    def drawn(self, name: str, taken: int = 0) -> Drawn:
        """Yield training batches, one epoch after the other, or meta batches, without end and without the first `taken`."""
        part, (draw, stream) = self.parts[name], DRAWN[name]  # when the first batch is asked for: there may be no meta set
        indices = draw(len(part), self.batch_size, self.seed)
        yield from part.drawn(indices, seeded(self.seed, stream), taken, self.group)
