"""From image lists to batches of features: transforms, loading by worker processes, the frozen backbone.

Which images a batch holds and how each is cropped follows from the seed, the epoch and the image alone: not from the number
of processes or workers.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import count, cycle, islice, repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data_utils import META_STREAM, TRAIN_STREAM, mixed_seed, seeded, shuffled_passes
from harness.errors import UserError
from harness.evaluation import Batch
from harness.image_sets import decode
from harness.process_group import Group, shard_sizes
from heads.drawn_sets import Sets
from heads.image_lists import ImageList
from heads.preparation import Preparation, is_thin, thin, transforms

Extract = Callable[[Tensor], Tensor]  # images (N, 3, H, W) -> features (N, A)
Key = tuple[int, int]  # which image, and the number that its augmentation is drawn with


class ListedImages(Dataset[Any]):
    """The images of a list, transformed; one that cannot be read comes as its `UserError`, to be raised in the main process.

    Parameters
    ----------
    train:
        Whether by the transform of training images.
    seed, stream:
        What the augmentations are drawn from, together with the image's index and the number in its key.
    """

    def __init__(self, images: ImageList, prepared: Preparation, train: bool, seed: int, stream: int) -> None:
        self.images, self.prepared, self.seed, self.stream = images, prepared, seed, stream
        self.transform = transforms(prepared, train)

    def __getitem__(self, key: Key) -> tuple[Tensor, int] | UserError:
        index, number = key
        path = Path(self.images.root) / self.images.paths[index]
        try:
            image = decode(path, self.prepared.upright).image
        except UserError as error:
            return error
        if is_thin(image.size, self.prepared.resize_size):
            return UserError(thin(path, image.size))
        with torch.random.fork_rng(devices=[]):
            # One more, since a trailing 0 does not change a seed. Not manual_seed, which seeds the GPU as well.
            torch.default_generator.manual_seed(mixed_seed(self.seed, number, self.stream, index + 1))
            return self.transform(image), int(self.images.targets[index])


def collate(items: list[tuple[Tensor, int] | UserError], size: int) -> Batch | UserError:
    """Return images (N, 3, S, S), N may be 0 and `size` is S, and target (N,), or the first mistake."""
    good = []
    for item in items:
        if isinstance(item, UserError):
            return item
        good.append(item)
    if not good:
        return torch.zeros(0, 3, size, size), torch.zeros(0, dtype=torch.int64)
    return torch.stack([image for image, _ in good]), torch.tensor([label for _, label in good])


def leave_stopping(_: int) -> None:
    """Let a loading process leave Ctrl-C to the main one, which ends it, and say nothing at that end.

    Its own errors travel to the main process. What would be printed here is of Python's thread that hands over tensors
    (multiprocessing.resource_sharer): if that fails, the main process notices, and says so itself, unless it is ending.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = lambda *_: None


