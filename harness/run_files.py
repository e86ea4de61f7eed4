"""The files of a run: their names, and what becomes of those of an earlier or another run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from harness.errors import UserError
from harness.facts import Facts, State
from harness.files import previous, replacing

# What stands after the --save_name and a "_".
CHECKPOINTS = ("ckpt.pth.tar", "last.pth.tar", "stage1.pth.tar", "resume.pth.tar")
TESTED = ("ckpt", "last")  # the checkpoints whose predictions are kept
PREDICTION_FILES = tuple(f"{kind}_predictions.npz" for kind in TESTED)
LIST_FILES = ("train.txt", "val.txt")  # of images that a run drew from one folder
LOG_FILE, BOARD_FOLDER, SUMMARY_FILE, STARTED_FILE = "metrics.jsonl", "tensorboard", "summary.json", "started.json"
EXPORT_FILES = tuple(f"{kind}.onnx" for kind in TESTED)
MISTAKES_FILE = "mistakes.json"
LONGEST_END = "_ckpt_predictions.npz.tmp"


def run_file(folder: Path, name: str, end: str) -> Path:
    """Return the path of a file of a run."""
    return folder / f"{name}_{end}"


def list_paths(folder: Path, name: str) -> list[Path]:
    """Return the paths of the lists of training and test images that a run drew from one folder."""
    return [run_file(folder, name, end) for end in LIST_FILES]


def summary_path(folder: Path, name: str) -> Path:
    """Return the path of a run's summary."""
    return run_file(folder, name, SUMMARY_FILE)


def with_previous(path: Path) -> tuple[Path, Path]:
    """Return a checkpoint's path and where the one before it is kept."""
    return path, previous(path)


def own_files(folder: Path, name: str) -> list[Path]:
    """Return the paths of all files that a run may leave."""
    kept = [file for end in CHECKPOINTS for file in with_previous(run_file(folder, name, end))]
    others = *PREDICTION_FILES, MISTAKES_FILE, *LIST_FILES, LOG_FILE, BOARD_FOLDER, SUMMARY_FILE, STARTED_FILE, *EXPORT_FILES
    return [*kept, *(run_file(folder, name, end) for end in others)]


def check_kept(keep: str | None, folder: Path, name: str) -> None:
    """Refuse to begin with a file that the run then replaces; that of a stage 1 stays as it is."""
    kept = [end for end in CHECKPOINTS if "stage1" not in end]
    replaced = [f.resolve() for end in kept for f in with_previous(run_file(folder, name, end))]
    if keep and Path(keep).resolve() in replaced:
        raise UserError(f"{keep} is a file that this run replaces: give the run another --save_name")


def copy_run(source: Path, folder: Path, name: str) -> None:
    """Copy `source`, an `_resume.pth.tar`, and what lies beside it to a run of another folder or name; it comes last."""
    theirs = source.name.removesuffix(".previous").removesuffix("_resume.pth.tar")
    for end in (LOG_FILE, *PREDICTION_FILES, MISTAKES_FILE, *CHECKPOINTS):
        file = source if "resume" in end else run_file(source.parent, theirs, end)
        if os.path.isfile(file):
            with replacing(run_file(folder, name, end)) as part:
                shutil.copyfile(file, part)


def read_finished(folder: Path, name: str, binding: Facts, epochs: int) -> State | None:
    """Return the summary of a run of that name that has ended with these flags ("--lr" and so on) and facts of its data."""
    try:
        summary: State = json.loads(summary_path(folder, name).read_text(encoding="utf-8"))
        found = {**summary, **{f"--{key}": value for key, value in summary["flags"].items()}}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # none, or no summary
        return None
    return summary if found.items() >= {**binding, "--epochs": epochs}.items() else None
