"""Finished runs in memory, without files."""

import math
from pathlib import Path

import numpy as np
from support.finished_runs import FLAGS

from harness.metrics import class_accuracy
from reporting.finished_runs import FinishedRun
from reporting.run_contents import Tested


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
    return FinishedRun(name=name, summary=summary, log=[*log], tested=kept, path=Path(f"{name}_summary.json"))


def made_group(values, key="acc1", **other):
    """A run for each seed, of figures by seed; of key "few" the accuracy is the same at each seed."""
    return [made_run(f"s{seed}", seed, figures={"acc1": 50.0, key: value}, **other) for seed, value in values.items()]


def guesses(target, accuracy, draw, classes):
    """Predictions (M,) of which about a share `accuracy`, one number or one for each class, is right."""
    right = draw.random(len(target)) < np.broadcast_to(accuracy, classes)[target]
    return np.where(right, target, (target + 1) % classes)


def outcome_run(target, predicted, confidence=None, *, classes=None, name="a", folder=Path("there"), log=(), last=None,
               flags=None, **summary):  # fmt: skip
    """A run that was tested with this outcome; `summary` has more of its entries, `flags` those that matter."""
    target, predicted = np.array(target, dtype=np.int64), np.array(predicted, dtype=np.int64)
    confidence = np.full(len(target), 0.5, dtype=np.float32) if confidence is None else np.array(confidence)
    size = max([*target.tolist(), *predicted.tolist(), 0]) + 1 if classes is None else classes
    whole = {"cls_num_list": [10] * size, "class_names": [*map(str, range(size))], "flags": flags or {},
             "last": {"epoch": 0, **(last or {})}, **summary}  # fmt: skip
    return FinishedRun(name, whole, list(log), Tested(target, predicted, confidence), folder / f"{name}_summary.json")
