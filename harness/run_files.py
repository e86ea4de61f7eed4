"""The files of a run by name, and whether those that it speaks of are there and whole when it goes on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness import schemas
from harness.checkpoint import load_checkpoint, read_file
from harness.errors import UserError
from harness.files import previous, replacing
from harness.flags import UNSAID

CHECKPOINTS = ("ckpt", "stage1", "last", "resume")  # the checkpoints of a run
OUTCOME_OF = {"ckpt": "best", "last": "last"}  # which outcome of a run they hold
TESTED = tuple(OUTCOME_OF)  # those whose predictions are kept
EXPORTED = (".onnx", ".pt")  # the ends of exported networks
LONGEST_END = "_ckpt_predictions.npz.tmp"  # of a name that a run writes, after the --save_name

# What the states of older versions do not say: it is compared where they do.
NEWER = ("train images", "meta images", "test images")


def checkpoint_paths(folder: Path, name: str) -> dict[str, Path]:
    """Return the paths of a run's checkpoints by kind."""
    return {kind: folder / f"{name}_{kind}.pth.tar" for kind in CHECKPOINTS}


def prediction_paths(folder: Path, name: str) -> dict[str, Path]:
    """Return the paths of a run's predictions by kind."""
    return {kind: folder / f"{name}_{kind}_predictions.npz" for kind in TESTED}


def summary_path(folder: Path, name: str) -> Path:
    """Return the path of a run's summary."""
    return folder / f"{name}_summary.json"


def started_path(folder: Path, name: str) -> Path:
    """Return the path of what a run that is not finished says of itself."""
    return folder / f"{name}_started.json"


def exported_paths(folder: Path, name: str) -> list[Path]:
    """Return the paths of the files that a run's networks may have been exported to."""
    return [checkpoint_paths(folder, name)[kind].with_name(f"{name}_{kind}{end}") for kind in TESTED for end in EXPORTED]


def list_paths(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the paths of the lists of training and test images that a run drew from one folder."""
    return folder / f"{name}_train.txt", folder / f"{name}_val.txt"


def resume_path(folder: Path, name: str) -> Path:
    """Return the path of a run's state."""
    return checkpoint_paths(folder, name)["resume"]


def with_previous(path: Path) -> tuple[Path, Path]:
    """Return a checkpoint's path and where the one before it is kept."""
    return path, previous(path)


def check_kept(keep: str, folder: Path, name: str) -> None:
    """Refuse to begin with a file that the run then replaces; that of a stage 1 stays as it is."""
    replaced = [path for kind, path in checkpoint_paths(folder, name).items() if kind != "stage1"]
    if Path(keep).resolve() in [file.resolve() for path in replaced for file in with_previous(path)]:
        raise UserError(f"{keep} is a file that this run replaces: give the run another --save_name")


def copy_run(source: Path, folder: Path, name: str) -> None:
    """Copy `source`, an `_resume.pth.tar`, and what lies beside it to a run of another folder or name; it comes last."""
    theirs = source.name.removesuffix(".previous").removesuffix("_resume.pth.tar")
    ends = ["metrics.jsonl", *(f"{kind}_predictions.npz" for kind in TESTED)]
    ends += [f"{kind}.pth.tar{end}" for kind in CHECKPOINTS if kind != "resume" for end in (".previous", "")]
    for end in (*ends, "resume.pth.tar"):
        file, target = source.with_name(f"{theirs}_{end}"), folder / f"{name}_{end}"
        if end == "resume.pth.tar":
            file = source
        if os.path.isfile(file) and not os.path.exists(target):
            with replacing(target) as part:
                shutil.copyfile(file, part)


def read_finished(folder: Path, name: str, binding: Mapping[str, Any], epochs: int) -> dict[str, Any] | None:
    """Return the summary of a run of that name that has ended with these flags ("--lr" and so on) and facts of its data."""
    if not os.path.isfile(summary_path(folder, name)):
        return None
    try:
        summary: dict[str, Any] = json.loads(summary_path(folder, name).read_text(encoding="utf-8"))
        unsaid = {**{key: binding.get(key) for key in NEWER}, **{f"--{key}": value for key, value in UNSAID.items()}}
        found = {**unsaid, **summary, **{f"--{key}": value for key, value in summary["flags"].items()}}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):  # none, or that of an older version
        return None
    ended = found.items() >= {**binding, "--epochs": epochs}.items() and not schemas.problem(summary, schemas.Summary)
    return summary if ended else None


