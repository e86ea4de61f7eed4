"""Trained networks that name what is on image files: those of the CIFAR scripts, and heads of a frozen ResNet-50."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from frozen.backbone import load_network, parted_weights
from frozen.large_sets import LARGE_SETS
from frozen.transforms import is_thin, preparation_of, thin, transforms
from harness import schemas
from harness.checkpoint import load_checkpoint
from harness.errors import UserError
from harness.image_files import decode
from harness.image_sets import changes, read_image, whitened
from meta_layers import head_of
from reporting.trained import FromPixels, check_class_count, names_of_classes, restored

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
        Reads an image file; one that cannot be read is a `UserError`.
    at_once:
        How many images make a batch.
    changes:
        Lines that say what was done to images of these sizes, so many of them laid on white.
    notes:
        Lines for the user.
    """

    names: list[str]
    state: Mapping[str, Any]
    model: nn.Module
    read: Callable[[Path], ReadImage]
    at_once: int
    changes: Callable[[Sequence[tuple[int, int]], int], list[str]]
    notes: Sequence[str] = ()

    @torch.no_grad()
    def probabilities(self, images: Sequence[ReadImage], shift: Tensor) -> Iterator[list[float]]:
        """Yield for each image the softmax of its logits (C,), to which `shift` (C,) is added; it is where the model is."""
        if images:
            logits = self.model(torch.stack([image.pixels for image in images]).to(shift.device))
            yield from (logits + shift).softmax(dim=1).tolist()


def classifier(path: Path, arch: str | None, dataset: str | None) -> Classifier:
    """Return the network of a checkpoint on the CPU, whatever script of this project wrote it.

    `arch` is for networks of one's own, `dataset` for released heads, which do not say on which set they were trained.
    """
    state = load_checkpoint(path)
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
    if "resume" in state:
        raise UserError(f"{path} is what an interrupted run goes on from: take the one that ends in _last or _ckpt.pth.tar")
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
    transform = transforms(preparation_of(of), train=False)

    def read(file: Path) -> ReadImage:
        image, laid_on_white = decode(file, upright=True)
        if is_thin(image.size):
            raise UserError(thin(file, image.size))
        return ReadImage(transform(image), image.size, laid_on_white)

    model = nn.Sequential(backbone, head).eval()
    names = names_of_classes(state, len(matrix))
    return Classifier(names, state, model, read, 32, lambda _, clear: whitened(clear), notes)
