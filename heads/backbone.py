"""The frozen ResNet-50, the linear head, and their weights in a file.

Those of cRT (arXiv 1910.09217, github.com/facebookresearch/classifier-balancing), MetaSAug's own and released ones, and
torchvision's are read alike, see `harness.checkpoint`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet50

from harness.errors import UserError
from harness.weights import COUNTER, StateDict, fit_weights, network_weights

FEATURES = 2048


def make_backbone() -> nn.Module:
    """Return torchvision's ResNet-50 without its last layer, frozen, in eval mode: images (N, 3, H, W) -> (N, 2048)."""
    model = resnet50(weights=None)
    model.fc = nn.Identity()
    return model.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def transformed(features: Tensor, transform: str) -> Tensor:
    """Return features (N, A) of unit length, their square roots, or as they are: what no linear head can do itself."""
    if transform == "unit":
        return F.normalize(features)
    return features.clamp(min=0).sqrt() if transform == "sqrt" else features


class Head(nn.Linear):
    """A linear head of features that are transformed first."""

    transform = "none"

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits (N, C) of features (N, A)."""
        return super().forward(transformed(features, self.transform))


def make_head(num_classes: int, seed: int, features: int = FEATURES, transform: str = "none") -> nn.Linear:
    """Return a linear head (A -> C) with weights drawn from `seed`; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        head = Head(features, num_classes)
    head.transform = transform
    return head


def parted_weights(state: Mapping[str, Any]) -> tuple[StateDict, StateDict]:
    """Return the weights of the backbone and of the head of a checkpoint that was read."""
    parts: tuple[StateDict, StateDict] = {}, {}
    for name, tensor in state["state_dict"].items():
        parts[name.startswith("fc.")][name.removeprefix("fc.")] = tensor
    return parts


def restored_head(weights: Mapping[str, Tensor], source: Path, transform: str, features: int | None = None) -> nn.Linear:
    """Return the head of a checkpoint in eval mode; it must take so many features."""
    matrix = weights.get("weight", torch.empty(0))
    if matrix.dim() != 2 or features not in (None, matrix.shape[1]):
        raise UserError(f"{source} has no last layer of {features or 'any'} features: it does not fit")
    head = make_head(len(matrix), 0, matrix.shape[1], transform).eval()
    fit_weights(head, weights, f"{source}, the head,")
    return head


def load_network(
    state: Mapping[str, Any], num_classes: int, source: Path, seed: int = 0, fresh_head: bool = False
) -> tuple[nn.Module, nn.Linear]:
    """Return backbone and head with the weights of a checkpoint that was read; a fresh head is drawn from `seed` instead."""
    backbone, head = make_backbone(), make_head(num_classes, seed)
    body, last = parted_weights(state)
    fit_weights(backbone, body, f"{source}, the backbone,")
    if not fresh_head:
        if "weight" not in last:
            raise UserError(f"{source} holds no head: train.py can begin with a new one by --fresh_head")
        fit_weights(head, last, f"{source}, the head,", "fc")
    return backbone, head


def trained_part(head: nn.Linear) -> nn.Module:
    """Return the head under the name that it has in a checkpoint."""
    return nn.ModuleDict({"fc": head})


def published_form(backbone: nn.Module, head: nn.Linear) -> dict[str, StateDict]:
    """Return the weights as a checkpoint of ImageNet_iNat holds them."""
    feature = {k: v for k, v in network_weights(backbone).items() if not k.endswith(COUNTER)}
    return {"feature": feature, "classifier": network_weights(trained_part(head))}


def fingerprint(model: nn.Module, without: str | None = None) -> str:
    """Return a digest of all weights and statistics that eval mode uses, but for those whose last name has `without`."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        last = name.rpartition(".")[2]
        if last != COUNTER and (without is None or without not in last):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
