"""Signals of the study's script: passed on to the trainings that run, and the study ends after them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from harness.errors import Stopped
from harness.signals_and_lock import Signals


class Stops(Signals):
    """Within this context a signal that asks to end is remembered, and passed on to the trainings that run."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: set[subprocess.Popen[str]] = set()
        self.passed = 0  # the last signal that was passed on

    def _remember(self, number: int, frame: FrameType | None) -> None:
        super()._remember(number, frame)
        self.pass_on(number)

    def pass_on(self, number: int) -> None:
        """Send a signal to the trainings that run, and to those that are just being started."""
        self.passed = number
        for process in list(self.processes):
            process.send_signal(number)

    @contextmanager
    def passed_to(self, process: subprocess.Popen[str]) -> Iterator[None]:
        """Within this context signals go to this process too."""
        self.processes.add(process)
        if self.passed:
            process.send_signal(self.passed)
        try:
            yield
        finally:
            self.processes.discard(process)

    def check(self) -> None:
        """End the script if a signal came."""
        if self.asked:
            raise Stopped("stopped; to go on, give the same command", 128 + self.asked)
