"""What a command prints, where it cannot be printed: the reader, the disk or the terminal behind stdout is gone."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from contextlib import suppress
from typing import Any, TextIO

HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none


class OutputLostError(Exception):
    """Stdout cannot be written any more. `status` is the exit status: that of the signal a system has for it, else 2."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


def is_ignored(number: int | None) -> bool:
    """Return whether a signal is ignored, as nohup and a shell's `trap ''` begin a command."""
    return number is not None and signal.getsignal(number) is signal.SIG_IGN


class StandardStream(io.FileIO):
    """Stdout or stderr. What cannot be written to stdout raises `OutputLostError`, once; else it is dropped.

    So it is never taken for a failure of another file, and no message at the end fails in its turn. A process that ignores
    the hangup of its terminal goes on without one.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.silent = descriptor == 2
        self.on_terminal = self.isatty()

    def write(self, text: Any) -> int:
        """Write bytes."""
        try:
            return super().write(text)
        except OSError as error:
            hung_up = self.on_terminal and error.errno == errno.EIO
            raises = not self.silent and not (hung_up and is_ignored(HANGUP))
            self.silent = True
            if raises:
                raise self.lost(error, hung_up) from error
            return memoryview(text).nbytes

    @staticmethod
    def lost(error: OSError, hung_up: bool) -> OutputLostError:
        """Return what to raise."""
        if hung_up and HANGUP is not None:
            return OutputLostError("its terminal is gone", 128 + HANGUP)
        if error.errno == errno.EPIPE and hasattr(signal, "SIGPIPE"):
            return OutputLostError("nobody reads its output", 128 + signal.SIGPIPE)
        return OutputLostError(f"stdout cannot be written ({error.strerror})", 2)


def opened(stream: TextIO | None, descriptor: int) -> TextIO:
    """Return a text stream on a descriptor with the settings of `stream`; one to nowhere for None, closed at the start."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    stream.flush()
    at_once = bool(stream.line_buffering or getattr(stream, "write_through", False))  # as with PYTHONUNBUFFERED
    buffer = io.BufferedWriter(StandardStream(descriptor))
    return io.TextIOWrapper(buffer, stream.encoding, stream.errors, line_buffering=at_once)


def watch_streams() -> None:
    r"""Let stdout and stderr write characters that their encoding lacks as \u03bb, and say by `OutputLostError` if it fails.

    Streams that something else stands for, as a test does, stay.
    """
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and os.name == "posix":  # the console of Windows is no plain file
            setattr(sys, name, opened(stream, descriptor))
        with suppress(AttributeError, OSError, ValueError):
            getattr(sys, name).reconfigure(errors="backslashreplace")
