"""Which runs lie below the paths that a user names: those that are shown, and the others and why."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import UserError
from reporting.finished_runs import FinishedRun, read_run
from reporting.group_names import FILE, idle_patterns, read_group_names, words_for
from reporting.run_contents import distinct_names, no_runs, places_below, save_name

MOST_REASONS = 3  # in an error


@dataclass(frozen=True)
class LeftOut:
    """A run, folder or file that is not shown, and why, in one line."""

    name: str
    path: Path
    reason: str


@dataclass(frozen=True)
class Found:
    """What lies below the paths that were named."""

    runs: list[FinishedRun] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def find_runs(paths: Sequence[Path]) -> Found:
    """Read the runs of summaries, and of all that lie below folders.

    A run below a folder is left out whole if one of its files is damaged, be it the log or the predictions alone: half of a
    run would mislead, and files that do not fit together may be of two runs. The reason says which file to move away to
    have the rest shown. A file that was named itself is an error instead. Runs that are not finished are left out too.
    """
    found, places, named = Found(), dict[Path, Path](), set[Path]()

    def unread(error: OSError) -> None:
        path = Path(error.filename)
        found.left_out.append(LeftOut(path.name, path, f"{path} cannot be read ({error.strerror}): check its permissions"))

    looked: dict[Path, None] = {}  # folders of which every run is read, in order
    for path in paths:
        below = places_below(path, unread) if os.path.isdir(path) else [path]
        if not os.path.isdir(path):
            named.add(path.resolve())
        elif not below and not found.left_out:
            no_runs(path)
        for file in below:
            if places.setdefault(file.resolve(), file) is file and os.path.isdir(path):
                looked[file.parent] = None
    words = {folder: folder_words(folder, found) for folder in {path.parent: None for path in places.values()}}
    for name, path in zip(distinct_names([*places.values()]), places.values(), strict=True):
        if path.resolve() in named:
            found.runs.append(read_run(name, path, words_for(save_name(path), words[path.parent])))
        elif not os.path.isfile(path):
            found.left_out.append(LeftOut(name, path, "not finished: its training goes on, or was interrupted"))
        else:
            try:
                found.runs.append(read_run(name, path, words_for(save_name(path), words[path.parent])))
            except UserError as error:
                found.left_out.append(LeftOut(name, path, str(error)))
    for folder in looked:
        names = [save_name(path) for path in places.values() if path.parent == folder]
        found.left_out.extend(LeftOut(FILE, folder / FILE, f'its pattern "{pattern}" fits no run here')
                              for pattern in idle_patterns(words[folder], names))  # fmt: skip
    check_some(found, paths)
    return found


def folder_words(folder: Path, found: Found) -> dict[str, str]:
    """Return the words for the runs of a folder; without any if their file is damaged, which is then left out."""
    try:
        return read_group_names(folder)
    except UserError as error:
        found.left_out.append(LeftOut(FILE, folder / FILE, str(error)))
        return {}


def check_some(found: Found, paths: Sequence[Path]) -> None:
    """Refuse to make a report of nothing; say why there is nothing."""
    if found.runs:
        return
    reasons = [f"{one.name}: {one.reason}" for one in found.left_out]
    more = f"; and {len(reasons) - MOST_REASONS} more" if len(reasons) > MOST_REASONS else ""
    told = "; ".join(reasons[:MOST_REASONS])
    raise UserError(f"{', '.join(map(str, paths))}: no finished run that can be shown ({told}{more})")
