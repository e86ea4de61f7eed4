"""Backbones: networks by name, see `registries.py`, whose features a head takes.

A last layer that is an `nn.Linear` is taken off, and its input are the features; of a network without one its answers are.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from harness.checkpoint import BACKBONE
from harness.errors import UserError
from harness.random_states import kept_apart
from harness.weights import StateDict, fit_weights, network_weights, stripped
from heads.backbone import fingerprint, restored_head
from heads.preparation import ImageFlags, Preparation, as_said
from heads.registries import (
    DOWNLOADED,
    is_library,
    is_torchvision,
    of_function,
    of_timm,
    of_torchvision,
    present_name,
    read_pretrained,
    told_as,
)


@dataclass(frozen=True)
class Backbone:
    """A network without its last layer.

    Parameters
    ----------
    name, pretrained:
        As --backbone and --pretrained have them.
    model:
        Frozen, in eval mode: images (N, 3, S, S) -> features (N, A).
    head:
        The name of the last layer in the whole network.
    features:
        A.
    prepared:
        How its images are prepared.
    """

    name: str
    pretrained: str | None
    model: nn.Module
    head: str
    features: int
    prepared: Preparation

    def facts(self, whole: bool = True) -> dict[str, Any]:
        """Return what a checkpoint says of it for `restored_network`; one of the head alone says where its weights are."""
        prepared = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self.prepared).items()}
        given = self.pretrained or ""
        file = os.path.abspath(given) if os.path.isfile(given) else None
        origin = {} if whole else {"digest": self.digest(), "pretrained": self.pretrained, "file": file}
        return {"name": self.name, **prepared, **origin}

    def digest(self) -> str:
        """Return a digest of its weights, without embeddings of positions: to resize them, machines round differently."""
        return fingerprint(self.model, without="pos")

    def whole(self, head: nn.Linear) -> StateDict:
        """Return the weights of the whole network with this head, under the network's own names, on the CPU."""
        return network_weights(self.model) | {f"{self.head}.{name}": w for name, w in network_weights(head).items()}

    def fit(self, weights: StateDict, source: Path) -> None:
        """Copy weights of a file in, with or without those of a last layer; a `UserError` says what does not fit."""
        if is_torchvision(self.name):
            weights = {present_name(name): tensor for name, tensor in weights.items()}
        full, [short] = self.model.state_dict(), stripped({self.head: torch.empty(0)})
        heads = {f"{part}.{name}" for part in (self.head, short) for name in ("weight", "bias")}
        own = full if full.keys() <= weights.keys() else stripped(full)
        body = {name: tensor for name, tensor in weights.items() if name not in heads or name in own}
        fit_weights(self.model, stripped(body), f"{source}, the backbone,")  # which strips the names in the network alike


@torch.no_grad()
def open_backbone(name: str, pretrained: str | None, images: ImageFlags, prepared: Preparation | None = None) -> Backbone:
    """Return a backbone with its weights; a `UserError` names the flag that is wrong.

    Parameters
    ----------
    name:
        A name of torchvision's registry or else of timm's, `timm:NAME`, or `package.module:function`; the function may be a
        method.
    pretrained:
        A file of weights, or DOWNLOADED; None leaves the weights of one's own network as its function gives them, and those
        of others at random. With a file that has the name of one of torchvision's, images are prepared as for that.
    prepared:
        How its images are prepared; None is as the weights want it, which a file of train_own.py for this network says.
    """
    weights = None
    if pretrained is not None and not (pretrained == DOWNLOADED and is_library(name)):
        if not os.path.isfile(pretrained):
            advice = f", or {DOWNLOADED} to download it" if is_library(name) else ""
            raise UserError(f"there is no file {pretrained}: give another by --pretrained{advice}")
        state = read_pretrained(Path(pretrained))
        weights, facts = state["state_dict"], state.get(BACKBONE)
        if prepared is None and facts is not None and facts["name"] == name:
            prepared = msgspec.convert(facts, Preparation)
    size = images.get("image_size", prepared.image_size if prepared else None)
    advice = "see --backbone, --pretrained and --image_size"
    with kept_apart(seed=0), told_as(f"--backbone {name} cannot be made", advice):  # drawn alike on all processes
        if is_torchvision(name):
            model, usual, head = of_torchvision(name, pretrained, size)
        elif is_library(name):
            model, usual, head = of_timm(name, pretrained, size, weights)
            weights = None  # they are in it
        else:
            model, usual, head = of_function(name)
    backbone = without_head(name, pretrained, model, head, as_said(prepared or usual, images))
    if weights is not None:
        backbone.fit(weights, Path(str(pretrained)))
    return backbone


