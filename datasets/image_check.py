"""Images that cannot be read are found before the first epoch, all of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TextIO

import torch
from torch.utils.data import DataLoader, Dataset

from datasets.drawn_sets import Lists, Sets
from datasets.image_lists import ImageList
from datasets.pictures import RESIZED, decode, done_notes, is_thin, left_out, thin, unreadable
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
        path = self.paths[index]
        try:
            image, done = decode(path, upright=False, coarse=True)
        except UserError as error:
            return Seen(str(error))
        return Seen(thin(path, image.size) if is_thin(image.size, self.resize_size) else "", done)


def look_at_all(
    parts: Iterable[ImageList], group: Group, workers: int, resize_size: int, file: TextIO | None = None
) -> dict[Path, Seen]:
    """Read all images of the lists, each process its share; return, on every process, what is to be said of some.

    `resize_size` is what their short side will be made. How far it is is shown on `file`, else on stdout.
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
    found = [seen for batch in shown for seen in batch]
    own = {paths[i]: seen for i, seen in zip(share, found, strict=True) if any(seen)}
    return {path: seen for part in group.all_gather_object(own) for path, seen in part.items()}


def all_paths(parts: Iterable[ImageList]) -> list[Path]:
    """Return the images of several lists, each once."""
    return sorted({part.root / path for part in parts for path in part.paths})


def say_done(seen: Mapping[Path, Seen], group: Group, file: TextIO | None = None) -> None:
    """Say what was done to images besides reading them, on `file`, else on stdout."""
    for line in done_notes(one.done for one in seen.values()) if group.main else ():
        say(f"note: {line}", file=file)


def check_readable(
    sets: Sets, group: Group, workers: int, resize_size: int = RESIZED, more: Sequence[ImageList] = ()
) -> None:
    """Read all images, if they were not yet; those that cannot be read are a `UserError` that lists them.

    `resize_size` is what their short side will be made, and `more` are lists besides those of the sets.
    """
    if sets.checked:
        return
    parts = [*sets.parts.values(), *more]
    seen = look_at_all(parts, group, workers, resize_size)
    refuse_faults(list(faults_of(seen).values()), parts, group, skippable=True)
    say_done(seen, group)


def check_tested(images: ImageList, group: Group, workers: int) -> None:
    """Read all images to be tested on; those that cannot be read are a `UserError` that lists them."""
    seen = look_at_all([images], group, workers, RESIZED, sys.stderr)
    refuse_faults(list(faults_of(seen).values()), [images], group, skippable=False)
    say_done(seen, group, sys.stderr)


def faults_of(seen: Mapping[Path, Seen]) -> dict[Path, str]:
    """Return the images that cannot be read, in order, and what is wrong with them."""
    return {path: one.fault for path, one in sorted(seen.items()) if one.fault}


def refuse_faults(faults: Sequence[str], parts: Iterable[ImageList], group: Group, skippable: bool) -> None:
    """Raise what `unreadable` makes of the faults, if any, in lists; the processes but the first leave without a word."""
    if faults and group.main:
        raise unreadable(faults, len(all_paths(parts)), skippable)
    if faults:
        raise Stopped("", 2)


def readable_sets(sets: Sets, draw: Callable[[Lists], Sets], group: Group, workers: int, resize_size: int = RESIZED) -> Sets:
    """Read all images of the lists, if they were not yet, leave out those that cannot be read, and draw from the others."""
    if sets.checked:
        return sets
    lists = sets.lists
    assert lists is not None
    seen = look_at_all(lists.parts, group, workers, resize_size)
    faults = faults_of(seen)
    if faults:
        whole = lists.parts
        note = left_out(list(faults.values()), len(all_paths(whole)))
        lists = lists.without({os.path.normpath(path) for path in faults}, note)
        for part, good in zip(whole, lists.parts, strict=True):
            if not len(good):
                refuse_faults([faults[path] for path in all_paths([part])], [part], group, skippable=False)
    say_done(seen, group)
    return replace(group.agree(lambda: draw(lists), Sets.digests), checked=True)
