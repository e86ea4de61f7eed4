"""Checkpoints: atomic saving, strict loading, and names for what is wrong with a file.

The form is the published one, a dict with epoch, state_dict, best_acc1 and optimizer; ours holds more. Files are read
with an explicit `weights_only=True`, which no environment variable overrides: a file from a stranger runs no code.

Ours end in a checksum of all that stands before it, as the comment that a zip archive may have, which every reader of the
form passes over. So that a damaged end is not taken for a file without a checksum, the dict says that there is one.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import struct
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from errors import UserError, writing

MARK = b"sha256:"
DIGEST = 64  # characters
CHECKED = "checksum"  # the key of a dict whose file ends in one
# What the keys of a checkpoint hold, besides state_dict and optimizer.
KINDS: dict[str, type | tuple[type, ...]] = {
    "epoch": int, "flags": dict, "arch": str, "dataset": str, "class_names": list, "cls_num_list": list,
    "train_digest": str,
    "imb_factor": (int, float, type(None)),
}  # fmt: skip


def packed(state: Mapping[str, Any]) -> bytes:
    """Return `state` as torch.save writes it, with the checksum at the end."""
    buffer = io.BytesIO()
    torch.save({**state, CHECKED: "sha256"}, buffer)
    content = buffer.getbuffer()
    # The last two bytes of a zip archive say how long its comment is.
    body = bytes(content[:-2]) + struct.pack("<H", len(MARK) + DIGEST) + MARK
    return body + hashlib.sha256(body).hexdigest().encode()


def previous(path: Path) -> Path:
    """Return where the file that `path` held before is kept."""
    return path.with_name(path.name + ".previous")


def beside(path: Path, ending: str) -> Path:
    """Return the name of a file beside a checkpoint: of x.pth.tar, x and the ending."""
    return path.with_name(path.name.removesuffix(".tar").removesuffix(".pth") + ending)


def save_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write `state` so that `path` holds the old file or the whole new one, never a part; the old one stays as `previous`.

    Raises
    ------
    UserError
        If the disk is full or the folder cannot be written; `path` is then what it was.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(packed(state))
            file.flush()
            os.fsync(file.fileno())
        keep_previous(path)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        kept = "; it is as it was before" if path.exists() else ""
        what = f"{path} cannot be written ({error.strerror}){kept}"
        raise UserError(f"{what}: make room or choose another --workdir") from error


def keep_previous(path: Path) -> None:
    """Give the file at `path` its second name, `previous`; `path` stays there all the while."""
    if not path.exists():
        return
    second = path.with_name(path.name + ".tmp2")
    with suppress(FileNotFoundError):
        second.unlink()
    try:
        os.link(path, second)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, second)
    os.replace(second, previous(path))
    with suppress(FileNotFoundError):  # two names of one file, as a kill can leave them, are not replaced but stay
        second.unlink()


def sync_folder(folder: Path) -> None:
    """Let the new names reach the disk, where a system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def set_earlier_aside(folder: Path, names: list[str]) -> Path | None:
    """Move the files of an earlier run out of the way, to `folder/earlier/<n>`; return that folder, None without any."""
    present = [name for name in names if (folder / name).exists()]
    if not present:
        return None
    earlier = folder / "earlier"
    with writing(earlier):
        earlier.mkdir(exist_ok=True)
        for number in count(1):
            with suppress(FileExistsError):  # another run of this folder may take the same number at the same time
                (earlier / str(number)).mkdir()
                break
        aside = earlier / str(number)
        for name in present:
            os.replace(folder / name, aside / name)
    return aside


def damage(content: bytes) -> str | None:
    """Return what is wrong with a file's bytes: its checksum or one of a zip's parts; torch.load looks at neither."""
    mark = content[-DIGEST - len(MARK) : -DIGEST]
    if mark == MARK:
        found = hashlib.sha256(content[:-DIGEST]).hexdigest().encode()
        return None if found == content[-DIGEST:] else "its checksum differs"
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return None  # the form before PyTorch 1.6 has no checksums
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        part = archive.testzip()
    return None if part is None else f"at {part}"


