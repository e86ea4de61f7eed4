"""What a training leaves in its folder: checkpoints of the best and the last epoch, the log, the summary."""

from __future__ import annotations

import json
import math
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from harness.checkpoint import load_checkpoint
from harness.errors import UserError
from harness.facts import Facts, State
from harness.files import replacing, set_earlier_aside, writing
from harness.flags import stage1_note
from harness.machine import machine_facts
from harness.metrics import mean_words, per_shot, percent, shots_line
from harness.progress import duration
from harness.run_files import SUMMARY_FILE, own_files, run_file
from harness.schemas import Confused, replaced
from harness.text import say

CHOSEN_ON = {"acc1": "the test set", "heldout_acc1": "held-out training images"}  # by figures that choose the best epoch
NONE_YET = {"epoch": -1, **dict.fromkeys(CHOSEN_ON, -1.0)}  # the best epoch of none
REPORT = Path(__file__).resolve().parent.parent / "report.py"


def save_facts(facts: Facts, path: Path) -> None:
    """Write what is known of a run as JSON."""
    with replacing(path) as part:
        part.write_text(json.dumps(finite(facts), indent=1) + "\n", encoding="utf-8")


def report_command(*runs: Path) -> str:
    """Return the command that makes the report of runs, by summary or folder, to be given where they were trained."""
    script = min(os.path.relpath(REPORT), str(REPORT), key=len)
    return shlex.join(["python3", script, *map(str, runs)])


