"""What a training leaves in its folder: checkpoints of the best and the last epoch, the log, the summary."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from harness.checkpoint import save_checkpoint
from harness.event_files import EventFile
from harness.files import previous, replacing, set_earlier_aside, writing
from harness.machine import machine_facts
from harness.metrics import SHOTS, Accuracy, percent, shot_of, shots_line
from harness.progress import duration

CHECKPOINTS = ("ckpt", "stage1", "last", "resume")  # the checkpoints of a run
TESTED = ("ckpt", "last")  # those whose predictions are kept
LONGEST_END = "_ckpt_predictions.npz.tmp"  # of a name that a run writes, after the --save_name
CHOSEN_ON = {"acc1": "the test set", "heldout_acc1": "held-out training images"}  # by figures that choose the best epoch


def with_previous(path: Path) -> tuple[Path, Path]:
    """Return a checkpoint's path and where the one before it is kept."""
    return path, previous(path)


def copy_run(source: Path, folder: Path, name: str) -> None:
    """Copy `source`, an `_resume.pth.tar`, and what lies beside it to a run of another folder or name; it comes last."""
    theirs = source.name.removesuffix(".previous").removesuffix("_resume.pth.tar")
    ends = ["metrics.jsonl", *(f"{kind}_predictions.npz" for kind in TESTED), *(f"{kind}.pth.tar" for kind in CHECKPOINTS)]
    for end in ends:
        file, target = source.with_name(f"{theirs}_{end}"), folder / f"{name}_{end}"
        if end == "resume.pth.tar":
            file = source
        if file.is_file() and not target.exists():
            with replacing(target) as part:
                shutil.copyfile(file, part)


def finished(folder: Path, name: str, binding: Mapping[str, Any], epochs: int) -> bool:
    """Return whether a run of that name has ended with these flags ("--lr" and so on) and facts of its data."""
    try:
        summary = json.loads((folder / f"{name}_summary.json").read_text(encoding="utf-8"))
        found = {**summary, **{f"--{key}": value for key, value in summary["flags"].items()}}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # none, or that of an older version
        return False
    return found.items() >= {**binding, "--epochs": epochs}.items()


def save_arrays(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Write arrays as .npz so that `path` is the old file or the whole new one."""
    with replacing(path) as part, open(part, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def finite(value: Any) -> Any:
    """Replace nan and infinities by None throughout, for strict JSON."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def lines_before(path: Path, epoch: int) -> list[str]:
    """Return the whole lines of a log whose epoch is before `epoch`."""
    kept = []
    if epoch and path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            with suppress(ValueError, KeyError, TypeError):  # the last line may be cut
                if json.loads(line)["epoch"] < epoch and line.endswith("\n"):
                    kept.append(line)
    return kept


class RunLog:
    """`<name>_metrics.jsonl`, one line an epoch, and TensorBoard events in `<name>_tensorboard`, in one folder."""

    def __init__(self, folder: Path, name: str, first_epoch: int = 0) -> None:
        """Begin both, or go on with them: what they hold of `first_epoch` and later is taken away."""
        self.path, board = self.files(folder, name)
        with replacing(self.path) as part:
            part.write_text("".join(lines_before(self.path, first_epoch)), encoding="utf-8")
        self.events = EventFile(board, first_epoch)

    @staticmethod
    def files(folder: Path, name: str) -> tuple[Path, Path]:
        """Return the paths of both."""
        return folder / f"{name}_metrics.jsonl", folder / f"{name}_tensorboard"

    def epoch(self, epoch: int, values: dict[str, Any]) -> None:
        """Write the values of an epoch; what is not finite becomes null."""
        clean = finite(values)
        with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch, **clean}) + "\n")
            file.flush()
            os.fsync(file.fileno())  # a resumed run does not write this line again
        self.events.write(epoch, {key: value for key, value in clean.items() if isinstance(value, int | float)})


