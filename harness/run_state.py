"""What lets a run go on to the same bytes: its state, taken and put back.

Which images a step sees, and how they are cropped, follows from the seed and from how many batches were taken before. So the
state of a run is: weights, optimizer, class statistics, epoch and step, sums of the epoch so far, best epoch, and the states
of the global random generators, for networks and criteria that draw from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from harness import schemas
from harness.errors import UserError
from harness.progress import Meter
from harness.random_states import random_states, set_random_states
from harness.weights import check_tensors

# Of an optimizer's settings: how it computes, and the rate, which the script sets.
NOT_COMPARED = {"params", "lr", "initial_lr", "fused", "foreach", "capturable", "differentiable"}


def numerics(device: torch.device) -> dict[str, Any]:
    """Return what the last bits depend on, besides the flags."""
    return {"PyTorch": str(torch.__version__), "threads": torch.get_num_threads(), "device": device.type}


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
    """What a state can have come to: epochs of the run, steps of each epoch, and the class count."""

    epochs: int
    steps: Callable[[int], int]
    classes: int


def restore(
    state: Mapping[str, Any], optimizer: torch.optim.Optimizer, estimator: nn.Module, limits: Limits, device: torch.device
) -> tuple[Meter, int, int]:
    """Put optimizer, class statistics and generators back; return the epoch's meter, the meta batches taken, the epoch."""
    inner = state["resume"]
    try:
        record, taken = inner["record"], inner["meta_taken"]
        meter = Meter.load(inner["meter"], limits.classes, device)
        check_record(record, limits)
        epoch = record["epoch"]
        at_most("the steps of the epoch", meter.steps, limits.steps(epoch) if epoch < limits.epochs else 0)
        at_most("the meta batches", taken, sum(map(limits.steps, range(epoch))) + meter.steps)
        check_tensors(inner["estimator"], estimator.state_dict())
        load_optimizer(optimizer, state["optimizer"], stepped=record["epoch"] + meter.steps > 0)
        estimator.load_state_dict(inner["estimator"])
        set_random_states(inner["random"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        missing = "there is no " if isinstance(error, KeyError) else ""
        words = schemas.shown(f"{missing}{error}", 200)
        raise UserError(f"--resume: the state does not fit this run ({words}): train anew") from error
    return meter, taken, record["epoch"]


def check_record(record: Mapping[str, Any], limits: Limits) -> None:
    """Raise ValueError if a record's epochs contradict one another, or its figures the class count."""
    epoch, since, best, last = (record[key] for key in ("epoch", "since", "best", "last"))
    at_most("the epoch", epoch, limits.epochs)
    at_most("the first epoch that counts", since, epoch)
    at_most("its best epoch", best["epoch"], epoch - 1)
    if last.get("epoch", epoch - 1) != epoch - 1 or (best["epoch"] >= 0 and not last):
        raise ValueError(f"its last epoch is {last.get('epoch', 'none')}, but it goes on in {epoch}")
    if epoch == limits.epochs and best["epoch"] < 0:
        raise ValueError("its best epoch has no outcome")
    for outcome in (best, last):
        if len(outcome.get("per_class", range(limits.classes))) != limits.classes:
            raise ValueError(f"its epoch {outcome['epoch']} has figures of another number of classes than {limits.classes}")


def at_most(what: str, value: int, limit: int) -> None:
    """Raise ValueError if a number of a state is larger than it can be."""
    if value > limit:
        raise ValueError(f"{what} cannot be {value}, but {limit} at most")


def load_optimizer(optimizer: torch.optim.Optimizer, state: Any, stepped: bool) -> None:
    """Put back what the optimizer keeps of each weight, as its momentum; its settings stay those of this run.

    `stepped` says whether it has taken a step: with momentum it then keeps something of some weight.

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
            check_tensors({name: value}, {name: torch.zeros(()) if name == "step" else weights[index]})
    empty = [index for index, kept in state["state"].items() if not kept]  # a weight that no loss depends on has no entry
    if empty or (stepped and not state["state"] and any(group.get("momentum") for group in own)):
        raise ValueError(f"its optimizer keeps nothing of {f'weight {empty[0]}' if empty else 'any weight'}")
    optimizer.load_state_dict({"state": state["state"], "param_groups": own})
