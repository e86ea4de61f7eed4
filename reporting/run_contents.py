"""What the files of a finished run hold, read and checked before any of it is shown."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn
from zipfile import BadZipFile

import msgspec
import numpy as np
from msgspec import Meta

from harness import schemas
from harness.errors import UserError
from harness.files import read_bytes
from harness.metrics import PER_CLASS_MEAN, SHOTS

SUMMARY, STARTED, LOG = "_summary.json", "_started.json", "_metrics.jsonl"  # ends of the names of a run's files
NAME_ANOTHER = f"name a <save_name>{SUMMARY}, or a folder of runs"
LARGEST_SHOWN = float(np.finfo(np.float32).max)  # what a training computes is within, and can be drawn
ROUNDED_ONE = 1 + 1e-5  # the largest probability that a softmax in float32 comes to
Shown = Annotated[float, Meta(ge=-LARGEST_SHOWN, le=LARGEST_SHOWN)]
PERCENTS = ("acc1", "acc5", PER_CLASS_MEAN, *SHOTS, "macro_f1", "ece")  # ends of the keys of a log
NOT_NEGATIVE = ("test_loss", "meta_loss", "grad_norm")  # a training loss is what the criterion makes it
# A half of a pair of UTF-16 that stands alone in JSON, as bytes of file names that are no text are written there.
LONE_HALF = re.compile(rb"(\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..)|\\(?=u[dD][89a-fA-F]..)")


class Tested(NamedTuple):
    """What a network said of a test set, in its order: labels (M,), predicted classes (M,) and their probabilities (M,)."""

    target: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray


def save_name(path: Path) -> str:
    """Return the --save_name of the run whose summary is at `path`."""
    return path.name.removesuffix(SUMMARY)


def places_below(folder: Path, unread: Callable[[OSError], None] | None = None) -> list[Path]:
    """Return where the summaries of the runs below a folder are, or will be; those that were set aside are not among them.

    `unread` is called with what happens where a folder cannot be looked into.
    """
    found = set()
    for inside, folders, files in os.walk(folder, onerror=unread):
        folders[:] = [name for name in folders if name != "earlier" and not name.endswith("_tensorboard")]
        for end in (SUMMARY, STARTED, LOG):
            found |= {Path(inside) / (name.removesuffix(end) + SUMMARY) for name in files if name.endswith(end)}
    return sorted(found)


def no_runs(path: Path) -> NoReturn:
    """Refuse a folder without runs."""
    raise UserError(f"{path} holds no finished run: there is no <save_name>{SUMMARY} in it")


def distinct_names(places: Sequence[Path]) -> list[str]:
    """Return the save names of the runs with these summaries, with their folders where several have the same."""
    short = [save_name(path) for path in places]
    common = os.path.commonpath([path.absolute().parent for path in places]) if places else ""
    long = [os.path.relpath(path.absolute().with_name(name), common) for name, path in zip(short, places, strict=True)]
    return [name if short.count(name) == 1 else whole for name, whole in zip(short, long, strict=True)]


def decoded(content: bytes, path: Path, where: str = "", advice: str = "") -> Any:
    r"""Return what JSON says, which a file of a run holds; half a pair of UTF-16 becomes text such as \udcff.

    `advice` is what to do about a file that is not JSON.
    """
    try:
        return msgspec.json.decode(LONE_HALF.sub(lambda found: found[1] or rb"\\", content))
    except (msgspec.DecodeError, RecursionError) as error:
        of_a_run = path.name.endswith((SUMMARY, STARTED, LOG))
        advice = advice or ("move it away, or train anew" if of_a_run else NAME_ANOTHER)
        raise UserError(f"{path} is damaged or no JSON file ({error}{where}): {advice}") from error


def read_summary(path: Path) -> dict[str, Any]:
    """Read a summary."""
    finished = path.with_name(path.name.removesuffix(STARTED) + SUMMARY)
    if path.name.endswith(STARTED) and not os.path.isfile(finished):
        raise UserError(f"{path}: this run is not finished; its report can be made when it is")
    summary: dict[str, Any] = decoded(read_bytes(path), path)
    if not (isinstance(summary, dict) and {"best", "last"} & summary.keys()):
        raise UserError(f"{path} is no summary of a run: {NAME_ANOTHER}")
    schemas.check(summary, schemas.Summary, path)
    schemas.check(summary.get("flags", {}), dict[str, schemas.Plain], path, "flags")
    classes, names = len(summary["cls_num_list"]), summary.get("class_names")
    if names is None:
        raise UserError(f"{path} is of an older version, which does not name its classes: train anew, or move it away")
    if len(names) != classes:
        raise UserError(f"{path} cannot be used: its class_names has {len(names)} entries for {classes} classes")
    for which in ("best", "last"):
        outcome = summary[which]
        check_epoch(outcome["epoch"], summary, path, f"{which}.epoch")
        for key in ("acc1", "heldout_acc1"):  # below 0 while there is none
            schemas.check(outcome.get(key), schemas.Percent | None, path, f"{which}.{key}")
        if "per_class" not in outcome:
            raise UserError(f"{path} cannot be used: it has no {which}.per_class, the accuracy of each class")
        for key in ("per_class", "trace_estimated", "trace_learned"):
            figures = outcome.get(key, summary["cls_num_list"])
            if len(figures) != classes:
                raise UserError(f"{path} cannot be used: its {which}.{key} has {len(figures)} entries for {classes} classes")
            schemas.check(figures, list[Shown | None], path, f"{which}.{key}")
    return summary


def check_epoch(epoch: int, summary: dict[str, Any], path: Path | str, name: str) -> None:
    """Check that an epoch, counted from 0, is one that the run of a summary had."""
    epochs = summary.get("flags", {}).get("epochs")
    if epoch < 0 or (epochs is not None and epoch >= epochs):
        had = "are counted from 0" if epochs is None else f"are 0 to {epochs - 1}"
        raise UserError(f"{path} cannot be used: its {name} is {epoch}, the epochs of the run {had}")


@cache
def limits(key: str) -> tuple[float, float]:
    """Return the least and the largest value that a figure of a log may have."""
    if not key.startswith("trace_") and key.endswith(PERCENTS):
        return 0, 100
    return 0 if key in NOT_NEGATIVE else -LARGEST_SHOWN, LARGEST_SHOWN


def read_log(path: Path, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a dict an epoch, an empty list where there is no log."""
    if not os.path.isfile(path):
        return []
    lines = []
    for number, content in enumerate(read_bytes(path).splitlines(), 1):
        line = decoded(content, path, f" in line {number}")
        where = f"{path}, line {number},"
        schemas.check(line, schemas.LOG_LINE, where)
        schemas.check(line.get("epoch"), schemas.Count, where, "epoch")
        check_epoch(line["epoch"], summary, where, "epoch")
        for key, value in line.items():
            low, high = limits(key)
            if value is not None and key != "epoch" and not low <= value <= high:
                raise UserError(f"{where} cannot be used: its {key} is {value}, which should be {low:.4g} to {high:.4g}")
        lines.append(line)
    return lines


def read_tested(path: Path, classes: int) -> Tested | None:
    """Return what a network of so many classes said of its test set, None where there is no file of it."""
    if not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as kept:  # np.load leaves a damaged one open
            target, predicted, confidence = kept["target"], kept["predicted"], kept["confidence"]
        for name, labels in (("target", target), ("predicted", predicted)):
            if labels.dtype != np.int64 or labels.ndim != 1 or not ((labels >= 0) & (labels < classes)).all():
                raise ValueError(f"its {name} holds no labels of {classes} classes")
        probable = confidence.dtype.kind == "f" and ((confidence >= 0) & (confidence <= ROUNDED_ONE)).all()
        if confidence.ndim != 1 or not probable:
            raise ValueError("its confidence holds no probabilities")
        lengths = len(target), len(predicted), len(confidence)
        if len({*lengths}) > 1:
            raise ValueError("it has {} labels, {} predictions and {} probabilities".format(*lengths))
        return Tested(target, predicted, confidence)
    except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}): train anew or move it away") from error
