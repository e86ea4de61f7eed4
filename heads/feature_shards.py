"""The backbone's features on disk, computed once: the head is then trained without the images.

The rows of a set lie in shards, files of SHARD_ROWS rows in plain float16, in a folder that is named after a digest of all
that they depend on: the images (paths, sizes, times of change), the transform, the weights, and what the augmentation is
drawn from. A shard is written whole, by a rename: what is there is done. So a kill costs what was being computed, and
several processes or runs may compute a set together: where two make the same shard, both make the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, tee
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.errors import UserError
from harness.files import replacing, sync, writing
from harness.process_group import Group
from harness.progress import progress
from harness.text import say
from heads.batches import Extract, ListedImages, RowViews, load, parted

SHARD_ROWS = 1000  # 4 MB of 2,048 features
ABOUT = "about.json"  # in the folder of a set: what its name is the digest of


@dataclass(frozen=True)
class Shard:
    """The file of some rows of a set, of `features` numbers each."""

    path: Path
    rows: range
    features: int

    def is_there(self) -> bool:
        """Return whether it has the size that it must have."""
        return os.path.isfile(self.path) and self.path.stat().st_size == 2 * len(self.rows) * self.features


def write_shared(path: Path, content: bytes) -> None:
    """Write a file whole; another run may write the same one at the same time."""
    with replacing(path, shared=True) as file:
        file.write_bytes(content)
        sync(file)


@dataclass(frozen=True)
class FeatureCache:
    """Features of images in one folder, which all processes of a run must share; other runs may use it at the same time.

    `weights` is the fingerprint of the backbone that `extract` is of. `check` is called before features are computed.
    """

    folder: Path
    extract: Extract
    weights: str
    features: int
    group: Group
    batch_size: int
    workers: int
    check: Callable[[], object] = lambda: None

    def facts(self, images: ListedImages, view: int) -> dict[str, Any]:
        """Return everything that a view of the images depends on."""
        return {
            "images": images.digest,
            "rows": len(images),
            "features": self.features,
            "shard": SHARD_ROWS,
            "transform": repr(images.transform),
            "upright": images.prepared.upright,
            "weights": self.weights,
            "seed": images.seed,
            "stream": images.stream,
            "view": view,
        }

    def open(self, name: str, images: ListedImages, view: int) -> np.ndarray:
        """Return the features (M, A) of a view of images, which are called `name`; compute those that are not there."""
        facts = self.group.agree(lambda: self.facts(images, view), dict)
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        folder, what = self.folder / f"{name}_{view}_{key}", f"features of the {name} set, view {view}"
        every = enumerate(parted(range(len(images)), SHARD_ROWS))
        shards = [Shard(folder / f"{k:05}.f16", rows, self.features) for k, rows in every]
        missing = self.group.broadcast_object([k for k, shard in enumerate(shards) if not shard.is_there()])
        if missing:
            self.check()
            self.group.agree(lambda: begin_folder(folder, facts) if self.group.main else None)
            self.group.agree(lambda: check_shared(folder / ABOUT))
            self._compute(images, view, [shards[k] for k in missing], what)
        elif self.group.main:
            say(f"{what}: read from {folder}")
        rows = np.empty((len(images), self.features), np.float16)
        for shard in shards:
            rows[shard.rows.start : shard.rows.stop] = np.fromfile(shard.path, np.float16).reshape(-1, self.features)
        return rows

    def views(self, images: Mapping[str, ListedImages], count: int) -> dict[str, RowViews]:
        """Return `count` views of the training and the meta images and one of the others."""
        parts = {}
        for name, part in images.items():
            rows = [self.open(name, part, view) for view in range(count if name in ("train", "meta") else 1)]
            parts[name] = RowViews(rows, torch.from_numpy(part.images.targets))
        return parts

    def _compute(self, images: ListedImages, view: int, missing: list[Shard], what: str) -> None:
        """Compute the shards that are missing, each process its share.

        Batches begin at a shard's first row, whoever computes it: so the last bits, too, are always the same.
        """
        rows, began = sum(len(shard.rows) for shard in missing), time.monotonic()
        if self.group.main and rows < len(images):
            say(f"{what}: {len(images) - rows} of {len(images)} were computed before")
        share = missing[self.group.rank :: self.group.world_size]

        def batches() -> Iterator[tuple[Shard, range]]:
            for shard in share:
                if not shard.is_there():  # another run may have made it meanwhile
                    yield from ((shard, batch) for batch in parted(shard.rows, self.batch_size))

        rounds = self.group.all_gather_object(len(list(batches())))
        random.Random().shuffle(share)  # so that another run rarely computes the same shard at the same time
        wanted, begun = tee(batches())
        keys = ([(i, view) for i in batch] for _, batch in wanted)
        loaded = load(images, keys, self.workers, self.group.device)
        found = ((shard, half(self.extract(pixels))) for (shard, _), (pixels, _) in zip(begun, loaded, strict=False))
        every = self.group.with_barriers(found, max(rounds))
        shown = progress(every, rounds[self.group.rank], what, print_freq=0 if self.group.main else None)
        for shard, parts in groupby(shown, itemgetter(0)):
            write_shared(shard.path, torch.cat([features for _, features in parts]).numpy().tobytes())
        self.group.barrier()  # all are written
        if self.group.main:
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
