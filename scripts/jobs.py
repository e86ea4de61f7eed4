"""Trainings done each in a process of its own, so many at a time, by one command or by several that see the same folder.

A job is taken by a lock beside its files, which goes when the process that holds it does: no two processes do the same job,
on one machine or on several, and one that was killed is done by whoever comes next.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, cast

from tqdm import tqdm

from harness.errors import Stopped, UserError
from harness.files import writing
from harness.signals_and_lock import HeldError, Interrupted, Signals, heeded, only_run
from harness.text import say
from scripts.trainings import Training

LOCK, LOG = "_job.lock", ".log"
HELD = 75  # exit status of a process whose job another one does
LOOK_EVERY = 1.0  # seconds, at what other jobs leave
# A forked process has the libraries loaded; where it is not safe to fork, each loads them anew.
CONTEXT: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")


def do(job: Training) -> None:
    """Do a job in this process, which ends with it, unless another one does it."""
    for number in heeded():
        signal.signal(number, signal.SIG_DFL)
    try:
        with only_run(job.file(LOCK)), open(job.file(LOG), "a", encoding="utf-8") as log:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
            if not job.done():
                job.run()
    except HeldError:
        sys.exit(HELD)
    except UserError as error:
        sys.exit(f"error: {error}")


def holder_of(job: Training) -> str | None:
    """Return which other process does a job, None if none does."""
    try:
        with only_run(job.file(LOCK)):
            return None
    except HeldError as error:
        return error.holder


def failure(job: Training, status: int) -> UserError:
    """Return what to say of a job whose process ended with that status: the last line that it printed."""
    log = job.file(LOG)
    said = log.read_text(encoding="utf-8", errors="replace").split("\n")
    why = f"ended by {signal.Signals(-status).name}" if status < 0 else next(filter(str.strip, reversed(said)), "")
    return UserError(f"{job.name} failed: {why} (see {log}); give the same command to resume")


class Shift:
    """The jobs that are left, and those that run here."""

    def __init__(self, jobs: Sequence[Training], at_once: int, bar: tqdm) -> None:
        self.waiting, self.at_once, self.bar = list(jobs), at_once, bar
        self.running: dict[int, tuple[BaseProcess, Training]] = {}  # by what tells that the process has ended
        self.told: set[str] = set()  # jobs of which it was said who does them

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        with tqdm.external_write_mode(file=sys.stdout):
            say(line)

    def start(self) -> None:
        """Start what can be, as far as there is room; when all that is left is done elsewhere, say where."""
        held = {}
        for job in list(self.waiting):
            if len(self.running) == self.at_once:
                return
            if job.done():
                self.waiting.remove(job)
                self.bar.update()
            elif not job.ready():
                continue
            elif holder := holder_of(job):
                held[job.name] = holder
            else:
                self.waiting.remove(job)
                process = CONTEXT.Process(target=do, args=(job,))
                process.start()
                self.running[process.sentinel] = process, job
                self.say(f"{job.name}: begins")
        if held and not self.running and not self.told.issuperset(held):
            self.say(f"waiting for {', '.join(f'{name}, done by {holder}' for name, holder in held.items())}")
            self.told.update(held)

    def take(self, ended: int) -> None:
        """Take in that a process has ended."""
        process, job = self.running.pop(ended)
        process.join()
        if process.exitcode == HELD:
            self.waiting.insert(0, job)
        elif process.exitcode or not job.done():
            raise failure(job, process.exitcode or 0)
        else:
            self.bar.update()
            self.say(f"{job.name}: done")

    def end(self) -> None:
        """Let the jobs that run save what going on needs, and end; one that has just begun may miss the first signal."""
        while alive := [process for process, _ in self.running.values() if process.is_alive()]:
            for process in alive:
                process.terminate()
            alive[0].join(LOOK_EVERY)


def do_all(jobs: Sequence[Training], at_once: int) -> None:
    """Do all jobs, in their order as far as they are ready; one that fails, or a signal, ends the others too."""
    for job in jobs:
        with writing(job.file(LOG).parent):
            job.file(LOG).parent.mkdir(parents=True, exist_ok=True)
    tqdm.monitor_interval = 0  # else the bar has a thread, beside which no process should be forked
    bar = tqdm(total=len(jobs), disable=not sys.stdout.isatty(), file=sys.stdout, mininterval=0, leave=False)
    shift = Shift(jobs, at_once, bar)
    with bar, Signals() as signals:
        try:
            shift.start()
            while shift.waiting or shift.running:
                look = shift.waiting and len(shift.running) < at_once
                with signals.interruptible():
                    ended = wait(shift.running, LOOK_EVERY if look else None)
                for sentinel in ended:
                    shift.take(cast(int, sentinel))
                shift.start()
        except Interrupted:
            raise Stopped("stopped; give the same command to resume", 128 + signals.asked) from None
        finally:
            shift.end()