class Record:
    """The files `<name>_*` in a folder.

    Parameters
    ----------
    folder, name:
        Where, and the first part of the file names. Files of an earlier run of that name are set aside.
    cls_num_list:
        Training images of each class.
    keep:
        A file that stays where it is, even if it has one of the names.
    resumed:
        What `state` returned when the run was interrupted: it goes on with the files of that run.
    source:
        The file that `resumed` comes from. If it is that of another folder or name, files of this name are set aside and
        those of the interrupted run copied.
    since:
        The epoch that a run which was not interrupted begins with.
    """

    def __init__(
        self, folder: Path, name: str, cls_num_list: Sequence[int], keep: str | None = None,
        resumed: Mapping[str, Any] | None = None, source: Path | None = None, since: int = 0,
    ) -> None:  # fmt: skip
        self.machine = machine_facts()  # now, for the code may be changed while it runs
        self.cls_num_list = list(cls_num_list)
        self.paths = {kind: folder / f"{name}_{kind}.pth.tar" for kind in CHECKPOINTS}
        self.predictions = {kind: folder / f"{name}_{kind}_predictions.npz" for kind in TESTED}
        self.summary_path = folder / f"{name}_summary.json"
        resume = self.paths["resume"]
        own = source is not None and source.resolve() in (f.resolve() for f in with_previous(resume))
        if not own:
            files = [f for path in self.paths.values() for f in with_previous(path)]
            files += [*self.predictions.values(), self.summary_path, *RunLog.files(folder, name)]
            kept = Path(keep).resolve() if keep else None
            aside = set_earlier_aside(folder, [f.name for f in files if f.resolve() != kept])
            if aside:
                print(f"note: the files of an earlier run {name} are now in {aside}")
        with writing(folder):
            if source is not None and not own:
                copy_run(source, folder, name)
            elif source is not None and source.resolve() != resume.resolve() and resume.exists():
                # It is damaged, and must not take the place of the good one when the next is saved.
                os.replace(resume, resume.with_name(resume.name + ".damaged"))
            if source is not None:  # what the run came to when it was shorter
                self.summary_path.unlink(missing_ok=True)
        nothing = {"epoch": -1, **dict.fromkeys(CHOSEN_ON, -1.0)}
        found = resumed or {"epoch": 0, "since": since, "seconds": 0.0, "best": nothing, "last": {}}
        self.log = RunLog(folder, name, found["epoch"])
        self.best: dict[str, Any] = found["best"]
        self.last: dict[str, Any] = found["last"]
        self.since: int = found["since"]
        self.start = time.time() - found["seconds"]

    @property
    def chosen_by(self) -> str:
        """The figure by which the best epoch is chosen, a key of CHOSEN_ON."""
        return "heldout_acc1" if "heldout_acc1" in self.last else "acc1"

    def state(self, epoch: int) -> dict[str, Any]:
        """Return what a resumed run needs of this; `epoch` is the one it goes on in."""
        seconds = time.time() - self.start
        return {"epoch": epoch, "since": self.since, "seconds": seconds, "best": self.best, "last": self.last}

    def epoch(
        self, epoch: int, tested: Accuracy, values: Mapping[str, Any], state: Callable[[], dict[str, Any]],
        predictions: Mapping[str, np.ndarray], more: Mapping[str, Any],
    ) -> None:  # fmt: skip
        """Log an epoch and save it as the last and, if it is the most accurate one, as the best.

        `values` go into the log beside the test accuracies, `more` beside them into the summary; `state` makes the
        checkpoint, after best is known; `predictions` are kept beside it.
        """
        figures = tested.figures()
        logged = {f"test_{name}": value for name, value in figures.items() if name != "per_class"}
        self.log.epoch(epoch, {**values, **logged})
        self.last = {"epoch": epoch, **figures, **more}
        kinds = ["last"]
        if self.last[self.chosen_by] > self.best[self.chosen_by]:
            self.best = self.last
            kinds = ["ckpt", "last"]
        for kind in kinds:
            save_checkpoint(state(), self.paths[kind])
            save_arrays(predictions, self.predictions[kind])

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Write `facts` and the outcome as the summary, print best and last epoch, say what was written where."""
        seconds = time.time() - self.start
        found = {"cls_num_list": self.cls_num_list, "best": self.best, "last": self.last, "seconds": seconds}
        with replacing(self.summary_path) as part:
            part.write_text(json.dumps(finite({**facts, **found, **self.machine}), indent=1) + "\n", encoding="utf-8")
        for which, outcome in (("best", self.best), ("last", self.last)):
            print(f"{which} epoch {outcome['epoch']}: accuracy {percent(outcome['acc1'])}  {shots_line(outcome)}")
        groups = [shot_of(n) for n in self.cls_num_list]
        from_epoch = f" from epoch {self.since} on" if self.since else ""
        chosen_on = CHOSEN_ON[self.chosen_by] + from_epoch
        print(f"(the best epoch is chosen on {chosen_on}; classes: {', '.join(f'{groups.count(s)} {s}' for s in SHOTS)})")
        files = (*self.paths.values(), *self.predictions.values(), self.summary_path, self.log.path)
        written = ", ".join(str(path) for path in files if path.exists())
        print(f"done in {duration(seconds)}; wrote {written}")
