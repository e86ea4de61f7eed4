"""Checkpoints: atomic saving, strict loading, and names for what is wrong with a file.

The form is the published one, a dict with epoch, state_dict, best_acc1 and optimizer; ours holds more. Files are read
with `weights_only=True`, so a file from a stranger runs no code.
"""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from errors import UserError


def save_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write `state` so that `path` holds the old file or the whole new one, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def set_earlier_aside(folder: Path, names: list[str]) -> Path | None:
    """Move the files of an earlier run out of the way, to `folder/earlier/<n>`; return that folder, None without any."""
    present = [name for name in names if (folder / name).exists()]
    if not present:
        return None
    number = 1
    while (folder / "earlier" / str(number)).exists():
        number += 1
    aside = folder / "earlier" / str(number)
    aside.mkdir(parents=True)
    for name in present:
        os.replace(folder / name, aside / name)
    return aside


def damaged_member(path: Path) -> str | None:
    """Return the first part of a zip file whose checksum is wrong, None without any; torch.load does not look."""
    if not zipfile.is_zipfile(path):
        return None  # the form before PyTorch 1.6 has no checksums
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of the published form or ours, onto the CPU.

    Raises
    ------
    UserError
        If the file is missing, cut, damaged, or not a checkpoint.
    """
    if not os.path.isfile(path):  # False, not an error, where the path cannot be looked at
        raise UserError(f"there is no checkpoint {path}: check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles; what matters is said below
            damaged = damaged_member(path)
            state = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of any other kind can fail anywhere in the reader
        raise UserError(f"{path} is cut, damaged or not a checkpoint: fetch or make it again") from error
    if damaged:
        raise UserError(f"{path} is damaged (at {damaged}): fetch or make it again")
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), Mapping):
        raise UserError(f"{path} is not a MetaSAug checkpoint: it has no state_dict")
    weights = state["state_dict"]
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()):
        raise UserError(f"{path} is not a MetaSAug checkpoint: its state_dict holds other things than named tensors")
    return state


def architecture(weights: Mapping[str, Tensor]) -> tuple[str, int | None]:
    """Read the architecture ("resnet32", "unknown") and the class count off the names and shapes of the weights."""
    blocks = [len({m[1] for k in weights if (m := re.match(rf"layer{s}\.(\d+)\.conv1\.weight$", k))}) for s in (1, 2, 3)]
    head = weights.get("linear.weight")
    first = weights.get("conv1.weight")
    cifar_form = first is not None and first.shape == (16, 3, 3, 3) and len(set(blocks)) == 1 and blocks[0] > 0
    return f"resnet{6 * blocks[0] + 2}" if cifar_form else "unknown", None if head is None else len(head)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Copy `weights` into the model, every name and shape the same.

    Raises
    ------
    UserError
        If architecture or class count differ (both are named), or names or shapes do.
    """
    own = model.state_dict()
    ours, theirs = architecture(own), architecture(weights)
    if ours[0] != theirs[0]:
        raise UserError(f"{source} holds a network of architecture {theirs[0]}, not {ours[0]}: see --arch")
    if ours[1] != theirs[1]:
        raise UserError(f"{source} was trained on {theirs[1]} classes, the data set has {ours[1]}: see --dataset")
    missing, unexpected = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or unexpected:
        raise UserError(f"{source} does not fit: missing {missing or 'none'}, unexpected {unexpected or 'none'}")
    for name, tensor in own.items():
        if weights[name].shape != tensor.shape:
            raise UserError(f"{source}: {name} is {tuple(weights[name].shape)}, the network's is {tuple(tensor.shape)}")
    model.load_state_dict(dict(weights))
