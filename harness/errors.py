"""Mistakes of the user: one line, exit status 2, no traceback; so for a stop on request. All else keeps its traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.before_loading import fill_closed_streams, keyboard_interrupts
from harness.streams import OutputLostError, watch_streams
from harness.text import printable


class UserError(Exception):
    """Something the user can correct. The message is one line: what is wrong, and what to do; `lines` come before it.

    `status` is the exit status: 1 says that the command did all the rest of its work.
    """

    def __init__(self, message: str, lines: Sequence[str] = (), status: int = 2) -> None:
        super().__init__(message)
        self.lines = lines
        self.status = status


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


def tell(name: str, message: str, lines: Sequence[str] = ()) -> None:
    """Print lines and a message of the script `name` on stderr, after all that it printed on stdout."""
    with suppress(OutputLostError):
        sys.stdout.flush()
    for line in (*lines, f"{name}: {message}"):
        print(printable(line), file=sys.stderr)


def completed(name: str, main: Callable[[], None]) -> None:
    """Run main to its end, or to one before with status 0, and see that all it printed is written."""
    try:
        main()
    except Stopped as stopped:
        if stopped.status:
            raise
        print(f"{name}: {printable(str(stopped))}")
    except SystemExit as left:  # after --help
        if left.code:
            raise
    sys.stdout.flush()


def run_main(main: Callable[[], None]) -> None:
    """Run a script's main; a `UserError` becomes one line on stderr and its exit status, 2 as a rule; Ctrl-C 130.

    `Stopped` becomes one line and its own status, 128 and the number of the signal, or 0 and a line on stdout. Where nobody
    reads stdout the command ends quietly with status 141, as one that SIGPIPE ends; a full disk is a mistake as any other.
    """
    name = Path(sys.argv[0]).name
    fill_closed_streams()
    watch_streams()
    try:
        with keyboard_interrupts():
            completed(name, main)
    except UserError as error:
        tell(name, f"error: {error}", error.lines)
        sys.exit(error.status)
    except Stopped as stopped:
        tell(name, str(stopped))
        sys.exit(stopped.status)
    except OutputLostError as lost:
        if lost.status == 2:
            tell(name, f"error: {lost}")
        sys.exit(lost.status)
    except KeyboardInterrupt:
        tell(name, "stopped")
        sys.exit(130)
