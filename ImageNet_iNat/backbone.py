"""The frozen ResNet-50, the linear head, and the files their weights come from.

Three forms are read: cRT checkpoints (arXiv 1910.09217, github.com/facebookresearch/classifier-balancing), MetaSAug's own
and released ones, and torchvision's.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet50

from checkpoint import few_names, fit_weights, read_file
from errors import UserError

FEATURES = 2048
Weights = dict[str, Tensor]


def make_backbone() -> nn.Module:
    """Return torchvision's ResNet-50 without its last layer, frozen, in eval mode: images (N, 3, H, W) -> (N, 2048)."""
    model = resnet50(weights=None)
    model.fc = nn.Identity()
    return model.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def make_head(num_classes: int, seed: int) -> nn.Linear:
    """Return a linear head (2048 -> C) with weights drawn from `seed`; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Linear(FEATURES, num_classes)


def is_tensors(value: Any) -> bool:
    """Return whether `value` is a state dict: named tensors, at least one."""
    return isinstance(value, Mapping) and len(value) > 0 and all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items()
    )  # fmt: skip


def stripped(weights: Mapping[str, Tensor]) -> Weights:
    """Return the weights without the "module." that DataParallel puts before their names."""
    return {name.removeprefix("module."): tensor for name, tensor in weights.items()}


def read_weights(path: Path) -> tuple[Weights, Weights, Mapping[str, Any]]:
    """Return the weights of the backbone, of the head ("weight", "bias"), and the whole content of a file of any form.

    Raises
    ------
    UserError
        If the file is missing, damaged or of another form.
    """
    if not os.path.isfile(path):  # False, not an error, where the path cannot be looked at
        raise UserError(
            f"there is no checkpoint {path}: name a cRT, MetaSAug or torchvision ResNet-50 (cRT's are listed at "
            "github.com/facebookresearch/classifier-balancing)"
        )
    state = read_file(path)
    inner = state.get("state_dict_best", state.get("state_dict", state)) if isinstance(state, Mapping) else None
    if not isinstance(inner, Mapping):
        raise UserError(f"{path} holds no weights: a cRT, MetaSAug or torchvision checkpoint of a ResNet-50 is needed")
    feature = inner.get("feat_model", inner.get("feature"))
    if is_tensors(feature) and is_tensors(inner.get("classifier")):
        backbone, head = stripped(feature), stripped(inner["classifier"])
    elif is_tensors(inner):
        whole = stripped(inner)
        backbone = {name: tensor for name, tensor in whole.items() if not name.startswith("fc.")}
        head = {name: tensor for name, tensor in whole.items() if name.startswith("fc.")}
    else:
        raise UserError(
            f"{path} has neither feat_model and classifier (cRT), nor feature and classifier (MetaSAug), nor the names of "
            f"torchvision's ResNet-50: it holds {few_names(sorted(map(str, inner)))}"
        )
    return backbone, {name.removeprefix("fc."): tensor for name, tensor in head.items()}, state


def load_backbone(model: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Copy the weights in; files without num_batches_tracked, which eval mode does not use, are completed.

    Raises
    ------
    UserError
        That names what is missing, unexpected or of another shape.
    """
    counters = {name: value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}
    fit_weights(model, {**counters, **weights}, f"{source}, the backbone,")


def load_head(head: nn.Linear, weights: Mapping[str, Tensor], source: Path) -> None:
    """Copy the weights in.

    Raises
    ------
    UserError
        If the class count is another, or names or shapes differ.
    """
    matrix = weights.get("weight")
    if matrix is not None and matrix.dim() == 2 and len(matrix) != head.out_features:
        raise UserError(
            f"{source} was trained on {len(matrix)} classes, the data set has {head.out_features}: see --dataset and "
            "--num_classes, or begin with a new head by --fresh_head"
        )
    fit_weights(head, weights, f"{source}, the head,")


def fingerprint(model: nn.Module) -> str:
    """Return a digest of all weights and statistics that eval mode uses."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
