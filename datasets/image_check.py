"""Images that cannot be read are found before the first epoch, all of them, where no features are computed before it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TextIO

from datasets.drawn_sets import Lists, Sets
from datasets.image_lists import ImageList
from datasets.pictures import RESIZED, decode, done_notes, left_out, read_or_fault, unreadable
from harness.errors import Stopped, UserError
from harness.process_group import Group, shard_sizes
from harness.progress import progress
from harness.text import say

AT_ONCE = 64  # images between two lines of progress


def all_paths(lists: Iterable[ImageList]) -> list[Path]:
    """Return the images of several lists, each once."""
    return sorted({images.root / path for images in lists for path in images.paths})


def faults_of(
    lists: Iterable[ImageList], group: Group, resize_size: int, file: TextIO | None = None
) -> dict[Path, str]:
    """Read all images of the lists, each process its share; return what is wrong with some, by path.

    What was done to others, and how far it is, is said on `file`, else on stdout.
    """
    paths = all_paths(lists)
    own = paths[group.share(len(paths))]
    rounds = -(-max(shard_sizes(len(paths), group.world_size)) // AT_ONCE)

    def look(path: Path) -> frozenset[str]:
        return decode(path, upright=False, coarse=True, resize_size=resize_size).done

    with ThreadPoolExecutor() as pool:  # decoders let other threads work
        look_at = partial(read_or_fault, read=look)
        read = (list(pool.map(look_at, own[at : at + AT_ONCE])) for at in range(0, len(own), AT_ONCE))
        total = group.batches(len(paths), AT_ONCE)
        shown = progress(group.with_barriers(read, rounds), total, "checking images", shown=group.main, file=file)
        found = [*chain.from_iterable(shown)]
    seen = [*chain.from_iterable(group.all_gather_object(found))]
    if group.main:
        say(*(f"note: {line}" for line in done_notes(seen)), file=file)
    return {path: str(one) for path, one in zip(paths, seen, strict=True) if isinstance(one, UserError)}


def check_readable(
    lists: Collection[ImageList], group: Group, resize_size: int = RESIZED, testing: bool = False
) -> None:
    """Read all images of the lists; those that cannot be read are a `UserError`."""
    faults = faults_of(lists, group, resize_size, sys.stderr if testing else None)
    refuse_faults(faults, lists, group, skippable=not testing)


def refuse_faults(faults: Mapping[Path, str], lists: Iterable[ImageList], group: Group, skippable: bool) -> None:
    """Raise what `unreadable` makes of the faults, if any, in lists; the processes but the first leave without a word."""
    if faults and group.main:
        raise unreadable(sorted(faults.values()), len(all_paths(lists)), skippable)
    if faults:
        raise Stopped("", 2)


def readable_sets(sets: Sets, draw: Callable[[Lists], Sets], group: Group, resize_size: int = RESIZED) -> Sets:
    """Read all listed images, leave out unreadable ones, and draw the sets from the rest."""
    assert sets.lists is not None
    lists, parts = sets.lists, sets.lists.parts
    if faults := faults_of(parts.values(), group, resize_size):
        bad = {path for part in parts.values() for path in part.paths if part.root / path in faults}
        lists = lists.without(bad, left_out([*faults.values()], len(all_paths(parts.values()))))
        if lists.parts.keys() != parts.keys():
            refuse_faults(faults, parts.values(), group, skippable=False)
    return group.agree(lambda: draw(lists), Sets.digests)
