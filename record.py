"""What a training leaves in its folder: checkpoints of the best and the last epoch, the log, the summary."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from checkpoint import previous, save_checkpoint, set_earlier_aside
from errors import replacing, writing
from metrics import SHOTS, Accuracy, percent, shot_of, shots_line
from runlog import RunLog, duration, finite

KINDS = ("ckpt", "stage1", "last", "resume")  # the checkpoints of a run
TESTED = ("ckpt", "last")  # those whose predictions are kept
CHOSEN_ON = {"acc1": "the test set", "heldout_acc1": "held-out training images"}  # by figures that choose the best epoch


def with_previous(path: Path) -> tuple[Path, Path]:
    """Return a checkpoint's path and where the one before it is kept."""
    return path, previous(path)


def copy_run(source: Path, folder: Path, name: str) -> None:
    """Copy `source`, an `_resume.pth.tar`, and what lies beside it to a run of another folder or name; it comes last."""
    theirs = source.name.removesuffix(".previous").removesuffix("_resume.pth.tar")
    ends = ["metrics.jsonl", *(f"{kind}_predictions.npz" for kind in TESTED), *(f"{kind}.pth.tar" for kind in KINDS)]
    for end in ends:
        file, target = source.with_name(f"{theirs}_{end}"), folder / f"{name}_{end}"
        if end == "resume.pth.tar":
            file = source
        if file.is_file() and not target.exists():
            with replacing(target) as part:
                shutil.copyfile(file, part)


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def commit() -> str | None:
    """Return the commit of this code, with "+" if files differ from it; None outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=10).stdout

    try:
        if Path(git("rev-parse", "--show-toplevel").strip()).resolve() != here:
            return None  # a copy of the files within another repository
        return git("rev-parse", "HEAD").strip() + ("+" if git("status", "--porcelain", "-uno").strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None


def surroundings() -> dict[str, Any]:
    """Return versions, machine and commit, for the summary."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": {"system": platform.platform(), "processor": processor(), "cores": os.cpu_count(), "gpu": gpu},
        "threads": torch.get_num_threads(),
        "commit": commit(),
    }


def finished(folder: Path, name: str, binding: Mapping[str, Any], epochs: int) -> bool:
    """Return whether a run of that name has ended with these flags and data, `options.binding` and "loss" and "data"."""
    try:
        summary = json.loads((folder / f"{name}_summary.json").read_text(encoding="utf-8"))
        facts = {f"--{key}": value for key, value in summary["flags"].items()}
        facts |= {key: summary[key] for key in ("loss", "data")}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # none, or that of an older version
        return False
    return facts.items() >= {**binding, "--epochs": epochs}.items()


def save_arrays(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Write arrays as .npz so that `path` is the old file or the whole new one."""
    with replacing(path) as part, open(part, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


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
        What `state` returned when the run was interrupted: its files are then gone on with.
    source:
        The file that `resumed` comes from. If it is that of another folder or name, files of this name are set aside and
        those of the interrupted run copied.
    chosen_by:
        The figure by which the best epoch is chosen, a key of CHOSEN_ON.
    """

    def __init__(
        self, folder: Path, name: str, cls_num_list: Sequence[int], keep: str | None = None,
        resumed: Mapping[str, Any] | None = None, source: Path | None = None, chosen_by: str = "acc1",
    ) -> None:  # fmt: skip
        self.chosen_by = chosen_by
        self.surroundings = surroundings()  # now, for the code may be changed while it runs
        self.cls_num_list = list(cls_num_list)
        self.paths = {kind: folder / f"{name}_{kind}.pth.tar" for kind in KINDS}
        self.predictions = {kind: folder / f"{name}_{kind}_predictions.npz" for kind in TESTED}
        self.summary_path = folder / f"{name}_summary.json"
        own = source is not None and source.resolve() in (f.resolve() for f in with_previous(self.paths["resume"]))
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
            elif source is not None and source.resolve() != self.paths["resume"].resolve() and self.paths["resume"].exists():
                # It is damaged, and must not take the place of the good one when the next is saved.
                os.replace(self.paths["resume"], self.paths["resume"].with_name(self.paths["resume"].name + ".damaged"))
            if source is not None:  # what the run came to when it was shorter
                self.summary_path.unlink(missing_ok=True)
        nothing = {"epoch": -1, **dict.fromkeys(CHOSEN_ON, -1.0)}
        found = resumed or {"epoch": 0, "since": 0, "seconds": 0.0, "best": nothing, "last": {}}
        with writing(folder):
            self.log = RunLog(folder, name, found["epoch"])
        self.best: dict[str, Any] = found["best"]
        self.last: dict[str, Any] = found["last"]
        self.since: int = found["since"]
        self.start = time.time() - found["seconds"]

    def state(self, epoch: int) -> dict[str, Any]:
        """Return what a resumed run needs of this; `epoch` is the one it goes on in."""
        seconds = time.time() - self.start
        return {"epoch": epoch, "since": self.since, "seconds": seconds, "best": self.best, "last": self.last}

    def epoch(
        self, epoch: int, tested: Accuracy, values: dict[str, Any], state: Callable[[], dict[str, Any]],
        predictions: Mapping[str, np.ndarray] | None = None, more: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Log an epoch and save it as the last and, if it is the most accurate one, as the best.

        `values` go into the log beside the test accuracies, `more` beside them into the summary; `state` makes the
        checkpoint, after best is known; `predictions` are kept beside it.
        """
        figures = tested.figures()
        logged = {f"test_{name}": value for name, value in figures.items() if name != "per_class"}
        with writing(self.log.path):
            self.log.epoch(epoch, {**values, **logged})
        self.last = {"epoch": epoch, **figures, **(more or {})}
        kinds = ["last"]
        if self.last[self.chosen_by] > self.best[self.chosen_by]:
            self.best = self.last
            kinds = ["ckpt", "last"]
        for kind in kinds:
            save_checkpoint(state(), self.paths[kind])
            if predictions is not None:
                save_arrays(predictions, self.predictions[kind])

    def finish(self, facts: dict[str, Any]) -> None:
        """Print best and last epoch, write `facts` and the outcome as the summary, say what was written where."""
        seconds = time.time() - self.start
        for which, outcome in (("best", self.best), ("last", self.last)):
            print(f"{which} epoch {outcome['epoch']}: accuracy {percent(outcome['acc1'])}  {shots_line(outcome)}")
        groups = [shot_of(n) for n in self.cls_num_list]
        from_epoch = f" from epoch {self.since} on" if self.since else ""
        chosen_on = CHOSEN_ON[self.chosen_by] + from_epoch
        print(f"(best is chosen on {chosen_on}; classes: {', '.join(f'{groups.count(s)} {s}' for s in SHOTS)})")
        summary = {
            **facts,
            "cls_num_list": self.cls_num_list,
            "best": self.best,
            "last": self.last,
            "seconds": seconds,
            **self.surroundings,
        }
        with replacing(self.summary_path) as part:
            part.write_text(json.dumps(finite(summary), indent=1) + "\n", encoding="utf-8")
        with writing(self.log.path):
            self.log.close()
        files = (*self.paths.values(), *self.predictions.values(), self.summary_path, self.log.path)
        written = ", ".join(str(path) for path in files if path.exists())
        print(f"done in {duration(seconds)}; wrote {written}")
