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

TRAIN_VIEWS, META_VIEWS = 2, 3  # streams of random numbers, beside those of data_utils

Rows = TypeVar("Rows", range, np.ndarray)
Extract = Callable[[Tensor], Tensor]  # images (N, 3, H, W) -> features (N, A)
Key = tuple[int, int]  # which image, and the number that its augmentation is drawn with
Indices = Iterator[tuple[int, Tensor]]  # the number of a pass, or of a batch, and the rows of a global batch
SeenBatch = tuple[Tensor, Tensor, dict[Path, Seen]]  # images (N, 3, S, S), target (N,), what is to be said of some
Drawn = Iterator[tuple[Any, Tensor]]  # global batches as a step takes them, features (N, A) or else, and target (N,)


class ListedImages(Dataset[Any]):
    """The images of a list, transformed, and what was seen of each; one that cannot be read is black.

    Parameters
    ----------
    train:
        Whether by the transform of training images.
    seed, stream:
        What the augmentations are drawn from, together with the image's index and the number in its key.
    """

    def __init__(self, images: ImageList, prepared: Preparation, train: bool, seed: int, stream: int) -> None:
        self.images, self.prepared, self.drawn, self.seed, self.stream = images, prepared, train, seed, stream
        self.transform = transforms(prepared, train)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> tuple[Tensor, int, Path, Seen]:
        index, number = key
        path, target = Path(self.images.root) / self.images.paths[index], int(self.images.targets[index])
        try:
            image, done = decode(path, self.prepared.upright, resize_size=self.prepared.resize_size)
        except UserError as error:
            return torch.zeros(3, self.prepared.image_size, self.prepared.image_size), target, path, error
        with torch.random.fork_rng(devices=[]):
            # One more, since a trailing 0 does not change a seed. Not manual_seed, which seeds the GPU as well.
            torch.default_generator.manual_seed(mixed_seed(self.seed, number, self.stream, index + 1))
            return self.transform(image), target, path, done

    @cached_property
    def files(self) -> list[bytes]:
        """What tells each file from others: its path, size and time of change, and its place if that is drawn from."""
        found = zip(self.images.paths, found_files(self.images), strict=True)
        stats = ((path, at.st_size if at else None, at.st_mtime_ns if at else None) for path, at in found)
        return [os.fsencode(repr((k if self.drawn else None, *stat))) for k, stat in enumerate(stats)]


def plain_images(images: ImageList, prepared: Preparation) -> ListedImages:
    """Return the images with the transform of the test set; nothing of it is drawn at random."""
    return ListedImages(images, prepared, False, 0, TRAIN_STREAM)


def drawn_images(sets: Sets, prepared: Preparation, seed: int) -> dict[str, ListedImages]:
    """Return the images of an experiment by set, those that are trained on and the meta images augmented."""
    augmented = {
        "train": ListedImages(sets.trained, prepared, True, seed, TRAIN_STREAM),
        "meta": ListedImages(sets.meta, prepared, True, seed, META_STREAM),
    }
    return {name: augmented.get(name) or plain_images(part, prepared) for name, part in sets.parts.items()}


def collate(items: list[tuple[Tensor, int, Path, Seen]], size: int) -> SeenBatch:
    """Return images (N, 3, S, S), N may be 0 and `size` is S, target (N,), and what is to be said of some."""
    if not items:
        return torch.zeros(0, 3, size, size), torch.zeros(0, dtype=torch.int64), {}
    images, target, path, seen = zip(*items, strict=True)
    return torch.stack(images), torch.tensor(target), {where: one for where, one in zip(path, seen, strict=True) if one}


def load_all(images: ListedImages, batches: Iterable[list[Key]], workers: int, device: torch.device) -> Iterator[SeenBatch]:
    """Yield images (N, 3, S, S) and target (N,) of each batch of keys, on `device`, and what is to be said of some."""
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
    for pixels, target, seen in loader:
        yield pixels.to(device, non_blocking=cuda), target.to(device, non_blocking=cuda), seen


def load(images: ListedImages, batches: Iterable[list[Key]], workers: int, device: torch.device) -> Iterator[Batch]:
    """Yield images (N, 3, S, S) and target (N,); one that cannot be read (any more) ends it by its `UserError`."""
    for pixels, target, seen in load_all(images, batches, workers, device):
        for one in seen.values():
            if isinstance(one, UserError):
                raise one
        yield pixels, target


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


@dataclass(frozen=True)
class LiveViews:
    """A set of images whose features are computed when they are needed, cropped anew in every pass."""

    images: ListedImages
    extract: Extract
    workers: int

    def __len__(self) -> int:
        return len(self.images)

    def shares(self, indices: Indices, group: Group) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's share of the images (n, 3, S, S) of each global batch, and the whole batch's target (N,)."""
        wanted, drawn = tee(indices)
        keys = ([(i, number) for i in index[group.share(len(index))].tolist()] for number, index in wanted)
        loaded = load(self.images, keys, self.workers, group.device)
        for (_, index), (pixels, _) in zip(drawn, loaded, strict=False):
            yield pixels, torch.from_numpy(self.images.images.targets[index.numpy()]).to(group.device)

    def drawn(self, indices: Indices, generator: torch.Generator, taken: int, group: Group) -> Drawn:
        """Yield global batches without the first `taken`; each process computes its share, and gets those of the others."""
        for pixels, target in self.shares(islice(indices, taken, None), group):
            yield group.all_gather(self.extract(pixels), shard_sizes(len(target), group.world_size)), target

    def in_order(self, batch_size: int, group: Group) -> Iterator[Batch]:
        """Yield this process's share; all wait for one another after each batch."""
        own = parted(range(len(self))[group.share(len(self))], batch_size)
        keys = ([(i, 0) for i in batch] for batch in own)
        loaded = load(self.images, keys, self.workers, group.device)
        batches = ((self.extract(pixels), target) for pixels, target in loaded)
        return group.with_barriers(batches, -(-max(shard_sizes(len(self), group.world_size)) // batch_size))


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
            rows = slice(batch.start, batch.stop)
            yield self.on_device(np.array(self.views[0][rows]), self.target[rows], group.device)

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

    def train(self, taken: int = 0) -> Drawn:
        """Yield the training batches of one epoch after the other, without the first `taken`."""
        return self._drawn("train", train_indices, TRAIN_VIEWS, taken)

    def meta(self, taken: int = 0) -> Drawn:
        """Yield the meta batches without end, without the first `taken`."""
        return self._drawn("meta", meta_indices, META_VIEWS, taken)

    def test(self, name: str = "test") -> Iterator[Batch]:
        """Yield this process's share of the test set, or of the "heldout" images."""
        return self.parts[name].in_order(self.test_batch_size, self.group)

    def _drawn(self, name: str, draw: Callable[[int, int, int], Indices], stream: int, taken: int) -> Drawn:
        part = self.parts[name]  # when the first batch is asked for: there may be no meta set
        indices = draw(len(part), self.batch_size, self.seed)
        yield from part.drawn(indices, seeded(self.seed, stream), taken, self.group)
