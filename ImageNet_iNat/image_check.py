"""Images that cannot be read are found before the first epoch, all of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from features import is_thin, leave_stopping, thin
from harness.errors import UserError
from harness.image_files import decode, left_out, unreadable
from harness.process_group import Group, shard_sizes
from harness.progress import progress
from image_lists import ImageList
from large_sets import Sets, make_sets

PER_ANSWER = 64  # images that a loading process reads between two answers


class Faults(Dataset[str]):
    """What is wrong with each file: a line, or ""."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __getitem__(self, index: int) -> str:
        path = self.paths[index]
        try:
            size = decode(path, upright=False, coarse=True).image.size
        except UserError as error:
            return str(error)
        return thin(path, size) if is_thin(size) else ""


def find_faults(parts: Mapping[str, ImageList], group: Group, workers: int, print_freq: int) -> dict[Path, str]:
    """Read all images of the lists, each process its share; return, on every process, the faulty ones and their faults."""
    paths = sorted({part.root / path for part in parts.values() for path in part.paths})
    share = range(len(paths))[group.share(len(paths))]
    loader: DataLoader[str] = DataLoader(
        Faults(paths), PER_ANSWER, sampler=share, num_workers=workers, collate_fn=list, worker_init_fn=leave_stopping,
        generator=torch.Generator(),  # else an iterator draws from the global one
    )  # fmt: skip
    rounds = -(-max(shard_sizes(len(paths), group.world_size)) // PER_ANSWER)
    batches = group.with_barriers(loader, rounds)
    shown = progress(batches, len(loader), "checking images", None, print_freq if group.main else None)
    found = [fault for batch in shown for fault in batch]
    own = {paths[i]: fault for i, fault in zip(share, found, strict=True) if fault}
    return {path: fault for part in group.all_gather_object(own) for path, fault in part.items()}


def readable(sets: Sets, group: Group, workers: int, print_freq: int, skip_bad: bool = False) -> Sets:
    """Return the sets without the images that cannot be read if `skip_bad`; else these are a `UserError` that lists them."""
    faults = find_faults(sets.parts, group, workers, print_freq)
    if not faults:
        return sets
    total = len({part.root / path for part in sets.parts.values() for path in part.paths})
    if not skip_bad:
        if group.main:
            raise unreadable(list(faults.values()), total)
        sys.exit(2)
    kept = {name: part.subset(np.flatnonzero([part.root / path not in faults for path in part.paths]))
            for name, part in sets.parts.items()}  # fmt: skip
    note = left_out(list(faults.values()), total)
    return group.agree(lambda: make_sets(kept["train"], kept["meta"], kept["test"], [*sets.notes, note]))
