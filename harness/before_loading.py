"""What a script does before its libraries load, which takes seconds. This file imports nothing that takes time."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from importlib.util import find_spec
from types import FrameType
from typing import NoReturn

LEAST_MEMORY = 4 * 2**30  # bytes that a process with PyTorch for CUDA maps before it does anything


def end_at_once(number: int, _: FrameType | None) -> NoReturn:
    """End in one line, as a signal handler: an exception would pass through libraries that are half loaded."""
    try:
        os.write(2, f"{os.path.basename(sys.argv[0])}: stopped\n".encode(errors="backslashreplace"))
    finally:
        os._exit(128 + number)


def memory_limit() -> int:
    """Return how many bytes this process may map, -1 for any number."""
    try:
        import resource
    except ImportError:  # Windows has none
        return -1
    return resource.getrlimit(resource.RLIMIT_AS)[0]


def prepare_process(*packages: str, help_of: str = "") -> None:
    """Let Ctrl-C end the process in one line, unless whoever started it has had it ignored.

    Without PyTorch, or one of the `packages` that the script needs besides, it ends here in one line; so with less memory
    than the libraries take, some of which would wait for it without end. --help is answered here too, of the flags of the
    classes `help_of`, see `flag_parser.show_help`.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of a process that is gone our own line says enough
    lacking = [name for name in ("torch", *packages) if find_spec(name) is None]
    told = ""
    if lacking:
        told = f"this Python has no {lacking[0]}: give `. .venv/bin/activate` first, or install requirements.lock again"
    elif 0 <= memory_limit() < LEAST_MEMORY:
        told = f"this process may map {memory_limit() / 2**30:.1f} GB of memory, its libraries alone need 4: see ulimit -v"
    if told:
        os.write(2, f"{os.path.basename(sys.argv[0])}: error: {told}\n".encode(errors="backslashreplace"))
        sys.exit(2)
    if help_of and not {"-h", "--help"}.isdisjoint(sys.argv):
        import_module("harness.flag_parser").show_help(help_of)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_at_once)


def libraries_are_loaded() -> None:
    """Let Ctrl-C raise KeyboardInterrupt, as without `prepare_process`."""
    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