def fault_of(path: Path, outcome: Mapping[str, Any], binding: Mapping[str, Any], best: bool) -> str | None:
    """Return why `path` is not the checkpoint of the epoch with that outcome, of a run with the flags of `binding`.

    None if it is; `best`: of the best epoch.
    """
    if not os.path.isfile(path):
        return f"{path} is missing"
    try:
        state = load_checkpoint(path)
    except UserError as error:
        return str(error)
    if state.get("epoch") != outcome["epoch"] + 1 or (best and state.get("best_acc1") != outcome["acc1"]):
        return f"{path} is not that of epoch {outcome['epoch']}"
    flags = state.get("flags", {})
    other = next((key for key, value in binding.items() if flags.get(key.removeprefix("--"), value) != value), None)
    return None if other is None else f"{path} is of another run, with another {other}"


def finished_faults(folder: Path, name: str, summary: Mapping[str, Any], binding: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the checkpoints and predictions that a finished run's summary speaks of."""
    paths, predictions = checkpoint_paths(folder, name), prediction_paths(folder, name)
    faults = [fault_of(paths[kind], summary[which], binding, kind == "ckpt") for kind, which in OUTCOME_OF.items()]
    faults += [
        f"{predictions[kind]} is damaged"
        for kind, which in OUTCOME_OF.items()
        if os.path.isfile(predictions[kind]) and not predictions_fit(predictions[kind], summary[which]["acc1"])
    ]
    return [fault for fault in faults if fault]


def restore_best(paths: Mapping[str, Path], best: Mapping[str, Any], binding: Mapping[str, Any]) -> list[str] | None:
    """See that the best checkpoint is that of the epoch `best`; return lines that say what was done, None if it is lost.

    It is another if it was damaged or removed, or if the run was killed after an epoch that became the best and before that
    epoch was in the state. Then the file before it takes its place, or the last epoch's if that is the best one.
    """
    path = paths["ckpt"]
    fault = fault_of(path, best, binding, best=True)
    if fault is None:
        return []
    places = (previous(path), *with_previous(paths["last"]))
    source = next((place for place in places if fault_of(place, best, binding, best=True) is None), None)
    if source is None:
        return None
    set_damaged_aside(path)
    with replacing(path) as part:
        shutil.copyfile(source, part)
    return [f"note: {fault}: {path} is now a copy of {source}"]


def remove_unfit(predictions: Path, acc1: float) -> list[str]:
    """Remove predictions that are damaged or those of another epoch; return a line that says so."""
    if not os.path.isfile(predictions) or predictions_fit(predictions, acc1):
        return []
    predictions.unlink()
    return [f"note: {predictions} was damaged or of another epoch and is removed"]


def predictions_fit(path: Path, acc1: float) -> bool:
    """Return whether predictions have that accuracy in per cent."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            right = kept["target"] == kept["predicted"]
        return abs(100 * float(right.mean()) - acc1) < 1e-9
    except Exception:  # whatever a damaged archive raises, it does not fit
        return False


def set_damaged_aside(path: Path) -> list[str]:
    """Rename a checkpoint that cannot be read to `.damaged`; return a line that says so."""
    if not os.path.isfile(path):
        return []
    try:
        read_file(path)
    except UserError as error:
        os.replace(path, path.with_name(path.name + ".damaged"))
        return [f"note: {error}; it is now {path.name}.damaged"]
    return []


def written(paths: Sequence[Path]) -> str:
    """Return the files that are there, as the last line of a run lists them."""
    return ", ".join(str(path) for path in paths if os.path.exists(path))
