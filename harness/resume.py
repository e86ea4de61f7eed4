"""What lets a run go on to the same bytes: its state, where it is found, and what must be the same.

Which images a step sees, and how they are cropped, follows from the seed and from how many batches were taken before. So the
state of a run is: weights, optimizer, class statistics, epoch and step, sums of the epoch so far, best epoch, and the states
of the global random generators, for networks and criteria that draw from them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from harness import schemas
from harness.checkpoint import load_checkpoint
from harness.errors import UserError
from harness.files import previous
from harness.progress import Meter
from harness.random_states import random_states, set_random_states
from harness.weights import check_tensors

# What stage 1 depends on besides the data and the architecture.
STAGE1_FLAGS = ("batch_size", "epochs", "lr", "momentum", "nesterov", "weight_decay", "seed", "amp")

# Of an optimizer's settings: how it computes, and the rate, which the script sets.
NOT_COMPARED = {"params", "lr", "initial_lr", "fused", "foreach", "capturable", "differentiable"}

# What runs did whose state does not say it: flags that there were not yet, and heads, whose loss was not recorded.
BEFORE = {"--select_on": "test", "--num_heldout": None, "loss": "CE"}
# What the states of older versions do not say: it is compared where they do.
NEWER = ("train images", "meta images", "test images")


def find_state(wanted: str, path: Path) -> tuple[dict[str, Any], Path] | None:
    """Return the state to go on from and its file, None if there is none yet.

    Parameters
    ----------
    wanted:
        "auto" looks at `path`, where this run keeps its own; anything else is the path of a file, which must be there.
    """
    file = path if wanted == "auto" else Path(wanted)
    if not file.name or os.path.isdir(file):
        raise UserError(f"--resume {file} is a folder: give the path of a file that ends in _resume.pth.tar, or auto")
    candidates = [f for f in (file, previous(file)) if os.path.isfile(f)]
    if not candidates:
        if wanted == "auto":
            return None
        raise UserError(f"--resume {file} is not there: check the path, or write --resume auto")
    mistakes = []
    for candidate in candidates:
        try:
            state = load_checkpoint(candidate)
        except UserError as mistake:
            mistakes.append(str(mistake))
            continue
        if not isinstance(state.get("resume"), dict):
            raise UserError(f"--resume {candidate} holds no run to go on with: take the file that ends in _resume.pth.tar")
        if not candidate.name.removesuffix(".previous").endswith("_resume.pth.tar"):
            lost = "is not named <save_name>_resume.pth.tar, by which the run's log and best epoch are found"
            raise UserError(f"--resume {candidate} {lost}: give it its own name back, beside them")
        if mistakes:
            print(f"note: {mistakes[0]}; going on from {candidate}")
        check_state(state["resume"], candidate)
        return state, candidate
    raise UserError("; ".join(mistakes))


def check_state(inner: Mapping[str, Any], source: Path) -> None:
    """Check what a state holds besides weights and optimizer; parts may be missing."""
    try:
        record = schemas.without_nan(inner.get("record"))  # figures that are not defined
    except RecursionError:
        record = None
    if isinstance(record, dict) and record.get("last") == {}:  # no epoch has ended
        record = {**record, "last": {"epoch": schemas.NOT_YET, "acc1": -1.0}}
    sound = {**inner, "record": record} if "record" in inner else inner
    schemas.check(sound, schemas.ResumeState, f"--resume {source}", "resume")


def must_match(inner: Mapping[str, Any], own: Mapping[str, Any], source: Path, device: torch.device) -> None:
    """Refuse to go on with other flags or data than those in `inner`, a state's "resume"; say if last bits may differ."""
    recorded = {**BEFORE, **inner.get("binding", {})}
    for key, value in own.items():
        if key not in recorded and key in NEWER:
            continue
        if key not in recorded:
            raise UserError(f"--resume {source} does not say its {key}: it is of another version, train anew")
        if recorded[key] != value:
            theirs = schemas.shown(recorded[key])
            raise UserError(f"--resume {source} was made with {key} {theirs}, this run has {value}: they must be the same")
    before = inner.get("surroundings", {})
    for key, value in numerics(device).items():
        if key in before and before[key] != value:
            print(f"note: {key} {value}, before the interruption {schemas.shown(before[key])}: the last bits may differ")


def may_go_on(
    state: Mapping[str, Any], own: Mapping[str, Any], class_names: Sequence[str] | None, epochs: int, source: Path,
    device: torch.device,
) -> None:  # fmt: skip
    """Refuse to go on with other flags, data or classes than those of `state`, or to fewer epochs."""
    inner = state["resume"]
    may_only_grow(inner, epochs, source)
    classes_must_match(state.get("class_names"), class_names or [], source)
    must_match(inner, own, source, device)


def classes_must_match(recorded: object, own: Sequence[str], source: Path) -> None:
    """Refuse to go on with other classes than those that a state names; the data may be the same under other names."""
    if not isinstance(recorded, list) or not own:  # a state of an older version, or a script without names
        return
    if len(recorded) != len(own):
        raise UserError(f"--resume {source} was made with {len(recorded)} classes, this run has {len(own)}: see --data_root")
    for k, (before, now) in enumerate(zip(recorded, own, strict=True)):
        if before != now:
            theirs = schemas.shown(before)
            raise UserError(f"--resume {source} was made with class {k} named {theirs}, this run has {now}: see --data_root")


def numerics(device: torch.device) -> dict[str, Any]:
    """Return what the last bits depend on, besides the flags."""
    return {"PyTorch": str(torch.__version__), "threads": torch.get_num_threads(), "device": device.type}


