"""Finished runs without a training: in memory, and whole studies of them as files."""

import math
from pathlib import Path

import msgspec
import numpy as np
from support.finished_runs import FLAGS

from harness.metrics import class_accuracy
from reporting.finished_runs import EpochLine, FinishedRun, RunSummary, Tested

LONG = "a class whose name is as long as a label may be, as folders of photographs have"[:79]
ODD_NAMES = (  # of folders, as a user may have them
    LONG + "1", LONG + "2",  # they differ in the last letter only
    "鳥", "عربي", "שלום, (world)", "😀👩‍👩‍👧", "ß café ∆", "<b>bold</b>", "</script><script>nothing.at.all()</script>",
    "$x$", "a|b", "&amp; \"quoted\" 'twice'", "{{ 7 * 7 }}", "a.b[0]", "back\\slash", "__proto__", "constructor", "null",
    "1e3", "2024-01-01", "two\nlines", "-", "%s {0}", "=1+1",
)  # fmt: skip
WAYS = {"none": {"loss": "CE", "stage2": "none"}, "reweight": {"stage2": "reweight"}, "isda": {"stage2": "isda"},
        "metasaug": {}}  # fmt: skip


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
        figures = {**(figures or {}), **{k: None if math.isnan(x) else x for k, x in found.items()}, "per_class": per_class}
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


def write_study(
    folder, classes=10, ways=WAYS, seeds=2, names=(), test_per_class=20, epochs=20, most=500, least=5, **flags
):
    """Write the runs `<way>_seed<seed>` of ways by their flags, each better than the one before.

    The first classes have the `names`; `test_per_class` is one number, or one of each class.
    """
    draw, counts = np.random.default_rng(0), np.round(np.geomspace(most, least, classes)).astype(int).tolist()
    target = np.repeat(np.arange(classes), test_per_class)
    named = [*names, *(f"class {k}" for k in range(len(names), classes))][:classes]
    folder.mkdir(parents=True, exist_ok=True)
    for lift, (way, own) in enumerate(ways.items()):
        for seed in range(1, seeds + 1):
            share = np.clip(np.linspace(0.8, 0.3, classes) + 0.1 * lift + draw.normal(0, 0.03, classes), 0, 1)
            traces = {f"trace_{which}": draw.gamma(4, 0.4, classes).tolist() for which in ("estimated", "learned")}
            figures = ("test_acc1", "test_few", "train_loss", "grad_norm", "seconds")
            log = [{"epoch": epoch, **dict.fromkeys(figures, epoch % 50 + draw.random())} for epoch in range(epochs)]
            given = {"epochs": epochs, "meta_start": 4 * epochs // 5} | flags | own
            tested = target, guesses(target, share, draw, classes)
            run = made_run(f"{way}_seed{seed}", seed, counts, traces, tested, named, log=log, **given)
            run.tested.confidence[:] = draw.random(len(target))
            (folder / f"{run.name}_summary.json").write_bytes(msgspec.json.encode(run.summary))
            (folder / f"{run.name}_metrics.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(run.log))
            np.savez(folder / f"{run.name}_last_predictions.npz", **run.tested._asdict())
