"""What a script does before its libraries load, which takes seconds. This file imports nothing that takes time."""

from __future__ import annotations

import os
import signal
import sys
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


def prepare_process(*packages: str, help_of: str = "") -> None:
    """Let Ctrl-C end the process in one line, unless whoever started it has had it ignored.

    Without PyTorch, or one of the `packages` that the script needs besides, it ends here in one line. --help is answered
    here too, of the flags of the classes `help_of`, see `flag_parser.show_help`.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of a process that is gone our own line says enough
    lacking = [name for name in ("torch", *packages) if find_spec(name) is None]
    if lacking:
        told = f"this Python has no {lacking[0]}: give `. .venv/bin/activate` first, or install requirements.lock anew"
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
