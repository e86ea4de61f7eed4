"""Backbones by name: classification networks of torchvision or timm, or of one's own, without their last layer.

Any of them serves whose last layer is an `nn.Linear` and gives its output: the layer's input are the features.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.checkpoint import BACKBONE, load_checkpoint
from harness.errors import UserError
from harness.random_states import kept_apart
from harness.weights import fit_weights, network_weights, stripped
from heads.backbone import make_head
from heads.transforms import ImageFlags, Preparation, as_said
from heads.whole_networks import DOWNLOADED, downloads, fails, is_library, is_torchvision, made, present_name, told

NOTHING_SAID = ImageFlags()


@dataclass(frozen=True)
class Backbone:
    """A network without its last layer.

    Parameters
    ----------
    name:
        As --backbone has it.
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
    model: nn.Module
    head: str
    features: int
    prepared: Preparation

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint says of it, for `restored_backbone`."""
        prepared = asdict(self.prepared)
        return {"name": self.name, **{key: list(v) if isinstance(v, tuple) else v for key, v in prepared.items()}}

    def whole(self, head: nn.Linear) -> dict[str, Tensor]:
        """Return the weights of the whole network with this head, under the network's own names, on the CPU."""
        last = {f"{self.head}.{name}": tensor for name, tensor in network_weights(head).items()}
        return {**network_weights(self.model), **last}

    def fit(self, weights: Mapping[str, Tensor], source: Path) -> None:
        """Copy weights of a file in, with or without those of a last layer; a `UserError` says what does not fit."""
        own = self.model.state_dict()
        if is_torchvision(self.name):
            weights = {present_name(name): tensor for name, tensor in weights.items()}
        [short] = stripped({self.head: torch.empty(0)})
        heads = {f"{part}.{name}" for part in (self.head, short, "fc") for name in ("weight", "bias")}
        body = {k: v for k, v in weights.items() if k not in heads or k in own or k in stripped(own)}
        if 2 * len(stripped(body).keys() & stripped(own).keys()) < len(own):
            told = f"{source} holds the weights of another network than {self.name}"
            raise UserError(f"{told}: give the --backbone that they are of")
        fit_weights(self.model, stripped(body), f"{source}, the backbone,")  # which strips the names in the network alike

    def part(self, weights: Mapping[str, Tensor], source: Path, transform: str = "none") -> nn.Linear:
        """Copy the weights of a whole network in, and return its last layer, which takes features transformed so."""
        self.fit(weights, source)
        matrix = weights.get(f"{self.head}.weight")
        if matrix is None or matrix.shape[1:] != (self.features,):
            raise UserError(f"{source} has no last layer of {self.features} inputs named {self.head}: it does not fit")
        head = make_head(len(matrix), 0, self.features, transform)
        last = {name: weights[f"{self.head}.{name}"] for name in ("weight", "bias") if f"{self.head}.{name}" in weights}
        fit_weights(head, last, f"{source}, the head,")
        return head


def open_backbone(name: str, pretrained: str | None, images: ImageFlags) -> Backbone:
    """Return a backbone with its weights; a `UserError` names the flag that is wrong.

    Parameters
    ----------
    name:
        A name of torchvision's registry, `timm:NAME`, or `package.module:function`; the function may be a method or have
        arguments, as in `package:Network.from_name('small', depth=3)`.
    pretrained:
        A file of weights, DOWNLOADED, or with torchvision the name of other weights that it has; None leaves the weights
        of one's own network as its function gives them. A file of train_own.py for this network also says how images are
        prepared, one that has the name of torchvision's file is prepared for as that is.
    """
    offered = downloads(name)
    if pretrained is None and is_library(name):
        raise UserError(f"--backbone {name} has random weights: give --pretrained {DOWNLOADED} or a file")
    if pretrained == DOWNLOADED and not offered:
        raise UserError(f"--pretrained {DOWNLOADED} is for torchvision's and timm's networks: name a file, or leave it out")
    if pretrained is None or pretrained in offered:
        return without_head(name, *made(name, pretrained, images))
    source = Path(pretrained)
    if not os.path.isfile(source):
        advice = f"{' or '.join(offered)} to download it" if offered else "leave it out"
        raise UserError(f"there is no file {pretrained}: give another by --pretrained, or {advice}")
    state = read_pretrained(source)
    facts = state.get(BACKBONE)
    if facts is not None and facts["name"] == name:
        backbone = restored_backbone(facts, source, images)
    else:
        backbone = without_head(name, *made(name, pretrained, images))
    backbone.fit(state["state_dict"], source)
    return backbone


def read_pretrained(source: Path) -> dict[str, Any]:
    """Return what a file of weights holds, as `load_checkpoint` does; timm's files are of the kind .safetensors."""
    if source.suffix.lower() != ".safetensors":
        return load_checkpoint(source)
    try:
        return {"state_dict": stripped(load_file(source))}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{source} cannot be read as .safetensors ({told(error)}): fetch or make it again") from error


def restored_backbone(facts: Mapping[str, Any], source: Path, images: ImageFlags = NOTHING_SAID) -> Backbone:
    """Return the backbone that `facts` of a checkpoint, `source`, speak of, with weights at random."""
    known: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in facts.items() if name != "name"
    }
    try:
        prepared = as_said(Preparation(**known), images)
        said = ImageFlags(prepared.image_size, prepared.resize_size, prepared.mean, prepared.std)
        return without_head(facts["name"], made(facts["name"], None, said)[0], prepared)
    except UserError as error:
        raise UserError(f"{source}: its backbone cannot be made: {error}") from error


@kept_apart(seed=0)
@torch.no_grad()
def without_head(name: str, model: nn.Module, prepared: Preparation) -> Backbone:
    """Take the last layer off a network and freeze it."""
    model = model.requires_grad_(False).eval()
    size = prepared.image_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    try:
        head, features = last_layer(model, images)
    except Exception as error:  # whatever a network raises at a size that it does not take
        raise UserError(fails(name, prepared, error)) from error
    if head is None:
        raise UserError(f"--backbone {name} cannot be used: its answers are not those of an nn.Linear, its last layer")
    if not bool(features.isfinite().all()):
        raise UserError(f"--backbone {name} gives features that are not finite: take other weights")
    model.set_submodule(head, nn.Identity().eval())
    try:
        rest = model(images)
        same = rest.shape == features.shape and torch.allclose(rest, features, rtol=1e-3, atol=1e-5)
    except Exception as error:
        raise UserError(f"--backbone {name} fails without its last layer, {head} ({told(error)})") from error
    if not same:
        raise UserError(f"--backbone {name} cannot be used: without its last layer, {head}, it does not give that's input")
    return Backbone(name, model.to(memory_format=torch.channels_last), head, features.shape[1], prepared)


def last_layer(model: nn.Module, images: Tensor) -> tuple[str | None, Tensor]:
    """Return the name of the `nn.Linear` whose output a network gives, None if there is none, and its input (N, A)."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, given: tuple[Tensor, ...], named: Mapping[str, Tensor], output: Tensor) -> None:
            [features] = *given, *named.values()
            if features.dim() == 2:
                seen[name] = features.clone(), output.clone()  # what follows may change them in place

        return hook

    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    hooks = [layer.register_forward_hook(keep(name), with_kwargs=True) for name, layer in linear.items()]
    try:
        logits = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    if isinstance(logits, Tensor):
        for name, (features, output) in reversed(seen.items()):
            if (output.shape == logits.shape and output.equal(logits)) or not features.isfinite().all():
                return name, features
    return None, torch.empty(0)
