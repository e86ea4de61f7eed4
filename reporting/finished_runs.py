"""Finished runs: which lie below the paths that a user names, what their files say, and which are left out and why."""

from __future__ import annotations

import json
import math
import os
import statistics
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from zipfile import BadZipFile

import msgspec
import numpy as np
from msgspec import Meta

from harness.errors import UserError
from harness.files import make_folder, read_bytes, write_whole
from harness.flags import UNSAID, in_stage1, without_effect
from harness.metrics import PER_CLASS_MEAN
from harness.schemas import Confused, Count, Images, OptionalFigures, Percent, Plain
from harness.text import printable, shown_names
from heads.run_flags import FREE_FLAGS

SUMMARY, STARTED, LOG, PREDICTIONS = "_summary.json", "_started.json", "_metrics.jsonl", "_last_predictions.npz"
MISTAKES, MOST_OF_MISTAKES = "_mistakes.json", 2**20  # bytes; a training writes a tenth of that
GROUP_NAMES = "group_names.json"  # in a folder of runs: what reports call them, by patterns of save names
NOT_SETTINGS = FREE_FLAGS - {"epochs"} | {"seed"}  # flags that change nothing, and the one that groups differ in
LARGEST_SHOWN = float(np.finfo(np.float32).max)  # what a training computes is within, and can be drawn
# What reading a damaged file can raise: of its JSON, its form, or its archive.
UNUSABLE = (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, RecursionError, BadZipFile, zlib.error)
ROUNDED_ONE = 1 + 1e-5  # the largest probability that a softmax in float32 comes to
PER_CLASS = ("per_class", "trace_estimated", "trace_learned")  # figures of an epoch
Shown = Annotated[float, Meta(ge=-LARGEST_SHOWN, le=LARGEST_SHOWN)]
NotNegative = Annotated[float, Meta(ge=0, le=LARGEST_SHOWN)]


class EpochFigures(OptionalFigures, kw_only=True):
    """What a summary says of an epoch, in per cent; null is what is not defined."""

    epoch: Count
    acc1: Percent | None  # None: nothing was tested
    per_class: list[Percent | None]
    trace_estimated: list[Shown | None] | None = None
    trace_learned: list[Shown | None] | None = None


WITH_SPACES = {"train_list": "train list", "meta_list": "meta list", "test_list": "test list"}  # names in a summary


class RunSummary(msgspec.Struct, kw_only=True, rename=WITH_SPACES):
    """What a report reads of a run's summary."""

    cls_num_list: Annotated[list[Images], Meta(min_length=1)]
    class_names: list[str]
    best: EpochFigures
    last: EpochFigures
    flags: dict[str, Plain] = {}
    loss: str | None = None
    notes: list[str] = []
    data: Any = None
    train_list: Any = None
    meta_list: Any = None
    test_list: Any = None
    commit: str | None = None
    device: Plain = None
    processes: Plain = None
    versions: dict[str, Plain] | None = None
    machine: dict[str, Plain] | None = None
    seconds: NotNegative | None = None

    def __post_init__(self) -> None:
        """Check what belongs together."""
        epochs = (getattr(which, key) for which in (self.best, self.last) for key in PER_CLASS)
        lengths = {len(values) for values in (self.class_names, *epochs) if values is not None}
        if lengths != {len(self.cls_num_list)}:
            raise ValueError(f"its class_names, {', '.join(PER_CLASS)} are not all of {len(self.cls_num_list)} classes")


class EpochLine(msgspec.Struct):
    """What a report shows of a line of a log."""

    epoch: Count
    seconds: NotNegative | None = None
    train_loss: Shown | None = None
    grad_norm: NotNegative | None = None
    test_acc1: Percent | None = None
    test_few: Percent | None = None


