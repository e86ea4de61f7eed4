"""What lets a run go on to the same bytes: its state, where it is found, and what must be the same.

Which images a step sees, and how they are cropped, follows from the seed and from how many batches were taken before. So the
state of a run is: weights, optimizer, class statistics, epoch and step, sums of the epoch so far, best epoch, and the states
of the global random generators, for networks and criteria that draw from them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.checkpoint import load_checkpoint
from harness.errors import UserError
from harness.files import previous
from harness.progress import Meter
from harness.random_states import random_states, set_random_states

RECORD = {"epoch": int, "since": int, "seconds": float, "best": dict, "last": dict}  # what a state says of the run so far
# What stage 1 depends on besides the data and the architecture.
STAGE1_FLAGS = ("batch_size", "epochs", "lr", "momentum", "nesterov", "weight_decay", "seed", "amp")

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
        return state, candidate
    raise UserError("; ".join(mistakes))


def differs(recorded: object, own: object) -> bool:
    """Return whether a value read from a file is another than ours; files hold anything, and a tensor has no truth value."""
    return isinstance(recorded, torch.Tensor) or bool(recorded != own)


def must_match(inner: Mapping[str, Any], own: Mapping[str, Any], source: Path, device: torch.device) -> None:
    """Refuse to go on with other flags or data than those in `inner`, a state's "resume"; say if last bits may differ."""
    recorded = inner.get("binding")
    recorded = {**BEFORE, **(recorded if isinstance(recorded, Mapping) else {})}
    for key, value in own.items():
        if key not in recorded and key in NEWER:
            continue
        if key not in recorded:
            raise UserError(f"--resume {source} does not say its {key}: it is of another version, train anew")
        if differs(recorded[key], value):
            theirs = " ".join(str(recorded[key]).split())
            raise UserError(f"--resume {source} was made with {key} {theirs}, this run has {value}: they must be the same")
    before = inner.get("surroundings")
    for key, value in numerics(device).items():
        if isinstance(before, Mapping) and differs(before.get(key), value):
            print(f"note: {key} {value}, before the interruption {before.get(key)}: the last bits may differ")


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
        if differs(before, now):
            raise UserError(f"--resume {source} was made with class {k} named {before}, this run has {now}: see --data_root")


def numerics(device: torch.device) -> dict[str, Any]:
    """Return what the last bits depend on, besides the flags."""
    return {"PyTorch": str(torch.__version__), "threads": torch.get_num_threads(), "device": device.type}


def may_only_grow(inner: Mapping[str, Any], epochs: int, source: Path) -> None:
    """Raise a `UserError` if the run would be shorter than the interrupted one, whose state's "resume" is `inner`."""
    before = inner.get("epochs")
    if not isinstance(before, int) or epochs < before:
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
    if not isinstance(epoch, int):
        raise UserError(f"--stage1 {path} does not say its epoch: take a <save_name>_stage1.pth.tar of a training script")
    if epoch > end:
        raise UserError(f"--stage1 {path} stands at epoch {epoch}, this run can go on from {end} at most: see --meta_start")
    if isinstance(start, int) and epoch > start:
        raise UserError(f"--stage1 {path} is past the stage 1 of its run, which ended at epoch {start}")
    if "train_digest" not in recorded and own["select_on"] == "heldout":
        raise UserError(f"--stage1 {path} is of an older version, which does not say what it was trained on: train it anew")
    for key in ("dataset", "class_names", "cls_num_list", "train_digest", *STAGE1_FLAGS):
        if key in recorded and differs(recorded[key], own[key]):
            theirs = " ".join(str(recorded[key]).split())
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


def restore(
    state: Mapping[str, Any], optimizer: torch.optim.Optimizer, estimator: nn.Module, device: torch.device
) -> tuple[Meter, int, int]:
    """Put optimizer, class statistics and generators back; return the epoch's meter, the meta batches taken, the epoch."""
    inner = state["resume"]
    try:
        load_optimizer(optimizer, state["optimizer"])
        estimator.load_state_dict(inner["estimator"])
        meter = Meter.load(inner["meter"], device)
        set_random_states(inner["random"])
        record = inner["record"]
        for key, kind in RECORD.items():
            if not isinstance(record[key], kind):
                raise TypeError(f"the record's {key} is {type(record[key]).__name__}")
        if not isinstance(inner["meta_taken"], int) or not isinstance(record["best"]["acc1"], float):
            raise TypeError("meta_taken or the best accuracy is no number")
        return meter, inner["meta_taken"], record["epoch"]
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        raise UserError(f"--resume: the state does not fit this run ({' '.join(str(error).split())}): train anew") from error


def load_optimizer(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Put the optimizer's state back; a KeyError, TypeError or ValueError says what does not fit."""
    if not isinstance(state, dict) or not isinstance(state.get("state"), dict):
        raise TypeError("there is no state of an optimizer")
    optimizer.load_state_dict(state)
    for weight, own in optimizer.state.items():
        momentum = own.get("momentum_buffer")
        if momentum is not None and (not isinstance(momentum, torch.Tensor) or momentum.shape != weight.shape):
            raise ValueError(f"a momentum is not of its weight's shape {tuple(weight.shape)}")
