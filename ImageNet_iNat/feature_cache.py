"""The backbone's features on disk, computed once: the head is then trained without the images.

A cached set is a file of fp16 rows, memory-mapped, and a small JSON file that is written last and says what the rows are
and their checksum. A set whose JSON is missing or whose rows do not fit it is computed anew. The name is a digest of
everything the features depend on: the images (paths, labels, sizes, times of change), the transform, the weights, and what
the augmentation is drawn from.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_utils import seeded
from features import LiveFeatures, meta_indices, train_indices
from harness.errors import UserError
from harness.evaluation import Batch
from harness.files import replacing, sync, writing
from harness.process_group import Group
from harness.progress import progress
from image_lists import ImageList
from large_sets import Sets

TRAIN_VIEWS, META_VIEWS = 2, 3  # streams of random numbers, beside those of data_utils
FORMAT = 1
CRC_CHUNK = 1 << 24
ABANDONED = 24 * 3600  # seconds after which a part that nobody finished is removed


def images_digest(images: ImageList) -> str:
    """Return a digest of paths, labels, and each file's size and time of change."""
    digest = hashlib.sha256(np.asarray(images.targets).tobytes())
    for path in images.paths:
        try:
            found = os.stat(Path(images.root) / path)
        except OSError as error:
            raise UserError(f"{Path(images.root) / path} is missing: check {images.source} and --data_root") from error
        digest.update(os.fsencode(f"{path}\0{found.st_size}\0{found.st_mtime_ns}\n"))
    return digest.hexdigest()


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file."""
    value = 0
    with open(path, "rb") as file:
        while part := file.read(CRC_CHUNK):
            value = zlib.crc32(part, value)
    return value


def is_whole(path: Path, facts: Mapping[str, Any]) -> bool:
    """Return whether `path` holds the rows that its JSON and `facts` speak of."""
    try:
        stated = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        size = stated["rows"] * stated["features"] * 2
        expected = {**facts, "crc32": stated["crc32"]}
        return stated == expected and path.stat().st_size == size and checksum(path) == stated["crc32"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def write_rows(path: Path, rows: int, features: int, first: int, batches: Iterator[Tensor]) -> None:
    """Write batches (N, A) into the fp16 matrix (rows, features) at `path`, from row `first` on."""
    matrix = np.memmap(path, np.float16, "r+", shape=(rows, features))
    for batch in batches:
        half = batch.to(torch.float16)
        if not bool(half.isfinite().all()):
            raise UserError("the backbone's features are not finite in fp16: are these the weights of this network?")
        matrix[first : first + len(half)] = half.cpu().numpy()
        first += len(half)
    matrix.flush()


def reserve(path: Path, size: int | None) -> bool:
    """Make a file of `size` bytes that the disk has room for; None makes none."""
    if size is None:
        return True
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            if hasattr(os, "posix_fallocate") and size:
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
    except OSError as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        need = f"the feature cache needs {size / 1e9:.2f} GB in {path.parent}"
        raise UserError(f"{need} ({error.strerror}): see --cache_dir") from error
    return True


def publish(part: Path, path: Path, facts: Mapping[str, Any]) -> None:
    """Give the finished rows their name, and then write their JSON."""
    with writing(path):
        path.with_suffix(".json").unlink(missing_ok=True)
        sync(part)
        os.replace(part, path)
    try:
        with replacing(path.with_suffix(".json")) as stated:
            stated.write_text(json.dumps({**facts, "crc32": checksum(path)}), encoding="utf-8")
    except UserError:  # the disk is full: rows without their JSON would only take room
        path.unlink(missing_ok=True)
        raise


def remove_abandoned(path: Path) -> None:
    """Remove what a killed process left of the same set more than a day ago."""
    for part in path.parent.glob(f"{path.stem}.part*"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > ABANDONED:
                part.unlink()


class FeatureCache:
    """Cached sets in one folder, made by all processes together; the folder must be one that all of them share.

    Parameters
    ----------
    live:
        What computes features.
    weights:
        The fingerprint of the backbone.
    check:
        Called once, before the first features are computed, with all images.
    """

    def __init__(
        self, folder: Path, live: LiveFeatures, weights: str, group: Group, features: int, print_freq: int,
        check: Callable[[Sets], object] = lambda _: None,
    ) -> None:  # fmt: skip
        self.folder, self.live, self.weights, self.group = folder, live, weights, group
        self.features, self.print_freq = features, print_freq
        self.check, self.checked = check, False
        self.digests: dict[str, str] = {}

    def facts(self, name: str, view: int) -> dict[str, Any]:
        """Return everything that view `view` of set `name` depends on."""
        dataset = self.live.images[name]
        if name not in self.digests:
            self.digests[name] = images_digest(dataset.images)
        return {
            "format": FORMAT,
            "images": self.digests[name],
            "rows": len(dataset.images),
            "features": self.features,
            "transform": repr(dataset.transform),
            "upright": dataset.upright,
            "weights": self.weights,
            "seed": dataset.seed,
            "stream": dataset.stream,
            "view": view,
        }

    def open(self, name: str, view: int) -> np.ndarray:
        """Return the features of a set (M, A), fp16, memory-mapped; compute them first if they are not there."""
        facts = self.group.agree(lambda: self.facts(name, view), dict)
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        path = self.folder / f"{name}_{view}_{key}.f16"
        whole = self.group.all_gather_object(is_whole(path, facts) if self.group.main else None)[0]
        if whole:
            if self.group.main:
                print(f"features of the {name} set, view {view}: read from {path}")
        else:
            if not self.checked:
                self.check(self.live.sets)
                self.checked = True
            self._compute(name, view, facts, path)
        self.group.agree(lambda: self._see(path))
        return np.memmap(path, np.float16, "r", shape=(facts["rows"], self.features))

    def _see(self, path: Path) -> bool:
        if not path.is_file():
            raise UserError(f"{path} is not there: --cache_dir must be a folder that all processes share")
        return True

    def _compute(self, name: str, view: int, facts: dict[str, Any], path: Path) -> None:
        rows = facts["rows"]
        if self.group.main:
            remove_abandoned(path)
        part = path.with_suffix(f".part{self.group.all_gather_object(os.getpid())[0]}")
        self.group.agree(lambda: reserve(part, rows * self.features * 2 if self.group.main else None))
        self.group.agree(lambda: self._see(part))
        share = self.group.share(rows)
        total = -(-(share.stop - share.start) // self.live.test_batch_size)
        batches: Iterator[Tensor] = (features for features, _ in self.live.in_order(name, view))
        if self.group.main:
            batches = progress(batches, total, f"features of the {name} set, view {view}", None, self.print_freq)
        try:
            write_rows(part, rows, self.features, share.start, batches)
            self.group.barrier()  # all rows are there
            if self.group.main:
                publish(part, path, facts)
        finally:
            if self.group.main:
                part.unlink(missing_ok=True)
        self.group.barrier()  # the file has its name


def cached_features(
    live: LiveFeatures, views: int, folder: Path, weights: str, features: int, print_freq: int,
    check: Callable[[Sets], object] = lambda _: None,
) -> CachedFeatures:  # fmt: skip
    """Return the features of `views` views of the training and meta images and one of the test images, from the cache.

    The parameters are those of `FeatureCache`.
    """
    cache = FeatureCache(folder, live, weights, live.group, features, print_freq, check)
    train, meta = ([cache.open(name, view) for view in range(views)] for name in ("train", "meta"))
    targets = {name: torch.from_numpy(part.targets) for name, part in live.sets.parts.items()}
    sizes = live.batch_size, live.test_batch_size
    return CachedFeatures(train, meta, cache.open("test", 0), targets, live.group, *sizes, live.seed)


class CachedFeatures:
    """Batches of cached features, on every process the whole global batch.

    Parameters
    ----------
    train, meta:
        K views (M, A) each; every image of a batch comes from a view drawn at random.
    test:
        (M, A).
    targets:
        Labels by set name.
    """

    def __init__(
        self, train: Sequence[np.ndarray], meta: Sequence[np.ndarray], test: np.ndarray, targets: Mapping[str, Tensor],
        group: Group, batch_size: int, test_batch_size: int, seed: int,
    ) -> None:  # fmt: skip
        self.views = {"train": train, "meta": meta}
        self.test_rows, self.targets, self.group = test, targets, group
        self.batch_size, self.test_batch_size, self.seed = batch_size, test_batch_size, seed

    def train(self, taken: int = 0) -> Iterator[Batch]:
        """Yield the training batches of one epoch after the other, without the first `taken`."""
        batches = train_indices(len(self.targets["train"]), self.batch_size, self.seed)
        return self._drawn("train", batches, seeded(self.seed, TRAIN_VIEWS), taken)

    def meta(self, taken: int = 0) -> Iterator[Batch]:
        """Yield the meta batches without end, without the first `taken`."""
        batches = meta_indices(len(self.targets["meta"]), self.batch_size, self.seed)
        return self._drawn("meta", batches, seeded(self.seed, META_VIEWS), taken)

    def test(self) -> Iterator[Batch]:
        """Yield this process's share of the test set."""
        share = self.group.share(len(self.test_rows))
        for start in range(share.start, share.stop, self.test_batch_size):
            rows = slice(start, min(start + self.test_batch_size, share.stop))
            yield self._batch(self.test_rows[rows], self.targets["test"][rows])

    def _drawn(
        self, name: str, batches: Iterator[tuple[int, Tensor]], generator: torch.Generator, taken: int
    ) -> Iterator[Batch]:
        views = self.views[name]
        for number, (_, index) in enumerate(batches):
            view = torch.randint(len(views), (len(index),), generator=generator).numpy()
            if number < taken:
                continue
            rows = np.empty((len(index), views[0].shape[1]), np.float16)
            for k, matrix in enumerate(views):
                rows[view == k] = matrix[index.numpy()[view == k]]
            yield self._batch(rows, self.targets[name][index])

    def _batch(self, rows: np.ndarray, target: Tensor) -> Batch:
        features = torch.from_numpy(np.array(rows)).to(self.group.device).float()
        return features, target.to(self.group.device)
