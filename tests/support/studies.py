"""The files of whole studies, without a training: long-tailed sets of any number of classes, several ways, several seeds.

What a network says of its test set is drawn, and all figures of a summary are made of that as a training makes them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.metrics import Accuracy, calibration_bins, calibration_error, class_accuracy, per_shot
from harness.record import finite, save_arrays
from harness.training_flags import parse_training

LONG = "a class whose name is as long as a label may be, as folders of photographs have"[:79]
ODD_NAMES = (  # of folders, as a user may have them
    LONG + "1", LONG + "2",  # they differ in the last letter only
    "鳥", "عربي", "שלום, (world)", "😀👩‍👩‍👧", "ß café ∆", "<b>bold</b>", "</script><script>nothing.at.all()</script>",
    "$x$", "a|b", "&amp; \"quoted\" 'twice'", "{{ 7 * 7 }}", "a.b[0]", "back\\slash", "__proto__", "constructor", "null",
    "1e3", "2024-01-01", "two\nlines", "-", "%s {0}", "=1+1",
)  # fmt: skip
VERSIONS = {"python": "3.11.7", "torch": "2.14.1"}
MACHINE = {"system": "Linux", "processor": "a processor", "cores": 2, "gpu": None}


@dataclass(frozen=True)
class Way:
    """A group of runs that differ in their seed: its name, loss and flags, and how many logits it gains, by shot group."""

    name: str
    loss: str = "LDAM"
    stage2: str = "metasaug"
    many: float = 0.0
    few: float = 0.0
    flags: tuple[str, ...] = ()


WAYS = (
    Way("none", "CE", "none"),
    Way("reweight", "LDAM", "reweight", -0.1, 0.5),
    Way("isda", "LDAM", "isda", -0.1, 0.6, ("--lam", "0.75")),
    Way("metasaug", "LDAM", "metasaug", -0.2, 1.0, ("--lam", "0.75")),
)


@dataclass(frozen=True)
class DrawnSet:
    """A long-tailed set: training images of each class (C,), labels of the test images (M,), how hard they are (M,)."""

    cls_num_list: np.ndarray
    target: np.ndarray
    difficulty: np.ndarray


def drawn_set(
    classes: int, test_per_class: int | Sequence[int], rng: np.random.Generator, most: int, least: int
) -> DrawnSet:  # fmt: skip
    """Return a set whose class sizes fall exponentially; a class may have no test images."""
    counts = np.round(most * (least / most) ** (np.arange(classes) / max(classes - 1, 1))).astype(np.int64)
    sizes = np.broadcast_to(np.asarray(test_per_class), (classes,))
    target = np.repeat(np.arange(classes), sizes)
    return DrawnSet(counts, target, rng.normal(0, 1.5, len(target)))


def predictions(way: Way, drawn: DrawnSet, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return labels, predictions and confidences (M,): rare classes are taken for frequent ones, or for a neighbour.

    An image that is hard is so for every way and seed, so runs differ less than they would on images of their own.
    """
    counts, target = drawn.cls_num_list, drawn.target
    classes, rare = len(counts), counts < 20
    skill = 0.9 * np.log(counts / np.median(counts) + 0.05) + 0.8 + np.where(rare, way.few, way.many)
    skill = skill + rng.normal(0, 0.25, classes)
    margin = skill[target] - drawn.difficulty + rng.logistic(0, 0.4, len(target))
    neighbour = target + 1 - 2 * (target % 2)
    frequent = rng.choice(classes, len(target), p=counts / counts.sum())
    other = np.where((rng.random(len(target)) < 0.5) & (neighbour < classes), neighbour, frequent)
    other = np.where(other == target, (other + 1) % classes, other)
    sure = 1 / (1 + np.exp(-0.6 - np.abs(margin)))
    confidence = (1 / classes + (1 - 1 / classes) * sure).astype(np.float32)
    return {"target": target, "predicted": np.where(margin > 0, target, other), "confidence": confidence}


def accuracy_of(said: dict[str, np.ndarray], counts: np.ndarray) -> Accuracy:
    """Return what `harness.evaluation.Predictions.accuracy` does, without a matrix of the square of the classes."""
    right = said["target"] == said["predicted"]
    images = (said["target"][right], said["target"], said["predicted"])
    right_of, total, taken = (np.bincount(labels, minlength=len(counts)).tolist() for labels in images)
    bins = calibration_bins(torch.from_numpy(said["confidence"]), torch.from_numpy(right))
    return class_accuracy(right_of, total, taken, counts.tolist(), calibration_error(bins))


