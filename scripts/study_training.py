"""Part `cifar` of the study: a training in a process of its own, and what is seen of it from outside."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from harness.errors import UserError
from harness.files import replacing
from harness.text import say
from reporting.study_results import Line, number
from scripts.study_jobs import Cell, Job, words
from scripts.study_stops import Stops

ROOT = Path(__file__).resolve().parent.parent
PROGRESS = re.compile(r"epoch (\d+)/\d+ stage 2  \[(\d+)/\d+\]")
ON_GPU = re.compile(r"\S+ on (cuda|mps)")
SHARE = re.compile(r"augmentation: on average ([\d.e+-]+) % of the logits' spread")


class Watch:
    """What is seen while a training runs: seconds a step of stage 2, without tests, and the augmentation's share.

    Seconds are those of the processor where the system says them of another process, which other work on the machine
    hardly changes, else those of the clock. Steps on a GPU, which may serve several trainings at once, are not timed.
    """

    def __init__(self, pid: int) -> None:
        self.pid, self.share = pid, ""
        self.epoch, self.first, self.before = -1, (0, 0.0), (0, 0.0)
        self.steps, self.seconds, self.timed = 0, 0.0, True

    def now(self) -> float:
        """Return the seconds that the training has taken so far."""
        with suppress(OSError, ValueError, IndexError, AttributeError):
            fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return time.monotonic()

    def see(self, line: str) -> None:
        """Take in a line that the training printed."""
        if ON_GPU.match(line):
            self.timed = False
        if found := SHARE.search(line):
            self.share = number(float(found[1]) / 100)
        if found := PROGRESS.search(line):
            epoch, at = int(found[1]), (int(found[2]), self.now())
            if epoch == self.epoch:
                self.steps += at[0] - self.before[0]
                self.seconds += at[1] - self.before[1]
            self.epoch, self.before = epoch, at

    @property
    def step_seconds(self) -> str:
        """Seconds a step, "" if not two lines of an epoch were seen."""
        return number(self.seconds / self.steps) if self.steps and self.timed else ""


def train(cell: Cell, one: Job, stops: Stops) -> None:
    """Train a network, or go on with it; nothing of what the training prints is passed on, for it has test figures."""
    say(f"{cell.name} {one.name}: begins")
    script, *flags = words(cell, one)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        with subprocess.Popen(
            [sys.executable, str(ROOT / script), *flags], stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace"
        ) as process, stops.passed_to(process):  # fmt: skip
            watch = Watch(process.pid)
            for line in process.stdout or ():
                watch.see(line)
        stops.check()
        if process.returncode:
            errors.seek(0)
            told = [line for line in errors.read().splitlines() if line.strip()] or [f"exit status {process.returncode}"]
            raise UserError(f"{cell.name} {one.name} was not trained: {told[-1]}")
    write_seen(cell, one, {"step_seconds": watch.step_seconds, "share": watch.share})


def seen_path(cell: Cell, name: str) -> Path:
    """Return the file that says which run of the study `name` is, and what was seen of it."""
    return cell.folder / f"{name}_study.json"


def write_seen(cell: Cell, one: Job, seen: Mapping[str, str]) -> None:
    """Write down which run of the study it is, and what was seen of it."""
    with replacing(seen_path(cell, one.name)) as part:
        part.write_text(json.dumps({**one.line(cell), **seen}, indent=1) + "\n", encoding="utf-8")


def read_seen(cell: Cell, name: str) -> Line:
    """Read what `write_seen` wrote; nothing if there is none."""
    try:
        return msgspec.json.decode(seen_path(cell, name).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError):
        return {}
