"""What the meta step did in the runs of a group, and what a training step cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from harness.flags import UNSAID, in_stage1
from harness.metrics import SHOTS, shot_of
from reporting.finished_runs import FinishedRun

SMALLEST = float(np.finfo(np.float32).smallest_subnormal)  # of a trace above 0
TRACES = ("trace_estimated", "trace_learned")


class Moved(NamedTuple):
    """How far the meta steps of the last epoch moved the trace of each class's Σ, in per cent of the estimated one.

    `estimated` and `learned` (C,) are means over the runs, and `change` (C,) is what they differ by; all are nan where there
    is none, as of a class of which no two images were seen. `median` and `per_shot` are medians over classes, nan of none,
    and `largest` is the class whose trace moved most either way, None if none has one.
    """

    runs: int
    estimated: list[float]
    learned: list[float]
    change: list[float]
    median: float
    per_shot: dict[str, float]
    largest: int | None


class StepSeconds(NamedTuple):
    """Seconds a training step in stage 1 and in stage 2, None where logs do not say."""

    stage1: float | None
    stage2: float | None


def has_meta_step(run: FinishedRun) -> bool:
    """Return whether the last epoch of a run had meta steps, which move the covariances."""
    return {**UNSAID, **run.summary.get("flags", {})}["stage2"] == "metasaug" and not run.is_plain("last")


def moved(runs: Sequence[FinishedRun]) -> Moved | None:
    """Return what the meta steps of a group's runs did, None if no summary says it, as those of older versions of heads."""
    meta = [run for run in runs if all(key in run.summary["last"] for key in TRACES)]
    if not meta:
        return None
    counts = meta[0].summary["cls_num_list"]
    estimated, learned = (np.mean([trace(run, key) for run in meta], axis=0) for key in TRACES)  # (C,)
    nowhere = np.full_like(estimated, math.nan)
    change = 100 * np.divide(learned - estimated, estimated, out=nowhere, where=estimated >= SMALLEST)
    shots = {shot: change[[shot_of(count) == shot for count in counts]] for shot in SHOTS}
    there = np.flatnonzero(~np.isnan(change))
    largest = int(there[np.abs(change[there]).argmax()]) if len(there) else None
    medians = {shot: median(values) for shot, values in shots.items()}
    return Moved(len(meta), estimated.tolist(), learned.tolist(), change.tolist(), median(change), medians, largest)


def trace(run: FinishedRun, key: str) -> np.ndarray:
    """Return the trace of each class's Σ (C,), nan where a summary has null."""
    return np.array([math.nan if value is None else value for value in run.summary["last"][key]], dtype=np.float64)


def median(values: np.ndarray) -> float:
    """Return the median of what is not nan, nan of nothing."""
    there = values[~np.isnan(values)]
    return float(np.median(there)) if len(there) else math.nan


def step_seconds(runs: Sequence[FinishedRun]) -> StepSeconds:
    """Return what a step takes: medians over the epochs of all runs, without the first that each run logged of a stage.

    The seconds of an epoch are those that are logged, in which its test is included (that of held-out images too), but not
    the saving of the checkpoints. The first epoch of a stage is left out for what is done once in it; a run with one alone
    says nothing. Steps of stage 2 are those of the training images, so runs that train on meta images as well, whose number
    a summary does not tell, are left out there.
    """
    found: dict[bool, list[float]] = {True: [], False: []}  # by whether it is stage 1
    for run in runs:
        flags = run.summary.get("flags", {})
        steps = steps_of(run.summary, flags)
        for first in found:
            of_stage = [line.get("seconds") for line in run.log if in_stage1(flags, line["epoch"]) == first][1:]
            if steps is not None and (first or {**UNSAID, **flags}["meta_images"] != "train"):
                found[first] += [value / steps for value in of_stage if value is not None]
    stage1, stage2 = (statistics.median(found[first]) if found[first] else None for first in (True, False))
    return StepSeconds(stage1, stage2)


def steps_of(summary: Mapping[str, Any], flags: Mapping[str, Any]) -> int | None:
    """Return the steps of an epoch over the training images, the last with what is left; None if a summary does not tell."""
    batch = summary.get("global batch size", flags.get("batch_size"))  # of all processes, else of the one there is
    images = sum(summary["cls_num_list"])
    return -(-images // batch) if isinstance(batch, int) and batch > 0 and images else None
