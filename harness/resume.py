"""What lets a run go on to the same bytes: its state, found, taken and put back, and what must be the same.

Which images a step sees, and how they are cropped, follows from the seed and from how many batches were taken before. So the
state of a run is: weights, optimizer, class statistics, epoch and step, sums of the epoch so far, best epoch, and the states
of the global random generators, for networks and criteria that draw from them.
"""

from __future__ import annotations

import math
import os
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness import schemas
from harness.checkpoint import load_checkpoint
from harness.errors import UserError
from harness.facts import Facts, State
from harness.files import previous
from harness.progress import Meter
from harness.random_states import set_random_states
from harness.text import say
from harness.weights import check_tensors, fit_weights

# What stage 1 depends on.
STAGE1_FACTS = (
    "dataset", "class_names", "cls_num_list", "train_digest",
    "batch_size", "epochs", "lr", "momentum", "nesterov", "weight_decay", "seed", "amp",
)  # fmt: skip


class OtherRunError(UserError):
    """A state is of other flags or data than the run that was to resume from it."""


def find_state(wanted: str, path: Path) -> tuple[State, Path] | None:
    """Return the state to go on from and its file, None if there is none yet.

    Parameters
    ----------
    wanted:
        "auto" looks at `path`, where this run keeps its own; else one of its two files, which must be there.
    """
    found = [f for f in (path, previous(path)) if os.path.isfile(f)]
    if wanted != "auto":
        found = [f for f in found if os.path.samefile(f, wanted)] if os.path.exists(wanted) else []
        if not found:
            named = "name that run by --workdir, --idx and --save_name, or write auto"
            raise UserError(f"--resume {wanted} is not {path}, the state of this run: {named}")
    for source in found:
        try:
            state = load_checkpoint(source)
        except UserError as damaged:  # noqa: PERF203  (of two files)
            if source == found[-1]:
                raise
            say(f"note: {damaged}; resuming from {found[-1]}")
        else:
            schemas.check(state.get("resume"), schemas.ResumeState, f"--resume {source}", "resume")
            return state, source
    return None


def numerics(device: torch.device) -> State:
    """Return what the last bits depend on, besides the flags."""
    return {"PyTorch": str(torch.__version__), "threads": torch.get_num_threads(), "device": device.type}


def must_match(recorded: Facts, own: Facts, source: str) -> None:
    """Refuse what was made with another value than one of this run's `own`."""
    for key, value in own.items():
        before = recorded.get(key)
        if before != value:
            if isinstance(before, list) and isinstance(value, list):  # one entry a class: the first that differs
                pairs = enumerate(zip_longest(before, value))
                key, before, value = next((f"{key}[{k}]", a, b) for k, (a, b) in pairs if a != b)
            made = f"{source} was made with {key} {schemas.shown(before)}"
            raise OtherRunError(f"{made}, this run has {schemas.shown(value)}: they must be the same")


def check_resumable(state: Facts, own: Facts, epochs: int, source: Path, device: torch.device) -> None:
    """Refuse to go on with other flags, data or classes, or to fewer epochs; say if last bits may differ.

    `own` are the values that must be the same, by name, the class names among them.
    """
    inner = state["resume"]
    if epochs < inner["epochs"]:
        grow = f"this run has {epochs}: it may only grow"
        raise UserError(f"--resume {source} is a run of --epochs {inner['epochs']}, {grow}")
    must_match({**inner["binding"], "class_names": state.get("class_names")}, own, f"--resume {source}")
    for key, value in numerics(device).items():
        if (before := inner["surroundings"].get(key)) != value:
            say(f"note: {key} {value}, before the interruption {schemas.shown(before)}: the last bits may differ")


def restore(
    state: Facts, source: Path, model: nn.Module, optimizer: torch.optim.Optimizer, estimator: nn.Module, classes: int,
    device: torch.device,
) -> tuple[Meter, State]:  # fmt: skip
    """Put weights, optimizer, class statistics and generators back; return the sums of the epoch and the record's state."""
    inner = state["resume"]
    fit_weights(model, state["state_dict"], source, getattr(model, "head", None))
    try:
        meter = Meter.load(inner["meter"], classes, device)
        check_tensors(inner["estimator"], estimator.state_dict())
        load_optimizer(optimizer, state["optimizer"])
        estimator.load_state_dict(inner["estimator"])
        set_random_states(inner["random"])
        record = schemas.replaced(inner["record"], lambda value: value is None, math.nan)
    except (LookupError, TypeError, ArithmeticError, ValueError, RuntimeError, AttributeError) as error:
        words = schemas.shown(f"{type(error).__name__}: {error}", 200)
        raise UserError(f"--resume: the state does not fit this run ({words}): retrain") from error
    return meter, record


def load_optimizer(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Put back what the optimizer keeps of each weight, as its momentum; its settings stay those of this run.

    A KeyError, TypeError or ValueError says that the state is of another optimizer or of other weights.
    """
    if found := schemas.problem(state, schemas.OptimizerState, "optimizer"):
        raise TypeError(found)
    own = optimizer.state_dict()["param_groups"]
    if [group.get("params") for group in state["param_groups"]] != [group["params"] for group in own]:
        raise ValueError("its optimizer is for other weights")
    weights = dict(enumerate(weight for group in optimizer.param_groups for weight in group["params"]))
    for index, kept in state["state"].items():
        check_tensors(kept, {name: torch.zeros(()) if name == "step" else weights[index] for name in kept})
    optimizer.load_state_dict({"state": state["state"], "param_groups": own})


def restore_stage1(path: Path, own: Facts, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Take weights and optimizer from a checkpoint of another run's stage 1, the same for every loss and every stage 2.

    Returns the epoch to go on at; the best one counts from there. The outcome is that of a run that trains stage 1 itself,
    to the last bit, if data and flags are the same. `own` are this run's flags, class names and images a class.
    """
    state = load_checkpoint(path)
    recorded = {**state, **state.get("flags", {})}
    epoch, end = state.get("epoch", 0), min(own["meta_start"], own["epochs"] - 1, recorded.get("meta_start", 0))
    if not 0 < epoch <= end:
        most = f"stands at epoch {epoch}, which must be one of stage 1, from 1 to {end} here"
        raise UserError(f"--stage1 {path} {most}: take the <save_name>_stage1.pth.tar of a training, or see --meta_start")
    must_match(recorded, {key: own[key] for key in STAGE1_FACTS}, f"--stage1 {path}")
    fit_weights(model, state["state_dict"], path, getattr(model, "head", None))
    try:
        load_optimizer(optimizer, state.get("optimizer"))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"--stage1 {path} has no state for this optimizer ({error})") from error
    return epoch
