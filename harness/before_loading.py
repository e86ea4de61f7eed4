"""What a script does before its libraries load, which takes seconds. This file imports nothing that takes time."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import FrameType
from typing import NoReturn


def end_at_once(number: int, _: FrameType | None) -> NoReturn:
    """End in one line, as a signal handler: an exception would pass through libraries that are half loaded."""
    try:
        os.write(2, f"{os.path.basename(sys.argv[0])}: stopped\n".encode(errors="backslashreplace"))
    finally:
        os._exit(128 + number)


def fill_closed_streams() -> None:
    """Open /dev/null as each of stdin, stdout and stderr that is closed, or the next file opened would take its number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # noqa: PERF203  (three of them)
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number is this one


def prepare_process(*packages: str, help_of: str = "") -> None:
    """Let Ctrl-C end the process in one line, unless whoever started it has had it ignored; fill closed streams.

    Without PyTorch, as outside the environment that `make` fills, it ends here in one line; so without one of the `packages`
    that the script needs besides, as in an environment of an older version. --help is answered here too, of the flags of the
    classes `help_of`, see `flag_parser.show_help`.
    """
    fill_closed_streams()
    lacking = [name for name in ("torch", *packages) if find_spec(name) is None]
    if lacking:
        told = "this Python has no PyTorch: give `. .venv/bin/activate` first, see the README"
        if "torch" not in lacking:
            told = f"this Python has no {' and no '.join(lacking)}: install requirements.lock anew, see the README"
        os.write(2, f"{os.path.basename(sys.argv[0])}: error: {told}\n".encode(errors="backslashreplace"))
        sys.exit(2)
    if help_of and not {"-h", "--help"}.isdisjoint(sys.argv):
        import_module("harness.flag_parser").show_help(help_of)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_at_once)


@contextmanager
def keyboard_interrupts() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt, as without `prepare_process`; afterwards it ends the process at once again."""
    ours = signal.getsignal(signal.SIGINT) is end_at_once
    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, end_at_once)
