"""Images that cannot be read are found before the first epoch, all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TextIO

import torch
from torch.utils.data import DataLoader, Dataset

from datasets.drawn_sets import Lists, Sets
from datasets.image_lists import ImageList
from datasets.pictures import RESIZED, decode, done_notes, left_out, unreadable
from harness.errors import Stopped, UserError
from harness.process_group import Group, shard_sizes
from harness.progress import progress
from harness.signals_and_lock import leave_stopping
from harness.text import say

PER_ANSWER = 64  # images that a loading process reads between two answers


class Seen(NamedTuple):
    """What reading an image shows: what is wrong with it, or "", and what was done, see `pictures.Decoded`."""

    fault: str
    done: frozenset[str] = frozenset()


class Looks(Dataset[Seen]):
    """A look at each file, whose short side will be made `resize_size`."""

    def __init__(self, paths: list[Path], resize_size: int) -> None:
        self.paths, self.resize_size = paths, resize_size

    def __getitem__(self, index: int) -> Seen:
        try:
            return Seen("", decode(self.paths[index], upright=False, coarse=True, resize_size=self.resize_size).done)
        except UserError as error:
            return Seen(str(error))


def all_paths(parts: Sequence[ImageList]) -> list[Path]:
    """Return the images of several lists, each once."""
    return sorted({part.root / path for part in parts for path in part.paths})


def faults_of(
    parts: Sequence[ImageList], group: Group, workers: int, resize_size: int, file: TextIO | None = None
) -> dict[str, str]:
    """Read all images of the lists, each process its share; return what is wrong with some, by path.

    What was done to others, and how far it is, is said on `file`, else on stdout.
    """
    paths = all_paths(parts)
    share = range(len(paths))[group.share(len(paths))]
    loader: DataLoader[Seen] = DataLoader(
        Looks(paths, resize_size), PER_ANSWER, sampler=share, num_workers=workers, collate_fn=list,
        worker_init_fn=leave_stopping,
        generator=torch.Generator(),  # else an iterator draws from the global one
    )  # fmt: skip
    rounds = -(-max(shard_sizes(len(paths), group.world_size)) // PER_ANSWER)
    batches = group.with_barriers(loader, rounds)
    shown = progress(batches, len(loader), "checking images", print_freq=0 if group.main else None, file=file)
    seen = [one for part in group.all_gather_object([one for batch in shown for one in batch]) for one in part]
    if group.main:
        say(*(f"note: {line}" for line in done_notes(one.done for one in seen)), file=file)
    return {str(path): one.fault for path, one in zip(paths, seen, strict=True) if one.fault}


def check_readable(sets: Sets, group: Group, workers: int, resize_size: int = RESIZED, whole: bool = False) -> None:
    """Read all images that are drawn, or are on the lists, if `whole`, unless they were read before.

    Those that cannot be read are a `UserError` that lists them.
    """
    if sets.lists is None or not sets.lists.checked:
        parts = sets.lists.parts if whole and sets.lists else [*sets.parts.values()]
        refuse_faults(faults_of(parts, group, workers, resize_size), parts, group, skippable=True)


def check_tested(images: ImageList, group: Group, workers: int) -> None:
    """Read all images to be tested on; those that cannot be read are a `UserError` that lists them."""
    refuse_faults(faults_of([images], group, workers, RESIZED, sys.stderr), [images], group, skippable=False)


def refuse_faults(faults: dict[str, str], parts: Sequence[ImageList], group: Group, skippable: bool) -> None:
    """Raise what `unreadable` makes of the faults, if any, in lists; the processes but the first leave without a word."""
    if faults and group.main:
        raise unreadable(list(faults.values()), len(all_paths(parts)), skippable)
    if faults:
        raise Stopped("", 2)


def readable_sets(sets: Sets, draw: Callable[[Lists], Sets], group: Group, workers: int, resize_size: int = RESIZED) -> Sets:
    """Read all images of the lists, leave out those that cannot be read, and draw from the others."""
    lists: Lists[ImageList] | None = sets.lists
    assert lists is not None
    parts = lists.parts
    faults = faults_of(parts, group, workers, resize_size)
    if faults:
        bad = {path for part in parts for path in part.paths if str(part.root / path) in faults}
        lists = lists.without(bad, left_out(list(faults.values()), len(all_paths(parts))))
        if not all(map(len, lists.parts)):
            refuse_faults(faults, parts, group, skippable=False)
    return group.agree(lambda: draw(replace(lists, checked=True)), Sets.digests)
