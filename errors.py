"""Mistakes of the user: one line, exit status 2, no traceback; so for a stop on request. All else keeps its traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """Something the user can mend. The message is one line: what is wrong, and what to do."""


class Stopped(Exception):  # noqa: N818  (no error)
    """The run was asked to stop, and has saved; the message says how to go on. `status` is the exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make a failure to write into a `UserError` that names `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path} cannot be written ({reason}): make room or choose another --workdir") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a file to write, which then takes the place of `path`: that is the old file or the whole new one.

    Raises
    ------
    UserError
        If it cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    with writing(path):
        yield temporary
        os.replace(temporary, path)


def run_main(main: Callable[[], None]) -> None:
    """Run a script's main; a `UserError` becomes one line on stderr and exit status 2, Ctrl-C status 130.

    `Stopped` becomes one line and its own status, 128 and the number of the signal.
    """
    name = Path(sys.argv[0]).name
    try:
        main()
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stopped:
        print(f"{name}: {stopped}", file=sys.stderr)
        sys.exit(stopped.status)
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        sys.exit(130)
