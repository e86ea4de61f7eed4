"""The files of a run: their names, those that it must not begin with, and whether they are of one that has ended."""

from __future__ import annotations

import json
from pathlib import Path

from harness.errors import UserError
from harness.facts import Facts, State

# What stands after the --save_name and a "_".
LIST_FILES = ("train.txt", "val.txt")  # of images that a run drew from one folder
SUMMARY_FILE = "summary.json"
ENDS = (
    "ckpt.pth.tar", "last.pth.tar", "stage1.pth.tar", "resume.pth.tar", "resume.pth.tar.previous", "ckpt_predictions.npz",
    "last_predictions.npz", "mistakes.json", *LIST_FILES, "metrics.jsonl", "tensorboard", SUMMARY_FILE, "started.json",
    "ckpt.onnx", "last.onnx",
)  # fmt: skip
LONGEST_END = "_ckpt_predictions.npz.new"  # as long as the longest, and no file's


def run_file(folder: Path, name: str, end: str) -> Path:
    """Return the path of a file of a run."""
    return folder / f"{name}_{end}"


def list_paths(folder: Path, name: str) -> list[Path]:
    """Return the paths of the lists of training and test images that a run drew from one folder."""
    return [run_file(folder, name, end) for end in LIST_FILES]


def summary_path(folder: Path, name: str) -> Path:
    """Return the path of a run's summary."""
    return run_file(folder, name, SUMMARY_FILE)


def own_files(folder: Path, name: str) -> list[Path]:
    """Return the paths of all files that a run may leave."""
    return [run_file(folder, name, end) for end in ENDS]


def check_apart(flags: Facts, folder: Path, name: str) -> None:
    """Refuse a flag that names a file of an earlier run of this name: that is set aside, and replaced."""
    own = {file.resolve() for file in own_files(folder, name)}
    for flag, value in flags.items():
        if isinstance(value, str) and Path(value).resolve() in own:
            raise UserError(f"{flag} {value} is a file that this run replaces: give the run another --save_name")


def read_finished(folder: Path, name: str, binding: Facts, epochs: int) -> State | None:
    """Return the summary of a run of that name that has ended with these flags ("--lr" and so on) and facts of its data."""
    try:
        summary: State = json.loads(summary_path(folder, name).read_text(encoding="utf-8"))
        found = {**summary, **{f"--{key}": value for key, value in summary["flags"].items()}}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # none, or no summary
        return None
    return summary if found.items() >= {**binding, "--epochs": epochs}.items() else None
