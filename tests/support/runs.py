"""What a run leaves, compared bit by bit; and runs of one small layer, to test what goes on around a training."""

import copy
import json
from contextlib import contextmanager, suppress
from functools import reduce
from operator import getitem
from types import SimpleNamespace

import torch
from torch import nn

from harness.checkpoint import load_checkpoint
from harness.evaluation import Predictions
from harness.process_group import Group
from harness.run import Run
from harness.training_flags import parse_training
from heads.run_flags import FREE_FLAGS

ALONE = Group(0, 1, torch.device("cpu"))
FACTS = {"cls_num_list": [30, 10], "class_names": ["x", "y"], "train_digest": "0"}
TARGET = torch.tensor([0, 1, 1, 1])


def leaves(value, path=""):
    """Everything inside a checkpoint, by where it stands."""
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, inner in pairs for k, v in leaves(inner, f"{path}/{key}").items()}
    return {path: value}


def differences(ours, theirs):
    """The places that differ in a byte or that only one of two checkpoints has, but for clocks and flags that may differ."""
    ours, theirs = leaves(ours), leaves(theirs)

    def equal(a, b):
        return a.numpy().tobytes() == b.numpy().tobytes() if isinstance(a, torch.Tensor) else repr(a) == repr(b)

    def is_free(place):
        return place.endswith("/seconds") or (place.startswith("/flags/") and place.split("/")[-1] in FREE_FLAGS)

    differ = {k for k in ours.keys() & theirs.keys() if not equal(ours[k], theirs[k])} | (ours.keys() ^ theirs.keys())
    return sorted(place for place in differ if not is_free(place))


def files_of(folder):
    """The content of every file of a run."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def with_leaf(state, place, value):
    """A copy of a state with another value at that place."""
    changed = copy.deepcopy(state)
    *outer, last = place
    reduce(getitem, outer, changed)[last] = value
    return changed


class CutError(Exception):
    """What ends a run before its end, as any fault of a program would."""


@contextmanager
def small_run(folder, *flags, cut=False, group=ALONE, **begin):
    """A run named a of a layer with two weights a class, begun: of five epochs unless the flags say more; or `cut` off."""
    words = f"--dataset digits --no-cuda --save_name a --epochs 5 {' '.join(map(str, flags))}"
    layer, statistics = nn.Linear(2, 2), nn.BatchNorm1d(2)
    with suppress(CutError), Run(parse_training(words.split()), folder, group) as run:
        optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9)
        given = {"extra": {"loss": "CE", "data": "0"}, "facts": FACTS}
        run.begin(layer, optimizer, statistics, **{**given, **begin})
        yield run
        if cut:
            raise CutError


def take_step(run, loss=1.0, loss_meta=1.0, grad_norm=1.0, negative_trace=False):
    """Train a step, and say that these were its figures."""
    run.optimizer.zero_grad()
    run.model.weight.sum().backward()
    run.optimizer.step()
    figures = {"loss": loss, "loss_meta": loss_meta, "grad_norm": grad_norm}
    others = {"logits": torch.zeros(4, 2), "grad_trace": torch.zeros(2), "negative_trace": torch.tensor(negative_trace)}
    tensors = {name: torch.tensor(float(value)) for name, value in figures.items()}
    run.after_step(SimpleNamespace(**others, **tensors), TARGET)


def end_epoch(run, right=3, **more):
    """Test and save, with so many images out of four recognised."""
    predicted = torch.where(torch.arange(4) < right, TARGET, 1 - TARGET)
    run.after_epoch(Predictions(1.0, TARGET, predicted, torch.full((4,), 0.8), torch.ones(4).bool()), {}, **more)


def log_of(folder, name):
    return [json.loads(line) for line in (folder / f"{name}_metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def summary_of(folder, name):
    return json.loads((folder / f"{name}_summary.json").read_text(encoding="utf-8"))


def saved_state(folder, kind="resume", name="a"):
    return load_checkpoint(folder / f"{name}_{kind}.pth.tar")