def read_file(path: Path) -> Any:
    """Read what torch.save wrote, onto the CPU, without running code of the file.

    Raises
    ------
    UserError
        If the file is missing, cut, damaged, or not of that form.
    """
    if not os.path.isfile(path):  # False, not an error, where the path cannot be looked at
        raise UserError(f"there is no checkpoint {path}: check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles; what matters is said below
            content = path.read_bytes()
            damaged = damage(content)
            state = None if damaged else torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a file of any other kind can fail anywhere in the reader
        raise UserError(f"{path} is cut, damaged or not a checkpoint: {advice(path)}") from error
    if isinstance(state, dict) and CHECKED in state and content[-DIGEST - len(MARK) : -DIGEST] != MARK:
        damaged = "its checksum is gone; if you saved it anew yourself, take the key 'checksum' out of the dict"
    if damaged:
        raise UserError(f"{path} is damaged ({damaged}): {advice(path)}")
    return state


def advice(path: Path) -> str:
    """Return what to do about a damaged file."""
    before = previous(path)
    return f"the file before it is {before}" if before.is_file() else "fetch or make it again"


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of the published form or ours, onto the CPU.

    Raises
    ------
    UserError
        If the file is missing, cut, damaged, or not a checkpoint.
    """
    state = read_file(path)
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), Mapping):
        raise UserError(f"{path} is not a MetaSAug checkpoint: it has no state_dict")
    weights = state["state_dict"]
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()):
        raise UserError(f"{path} is not a MetaSAug checkpoint: its state_dict holds other things than named tensors")
    check_kinds(state, path)
    return state


def check_kinds(state: Mapping[str, Any], path: Path) -> None:
    """Check the kinds of the values that a checkpoint may hold beside its weights.

    Raises
    ------
    UserError
        That names the first that is of another kind.
    """
    for key, kind in KINDS.items():
        if key in state and not isinstance(state[key], kind):
            raise UserError(f"{path} is not a MetaSAug checkpoint: its {key} is {type(state[key]).__name__}")
    counts, imb_factor = state.get("cls_num_list", []), state.get("imb_factor")
    sound = all(type(number) is int and number > 0 for number in counts) and (imb_factor is None or 0 < imb_factor <= 1)
    if not sound or not all(isinstance(name, str) for name in state.get("class_names", [])):
        raise UserError(f"{path} is not a MetaSAug checkpoint: its cls_num_list, imb_factor or class_names are odd")


def architecture(weights: Mapping[str, Tensor]) -> tuple[str, int | None]:
    """Read the architecture ("resnet32", "unknown") and the class count off the names and shapes of the weights."""
    blocks = [len({m[1] for k in weights if (m := re.match(rf"layer{s}\.(\d+)\.conv1\.weight$", k))}) for s in (1, 2, 3)]
    head = weights.get("linear.weight")
    first = weights.get("conv1.weight")
    cifar_form = first is not None and first.shape == (16, 3, 3, 3) and len(set(blocks)) == 1 and blocks[0] > 0
    return f"resnet{6 * blocks[0] + 2}" if cifar_form else "unknown", None if head is None or head.dim() != 2 else len(head)


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
    fit_weights(model, weights, source)


def fit_weights(model: nn.Module, weights: Mapping[str, Tensor], source: Path | str) -> None:
    """Copy `weights` into the model, every name and shape the same.

    Raises
    ------
    UserError
        That names what is missing, unexpected or of another shape.
    """
    own = model.state_dict()
    missing, unexpected = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or unexpected:
        raise UserError(f"{source} does not fit: missing {few_names(missing)}, unexpected {few_names(unexpected)}")
    for name, tensor in own.items():
        if weights[name].shape != tensor.shape:
            raise UserError(f"{source}: {name} is {tuple(weights[name].shape)}, the network's is {tuple(tensor.shape)}")
    model.load_state_dict(dict(weights))


def few_names(names: list[str]) -> str:
    """Return the names, the first eight of them when they are many."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return " ".join(", ".join(names[:8]).split()) + more if names else "none"