class Tested(NamedTuple):
    """What a network said of a test set, in its order: labels (M,), predicted classes (M,) and their probabilities (M,)."""

    target: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its name, what its files say, what the group names of its folder call it ("": nothing).

    All names are as a page can show them, letter by letter and no two classes the same.
    """

    name: str
    path: Path  # of the summary
    summary: RunSummary
    log: list[EpochLine]
    tested: Tested | None
    words: str = ""
    mistakes: Sequence[Confused] = ()

    @property
    def flags(self) -> dict[str, Any]:
        """The loss and flags that change the outcome, without the seed."""
        given = {**UNSAID, "loss": self.summary.loss, **self.summary.flags}
        if given.get("dataset") in ("folder", "custom", "own"):  # told apart by the name of the folder, or file of features
            given["dataset"] = printable(Path(str(given.get("features") or given.get("data_root"))).name)
        unused = without_effect(given).keys() | NOT_SETTINGS
        return {key: value for key, value in given.items() if key not in unused}

    @property
    def seed(self) -> Plain:
        """The seed, None if it is not said."""
        return self.summary.flags.get("seed")

    @property
    def kind(self) -> str:
        """What runs that differ in their seed only share: flags, class sizes, digests of the images or class names."""
        summary = self.summary
        digests = [summary.data, summary.train_list, summary.meta_list, summary.test_list]
        images = digests if any(digests) else summary.class_names
        return json.dumps([self.flags, summary.cls_num_list, images], sort_keys=True)

    @property
    def per_class(self) -> np.ndarray:
        """The last epoch's accuracy of each class (C,), nan of those without test images."""
        return np.array(self.summary.last.per_class, dtype=np.float64)

    def is_plain(self, which: str) -> bool:
        """Whether the "last" or "best" epoch is before stage 2."""
        return in_stage1(self.summary.flags, getattr(self.summary, which).epoch)

    def figure(self, key: str, which: str = "last") -> float:
        """Return a figure, nan where there is none; the mean over classes also where all have as many test images."""
        found = getattr(self.summary, which)
        value = getattr(found, key)
        if value is None and key == PER_CLASS_MEAN:
            there = [accuracy for accuracy in found.per_class if accuracy is not None]
            value = statistics.fmean(there) if there else None
        return math.nan if value is None else float(value)


class LeftOut(NamedTuple):
    """A run or folder that is not shown, and why, in one line."""

    name: str
    path: Path
    reason: str


class Found(NamedTuple):
    """What lies below the paths that were named."""

    runs: list[FinishedRun]
    left_out: list[LeftOut]


def find_runs(paths: Sequence[Path]) -> Found:
    """Read the runs of summaries, and of all that lie below folders.

    A run below a folder is left out whole if one of its files is damaged, be it the log or the predictions alone: half of a
    run would mislead, and files that do not fit together may be of two runs. A file that was named itself is an error
    instead. Runs that are not finished are left out too.
    """
    found = Found([], [])
    named = {path.resolve() for path in paths}
    places: dict[Path, Path] = {}  # of summaries
    for path in paths:
        below = summaries_below(path, found.left_out) if os.path.isdir(path) else [path]
        if not below and not found.left_out:
            raise UserError(f"{path} holds no finished run: there is no <save_name>{SUMMARY} in it")
        places |= {file.resolve(): file for file in below}
    for name, (place, path) in zip(names_of([*places.values()]), places.items(), strict=True):
        if place not in named and not os.path.isfile(path):
            found.left_out.append(LeftOut(name, path, "not finished: still training, or interrupted"))
            continue
        try:
            found.runs.append(read_run(name, path))
        except UserError as error:
            if place in named:
                raise
            found.left_out.append(LeftOut(name, path, str(error)))
    if not found.runs:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in found.left_out[:3])
        raise UserError(f"{', '.join(map(str, paths))}: no finished run that can be shown ({reasons})")
    return found


def summaries_below(folder: Path, left_out: list[LeftOut]) -> list[Path]:
    """Return where the summaries of the runs below a folder are, or will be, without those that were set aside."""

    def unread(error: OSError) -> None:
        path = Path(error.filename)
        left_out.append(LeftOut(path.name, path, f"{path} cannot be read ({error.strerror}): check its permissions"))

    found = set()
    for inside, folders, files in os.walk(folder, onerror=unread):
        folders[:] = [name for name in folders if name != "earlier"]
        for end in (SUMMARY, STARTED):
            found |= {Path(inside, name.removesuffix(end) + SUMMARY) for name in files if name.endswith(end)}
    return sorted(found)