def load(images: ListedImages, batches: Iterable[list[Key]], workers: int, device: torch.device) -> Iterator[Batch]:
    """Yield images (N, 3, S, S) and target (N,) of each batch of keys, on `device`."""
    cuda = device.type == "cuda"
    loader: DataLoader[Any] = DataLoader(
        images,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=partial(collate, size=images.prepared.image_size),
        pin_memory=cuda,
        worker_init_fn=leave_stopping,
        generator=torch.Generator(),  # else an iterator draws from the global one
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch[0].to(device, non_blocking=cuda), batch[1].to(device, non_blocking=cuda)


def of_batches(
    images: ListedImages, number: int, own: Iterable[range], rounds: int, extract: Extract, group: Group, workers: int
) -> Iterator[Batch]:
    """Yield the features of this process's `own` batches of images; `rounds` are those of the process that has most.

    `number` chooses the augmentation.
    """
    keys = ([(i, number) for i in batch] for batch in own)
    batches = ((extract(pixels), target) for pixels, target in load(images, keys, workers, group.device))
    return group.with_barriers(batches, rounds)


def in_order(
    images: ListedImages, number: int, extract: Extract, group: Group, batch_size: int, workers: int
) -> Iterator[Batch]:
    """Yield the features of this process's share of the images, in order, `number` choosing the augmentation."""
    total = len(images.images)
    share = group.share(total)
    own = (range(start, min(start + batch_size, share.stop)) for start in range(share.start, share.stop, batch_size))
    rounds = -(-max(shard_sizes(total, group.world_size)) // batch_size)
    return of_batches(images, number, own, rounds, extract, group, workers)


def plain_images(images: ImageList, prepared: Preparation) -> ListedImages:
    """Return the images with the transform of the test set; nothing of it is drawn at random."""
    return ListedImages(images, prepared, False, 0, TRAIN_STREAM)


def train_indices(images: int, batch_size: int, seed: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (epoch, indices of a global batch) without end; every epoch is shuffled anew, its last batch may be smaller."""
    for epoch in count():
        order = torch.randperm(images, generator=seeded(seed, TRAIN_STREAM, epoch))
        yield from ((epoch, index) for index in order.split(batch_size))


def meta_indices(images: int, batch_size: int, seed: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (number, indices of a global meta batch) without end, one shuffled pass after the other."""
    return enumerate(shuffled_passes(images, batch_size, seeded(seed, META_STREAM)))


class ImageFeatures:
    """Features of sets of images, by name, computed when they are needed.

    Parameters
    ----------
    extract:
        The backbone: images (N, 3, S, S) -> features (N, A).
    """

    def __init__(
        self, images: Mapping[str, ListedImages], extract: Extract, group: Group, test_batch_size: int, workers: int
    ) -> None:
        self.images, self.extract, self.group = images, extract, group
        self.test_batch_size, self.workers = test_batch_size, workers

    def in_order(self, name: str, number: int) -> Iterator[Batch]:
        """Yield this process's share of a set in order, `number` choosing the augmentation."""
        return in_order(self.images[name], number, self.extract, self.group, self.test_batch_size, self.workers)

    def of_batches(self, name: str, number: int, own: Iterable[range], rounds: int) -> Iterator[Batch]:
        """Yield the features of this process's `own` batches of a set, see `of_batches`."""
        return of_batches(self.images[name], number, own, rounds, self.extract, self.group, self.workers)


class DrawnImages(ImageFeatures):
    """An experiment's images, those that are trained on drawn in batches.

    `batch_size` is that of the global batch, all processes together.
    """

    def __init__(
        self, sets: Sets, prepared: Preparation, extract: Extract, group: Group,
        batch_size: int, test_batch_size: int, workers: int, seed: int,
    ) -> None:  # fmt: skip
        self.sets, self.batch_size, self.seed = sets, batch_size, seed
        images = {
            "train": ListedImages(sets.trained, prepared, True, seed, TRAIN_STREAM),
            "meta": ListedImages(sets.meta, prepared, True, seed, META_STREAM),
            "test": plain_images(sets.test, prepared),
        }
        if sets.heldout is not None:
            images["heldout"] = plain_images(sets.heldout, prepared)
        super().__init__(images, extract, group, test_batch_size, workers)

    def test(self, name: str = "test") -> Iterator[Batch]:
        """Yield this process's share of the test set, or of the "heldout" images."""
        return self.in_order(name, 0)


class LiveFeatures(DrawnImages):
    """Batches of an experiment's images, of which features are computed when they are needed."""

    def train(self, taken: int = 0) -> Iterator[Batch]:
        """Yield the global training batches of one epoch after the other, without the first `taken`."""
        total = len(self.sets.trained)
        sizes = cycle([min(self.batch_size, total - start) for start in range(0, total, self.batch_size)])
        indices = train_indices(total, self.batch_size, self.seed)
        return self._global("train", islice(indices, taken, None), islice(sizes, taken, None))

    def meta(self, taken: int = 0) -> Iterator[Batch]:
        """Yield the global meta batches without end, without the first `taken`."""
        total = len(self.sets.meta)
        indices = meta_indices(total, self.batch_size, self.seed)
        return self._global("meta", islice(indices, taken, None), repeat(min(self.batch_size, total)))

    def _global(self, name: str, batches: Iterator[tuple[int, Tensor]], sizes: Iterable[int]) -> Iterator[Batch]:
        keys = ([(i, number) for i in index[self.group.share(len(index))].tolist()] for number, index in batches)
        loaded = load(self.images[name], keys, self.workers, self.group.device)
        for size, (images, target) in zip(sizes, loaded, strict=False):
            shards = shard_sizes(size, self.group.world_size)
            features = self.group.all_gather(self.extract(images), shards)
            yield features, self.group.all_gather(target, shards)


def extractor(backbone: torch.nn.Module) -> Extract:
    """Return a function from images (N, 3, H, W) to the backbone's features (N, A), without gradients."""

    @torch.no_grad()
    def extract(images: Tensor) -> Tensor:
        features: Tensor = backbone(images.contiguous(memory_format=torch.channels_last))
        return features

    return extract
