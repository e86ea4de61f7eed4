"""Checkpoints: atomic saving, one reader for the files of all trainings and of strangers, names for what is wrong.

Ours have the published form, a dict with epoch, state_dict, best_acc1 and optimizer, and hold more. Files are read with an
explicit `weights_only=True`, which no environment variable overrides: a file from a stranger runs no code. Objects of other
kinds beside the weights (an argparse.Namespace, numpy numbers) are passed over.

Ours end in a checksum of all that stands before it, as the comment that a zip archive may have, which every reader of the
form passes over. So that a damaged end is not taken for a file without a checksum, the dict says that there is one.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import sys
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from harness import schemas
from harness.errors import UserError
from harness.facts import Facts, State
from harness.files import previous, read_bytes, replacing
from harness.text import say
from harness.weights import COUNTER, NO_WEIGHTS, StateDict, few_names, is_ordinary, main_part, stripped

MARK = b"sha256:"
DIGEST = 64  # characters
CHECKED = "checksum"  # the key of a dict whose file ends in one
# Where a file holds its weights: cRT's best epoch, the published form, and what other code calls it.
WEIGHTS_IN = ("state_dict_best", "state_dict", "model_state_dict", "model")
BACKBONE = "backbone"  # the key of what train_own.py says of the network that a head is of
PARTS = (("feature", "classifier"), ("feat_model", "classifier"))  # MetaSAug's and cRT's large networks


class Unread:
    """What stands for an object of another kind than tensors and plain values: nothing of it is read or run."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __new__(cls, *_: object, **__: object) -> Unread:
        """Take whatever the object was made of."""
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        """Take whatever the object held."""


def save_checkpoint(state: Facts, path: Path, keep_previous: bool = False) -> None:
    """Write `state` as torch.save does, with the checksum at the end; the earlier file can stay as `previous(path)`."""
    buffer = io.BytesIO()
    torch.save({**state, CHECKED: "sha256"}, buffer)
    # The last two bytes of a zip archive say how long its comment is.
    body = bytes(buffer.getbuffer()[:-2]) + struct.pack("<H", len(MARK) + DIGEST) + MARK
    with replacing(path) as part:
        part.write_bytes(body + hashlib.sha256(body).hexdigest().encode())
        if keep_previous and os.path.isfile(path):
            os.replace(path, previous(path))


def damage(content: bytes) -> str | None:
    """Return what is wrong with a file's bytes: its checksum or one of a zip's parts; torch.load looks at neither."""
    mark = content[-DIGEST - len(MARK) : -DIGEST]
    if mark == MARK:
        found = hashlib.sha256(content[:-DIGEST]).hexdigest().encode()
        return None if found == content[-DIGEST:] else "its checksum differs"
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return "it is truncated" if content.startswith(b"PK") else None  # before PyTorch 1.6: no zip, no checksums
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        part = archive.testzip()
    return None if part is None else f"at {part}"


def unpickled(content: bytes) -> Any:
    """Return what torch.save wrote, on the CPU, with a kind of `Unread` for every object of an unknown kind."""
    unknown: dict[str, type] = {}
    while True:
        try:
            with torch.serialization.safe_globals([(kind, name) for name, kind in unknown.items()]):
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except UnpicklingError as error:  # noqa: PERF203  (a time for each kind of object)
            named = re.search(r"GLOBAL (\S+) (was not an allowed global|whose module)", str(error))
            if named is None or named[1] in unknown or named[2] == "whose module":  # the last is code that would be run
                held = [named[1]] if named else [name for name in unknown if not name.startswith("builtins.")]
                raise UnpicklingError(f"it holds {' and '.join(held) or 'another kind of pickle'}") from error
            kind = type(named[1], (Unread,), {})
            unknown |= {named[1]: kind, f"builtins.{named[1]}": kind}


