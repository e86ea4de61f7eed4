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
from typing import Any

from harness.errors import UserError
from harness.files import make_folder
from harness.signals_and_lock import HeldError, Signals, heeded, only_run
from harness.text import say
from scripts.trainings import Training

LOCK, LOG = "_job.lock", ".log"
HELD = 75  # exit status of a process whose job another one does
LOOK_EVERY = 1.0  # seconds, at what other jobs leave
# A forked process has the libraries loaded; where it is not safe to fork, each loads them anew.
CONTEXT: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
Running = dict[Any, tuple[BaseProcess, Training]]  # jobs that run here, by what tells that their process has ended


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


def start(waiting: list[Training], running: Running, at_once: int) -> dict[str, str]:
    """Start what can be, as far as there is room; return the jobs that are done elsewhere, and where."""
    held = {}
    for job in list(waiting):
        if len(running) == at_once:
            break
        if job.done():
            waiting.remove(job)
        elif job.ready():
            try:
                with only_run(job.file(LOCK)):
                    pass
            except HeldError as error:
                held[job.name] = error.holder
                continue
            waiting.remove(job)
            process = CONTEXT.Process(target=do, args=(job,))
            process.start()
            running[process.sentinel] = process, job
            say(f"{job.name}: begins, {len(waiting)} to come")
    return held


def take(ended: Any, waiting: list[Training], running: Running) -> None:
    """Take in that a process has ended; of one that failed, the last line that it printed is said."""
    process, job = running.pop(ended)
    process.join()
    if process.exitcode == HELD:
        waiting.insert(0, job)
    elif process.exitcode or not job.done():
        log, status = job.file(LOG), process.exitcode or 0
        said = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
        why = f"ended by {signal.Signals(-status).name}" if status < 0 else said
        raise UserError(f"{job.name} failed: {why} (see {log}); give the same command to resume")
    else:
        say(f"{job.name}: done")


def end(running: Running) -> None:
    """Let the jobs that run save what going on needs, and end; one that has just begun may miss the first signal."""
    while alive := [process for process, _ in running.values() if process.is_alive()]:
        for process in alive:
            process.terminate()
        alive[0].join(LOOK_EVERY)


def do_all(jobs: Sequence[Training], at_once: int) -> None:
    """Do all jobs, in their order as far as they are ready; one that fails, or a signal, ends the others too."""
    for job in jobs:
        make_folder(job.file(LOG).parent)
    waiting, running, told = list(jobs), Running(), dict[str, str]()
    with Signals() as signals:
        try:
            held = start(waiting, running, at_once)
            while waiting or running:
                if held and not running and held != told:
                    say(f"waiting for {', '.join(f'{name}, done by {holder}' for name, holder in held.items())}")
                    told = held
                with signals.stoppable():
                    ended = wait(running, LOOK_EVERY if waiting and len(running) < at_once else None)
                for sentinel in ended:
                    take(sentinel, waiting, running)
                held = start(waiting, running, at_once)
        finally:
            end(running)
