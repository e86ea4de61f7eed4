"""Mistakes of the user: one line, exit status 2, no traceback; so for a stop on request. All else keeps its traceback."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.text import printable, write_out_what_cannot_be_encoded


class UserError(Exception):
    """Something the user can correct. The message is one line: what is wrong, and what to do; `lines` come before it."""

    def __init__(self, message: str, lines: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.lines = lines


class Stopped(Exception):  # noqa: N818  (no error)
    """The run ends before its end: it was asked to, and has saved, or (`status` 0) there is nothing left to do.

    The message says how to go on; `status` is the exit status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def blamed_on(flag: str) -> Iterator[None]:
    """Make a ValueError of the method into a `UserError` about the flag that caused it."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{flag}: {error}") from error


def nobody_reads() -> bool:
    """Return whether stdout is a pipe whose reader is gone, as `| head` when it has read enough; if so, print to nowhere."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
    except (AttributeError, OSError, ValueError):  # Windows, or no file
        return False
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that closing it at the end is no error
    return True


def run_main(main: Callable[[], None]) -> None:
    """Run a script's main; a `UserError` becomes one line on stderr and exit status 2, Ctrl-C status 130.

    `Stopped` becomes one line and its own status, 128 and the number of the signal, or 0 and a line on stdout.
    """
    name = Path(sys.argv[0]).name
    write_out_what_cannot_be_encoded()
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        for line in error.lines:
            print(printable(line), file=sys.stderr)
        print(f"{name}: error: {printable(str(error))}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stopped:
        print(f"{name}: {stopped}", file=sys.stderr if stopped.status else sys.stdout, flush=True)
        sys.exit(stopped.status)
    except BrokenPipeError:
        if nobody_reads():
            sys.exit(141)  # the status of a program that SIGPIPE ended
        raise
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        sys.exit(130)
