"""A report that is made again whenever its runs have gone on, until it is stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import Stopped, UserError
from harness.signals_and_lock import Interrupted, Signals
from harness.text import say
from reporting.found_runs import Found, find_runs
from reporting.group_names import FILE
from reporting.run_contents import LOG, STARTED, SUMMARY, places_below, save_name

READ = (SUMMARY, STARTED, LOG, "_last_predictions.npz")  # ends of the names of the files that a report reads
MOST_NEWS = 3  # in a line
Stamps = dict[Path, tuple[int, int]]


def stamps(paths: Sequence[Path]) -> Stamps:
    """Return time and size of every file that a report of these runs reads."""
    places = [place for path in paths for place in (places_below(path) if os.path.isdir(path) else [path])]
    files = {place.with_name(save_name(place) + end) for place in places for end in READ}
    found: Stamps = {}
    for file in {*files, *places, *(place.with_name(FILE) for place in places)}:
        if (seen := _stamp(file)) is not None:
            found[file] = seen
    return found


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:  # it is not there, or not any more
        return None
    return status.st_mtime_ns, status.st_size


def news(before: Found | None, now: Found) -> str:
    """Return in words what is new since `before`, the last time, and how many runs there are."""
    some = [f"{len(now.runs)} finished in all", f"{len(now.unfinished)} not yet"]
    numbers = ", ".join([*some, *([f"{len(now.left_out)} left out"] if now.left_out else [])])
    if before is None:
        return numbers if now.runs or now.unfinished or now.left_out else "no runs yet"
    ended, left = {run.path for run in before.runs}, {(one.path, one.reason) for one in before.left_out}
    far = {run.path: run.progress for run in before.unfinished}
    told = [f"{run.name}: finished" for run in now.runs if run.path not in ended]
    told += [f"{run.name}: {run.progress}" for run in now.unfinished if far.get(run.path) != run.progress]
    told += [f"left out {one.name}: {one.reason}" for one in now.left_out if (one.path, one.reason) not in left]
    more = [f"{len(told) - MOST_NEWS} more"] if len(told) > MOST_NEWS else []
    return "; ".join([*told[:MOST_NEWS], *more, numbers])


@dataclass
class Watch:
    """What was seen of the runs at the last look."""

    paths: Sequence[Path]
    render: Callable[[Found], None]
    seen: Stamps | None = None
    shown: Found | None = None
    again: bool = field(default=False)  # whether what could not be read may have been amid being written

    def look(self) -> str | None:
        """Make the report again if a file has changed since the last look; return what is new, None if nothing is.

        What cannot be read for the first time is read once more at the next look. A mistake in what was named counts at the
        first look only: later the same file was sound, and it will be.
        """
        now = stamps(self.paths)  # before they are read: what is written meanwhile is seen at the next look
        if now == self.seen and not self.again:
            return None
        try:
            found = find_runs(self.paths, watched=True)
        except UserError as error:
            if self.shown is None:
                raise
            told = None if self.again and now == self.seen else f"{error}; the page stays as it is"
            self.seen, self.again = now, True
            return told
        before = self.shown
        unread = [] if before is None else before.left_out
        if now == self.seen and found.left_out == unread:
            self.again = False
            return None
        if found.runs or found.unfinished:
            self.render(found)
        self.seen, self.shown, self.again = now, found, found.left_out != unread
        return news(before, found)


def watch(
    paths: Sequence[Path], render: Callable[[Found], None], seconds: float,
    wait: Callable[[float], None] = time.sleep, clock: Callable[[], str] = lambda: time.strftime("%H:%M:%S"),
) -> None:  # fmt: skip
    """Look at the runs every so many seconds, and let `render` make the report whenever a file has changed.

    `render` is not called before there is a run, and is to replace a page whole, as `harness.files.replacing` does.
    Ctrl-C, or another signal that asks to end, ends the command with status 0; a report that is being made is made first.
    """
    one = Watch(paths, render)
    with Signals() as signals:
        while True:
            told = one.look()
            if told is not None:
                say(f"{clock()} {told}")
            try:
                with signals.interruptible():
                    wait(seconds)
            except Interrupted:
                raise Stopped("stopped watching; the report stays as it is", 0) from None