def may_only_grow(inner: Mapping[str, Any], epochs: int, source: Path) -> None:
    """Raise a `UserError` if the run would be shorter than the interrupted one, whose state's "resume" is `inner`."""
    before = inner.get("epochs")
    if before is None or epochs < before:
        raise UserError(f"--resume {source} is a run of --epochs {before}, this run has {epochs}: it may only grow")


def stage1_epoch(state: Mapping[str, Any], own: Mapping[str, Any], path: Path) -> int:
    """Return the epoch at which a run may go on from a checkpoint of another run's stage 1.

    Parameters
    ----------
    state, path:
        The checkpoint and its file.
    own:
        This run's flags, class names and images a class.
    """
    recorded = {**state, **state.get("flags", {})}
    start = recorded.get("meta_start")
    epoch, end = state.get("epoch"), min(own["meta_start"], own["epochs"] - 1)
    if epoch is None:
        raise UserError(f"--stage1 {path} does not say its epoch: take a <save_name>_stage1.pth.tar of a training script")
    if epoch > end:
        raise UserError(f"--stage1 {path} stands at epoch {epoch}, this run can go on from {end} at most: see --meta_start")
    if start is not None and epoch > start:
        raise UserError(f"--stage1 {path} is past the stage 1 of its run, which ended at epoch {start}")
    if "train_digest" not in recorded and own["select_on"] == "heldout":
        raise UserError(f"--stage1 {path} is of an older version, which does not say what it was trained on: train it anew")
    for key in ("dataset", "class_names", "cls_num_list", "train_digest", *STAGE1_FLAGS):
        if key in recorded and recorded[key] != own[key]:
            theirs = schemas.shown(recorded[key])
            raise UserError(f"--stage1 {path} was trained with {key} {theirs}, this run has {own[key]}")
    return epoch


def collect(
    estimator: nn.Module, meter: Meter, meta_taken: int, record: Mapping[str, Any], device: torch.device
) -> dict[str, Any]:
    """Return what `restore` puts back, besides weights and optimizer; `record` holds the epoch to go on in."""
    return {
        "estimator": {name: value.cpu() for name, value in estimator.state_dict().items()},
        "meter": meter.state(),
        "meta_taken": meta_taken,
        "record": dict(record),
        "random": random_states(),
        "surroundings": numerics(device),
    }


class Limits(NamedTuple):
    """What a state can have come to: epochs of the run, steps of an epoch, and the class count."""

    epochs: int
    steps: int
    classes: int


def restore(
    state: Mapping[str, Any], optimizer: torch.optim.Optimizer, estimator: nn.Module, limits: Limits, device: torch.device
) -> tuple[Meter, int, int]:
    """Put optimizer, class statistics and generators back; return the epoch's meter, the meta batches taken, the epoch."""
    inner = state["resume"]
    try:
        record, taken = inner["record"], inner["meta_taken"]
        meter = Meter.load(inner["meter"], limits.classes, device)
        at_most("the epoch", record["epoch"], limits.epochs)
        at_most("the first epoch that counts", record["since"], record["epoch"])
        for which in ("best", "last"):
            at_most(f"its {which} epoch", record[which].get("epoch", -1), record["epoch"] - 1)
            if len(record[which].get("per_class", range(limits.classes))) != limits.classes:
                raise ValueError(f"its {which} epoch has figures of another number of classes than {limits.classes}")
        if record["epoch"] == limits.epochs and not (record["last"] and record["best"]["epoch"] >= 0):
            raise ValueError("its last epoch has no outcome")
        at_most("the steps of the epoch", meter.steps, limits.steps if record["epoch"] < limits.epochs else 0)
        at_most("the meta batches", taken, record["epoch"] * limits.steps + meter.steps)
        check_tensors(inner["estimator"], estimator.state_dict())
        load_optimizer(optimizer, state["optimizer"])
        estimator.load_state_dict(inner["estimator"])
        set_random_states(inner["random"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        missing = "there is no " if isinstance(error, KeyError) else ""
        words = schemas.shown(f"{missing}{error}", 200)
        raise UserError(f"--resume: the state does not fit this run ({words}): train anew") from error
    return meter, taken, record["epoch"]


def at_most(what: str, value: int, limit: int) -> None:
    """Raise ValueError if a number of a state is larger than it can be."""
    if value > limit:
        raise ValueError(f"{what} cannot be {value}, but {limit} at most")


def load_optimizer(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Put back what the optimizer keeps of each weight, as its momentum; its settings stay those of this run.

    Raises
    ------
    TypeError, ValueError
        If the state is of another optimizer, of other settings or other weights.
    """
    if found := schemas.problem(state, schemas.OptimizerState, "optimizer"):
        raise TypeError(found)
    own = optimizer.state_dict()["param_groups"]
    theirs = state["param_groups"]
    if [group.get("params") for group in theirs] != [group["params"] for group in own]:
        raise ValueError("its optimizer has other weights")
    for group, ours in zip(theirs, own, strict=True):
        for key in ours.keys() & group.keys() - NOT_COMPARED:
            if schemas.problem(group[key], schemas.Setting) or group[key] != ours[key]:
                raise ValueError(f"its optimizer has {key} {schemas.shown(group[key])}, this run has {ours[key]}")
    weights = dict(enumerate(weight for group in optimizer.param_groups for weight in group["params"]))
    for index, kept in state["state"].items():
        if index not in weights:
            raise ValueError(f"its optimizer keeps something of weight {index}, but there are {len(weights)}")
        for name, value in kept.items():
            if value is not None:  # as before the first step
                check_tensors({name: value}, {name: torch.zeros(()) if name == "step" else weights[index]})
    optimizer.load_state_dict({"state": state["state"], "param_groups": own})
