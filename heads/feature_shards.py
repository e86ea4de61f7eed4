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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.image_check import refuse_faults
from datasets.pictures import Seen, done_notes
from harness.errors import UserError
from harness.files import replacing, sync, writing
from harness.process_group import Group
from harness.progress import progress
from harness.text import say
from heads.batches import Extract, ListedImages, RowViews, load_all, parted

SHARD_ROWS = 256  # about, 1 MB of 2,048 features
ABOUT = "about.json"  # in the folder of a set: what its name is the digest of


@dataclass(frozen=True)
class Shard:
    """The file of some rows (n,) of a view, of `features` numbers each."""

    path: Path
    rows: np.ndarray
    features: int

    def is_there(self) -> bool:
        """Return whether it has the size that it must have."""
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


def write_shared(path: Path, content: bytes) -> None:
    """Write a file whole; another run may write the same one at the same time."""
    with replacing(path, shared=True) as file:
        file.write_bytes(content)
        sync(file)


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

    def facts(self, images: ListedImages, view: int) -> dict[str, Any]:
        """Return everything that a view depends on, besides the images."""
        return {
            "features": self.features,
            "shard": SHARD_ROWS,
            "transform": repr(images.transform),
            "upright": images.prepared.upright,
            "weights": self.weights,
            "seed": images.seed,
            "stream": images.stream,
            "view": view,
        }

    def open(self, *wanted: tuple[str, ListedImages, int]) -> list[np.ndarray]:
        """Return the features (M, A) of views of images, each with its name, the images and the number of the view.

        Those that are not there are computed. Images that cannot be read are a `UserError` after that, and lists them all.
        """
        views = [self._computed(*one) for one in wanted]
        faults = {path: str(one) for path, one in self.seen.items() if isinstance(one, UserError)}
        refuse_faults(faults, [images.images for _, images, _ in wanted], self.group, skippable=True)
        return [self._read(shards) for shards in views]

    def views(self, images: Mapping[str, ListedImages], count: int) -> dict[str, RowViews]:
        """Return `count` views of the training and the meta images and one of the others."""
        found = {name: [rows] for name, rows in zip(images, self.open(*((*one, 0) for one in images.items())), strict=True)}
        for name in found:
            if name in ("train", "meta"):
                found[name] += self.open(*((name, images[name], view) for view in range(1, count)))
        return {name: RowViews(rows, torch.from_numpy(images[name].images.targets)) for name, rows in found.items()}

    def _read(self, shards: list[Shard]) -> np.ndarray:
        found = np.empty((sum(len(shard.rows) for shard in shards), self.features), np.float16)
        for shard in shards:
            found[shard.rows] = np.fromfile(shard.path, np.float16).reshape(-1, self.features)
        return found

    def _computed(self, name: str, images: ListedImages, view: int) -> list[Shard]:
        """Return the shards of a view after computing those that are not there."""
        files = {f"{name} files": hashlib.sha256(b"\n".join(images.files)).hexdigest()}
        facts = self.group.agree(lambda: self.facts(images, view), lambda made: {**made, **files})
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        folder, what = self.folder / f"{name}_{view}_{key}", f"features of the {name} set, view {view}"
        shards = shards_of(images, folder, self.features)
        missing = self.group.broadcast_object([k for k, shard in enumerate(shards) if not shard.is_there()])
        if missing:
            self.group.agree(lambda: begin_folder(folder, facts) if self.group.main else None)
            self.group.agree(lambda: check_shared(folder / ABOUT))
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
        found = ((shard, half(self.extract(pixels)), seen) for (shard, _), (pixels, _, seen) in loaded)
        every = self.group.with_barriers(found, max(rounds))
        shown = progress(every, rounds[self.group.rank], what, print_freq=0 if self.group.main else None)
        own: dict[Path, Seen] = {}
        for path, parts in groupby(shown, lambda one: one[0].path):
            _, features, seen = zip(*parts, strict=True)
            own |= (of := dict(ChainMap(*seen)))
            if not any(isinstance(one, UserError) for one in of.values()):
                write_shared(path, torch.cat(features).numpy().tobytes())
        known = {*self.seen}
        for one in self.group.all_gather_object(own):  # all are written
            self.seen.update(one)
        if self.group.main:
            say(*(f"note: {line}" for line in done_notes(one for path, one in self.seen.items() if path not in known)))
            say(f"{what}: {rows / (time.monotonic() - began):.1f} images/s, kept in {missing[0].path.parent}")


def begin_folder(folder: Path, facts: Mapping[str, Any]) -> None:
    """Make the folder of a set, and say there what its name is the digest of."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_shared(folder / ABOUT, json.dumps(facts, indent=1).encode())


def check_shared(about: Path) -> None:
    """Raise a `UserError` if this process does not see what another one made."""
    if not os.path.isfile(about):
        raise UserError(f"{about} is not there: --cache_dir must be a folder that all processes share")


def half(features: Tensor) -> Tensor:
    """Return features in float16, on the CPU."""
    rows = features.half().cpu()
    if not bool(rows.isfinite().all()):
        raise UserError("the backbone's features are not finite in fp16: are these the weights of this network?")
    return rows
