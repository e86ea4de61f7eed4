"""From image lists to batches of features: transforms, loading by worker processes, the frozen backbone.

Which images a batch holds and how each is cropped follows from the seed, the epoch and the image alone: not from the number
of processes or workers.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import count, cycle, islice, repeat
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from data_utils import META_STREAM, TRAIN_STREAM, mixed_seed, seeded, shuffled_passes
from frozen.drawn_sets import Sets
from frozen.image_lists import ImageList
from harness.errors import UserError
from harness.evaluation import Batch
from harness.image_sets import decode
from harness.process_group import Group, shard_sizes

CROP, RESIZED = 224, 256  # the crop, and the short side before it
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and std
INATURALIST = (0.466, 0.471, 0.380), (0.195, 0.194, 0.192)

Extract = Callable[[Tensor], Tensor]  # images (N, 3, H, W) -> features (N, A)
Key = tuple[int, int]  # which image, and the number that its augmentation is drawn with


def transforms(dataset: str, train: bool) -> v2.Compose:
    """Return the published transforms: iNaturalist has its own mean and std and no colour jitter."""
    inaturalist = dataset.startswith("iNaturalist")
    mean, std = INATURALIST if inaturalist else IMAGENET
    first: list[Any]
    if train:
        first = [v2.RandomResizedCrop(CROP), v2.RandomHorizontalFlip()]
        if not inaturalist:
            first.append(v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0))
    else:
        first = [v2.Resize(RESIZED), v2.CenterCrop(CROP)]
    return v2.Compose([*first, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])


def is_thin(size: tuple[int, int]) -> bool:
    """Return whether an image of that width and height would be too large when its short side is RESIZED."""
    (short, long), most = sorted(size), Image.MAX_IMAGE_PIXELS
    return most is not None and RESIZED**2 * long > most * short


def thin(path: Path, size: tuple[int, int]) -> str:
    """Return what is said of such an image."""
    return f"{path} is absurdly thin ({size[0]} x {size[1]}): remove it or crop it"


class ListedImages(Dataset[Any]):
    """The images of a list, transformed; one that cannot be read comes as its `UserError`, to be raised in the main process.

    Parameters
    ----------
    seed, stream:
        What the augmentations are drawn from, together with the image's index and the number in its key.
    upright:
        Whether images are turned as their EXIF says; the published code does not.
    """

    def __init__(self, images: ImageList, transform: Callable[[Any], Tensor], seed: int, stream: int, upright: bool) -> None:
        self.images, self.transform, self.seed, self.stream, self.upright = images, transform, seed, stream, upright

    def __getitem__(self, key: Key) -> tuple[Tensor, int] | UserError:
        index, number = key
        path = Path(self.images.root) / self.images.paths[index]
        try:
            image = decode(path, self.upright).image
        except UserError as error:
            return error
        if is_thin(image.size):
            return UserError(thin(path, image.size))
        with torch.random.fork_rng(devices=[]):
            # One more, since a trailing 0 does not change a seed. Not manual_seed, which seeds the GPU as well.
            torch.default_generator.manual_seed(mixed_seed(self.seed, number, self.stream, index + 1))
            return self.transform(image), int(self.images.targets[index])


def collate(items: list[tuple[Tensor, int] | UserError]) -> Batch | UserError:
    """Return images (N, 3, 224, 224), N may be 0, and target (N,), or the first mistake."""
    good = []
    for item in items:
        if isinstance(item, UserError):
            return item
        good.append(item)
    if not good:
        return torch.zeros(0, 3, CROP, CROP), torch.zeros(0, dtype=torch.int64)
    return torch.stack([image for image, _ in good]), torch.tensor([label for _, label in good])


def leave_stopping(_: int) -> None:
    """Let a loading process leave Ctrl-C to the main one, which ends it, and say nothing at that end.

    Its own errors travel to the main process. What would be printed here is of Python's thread that hands over tensors
    (multiprocessing.resource_sharer): if that fails, the main process notices, and says so itself, unless it is ending.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = lambda *_: None


def load(images: ListedImages, batches: Iterable[list[Key]], workers: int, device: torch.device) -> Iterator[Batch]:
    """Yield images (N, 3, 224, 224) and target (N,) of each batch of keys, on `device`."""
    cuda = device.type == "cuda"
    loader: DataLoader[Any] = DataLoader(
        images,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
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


def plain_images(images: ImageList, dataset: str) -> ListedImages:
    """Return the images with the transform of the test set; nothing of it is drawn at random."""
    return ListedImages(images, transforms(dataset, train=False), 0, TRAIN_STREAM, is_upright(dataset))


def is_upright(dataset: str) -> bool:
    """Return whether images are turned as their EXIF says: one's own are, those of the published sets are not."""
    return dataset == "custom"


def train_indices(images: int, batch_size: int, seed: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (epoch, indices of a global batch) without end; every epoch is shuffled anew, its last batch may be smaller."""
    for epoch in count():
        order = torch.randperm(images, generator=seeded(seed, TRAIN_STREAM, epoch))
        yield from ((epoch, index) for index in order.split(batch_size))


def meta_indices(images: int, batch_size: int, seed: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (number, indices of a global meta batch) without end, one shuffled pass after the other."""
    return enumerate(shuffled_passes(images, batch_size, seeded(seed, META_STREAM)))


class LiveFeatures:
    """Features computed from the images when they are needed.

    Parameters
    ----------
    extract:
        The backbone: images (N, 3, 224, 224) -> features (N, A).
    batch_size:
        Of the global batch, all processes together.
    """

    def __init__(
        self, sets: Sets, dataset: str, extract: Extract, group: Group,
        batch_size: int, test_batch_size: int, workers: int, seed: int,
    ) -> None:  # fmt: skip
        self.sets, self.extract, self.group = sets, extract, group
        self.batch_size, self.test_batch_size, self.workers, self.seed = batch_size, test_batch_size, workers, seed
        transform, upright = transforms(dataset, train=True), is_upright(dataset)
        self.images = {
            "train": ListedImages(sets.trained, transform, seed, TRAIN_STREAM, upright),
            "meta": ListedImages(sets.meta, transform, seed, META_STREAM, upright),
            "test": plain_images(sets.test, dataset),
        }
        if sets.heldout is not None:
            self.images["heldout"] = plain_images(sets.heldout, dataset)

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

    def test(self, name: str = "test") -> Iterator[Batch]:
        """Yield this process's share of the test set, or of the "heldout" images."""
        return self.in_order(name, 0)

    def in_order(self, name: str, number: int) -> Iterator[Batch]:
        """Yield this process's share of a set in order, `number` choosing the augmentation."""
        return in_order(self.images[name], number, self.extract, self.group, self.test_batch_size, self.workers)

    def of_batches(self, name: str, number: int, own: Iterable[range], rounds: int) -> Iterator[Batch]:
        """Yield the features of this process's `own` batches of a set, see `of_batches`."""
        return of_batches(self.images[name], number, own, rounds, self.extract, self.group, self.workers)

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
