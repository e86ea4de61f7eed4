"""Tensors out of files: what keeps one from being used, and whether they fit the network, the optimizer or the sums here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.errors import UserError

StateDict = dict[str, Tensor]
PREFIXES = ("module.", "_orig_mod.", "model.")  # put before every name by DataParallel, torch.compile and wrappers
COUNTER = "num_batches_tracked"  # of batch norm; it matters for a cumulative average only, which nothing here uses
VARIANCE = "running_var"
NO_WEIGHTS = "no ordinary tensor, but sparse, quantised, complex, without content or larger than its data in the file"


def is_ordinary(tensor: Tensor) -> bool:
    """Return whether a tensor of a file is dense, of real numbers and as large as its data, as all weights are.

    One that repeats its storage by strides is not: a file of a few bytes could ask for any amount of memory.
    """
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized or tensor.is_complex():
        return False
    whole = tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    return tensor.device.type == "cpu" and whole


def mismatch(theirs: Tensor, ours: Tensor, name: str) -> str | None:
    """Return why a tensor of a file cannot take the place of `ours`, None if it can."""
    if not is_ordinary(theirs):
        return f"{name} is {NO_WEIGHTS}"
    if theirs.shape != ours.shape:
        return f"{name} is {tuple(theirs.shape)}, the one here is {tuple(ours.shape)}"
    if theirs.is_floating_point() != ours.is_floating_point() or theirs.dtype == torch.bool != ours.dtype:
        their_kind, our_kind = (str(tensor.dtype).removeprefix("torch.") for tensor in (theirs, ours))
        return f"{name} is of {their_kind}, the one here of {our_kind}"
    as_here = theirs.detach().to(ours.dtype)
    if not bool(torch.isfinite(as_here).all()):
        return f"{name} holds numbers that are not finite"
    negative = name.endswith(VARIANCE) and bool((as_here < 0).any())
    return f"{name} holds variances below 0" if negative else None


def check_tensors(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless there is a tensor of a file for each of `ours`, of its shape and type, with finite numbers."""
    for name, own in ours.items():
        if not isinstance(theirs.get(name), Tensor):
            raise ValueError(f"{name} is missing")
        if found := mismatch(theirs[name], own, name):
            raise ValueError(found)


def stripped(weights: Mapping[str, Tensor]) -> StateDict:
    """Return the weights without PREFIXES that stand before every name."""
    found = dict(weights)
    while prefix := next((p for p in PREFIXES if found and all(name.startswith(p) for name in found)), None):
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def network_weights(model: nn.Module) -> StateDict:
    """Return a network's weights and statistics on the CPU, as a checkpoint holds them."""
    return {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}


def fit_weights(model: nn.Module, weights: Mapping[str, Tensor], source: Path | str, head: str | None = None) -> None:
    """Copy `weights` into the model, every name and shape the same and every number finite, but for batch norm's counters.

    `head` names the model's last layer: if only its class count differs, that is said.
    """
    own = model.state_dict()
    short = dict(zip(stripped(own), own, strict=True))  # the file's name of each of ours
    missing, unexpected = (
        few_names(sorted(name for name in some if name not in others and not name.endswith(COUNTER)))
        for some, others in ((short, weights), (weights, short))
    )
    if (missing, unexpected) != ("none", "none"):
        raise UserError(f"{source} does not fit: missing {missing}, unexpected {unexpected}")
    for name, long in short.items():
        theirs, ours = weights.get(name, own[long]), own[long]
        of_head = head and f"{head}.weight".endswith(name)
        if of_head and theirs.shape[1:] == ours.shape[1:] and len(theirs) != len(ours):
            raise UserError(f"{source} was trained on {len(theirs)} classes, the data set has {len(ours)}: see --dataset")
        if found := mismatch(theirs, ours, name):
            raise UserError(f"{source} cannot be used: {found}")
        own[long] = theirs
    model.load_state_dict(own)  # and no other dict: this one holds the versions that some layers ask for


def main_part(weights: Mapping[str, Tensor]) -> tuple[StateDict, list[str]]:
    """Return the weights without PREFIXES, and the names of those that stand beside the network, as of a loss.

    Wrappers of a whole training put a prefix before the network's names only.
    """
    for prefix in PREFIXES:
        own = {name: tensor for name, tensor in weights.items() if name.startswith(prefix)}
        if f"{prefix}conv1.weight" in own and len(own) < len(weights):
            return stripped(own), [name for name in weights if name not in own]
    return stripped(weights), []


def few_names(names: list[str]) -> str:
    """Return the names, the first eight of them when they are many."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return " ".join(", ".join(names[:8]).split()) + more if names else "none"
