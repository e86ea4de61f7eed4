"""Finished runs in memory, without files."""

import math
from pathlib import Path

import msgspec
import numpy as np
from support.finished_runs import FLAGS

from harness.metrics import class_accuracy
from reporting.finished_runs import EpochLine, FinishedRun, RunSummary, Tested


def made_run(
    name="a", seed=1, counts=(500, 60, 8), figures=None, tested=None, class_names=None, loss="LDAM", log=(), **flags
):
    """A run of these figures of its last epoch; with `tested`, labels and predictions, the figures are of them."""
    kept = None
    if tested is not None:
        target, predicted = (np.asarray(labels, dtype=np.int64) for labels in tested)
        kept = Tested(target, predicted, np.full(len(target), 0.5, np.float32))
        right = np.bincount(target[target == predicted], minlength=len(counts))
        totals = np.bincount(target, minlength=len(counts)), np.bincount(predicted, minlength=len(counts))
        found = class_accuracy(right.tolist(), *(total.tolist() for total in totals), counts).figures()
        per_class = [None if math.isnan(value) else value for value in found.pop("per_class")]
        figures = {**{key: None if math.isnan(x) else x for key, x in found.items()}, "per_class": per_class}
    elif "per_class" not in figures:
        figures = {**figures, "per_class": [figures["acc1"]] * len(counts)}
    outcome = {"epoch": flags.get("epochs", FLAGS["epochs"]) - 1, **figures}
    flags = {key: value for key, value in {**FLAGS, "seed": seed, **flags}.items() if value is not None}
    names = class_names or [*map(str, range(len(counts)))]
    summary = {"loss": loss, "flags": flags, "cls_num_list": [*counts], "class_names": names, "last": outcome,
               "best": outcome}  # fmt: skip
    lines = [msgspec.convert(line, EpochLine) for line in log]
    return FinishedRun(name, Path(f"{name}_summary.json"), msgspec.convert(summary, RunSummary), lines, kept)


def made_group(values, key="acc1", **other):
    """A run for each seed, of figures by seed; of key "few" the accuracy is the same at each seed."""
    return [made_run(f"s{seed}", seed, figures={"acc1": 50.0, key: value}, **other) for seed, value in values.items()]


def guesses(target, accuracy, draw, classes):
    """Predictions (M,) of which about a share `accuracy`, one number or one for each class, is right."""
    right = draw.random(len(target)) < np.broadcast_to(accuracy, classes)[target]
    return np.where(right, target, (target + 1) % classes)
