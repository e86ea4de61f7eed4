"""The backbone's features on disk, computed once: the head is then trained without the images.

The rows of a view lie in shards, files of plain float16, in a folder that is named after a digest of the transform, the
weights and what the augmentation is drawn from. Which shard an image is in follows from its path, and a shard is named after
a digest of its images (paths, sizes, times of change): so where some images change, only their shards are made again. A
shard is written whole, by a rename: what is there is done. So a kill costs what was being computed, and several processes or
runs may compute a set together: where two make the same shard, both make the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby, tee
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.image_check import refuse_faults
from datasets.pictures import Seen, done_notes
from harness.errors import UserError
from harness.files import make_folder, write_whole
from harness.process_group import Group
from harness.progress import progress
from harness.text import say
from heads.batches import Extract, ListedImages, load_all, parted

SHARD_ROWS = 256  # about, 1 MB of 2,048 features


@dataclass(frozen=True)
class Shard:
    """The file of some rows (n,) of a view, of `features` numbers each."""

    path: Path
    rows: np.ndarray
    features: int

    def is_there(self) -> bool:
        """Return whether the file has the expected size."""
        return os.path.isfile(self.path) and self.path.stat().st_size == 2 * len(self.rows) * self.features


def shards_of(images: ListedImages, folder: Path, features: int) -> list[Shard]:
    """Return the shards of some images; their number is a power of two, so that few more images leave it as it is."""
    number = 1 << (max(len(images) - 1, 0) // SHARD_ROWS).bit_length()
    digests = (hashlib.blake2b(os.fsencode(path), digest_size=4).digest() for path in images.images.paths)
    of = np.frombuffer(b"".join(digests), "<u4").astype(np.int64) % number
    parts = np.split(of.argsort(kind="stable"), np.bincount(of, minlength=number).cumsum()[:-1])

    def named(rows: np.ndarray) -> Shard:
        digest = hashlib.sha256(b"\n".join(images.files[k] for k in rows)).hexdigest()
        return Shard(folder / f"{digest[:16]}.f16", rows, features)

    return [named(rows) for rows in parts if len(rows)]


@dataclass(frozen=True)
class FeatureCache:
    """Features of images in one folder, which all processes of a run must share; other runs may use it at the same time.

    `weights` is the fingerprint of the backbone that `extract` is of.
    """

    folder: Path
    extract: Extract
    weights: str
    features: int
    group: Group
    batch_size: int
    workers: int
    seen: dict[Path, Seen] = field(default_factory=dict)  # of the images that were read

    def open(self, wanted: Mapping[str, tuple[ListedImages, int]]) -> dict[str, list[np.ndarray]]:
        """Return views (M, A) of the features of images, by name, so many as are wanted of each.

        Those that are not there are computed. Images that cannot be read are a `UserError` after that, and lists them all.
        """
        shards = {name: [self._computed(name, images, view) for view in range(n)] for name, (images, n) in wanted.items()}
        faults = {path: str(one) for path, one in self.seen.items() if isinstance(one, UserError)}
        refuse_faults(faults, [images.images for images, _ in wanted.values()], self.group, skippable=True)
        return {name: [*map(self._read, views)] for name, views in shards.items()}

    def _read(self, shards: list[Shard]) -> np.ndarray:
        found = np.empty((sum(len(shard.rows) for shard in shards), self.features), np.float16)
        for shard in shards:
            found[shard.rows] = np.fromfile(shard.path, np.float16).reshape(-1, self.features)
        return found

    def _computed(self, name: str, images: ListedImages, view: int) -> list[Shard]:
        """Return the shards of a view after computing those that are not there."""
        facts = {  # all that a view depends on, besides the images
            "features": self.features,
            "shard": SHARD_ROWS,
            "transform": repr(images.transform),
            "upright": images.prepared.upright,
            "weights": self.weights,
            "seed": images.seed,
            "stream": images.stream,
            "view": view,
        }
        files = hashlib.sha256(b"\n".join(images.files)).hexdigest()
        self.group.agree(lambda: None, lambda _: {**facts, f"{name} files": files})
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        folder, what = self.folder / f"{name}_{view}_{key}", f"features of the {name} set, view {view}"
        shards = shards_of(images, folder, self.features)
        missing = self.group.broadcast_object([k for k, shard in enumerate(shards) if not shard.is_there()])
        if missing:
            self.group.agree(lambda: make_folder(folder) if self.group.main else None)
            self.group.agree(lambda: check_shared(folder))
            self._compute(images, view, [shards[k] for k in missing], what)
        elif self.group.main:
            say(f"{what}: read from {folder}")
        return shards

    def _compute(self, images: ListedImages, view: int, missing: list[Shard], what: str) -> None:
        """Compute the shards that are missing, each process its share; those with an image that cannot be read stay so.

        Batches begin at a shard's first row, whoever computes it: so the last bits, too, are always the same.
        """
        rows, began = sum(len(shard.rows) for shard in missing), time.monotonic()
        if self.group.main and rows < len(images):
            say(f"{what}: {len(images) - rows} of {len(images)} were computed before")
        share = missing[self.group.rank :: self.group.world_size]

        def batches() -> Iterator[tuple[Shard, np.ndarray]]:
            for shard in share:
                if not shard.is_there():  # another run may have made it meanwhile
                    yield from ((shard, batch) for batch in parted(shard.rows, self.batch_size))

        rounds = self.group.all_gather_object(len(list(batches())))
        random.Random().shuffle(share)  # so that another run rarely computes the same shard at the same time
        wanted, begun = tee(batches())
        keys = ([(i, view) for i in batch.tolist()] for _, batch in wanted)
        loaded = zip(begun, load_all(images, keys, self.workers, self.group.device), strict=False)
        found = ((shard, half(self.extract(pixels)), seen) for (shard, _), (pixels, seen) in loaded)
        every = self.group.with_barriers(found, max(rounds))
        shown = progress(every, rounds[self.group.rank], what, shown=self.group.main)
        own: dict[Path, Seen] = {}
        for path, parts in groupby(shown, lambda one: one[0].path):
            _, features, seen = zip(*parts, strict=True)
            own |= (of := dict(ChainMap(*seen)))
            if not any(isinstance(one, UserError) for one in of.values()):
                write_whole(path, torch.cat(features).numpy().tobytes())
        read = dict(ChainMap(*self.group.all_gather_object(own)))  # all are written
        done = [one for path, one in read.items() if path not in self.seen]
        self.seen.update(read)
        if self.group.main:
            say(*(f"note: {line}" for line in done_notes(done)))
            say(f"{what}: {rows / (time.monotonic() - began):.1f} images/s, kept in {missing[0].path.parent}")


def check_shared(folder: Path) -> None:
    """Raise a `UserError` if this process does not see what another one made."""
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is not there: --cache_dir must be a folder that all processes share")


def half(features: Tensor) -> Tensor:
    """Return features in float16, on the CPU."""
    rows = features.half().cpu()
    if not bool(rows.isfinite().all()):
        raise UserError("the backbone's features are not finite in fp16: are these the weights of this network?")
    return rows
