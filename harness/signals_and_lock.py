"""Signals that are remembered until a step is done, and a lock on the files of a run."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TextIO, TypeVar

from harness.errors import Stopped, UserError
from harness.files import writing
from harness.text import say

S = TypeVar("S", bound="Signals")
# What asks a run to end: a terminal, a launcher, and schedulers before a time limit. Windows has the first two alone.
ASKING = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")


def heeded() -> list[signal.Signals]:
    """Return the signals that ask a run to end, without those that whoever started it has had ignored, as nohup does."""
    known = [signal.Signals[name] for name in ASKING if hasattr(signal, name)]
    return [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]


def leave_stopping(_: int) -> None:
    """Let a loading process leave Ctrl-C to the main one, which ends it, and say nothing at that end.

    Its own errors travel to the main process. What would be printed here is of Python's thread that hands over tensors
    (multiprocessing.resource_sharer): if that fails, the main process notices, and says so itself, unless it is ending.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = lambda *_: None


class Interrupted(BaseException):
    """A signal came where the run may be left at once. As KeyboardInterrupt it passes by who handles every exception."""


def is_forking(frame: FrameType | None) -> bool:
    """Return whether a process is just being made: what is raised in the functions that Python calls then is lost."""
    while frame is not None and frame.f_globals.get("__name__") != "multiprocessing.popen_fork":
        frame = frame.f_back
    return frame is not None


class HeldError(UserError):
    """Another process holds a lock: `holder` says which."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is held by {holder}, which writes the same files: wait or choose another --save_name")
        self.holder = holder


class Signals:
    """Within this context signals that ask for an end do not end the process: they are remembered until the step is done.

    Within `interruptible` they raise `Interrupted` at once. Further signals change nothing: a launcher sends its own after
    that of the terminal. `asked` is the number of the first one, 0 before. From then on loading processes may die of the
    same signal: that is no error any more.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.at_once = False

    def _remember(self, number: int, frame: FrameType | None) -> None:
        first, self.asked = not self.asked, self.asked or number
        if hasattr(signal, "SIGCHLD"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler raises when a loading process dies
        if first and self.at_once and not is_forking(frame):
            raise Interrupted

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal that comes, or came, raise `Interrupted` inside."""
        self.at_once = True
        try:
            if self.asked:
                raise Interrupted
            yield
            if self.asked:  # while a process was made
                raise Interrupted
        finally:
            self.at_once = False

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Let a signal that comes, or came, end in one line what is done inside, of which finished parts are kept."""
        try:
            with self.interruptible():
                yield
        except Interrupted:
            raise Stopped("stopped; give the same command to resume", 128 + self.asked) from None

    def stopped(self, where: str, how: str) -> Stopped:
        """Return what ends a run that was asked to, and was there; the same command goes on, given so."""
        told = f"stopped by {signal.Signals(self.asked).name} {where}; to resume, give the same command {how}"
        return Stopped(told, 128 + self.asked)

    def __enter__(self: S) -> S:
        self.before = {number: signal.signal(number, self._remember) for number in heeded()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
            outer = getattr(handler, "__self__", None)
            if isinstance(outer, Signals):  # it learns what came in here, which may have ended before a step could see it
                outer.asked = outer.asked or self.asked


def is_at(file: TextIO, path: Path) -> bool:
    """Return whether an open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


@contextmanager
def only_run(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, so that no other run writes the same files; it goes when the process does.

    If another process holds it, that is a `HeldError`. Windows, and file systems without locks, keep nobody out.
    """
    with ExitStack() as opened:
        while True:
            with writing(path):
                file = opened.enter_context(open(path, "a+", encoding="utf-8"))
            try:
                import fcntl

                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's not held on by loading processes
            except (BlockingIOError, PermissionError) as error:
                file.seek(0)
                raise HeldError(path, file.read().strip() or "another process") from error
            except (ImportError, OSError) as error:
                say(f"note: no lock on {path} ({error}): see that no other run writes the same files")
            else:
                if not is_at(file, path):
                    continue  # the run before removed it just now
                with writing(path):
                    file.truncate(0)
                    file.write(f"process {os.getpid()} on {os.uname().nodename}")
                    file.flush()
            break
        try:
            yield
        finally:
            if is_at(file, path):
                with suppress(OSError):  # it can stay: nobody holds it
                    path.unlink()