def save_arrays(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Write arrays as .npz, replacing `path` whole."""
    with replacing(path) as part, open(part, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def finite(value: Any) -> Any:
    """Replace nan and infinities by None throughout, for strict JSON."""
    return replaced(value, lambda one: isinstance(one, float) and not math.isfinite(one))


class Record:
    """The files `<name>_*` in a folder.

    Among them the log `_metrics.jsonl`, one line an epoch, and TensorBoard's events in `_tensorboard`.

    Parameters
    ----------
    folder, name:
        Where, and the prefix of the file names. Files of an earlier run of that name are set aside.
    facts:
        What those who look at the run before or after its end are told of it, last `cls_num_list`, its images a class.
    begun:
        What `state` returned before an interruption: then files of this name are gone on with.
    since:
        The epoch that a run which was not interrupted begins with.
    """

    def __init__(self, folder: Path, name: str, facts: Facts, begun: State | None, since: int) -> None:
        self.machine = machine_facts()  # now, for the code may be changed while it runs
        self.facts = facts
        self.file, self.own_files = partial(run_file, folder, name), own_files(folder, name)
        now: State = begun or {"epoch": 0, "since": since, "seconds": 0.0, "best": NONE_YET, "last": NONE_YET}
        self.best: State = now["best"]
        self.last: State = now["last"]
        self.since: int = now["since"]
        self.start = time.monotonic() - now["seconds"]
        with writing(folder):
            if begun:
                self._check_best(now["epoch"])
                self.file(SUMMARY_FILE).unlink(missing_ok=True)  # what the run came to when it was shorter
            elif aside := set_earlier_aside(self.own_files):
                say(f"note: the files of an earlier run {name} are now in {aside}")
        self._begin_log(now["epoch"])
        save_facts({**facts, **self.machine}, self.file("started.json"))  # until there is a summary

    def _check_best(self, epoch: int) -> None:
        """Choose the best anew from `epoch` on if its file was written for that epoch and the state, for a kill, was not."""
        if self.best["epoch"] < 0:
            return
        path = self.file("ckpt.pth.tar")
        found = load_checkpoint(path).get("epoch", 0) - 1
        if found == epoch:
            self.best = NONE_YET
        elif found != self.best["epoch"]:
            raise UserError(f"{path} is not that of epoch {self.best['epoch']}, the best one: put it back, or retrain")

    @property
    def chosen_by(self) -> str:
        """The figure by which the best epoch is chosen, a key of CHOSEN_ON."""
        return "heldout_acc1" if "heldout_acc1" in self.last else "acc1"

    def state(self, epoch: int) -> State:
        """Return what a resumed run needs of this; `epoch` is the one it goes on in."""
        seconds = time.monotonic() - self.start
        now = {"epoch": epoch, "since": self.since, "seconds": seconds, "best": self.best, "last": self.last}
        found: State = finite(now)  # as it is declared
        return found

    def _begin_log(self, first_epoch: int) -> None:
        """Begin the log and the events, or go on with them: what they hold of `first_epoch` and later is taken away."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it

        self.log_path = self.file("metrics.jsonl")
        log = self.log_path.read_text(encoding="utf-8") if os.path.isfile(self.log_path) else ""
        whole = [line for line in log.splitlines(keepends=True) if line.endswith("\n")]  # the last one may be cut
        with replacing(self.log_path) as part:
            kept = (line for line in whole if json.loads(line)["epoch"] < first_epoch)
            part.write_text("".join(kept), encoding="utf-8")
        self.events = SummaryWriter(str(self.file("tensorboard")), purge_step=first_epoch)

    def _log(self, epoch: int, values: Facts) -> None:
        clean = finite(values)
        with writing(self.log_path), open(self.log_path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch, **clean}) + "\n")
            file.flush()
            os.fsync(file.fileno())  # a resumed run does not write this line again
        for key, value in clean.items():
            if isinstance(value, int | float):
                self.events.add_scalar(key, value, epoch)
        self.events.flush()

    def epoch(
        self, epoch: int, figures: Facts, logged: Facts, per_class: Mapping[str, list[float]], stage2_from: int
    ) -> tuple[str, ...]:
        """Log an epoch; return the kinds of checkpoints that are to be saved of it, of the most accurate one both.

        `figures` of the test go into the log, where `logged` is beside them, and into the summary; `per_class` (C,) as means
        of the shot groups into the one, as they are into the other. Once the run has come to the epoch `stage2_from`, the
        best of those before no longer counts: nothing of stage 2 is in it.
        """
        groups = [(name, per_shot(each, self.facts["cls_num_list"])) for name, each in per_class.items()]
        means = {f"{name}_{shot}": value for name, group in groups for shot, value in group.items()}
        tested = {f"test_{name}": value for name, value in figures.items() if name != "per_class"}
        self._log(epoch, {**logged, **means, **tested})
        before = self.last["epoch"]
        self.last = {"epoch": epoch, **figures, **per_class, **{key: logged[key] for key in CHOSEN_ON if key in logged}}
        if before < stage2_from <= epoch:
            self.best, self.since = NONE_YET, epoch
        if self.last[self.chosen_by] <= self.best[self.chosen_by]:  # without test images both are nan: the last is the best
            return ("last",)
        self.best = self.last
        return "ckpt", "last"

    def show_mistakes(self, found: Sequence[Confused]) -> None:
        """Keep pictures of test images that were not recognised; without any, as of features, there is no file."""
        path = self.file("mistakes.json")
        path.unlink(missing_ok=True)
        if found:
            with replacing(path) as part:
                part.write_bytes(msgspec.json.encode(found))

    def finish(self) -> None:
        """Write the facts and the outcome as the summary, print best and last epoch, what was written, how to report it."""
        seconds, outcomes = time.monotonic() - self.start, {"best": self.best, "last": self.last}
        found = {**self.facts, **outcomes, "seconds": seconds, "since": self.since, **self.machine}
        save_facts(found, self.file(SUMMARY_FILE))
        with writing(self.file("started.json")):
            self.file("started.json").unlink(missing_ok=True)
            self.file("resume.pth.tar.previous").unlink(missing_ok=True)
        untested = sum(map(math.isnan, self.last.get("per_class", [])))
        without = f"; {untested} of the classes without test images, in none of these figures" if untested else ""
        chosen_on = CHOSEN_ON[self.chosen_by] + (f" from epoch {self.since} on" if self.since else "")
        report, told = [], "no test images: nothing is tested"
        if not math.isnan(self.last["acc1"]):
            for which, outcome in outcomes.items():
                words = [f"accuracy {percent(outcome['acc1'])}", *mean_words(outcome), shots_line(outcome)]
                say(f"{which} epoch {outcome['epoch']}: {'  '.join(words)}")
            chosen = f"the best epoch is chosen on {chosen_on}" if self.last["epoch"] else "one epoch, nothing to choose"
            told = f"{chosen}{without}"
            report = [f"to make its report: {report_command(self.file(SUMMARY_FILE))}"]
        wrote = ", ".join(str(file) for file in self.own_files if os.path.exists(file))
        note = stage1_note(self.facts["flags"], self.last["epoch"] + 1)
        say(f"({told})", *note, f"done in {duration(seconds)}; wrote {wrote}", *report)