def read_file(path: Path) -> Any:
    """Read what torch.save wrote, onto the CPU, without running code of the file."""
    if not os.path.isfile(path):  # False, not an error, where the path cannot be looked at
        raise UserError(f"there is no checkpoint {path}: check the path")
    content = read_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles; what matters is said below
            damaged = damage(content)
            state = None if damaged else unpickled(content)
    except Exception as error:  # a file of any other kind can fail anywhere in the reader
        reason = [*str(error).strip().splitlines(), type(error).__name__][0][:200]
        what = f"{path} is no file of tensors and plain values that torch.save wrote ({reason})"
        raise UserError(f"{what}: save the state_dict() alone, or fetch the file again") from error
    if isinstance(state, dict) and CHECKED in state and content[-DIGEST - len(MARK) : -DIGEST] != MARK:
        damaged = "its checksum is missing; if you saved it again yourself, remove the key 'checksum' from the dict"
    if damaged:
        raise UserError(f"{path} is damaged ({damaged}): download or create it again")
    return state


def load_checkpoint(path: Path) -> State:
    """Read a checkpoint of any form that `find_weights` knows, onto the CPU.

    Returns what the file holds, checked as `schemas.CHECKPOINT` declares it, with the weights of the network as named
    tensors under "state_dict"; a large network's parts are one there, its head named fc.
    """
    state = read_file(path)
    weights = find_weights(state, path)
    for name, tensor in weights.items():
        if not is_ordinary(tensor):
            raise UserError(f"{path} cannot be used: {name} is {NO_WEIGHTS}: save it as such")
    facts = {key: value for key, value in state.items() if not isinstance(value, Unread)}
    for key, form in schemas.CHECKPOINT:
        if key in facts and CHECKED in facts:
            schemas.check(facts[key], form, path, key)
        elif key in facts and schemas.problem(facts[key], form):
            del facts[key]  # what code of others means by this key
    return {**facts, "state_dict": weights}


def state_dict_of(value: Any, path: Path) -> StateDict | None:
    """Return named tensors, at least one, without what is none of its weights: counters that are numbers, and None.

    Another value among weights is a `UserError` that names it; None for what is no state dict.
    """
    if not isinstance(value, Mapping):
        return None
    weights = {name: one for name, one in value.items() if isinstance(name, str) and isinstance(one, Tensor)}
    others = {str(name): one for name, one in value.items() if name not in weights}
    if others and not any(str(name).endswith(".weight") for name in value):
        return None
    for name, one in others.items():
        if one is not None and not name.endswith(COUNTER):
            kind = type(one).__name__.rpartition(".")[2]
            told = f"its {schemas.shown(name)} is of kind {kind}; weights are tensors with names"
            raise UserError(f"{path} cannot be used: {told}")
    return weights or None


def find_weights(state: Any, path: Path) -> StateDict:
    """Return the weights in what a file holds: a state dict, alone, under one of WEIGHTS_IN, or in two PARTS.

    Prefixes that code of others puts before every name are taken off. A large network may lack its head.
    """
    parts = state if isinstance(state, Mapping) else {}
    inner = next((parts[key] for key in WEIGHTS_IN if isinstance(parts.get(key), Mapping)), parts)
    if weights := state_dict_of(inner, path):
        if {BACKBONE, CHECKED} <= state.keys():  # ours: names stay as they are
            return weights
        found, beside = main_part(weights)
        if beside:
            say(f"note: {path}: left out, not of the network: {few_names(beside)}", file=sys.stderr)
        return found
    for feature, classifier in PARTS:
        body, head = (state_dict_of(inner.get(name), path) for name in (feature, classifier))
        if body and (head or classifier not in inner):
            last = {f"fc.{name.removeprefix('fc.')}": tensor for name, tensor in stripped(head or {}).items()}
            return {**stripped(body), **last}
    held = few_names(sorted(map(str, inner))) if isinstance(state, Mapping) else f"an object of kind {type(state).__name__}"
    raise UserError(f"{path} holds no weights of a network under a name known here, but {held}: save its state_dict()")