def names_of(places: Sequence[Path]) -> list[str]:
    """Return the save names of the runs with these summaries, with their folders where these are several."""
    common = os.path.commonpath([path.absolute().parent for path in places]) if places else ""
    return shown_names(os.path.relpath(path.absolute(), common).removesuffix(SUMMARY) for path in places)


def read_run(name: str, path: Path) -> FinishedRun:
    """Read the files of a run, of which `path` is the summary."""
    save_name = path.name.removesuffix(SUMMARY)
    summary = decoded(path, RunSummary)
    if None in (summary.best.acc1, summary.last.acc1):
        raise UserError(f"{path} is of a run that tested nothing, as with --val_fraction 0")
    summary.class_names = shown_names(summary.class_names)
    log = read_log(path.with_name(save_name + LOG))
    tested = read_tested(path.with_name(save_name + PREDICTIONS), len(summary.cls_num_list))
    said = path.with_name(GROUP_NAMES)
    words: dict[str, str] = decoded(said, dict[str, str]) if os.path.isfile(said) else {}
    own = next((printable(own) for pattern, own in words.items() if fnmatchcase(save_name, pattern)), "")
    mistakes = read_mistakes(path.with_name(save_name + MISTAKES), len(summary.cls_num_list))
    return FinishedRun(name, path, summary, log, tested, own, mistakes)


@contextmanager
def usable(path: Path) -> Iterator[None]:
    """Make what is wrong with a file of others into a `UserError` of one line."""
    try:
        yield
    except UNUSABLE as error:
        told = " ".join(str(error).split())
        raise UserError(f"{path} cannot be used: {told}: move it away, or retrain") from error


def decoded(path: Path, form: Any) -> Any:
    """Return what a JSON file holds in the form that is declared; names that are no UTF-8 have half pairs of UTF-16."""
    with usable(path):
        return msgspec.convert(json.loads(read_bytes(path)), form)


def read_log(path: Path) -> list[EpochLine]:
    """Return the lines of a log, none where there is no log."""
    with usable(path):
        return msgspec.json.Decoder(EpochLine).decode_lines(read_bytes(path)) if os.path.isfile(path) else []


def read_tested(path: Path, classes: int) -> Tested | None:
    """Return what a network of so many classes said of its test set, None where there is no file of it."""
    if not os.path.isfile(path):
        return None
    with usable(path), open(path, "rb") as file, np.load(file, allow_pickle=False) as kept:  # which leaves it open
        labels, confidence = np.stack([kept["target"], kept["predicted"]]), kept["confidence"]
        if labels.dtype != np.int64 or labels.ndim != 2 or not ((labels >= 0) & (labels < classes)).all():
            raise ValueError(f"it holds no labels of {classes} classes")
        told = confidence.dtype.kind == "f" and confidence.shape == labels[0].shape
        if not told or not ((confidence >= 0) & (confidence <= ROUNDED_ONE)).all():
            raise ValueError(f"its confidence holds no probabilities of {len(labels[0])} predictions")
        return Tested(labels[0], labels[1], confidence)


def read_mistakes(path: Path, classes: int) -> list[Confused]:
    """Return the pictures of a run; none of a file that is not its own, or far larger than those that training writes."""
    if os.path.islink(path) or not os.path.isfile(path) or path.stat().st_size > MOST_OF_MISTAKES:
        return []
    found: list[Confused] = decoded(path, list[Confused])
    with usable(path):
        if any(max(pair.target, pair.predicted) >= classes for pair in found):
            raise ValueError(f"it has labels beyond {classes} classes")
    return found


def write_group_names(folder: Path, words: Mapping[str, str]) -> None:
    """Say what reports call the runs of a folder, by patterns of their save names; what is there already stays."""
    if not os.path.exists(folder / GROUP_NAMES):
        write_json(folder / GROUP_NAMES, dict(words))


def write_json(path: Path, value: Any) -> None:
    """Write a file that other processes may be writing too."""
    make_folder(path.parent)
    write_whole(path, (json.dumps(value, indent=1) + "\n").encode())
