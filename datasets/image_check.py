"""Images that cannot be read are found before the first epoch, all of them, where no features are computed before it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any, TextIO

from datasets.drawn_sets import Lists, Sets
from datasets.image_lists import ImageList
from datasets.pictures import RESIZED, decode, done_notes, left_out, unreadable
from harness.errors import Stopped, UserError
from harness.process_group import Group, shard_sizes
from harness.progress import progress
from harness.text import say

AT_ONCE = 64  # images between two lines of progress


def look(path: Path, resize_size: int) -> tuple[str, frozenset[str]]:
    """Return what is wrong with an image whose short side will be made `resize_size`, or "", and what was done to it."""
    try:
        return "", decode(path, upright=False, coarse=True, resize_size=resize_size).done
    except UserError as error:
        return str(error), frozenset()


def all_paths(parts: Sequence[ImageList]) -> list[Path]:
    """Return the images of several lists, each once."""
    return sorted({part.root / path for part in parts for path in part.paths})


def faults_of(
    parts: Sequence[ImageList], group: Group, resize_size: int, file: TextIO | None = None
) -> dict[str, str]:
    """Read all images of the lists, each process its share; return what is wrong with some, by path.

    What was done to others, and how far it is, is said on `file`, else on stdout.
    """
    paths = all_paths(parts)
    own = paths[group.share(len(paths))]
    rounds = [-(-size // AT_ONCE) for size in shard_sizes(len(paths), group.world_size)]
    with ThreadPoolExecutor() as pool:  # decoders let other threads work
        read = (list(pool.map(look, own[at : at + AT_ONCE], repeat(resize_size))) for at in range(0, len(own), AT_ONCE))
        batches = group.with_barriers(read, max(rounds))
        shown = progress(batches, rounds[group.rank], "checking images", shown=group.main, file=file)
        found = [one for batch in shown for one in batch]
    seen = [one for part in group.all_gather_object(found) for one in part]
    if group.main:
        say(*(f"note: {line}" for line in done_notes(done for _, done in seen)), file=file)
    return {str(path): fault for path, (fault, _) in zip(paths, seen, strict=True) if fault}


def check_readable(sets: Sets, group: Group, resize_size: int = RESIZED) -> None:
    """Read all images that are drawn, unless they were read before; those that cannot be read are a `UserError`."""
    if sets.lists is None or not sets.lists.checked:
        parts = [*sets.parts.values()]
        refuse_faults(faults_of(parts, group, resize_size), parts, group, skippable=True)


def check_tested(images: ImageList, group: Group) -> None:
    """Read all images to be tested on; those that cannot be read are a `UserError` that lists them."""
    refuse_faults(faults_of([images], group, RESIZED, sys.stderr), [images], group, skippable=False)


def refuse_faults(faults: Mapping[Any, str], parts: Sequence[ImageList], group: Group, skippable: bool) -> None:
    """Raise what `unreadable` makes of the faults, if any, in lists; the processes but the first leave without a word."""
    if faults and group.main:
        raise unreadable(sorted(faults.values()), len(all_paths(parts)), skippable)
    if faults:
        raise Stopped("", 2)


def readable_sets(sets: Sets, draw: Callable[[Lists], Sets], group: Group, resize_size: int = RESIZED) -> Sets:
    """Read all images of the lists, leave out those that cannot be read, and draw from the others."""
    lists: Lists[ImageList] | None = sets.lists
    assert lists is not None
    parts = lists.parts
    faults = faults_of(parts, group, resize_size)
    if faults:
        bad = {path for part in parts for path in part.paths if str(part.root / path) in faults}
        lists = lists.without(bad, left_out(list(faults.values()), len(all_paths(parts))))
        if not all(map(len, lists.parts)):
            refuse_faults(faults, parts, group, skippable=False)
    return group.agree(lambda: draw(replace(lists, checked=True)), Sets.digests)
