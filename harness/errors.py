"""What ends a command in one line: mistakes of the user, faults of the machine, a stop on request. Else a traceback."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.before_loading import libraries_are_loaded
from harness.text import Ending, OutputLostError, say


class UserError(Ending):
    """Something the user can correct. The message is one line: what is wrong, and what to do; `lines` come before it.

    `status` is the exit status: 1 says that the command did all the rest of its work.
    """

    def __init__(self, message: str, lines: Sequence[str] = (), status: int = 2) -> None:
        super().__init__(message, status)
        self.lines = lines


class Stopped(Ending):
    """The run ends before its end: it was asked to, and has saved, or (`status` 0) there is nothing left to do.

    The message says how to go on, if it is not empty; `status` is the exit status.
    """


@contextmanager
def blamed_on(flag: str) -> Iterator[None]:
    """Make a ValueError of the method into a `UserError` about the flag that caused it."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{flag}: {error}") from error


# Faults of the machine, and numbers that it has not: what the name and the words of an exception match, and what to do.
FAULTS = (
    (
        r"unable to allocate shared memory|Bus error",
        "/dev/shm is full, by which loading processes hand images over: --workers 0, or docker run --shm-size 8g",
    ),
    (
        r"CUDA out of memory|(CUDNN|CUBLAS)_STATUS_ALLOC_FAILED",
        "the GPU's memory is full: take a smaller --batch_size, or stop what else computes on it",
    ),
    (
        r"MemoryError|bad_alloc|Storage size|(not enough|can't allocate|[Cc]annot allocate|[Uu]nable to allocate) .*memory",
        "there is not enough memory: take fewer data or --workers, a smaller --batch_size or fewer --views",
    ),
    (
        r"DataLoader worker .*(killed|exited)",
        "a loading process was killed, as a system does that lacks memory: take fewer --workers or a smaller --batch_size",
    ),
    (
        r"without overflow",
        "a flag is beyond what float32 holds, as a rate or strength of 1e39 is: lower it",
    ),
)


def fault(error: BaseException) -> str | None:
    """Return a fault of the machine, or of code that the user named, in one line; None for a fault of ours."""
    if isinstance(error, SystemExit):
        left = traceback.extract_tb(error.__traceback__)[-1]
        return f"{left.filename}, line {left.lineno}, ended the process by sys.exit: code that is called must not"
    if isinstance(error, OSError) and error.strerror:
        where = error.filename or "a file"
        return f"{where} cannot be read or written ({error.strerror}): check the path, or make room or rights"
    said = f"{type(error).__name__}: {error}"
    words = next((words for pattern, words in FAULTS if re.search(pattern, said)), None)
    reason = next((line for line in reversed(said.splitlines()) if line.strip()), "")[:200]
    return words and f"{words} ({reason})"


def ending(error: BaseException) -> tuple[str, int] | None:
    """Return what a command that ends by `error` says, and its exit status; None for a fault of ours."""
    if isinstance(error, UserError):
        return f"error: {error}", error.status
    if isinstance(error, Stopped):
        return str(error), error.status
    if isinstance(error, BrokenPipeError):
        return "", 141
    if isinstance(error, OutputLostError):  # who has stopped reading wants no line
        return f"error: {error}" if error.status == 2 else "", error.status
    if isinstance(error, KeyboardInterrupt):
        return "stopped", 130
    found = fault(error)
    return (f"error: {found}", 2) if found else None


def run_main(main: Callable[[], None]) -> None:
    """Run a script's main; what `ending` knows becomes one line on stderr and an exit status, 2 as a rule.

    A stop with status 0 is told on stdout.
    """
    name = Path(sys.argv[0]).name
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # none, or another than Python begins with
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        libraries_are_loaded()
        try:
            main()
        except Stopped as stopped:
            if stopped.status:
                raise
            say(*([f"{name}: {stopped}"] if str(stopped) else []))
        say()
    except BaseException as error:
        end = ending(error)
        if end is None:
            raise
        line, status = end
        with suppress(OutputLostError):
            say()
        told = [*getattr(error, "lines", ()), *([f"{name}: {line}"] if line else [])]
        say(*told, file=sys.stderr)
        sys.exit(status)
