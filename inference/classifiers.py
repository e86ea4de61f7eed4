"""Trained networks that name what is on image files: those of the CIFAR scripts, and heads of a frozen ResNet-50."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from datasets.pictures import decode
from datasets.small_sets import read_image
from harness import schemas
from harness.checkpoint import BACKBONE, load_checkpoint
from harness.command_flags import LARGE_NAMES
from harness.errors import UserError
from heads.backbone import load_network, parted_weights, restored_head
from heads.networks import restored_network
from heads.preparation import Preparation, preparation_of, transforms
from heads.registries import is_library
from inference.trained import FromPixels, check_class_count, restored
from meta_layers import head_of

RELEASED = {8142: "iNaturalist18", 5089: "iNaturalist17"}  # the sets of released heads, by their classes


class ReadImage(NamedTuple):
    """What a network takes of an image file (or a row of features), and what was done, see `pictures.Decoded`."""

    pixels: Tensor
    done: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Classifier:
    """A trained network in use.

    Parameters
    ----------
    names:
        The classes'.
    state:
        What its checkpoint says beside the weights.
    model:
        What `read` takes of images, or features, (N, ...), to logits (N, C), in eval mode.
    head:
        The part of it that takes features (N, A), itself where it takes no images. None where features are of no use.
    prepared:
        What `read` does to photographs. None where it resizes images to 32 x 32.
    notes:
        Lines for the user.
    """

    names: list[str]
    state: Mapping[str, Any]
    model: nn.Module
    head: nn.Linear | None = None
    prepared: Preparation | None = None
    notes: Sequence[str] = ()

    def read(self, file: Path) -> ReadImage:
        """Read an image file; one that cannot be read is a `UserError`."""
        if self.prepared is None:
            image, done = read_image(file)
            return ReadImage(torch.from_numpy(np.array(image)), done)
        image, done = decode(file, upright=True, resize_size=self.prepared.resize_size)
        return ReadImage(transforms(self.prepared, train=False)(image), done)

    @torch.no_grad()
    def probabilities(self, images: Sequence[ReadImage], shift: Tensor) -> list[list[float]]:
        """Return for each image or row of features the softmax of its logits (C,), to which `shift` (C,) is added.

        `shift` is where the model is.
        """
        if not images:
            return []
        inputs = torch.stack([image.pixels for image in images]).to(shift.device)
        model = self.head if self.head and inputs.dim() == 2 else self.model
        return torch.softmax(model(inputs) + shift, dim=1).tolist()


def classifier(path: Path, arch: str | None, dataset: str | None, pretrained: str | None = None) -> Classifier:
    """Return the network of a checkpoint on the CPU, whatever script of this project wrote it.

    `arch` is for networks of one's own, `dataset` for released heads, which do not say on which set they were trained, and
    `pretrained` is where the weights are that a head was trained on, if that is elsewhere now.
    """
    state = load_checkpoint(path)
    if "resume" in state:
        raise UserError(f"{path} is the state of an interrupted run: take the one that ends in _last or _ckpt.pth.tar")
    if pretrained is not None and state.get(BACKBONE) is None:
        raise UserError(f"{path} holds all that it needs: leave --pretrained out")
    if BACKBONE in state:
        check_asked(state[BACKBONE], path, arch, dataset)
        return own_classifier(state, path, pretrained)
    names = {"layer1.0.conv3.weight", "fc.weight"}  # of a ResNet-50 and of its head
    large = "arch" not in state and bool(names & state["state_dict"].keys())
    flag, given = ("--arch", arch) if large else ("--dataset", dataset)
    if given is not None:
        kind = "head of a ResNet-50" if large else "network for images of 32 x 32"
        raise UserError(f"{path} holds a {kind}: leave {flag} out")
    if large:
        return large_classifier(state, path, dataset)
    network = restored(state, path, arch)
    return of_network(state, path, FromPixels(network), head_of(network).out_features)  # of images resized to 32 x 32


def large_classifier(state: dict[str, Any], path: Path, dataset: str | None) -> Classifier:
    """Return a head of ImageNet_iNat with its backbone, which takes images as its test does, turned as their EXIF says."""
    matrix = state["state_dict"].get("fc.weight")
    if matrix is None or matrix.dim() != 2:
        raise UserError(f"{path} holds no head: it is a backbone alone")
    classes = len(matrix)
    of, notes = state.get("dataset", dataset), []
    if dataset not in (None, of):
        raise UserError(f"{path} was trained with --dataset {of}, not {dataset}: leave the flag out")
    if of is None:
        of = RELEASED.get(classes, LARGE_NAMES[0])
        notes.append(f"{path} does not say its data set: by its {classes} classes it is taken for {of}, see --dataset")
    if of not in LARGE_NAMES:
        raise UserError(f"{path} cannot be used: it says that its data set is {schemas.shown(of)}")
    backbone, head = load_network(state, classes, path)
    return of_network(state, path, nn.Sequential(backbone, head), classes, head, preparation_of(of), notes)


def own_classifier(state: dict[str, Any], path: Path, pretrained: str | None) -> Classifier:
    """Return a network of train_own.py, which takes images as its test does, or a head alone, which takes features."""
    if state[BACKBONE] is not None:
        backbone, head = restored_network(state, path, pretrained)
        return of_network(state, path, nn.Sequential(backbone.model, head), head.out_features, head, backbone.prepared)
    head = restored_head(parted_weights(state)[1], path, state.get("transform", "none"))
    return of_network(state, path, head, head.out_features, head)


def check_asked(facts: Mapping[str, Any] | None, path: Path, arch: str | None, dataset: str | None) -> None:
    """Raise a `UserError` unless --arch is the function that a checkpoint names, or, with any other network, left out.

    `facts` are those of its backbone, None where there is none. A file of a stranger is not to choose what is run.
    """
    name = None if facts is None or is_library(facts["name"]) else facts["name"]  # of a function
    if dataset is not None or (arch is not None and name is None):
        flag = "--arch" if dataset is None else "--dataset"
        raise UserError(f"{path} says itself what network it holds: leave {flag} out")
    if arch != name:
        told = "" if arch is None else f", not {arch}"
        raise UserError(f"{path} holds the network {name}{told}: give --arch {quote(str(name))} if that is code of yours")


def of_network(
    state: dict[str, Any], path: Path, model: nn.Module, classes: int, head: nn.Linear | None = None,
    prepared: Preparation | None = None, notes: Sequence[str] = (),
) -> Classifier:  # fmt: skip
    """Return a network of so many classes; they are called "class 0" and so on where nothing names them, as released."""
    check_class_count(state, path, classes)
    names = state.get("class_names") or [f"class {k}" for k in range(classes)]
    return Classifier(names, state, model.eval(), head, prepared, notes)