def curves(
    last: dict[str, Any], flags: dict[str, Any], traces: dict[str, dict[str, float]], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Return the lines of a log, of which the last has the figures `last`; stage 2 lifts the few-shot classes."""
    epochs, start = flags["epochs"], flags["meta_start"]
    metasaug = flags["stage2"] == "metasaug"
    lines = []
    for epoch, noise in enumerate(rng.normal(0, 1, epochs).tolist()):
        stage = 2 if epoch >= start and flags["stage2"] != "none" else 1
        part = math.exp(-6 * (epoch + 1) / epochs)
        tested = {f"test_{k}": v for k, v in last.items() if k not in ("epoch", "per_class") and not k.startswith("trace_")}
        if epoch + 1 < epochs:
            tested = {k: min(max(v * (1 - part) + noise, 0.0), 100.0) for k, v in tested.items()}
        if stage == 1 and flags["stage2"] != "none" and "test_few" in tested:
            tested["test_few"] *= 0.5
        lr = flags["lr"] * (1 if epoch < 0.8 * epochs else 0.01)
        line = {"epoch": epoch, "stage": stage, "lr": lr, "train_loss": 0.1 + 4 * part + 0.02 * abs(noise),
                "train_acc1": 99 * (1 - part), "meta_loss": None, "grad_norm": None, "test_loss": 1 + 3 * part,
                "seconds": (3.5 if metasaug and stage == 2 else 1.0) * (1 + 0.05 * abs(noise))}  # fmt: skip
        if metasaug and stage == 2:
            line |= {"meta_loss": 0.8 + 2 * part, "grad_norm": 1e-3 * (1 + 0.1 * abs(noise)), "negative_traces": 0}
        if stage == 2:
            line |= {f"{name}_{shot}": value * (1 - part / 2) for name, by in traces.items() for shot, value in by.items()}
        lines.append({**line, **tested})
    return lines


@cache
def flags_of(way: Way, epochs: int, dataset: str) -> dict[str, Any]:
    """Return the flags of a way's runs, those not given as a training has them."""
    words = ["--stage2", way.stage2, "--epochs", str(epochs), "--imb_factor", "0.01", *way.flags]
    flags = asdict(parse_training([*words, "--meta_start", str(4 * epochs // 5)]))
    return {**flags, "dataset": dataset, "imb_factor": flags["imb_factor"] if "cifar" in dataset else None}


def write_trained(
    folder: Path, name: str, way: Way, seed: int, drawn: DrawnSet, rng: np.random.Generator, epochs: int,
    names: Sequence[str] | None = None, dataset: str = "cifar100",
) -> dict[str, np.ndarray]:  # fmt: skip
    """Write the summary, log and predictions of a run; return the predictions."""
    flags = {**flags_of(way, epochs, dataset), "seed": seed, "save_name": name}
    counts = drawn.cls_num_list.tolist()
    said = predictions(way, drawn, rng)
    last = finite({"epoch": epochs - 1, **accuracy_of(said, drawn.cls_num_list).figures()})
    traces: dict[str, list[float]] = {}
    if way.stage2 != "none":
        traces["trace_estimated"] = (2 + rng.gamma(4, 0.4, len(counts))).tolist()
    if way.stage2 == "metasaug":
        moved = rng.normal(0, 0.01, len(counts)) * traces["trace_estimated"]
        traces["trace_learned"] = (traces["trace_estimated"] + moved).tolist()
    by_shot = {key: finite(per_shot(each, counts)) for key, each in traces.items()}
    kept = {shot: {k: v for k, v in by.items() if v is not None} for shot, by in by_shot.items()}
    lines = curves({k: v for k, v in last.items() if v is not None}, flags, kept, rng)
    last |= traces
    summary = {"loss": way.loss, "data": "0123abcd", "flags": flags, "device": "cpu", "processes": 1,
               "class_names": names or [*map(str, range(len(counts)))],
               "cls_num_list": counts, "best": last, "last": last, "seconds": sum(line["seconds"] for line in lines),
               "since": flags["meta_start"] if way.stage2 != "none" else 0, "versions": VERSIONS, "machine": MACHINE,
               "threads": 1, "commit": "0123456789abcdef0123456789abcdef01234567"}  # fmt: skip
    (folder / f"{name}_summary.json").write_text(json.dumps(summary) + "\n", encoding="utf-8")
    log = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / f"{name}_metrics.jsonl").write_text(log, encoding="utf-8")
    save_arrays(said, folder / f"{name}_last_predictions.npz")
    return said


def write_study(
    folder: Path, classes: int = 10, groups: Sequence[Way] = WAYS, seeds: int | Sequence[int] = 3,
    rng: np.random.Generator | None = None, names: Sequence[str] | None = None, test_per_class: int | Sequence[int] = 20,
    epochs: int = 20, most: int = 500, least: int = 5, dataset: str = "cifar100",
) -> DrawnSet:  # fmt: skip
    """Write the runs of every group and seed as `<group>_seed<seed>_summary.json` and so on; return the set they are of.

    Parameters
    ----------
    seeds:
        How many, counted from 1, or which.
    names:
        Of the first classes; the others are called "class 17". Without any, the summary has none.
    test_per_class:
        Test images of every class, or of each (C,), 0 among them.
    most, least:
        Training images of the largest and of the smallest class.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    folder.mkdir(parents=True, exist_ok=True)
    drawn = drawn_set(classes, test_per_class, rng, most, least)
    named = None if names is None else [*names, *(f"class {k}" for k in range(len(names), classes))][:classes]
    for way in groups:
        for seed in range(1, seeds + 1) if isinstance(seeds, int) else seeds:
            write_trained(folder, f"{way.name}_seed{seed}", way, seed, drawn, rng, epochs, named, dataset)
    return drawn
