"""The backbone's features on disk, computed once: the head is then trained without the images.

The name of a cached set (see `cached_rows.py`) is a digest of everything the features depend on: the images (paths, labels,
sizes, times of change), the transform, the weights, and what the augmentation is drawn from. A set whose files are not whole
is computed, by one run at a time, from where another was stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from harness.errors import UserError
from harness.process_group import Group, shard_sizes
from harness.progress import progress
from harness.signals_and_lock import HeldError, only_run
from harness.text import say
from heads.cached_rows import UnfinishedRows, is_whole, make_cache_folder, remove_abandoned
from heads.feature_tables import CachedFeatures
from heads.features import ImageFeatures, LiveFeatures
from heads.image_lists import ImageList, found_files

FORMAT = 1
BETWEEN_LOOKS = 1.0  # seconds between two attempts to take a lock

T = TypeVar("T")


def images_digest(images: ImageList) -> str:
    """Return a digest of paths, labels, and each file's size and time of change."""
    digest = hashlib.sha256(np.asarray(images.targets).tobytes())
    for path, found in zip(images.paths, found_files(images), strict=True):
        changed = (found.st_size, found.st_mtime_ns) if found else ("", "")  # what is not there is named by who reads it
        digest.update(os.fsencode(f"{path}\0{changed[0]}\0{changed[1]}\n"))
    return digest.hexdigest()


class FeatureCache:
    """Cached sets in one folder, made by all processes together; the folder must be one that all of them share.

    Parameters
    ----------
    live:
        What computes features.
    weights:
        The fingerprint of the backbone.
    check:
        Called before features are computed.
    """

    def __init__(
        self, folder: Path, live: ImageFeatures, weights: str, group: Group, features: int,
        check: Callable[[], object] = lambda: None,
    ) -> None:  # fmt: skip
        self.folder, self.live, self.weights, self.group = folder, live, weights, group
        self.features, self.check = features, check
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
            "upright": dataset.prepared.upright,
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
        what = f"features of the {name} set, view {view}"
        with ExitStack() as held:
            locked = True
            if not (whole := self._of_main(lambda: is_whole(path, facts))):
                locked = self._keep_others_out(path, what, held)
                whole = self._of_main(lambda: is_whole(path, facts))  # another run may have made it meanwhile
            if whole and self.group.main:
                say(f"{what}: read from {path}")
            elif not whole:
                self.check()
                own = "" if locked else f"-{platform.node()}-{secrets.token_hex(4)}"  # without locks none can be shared
                part = self._of_main(lambda: path.with_suffix(f".part{own}"))
                self._compute(name, view, UnfinishedRows(part, facts), path, what)
        self.group.agree(lambda: self._see(path))
        return np.memmap(path, np.float16, "r", shape=(facts["rows"], self.features))

    def _of_main(self, make: Callable[[], T]) -> T:
        """Return what the main process makes, on all of them."""
        made: list[Any] = self.group.all_gather_object(self.group.agree(lambda: make() if self.group.main else None))
        first: T = made[0]
        return first

    def _see(self, path: Path) -> None:
        if not os.path.isfile(path):
            raise UserError(f"{path} is not there: --cache_dir must be a folder that all processes share")

    def _keep_others_out(self, path: Path, what: str, held: ExitStack) -> bool:
        """Wait until no other run computes this set, keep others out while `held` lasts; return whether there are locks."""
        lock = path.with_suffix(".lock")

        def attempt() -> tuple[bool, str]:
            make_cache_folder(self.folder)
            try:
                return held.enter_context(only_run(lock)).file is not None, ""
            except HeldError as error:
                return False, error.holder

        locked, holder = self._of_main(attempt)
        if holder and self.group.main:
            say(f"{what}: {holder} is computing them ({lock}); waiting for it")
        while holder:  # all processes look, so that none takes the others for gone
            time.sleep(BETWEEN_LOOKS)
            locked, holder = self._of_main(attempt)
        return locked

    def _compute(self, name: str, view: int, unfinished: UnfinishedRows, path: Path, what: str) -> None:
        """Compute the rows that are missing.

        Batches begin at multiples of their size, whoever computes them: so the last bits, too, are those of one process that
        nothing stopped.
        """
        if self.group.main:
            remove_abandoned(path, unfinished.rows * unfinished.width)
        rows, size = unfinished.rows, self.live.test_batch_size
        try:
            missing = self._of_main(unfinished.prepare)
            self.group.agree(lambda: self._see(unfinished.part))
            if len(missing) < rows and self.group.main:
                say(f"{what}: {rows - len(missing)} of {rows} were computed by a run before")
            batches = [range(start, min(start + size, rows)) for start in sorted({i - i % size for i in missing})]
            own = batches[self.group.share(len(batches))]
            found = self.live.of_batches(name, view, own, max(shard_sizes(len(batches), self.group.world_size)))
            shown = progress(found, len(own), what, print_freq=0 if self.group.main else None)
            for batch, (features, _) in zip(own, shown, strict=True):
                unfinished.write(batch.start, features)
            self._of_main(lambda: self._publish(unfinished, path))  # all rows are there
        finally:
            if self.group.main:
                unfinished.tidy()
                if unfinished.part.suffix != ".part":  # of a name that no other run will look for
                    unfinished.remove()

    def _publish(self, unfinished: UnfinishedRows, path: Path) -> None:
        lost = unfinished.missing()
        if lost:
            raise UserError(
                f"{len(lost)} rows of {unfinished.part} are not those that were written: --cache_dir must be a folder that "
                "all processes share, on a sound disk"
            )
        unfinished.publish(path)


def cached_features(
    live: LiveFeatures, views: int, folder: Path, weights: str, features: int,
    check: Callable[[], object] = lambda: None, with_meta: bool = True,
) -> CachedFeatures:  # fmt: skip
    """Return the features of `views` views of the training and meta images and one of the others, from the cache.

    The parameters are those of `FeatureCache`; without `with_meta` there are no meta batches, and nothing is computed for
    them.
    """
    cache = FeatureCache(folder, live, weights, live.group, features, check)
    train = [cache.open("train", view) for view in range(views)]
    meta = [cache.open("meta", view) for view in range(views if with_meta else 0)]
    targets = {name: torch.from_numpy(part.images.targets) for name, part in live.images.items()}
    sizes = live.batch_size, live.test_batch_size
    heldout = cache.open("heldout", 0) if "heldout" in live.images else None
    return CachedFeatures(train, meta, cache.open("test", 0), targets, live.group, *sizes, live.seed, heldout)