def restored_network(state: Mapping[str, Any], source: Path, pretrained: str | None) -> tuple[Backbone, nn.Linear]:
    """Return the backbone and the head of a checkpoint.

    If it holds the head alone, the other weights come from where training took them or from `pretrained`, and must be the
    same.
    """
    facts, weights = state[BACKBONE], state["state_dict"]
    name, prepared, alone = facts["name"], msgspec.convert(facts, Preparation), weights.keys() <= {"fc.weight", "fc.bias"}
    if pretrained is not None and not alone:
        raise UserError(f"{source} holds all that it needs: leave --pretrained out")
    places = [pretrained] if pretrained else [facts.get("file"), facts.get("pretrained")]
    place = next((place for place in places if place and os.path.isfile(place)), places[0] or places[-1])
    try:
        backbone = open_backbone(name, place if alone else None, {}, prepared)
    except UserError as error:
        raise UserError(f"{source}: its backbone cannot be created: {error}") from error
    if not alone:
        backbone.fit(weights, source)
    elif backbone.digest() != facts.get("digest"):
        raise UserError(f"{source} was trained on other weights than those of {place or name}: give them by --pretrained")
    last = "fc" if alone else backbone.head
    own = {part: weights[f"{last}.{part}"] for part in ("weight", "bias") if f"{last}.{part}" in weights}
    return backbone, restored_head(own, source, state.get("transform", "none"), backbone.features)


def without_head(name: str, pretrained: str | None, model: nn.Module, head: str | None, prepared: Preparation) -> Backbone:
    """Freeze a network and take its last layer off: `head`, or "" if there is none, or None if that has to be seen."""
    model = model.requires_grad_(False).eval()
    images = torch.randn(2, 3, prepared.image_size, prepared.image_size, generator=torch.Generator().manual_seed(0))
    with told_as(f"--backbone {name} fails on images of {prepared.image_size} x {prepared.image_size}", "see --image_size"):
        features = model(images)
    if not isinstance(features, Tensor) or features.dim() != 2:
        raise UserError(f"--backbone {name} must return features (N, A), or logits from a last nn.Linear")
    if not bool(features.isfinite().all()):
        raise UserError(f"--backbone {name} gives numbers that are not finite: take other weights")
    if head is None:
        head, features = last_layer(model, images, features)
    if not head:
        model, head = nn.Sequential(OrderedDict(model=model, fc=nn.Identity())), "fc"
    model = model.eval().to(memory_format=torch.channels_last)
    return Backbone(name, pretrained, model, head, features.shape[1], prepared)


def last_layer(model: nn.Module, images: Tensor, answers: Tensor) -> tuple[str, Tensor]:
    """Take the `nn.Linear` off that makes a network's answers; return its name and input (N, A), or "" and the answers."""
    layers = [(name, layer) for name, layer in model.named_modules() if name and isinstance(layer, nn.Linear)]
    for name, layer in reversed(layers):
        model.set_submodule(name, nn.Identity())
        with suppress(Exception):  # of a network that looks at its layers
            features = model(images)
            if torch.allclose(layer(features), answers, rtol=1e-3, atol=1e-5) and features.dim() == 2:
                return name, features
        model.set_submodule(name, layer)
    return "", answers
