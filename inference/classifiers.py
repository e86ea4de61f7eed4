"""Trained networks that name what is on image files: those of the CIFAR scripts, and heads of a frozen ResNet-50."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from harness import schemas
from harness.checkpoint import BACKBONE, load_checkpoint
from harness.errors import UserError
from harness.image_files import decode
from harness.image_sets import changes, read_image, whitened
from heads.backbone import load_network, parted_weights, restored_head
from heads.feature_files import FeatureTable
from heads.large_sets import LARGE_SETS
from heads.networks import is_library, restored_network
from heads.preparation import Preparation, is_thin, preparation_of, thin, transforms
from inference.trained import FromPixels, check_class_count, names_of_classes, restored
from meta_layers import head_of

ROWS = 1024  # of features at once
RELEASED = {8142: "iNaturalist18", 5089: "iNaturalist17"}  # the sets of released heads, by their classes


class ReadImage(NamedTuple):
    """What a network takes of an image file, the image's size (width, height), and whether it was laid on white."""

    pixels: Tensor
    size: tuple[int, int]
    laid_on_white: bool


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
        What `read` takes of images, (N, ...), to logits (N, C).
    read:
        Reads an image file; one that cannot be read is a `UserError`. None where the network takes features.
    at_once:
        How many images make a batch.
    changes:
        Lines that say what was done to images of these sizes, so many of them laid on white.
    notes:
        Lines for the user.
    prepared:
        What `read` does to photographs. None where it resizes images to 32 x 32.
    """

    names: list[str]
    state: Mapping[str, Any]
    model: nn.Module
    read: Callable[[Path], ReadImage] | None
    at_once: int
    changes: Callable[[Sequence[tuple[int, int]], int], list[str]]
    notes: Sequence[str] = ()
    head: nn.Linear | None = None
    prepared: Preparation | None = None

    def probabilities(self, images: Sequence[ReadImage], shift: Tensor) -> Iterator[list[float]]:
        """Yield for each image the softmax of its logits (C,), to which `shift` (C,) is added; it is where the model is."""
        if images:
            yield from chances(self.model, torch.stack([image.pixels for image in images]), shift)

    def of_rows(self, table: FeatureTable, shift: Tensor) -> Iterator[tuple[str, list[float]]]:
        """Yield for each row of a file of features its name and the softmax of its logits (C,)."""
        if self.head is None or table.features.shape[1] != self.head.in_features:
            wanted = "images" if self.head is None else f"{self.head.in_features} features a row"
            raise UserError(f"{table.path} has {table.features.shape[1]} features a row, the network takes {wanted}")
        for start in range(0, len(table), ROWS):
            rows = torch.from_numpy(table.features[start : start + ROWS]).float()
            for number, found in enumerate(chances(self.head, rows, shift), start=start):
                yield table.names[number] if table.names else f"{table.path} row {number}", found


@torch.no_grad()
def chances(model: nn.Module, inputs: Tensor, shift: Tensor) -> list[list[float]]:
    """Return the probabilities of each input, N of C."""
    found: list[list[float]] = (model(inputs.to(shift.device)) + shift).softmax(dim=1).tolist()
    return found


def classifier(path: Path, arch: str | None, dataset: str | None, pretrained: str | None = None) -> Classifier:
    """Return the network of a checkpoint on the CPU, whatever script of this project wrote it.

    `arch` is for networks of one's own, `dataset` for released heads, which do not say on which set they were trained, and
    `pretrained` is where the weights are that a head was trained on, if that is elsewhere now.
    """
    state = load_checkpoint(path)
    if pretrained is not None and state.get(BACKBONE) is None:
        raise UserError(f"{path} holds all that it needs: leave --pretrained out")
    if BACKBONE in state:
        return own_classifier(state, path, arch, dataset, pretrained)
    names = {"layer1.0.conv3.weight", "fc.weight"}  # of a ResNet-50 and of its head
    if "arch" not in state and names & state["state_dict"].keys():
        if arch is not None:
            raise UserError(f"{path} holds a head of a ResNet-50: leave --arch out")
        return large_classifier(state, path, dataset)
    if dataset is not None:
        raise UserError(f"{path} holds a network for images of 32 x 32, which are alike for all sets: leave --dataset out")
    return small_classifier(state, path, arch)


def small_classifier(state: dict[str, Any], path: Path, arch: str | None) -> Classifier:
    """Return a network of the CIFAR scripts, which takes images resized to 32 x 32."""
    network = restored(state, path, arch)

    def read(file: Path) -> ReadImage:
        image = read_image(file)
        return ReadImage(torch.tensor(image.pixels), image.size, image.laid_on_white)

    names = names_of_classes(state, head_of(network).out_features)
    return Classifier(names, state, FromPixels(network), read, 256, changes)


def large_classifier(state: dict[str, Any], path: Path, dataset: str | None) -> Classifier:
    """Return a head of ImageNet_iNat with its backbone, which takes images as its test does, turned as their EXIF says."""
    weights = parted_weights(state)
    check_ended(state, path)
    matrix = weights[1].get("weight")
    if matrix is None or matrix.dim() != 2:
        raise UserError(f"{path} holds no head: it is a backbone alone")
    of, notes = state.get("dataset", dataset), []
    if dataset not in (None, of):
        raise UserError(f"{path} was trained with --dataset {of}, not {dataset}: leave the flag out")
    if of is None:
        of = RELEASED.get(len(matrix), LARGE_SETS[0])
        notes.append(f"{path} does not say its data set: by its {len(matrix)} classes it is taken for {of}, see --dataset")
    if of not in LARGE_SETS:
        raise UserError(f"{path} cannot be used: it says that its data set is {schemas.shown(of)}")
    check_class_count(state, path, len(matrix))
    backbone, head = load_network(weights, len(matrix), path)
    return of_photographs(state, nn.Sequential(backbone, head), len(matrix), preparation_of(of), notes)


def own_classifier(
    state: dict[str, Any], path: Path, arch: str | None, dataset: str | None, pretrained: str | None
) -> Classifier:
    """Return a network of train_own.py, which takes images as its test does."""
    check_ended(state, path)
    facts = state[BACKBONE]
    check_asked(None if facts is None else facts["name"], path, arch, dataset)
    if facts is None:
        return head_classifier(state, path)
    backbone, head = restored_network(state, path, pretrained)
    check_class_count(state, path, head.out_features)
    return of_photographs(state, nn.Sequential(backbone.model, head), head.out_features, backbone.prepared)


def head_classifier(state: dict[str, Any], path: Path) -> Classifier:
    """Return a head alone, which takes features."""
    head = restored_head(parted_weights(state)[1], path, state.get("transform", "none"))
    check_class_count(state, path, head.out_features)
    return Classifier(names_of_classes(state, head.out_features), state, head, None, ROWS, lambda *_: [], head=head)


def check_asked(name: str | None, path: Path, arch: str | None, dataset: str | None) -> None:
    """Raise a `UserError` unless --arch is the function that a checkpoint names, or, with any other network, left out.

    `name` is that of its backbone, None where there is none. A file of a stranger is not to choose what is run.
    """
    own = name is not None and not is_library(name)
    if dataset is not None or (arch is not None and not own):
        flag = "--arch" if dataset is None else "--dataset"
        raise UserError(f"{path} says itself what network it holds: leave {flag} out")
    if own and arch != name:
        told = "" if arch is None else f", not {arch}"
        raise UserError(f"{path} holds the network {name}{told}: give --arch {quote(str(name))} if that is code of yours")


def check_ended(state: Mapping[str, Any], path: Path) -> None:
    """Raise a `UserError` if a checkpoint is the state of a run, whose head is not the one to use."""
    if "resume" in state:
        raise UserError(f"{path} is what an interrupted run goes on from: take the one that ends in _last or _ckpt.pth.tar")


def of_photographs(
    state: dict[str, Any], model: nn.Sequential, num_classes: int, prepared: Preparation, notes: Sequence[str] = ()
) -> Classifier:
    """Return a network that takes the middle of images."""
    transform = transforms(prepared, train=False)

    def read(file: Path) -> ReadImage:
        image, laid_on_white = decode(file, upright=True)
        if is_thin(image.size, prepared.resize_size):
            raise UserError(thin(file, image.size))
        return ReadImage(transform(image), image.size, laid_on_white)

    names, last = names_of_classes(state, num_classes), model[-1]
    assert isinstance(last, nn.Linear)
    return Classifier(names, state, model.eval(), read, 32, lambda _, clear: whitened(clear), notes, last, prepared)
