"""A trained network as one takes it into use: read from its checkpoint, pixels in, logits out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data_utils import normalisation
from harness import schemas
from harness.errors import UserError, blamed_on
from harness.weights import check_bias, fit_weights
from resnet import architecture, make_model


def restored(state: dict[str, Any], source: Path, arch: str | None = None, num_classes: int | None = None) -> nn.Module:
    """Return the network of a checkpoint, in eval mode on the CPU.

    Parameters
    ----------
    state, source:
        What `checkpoint.load_checkpoint` read, and from where.
    arch, num_classes:
        What the network must be; None is what the checkpoint says, or else what its weights tell.
    """
    weights, counts = state["state_dict"], state.get("cls_num_list")
    if "layer1.0.conv3.weight" in weights and "arch" not in state:
        raise UserError(f"{source} holds a ResNet-50: test it with ImageNet_iNat/test.py")
    told, rows = architecture(weights)
    if rows is None and "linear.weight" in weights:
        check_bias(("linear.bias",), weights, source)
    found = num_classes or rows or (len(counts) if counts else None)
    if not found:
        raise UserError(f"{source} does not tell its class count by the names of a CIFAR ResNet's weights: see --arch")
    check_class_count(state, source, rows or num_classes)
    recorded = state.get("arch")
    if arch is None and recorded and ":" in recorded:  # a file that a stranger may have written is not to choose what is run
        raise UserError(f"{source} holds the network {recorded}: give --arch {recorded} if that is code of yours")
    if told and arch and ":" not in arch and told != arch:
        raise UserError(f"{source} holds a {told}, not a {arch}: leave --arch out")
    if told and arch is None and recorded not in (None, told):
        said = schemas.shown(recorded)
        raise UserError(f"{source} cannot be used: it says that it holds a {said}, its weights are those of a {told}")
    with blamed_on("--arch" if arch else f"{source} cannot be used: its arch"):
        model = make_model(arch or recorded or told or "resnet32", found)
    fit_weights(model, weights, source, str(model.head))
    return model.eval()


def check_class_count(state: dict[str, Any], source: Path, rows: int | None) -> None:
    """Check that what a checkpoint says of its classes is said of as many as its weights have.

    `rows` are those of its last layer, None where it is another network, of which some matrix must have as many.
    """
    matrices = {len(tensor) for tensor in state["state_dict"].values() if tensor.dim() == 2 and tensor.numel()}
    for key in ("cls_num_list", "stage2_counts", "class_names"):
        count = len(state.get(key, ()))
        if key in state and count not in ({rows} if rows else matrices):
            of = f"{rows} classes" if rows else "another number of classes"
            raise UserError(f"{source} cannot be used: its {key} has {count} entries, its weights are those of {of}")


def names_of_classes(state: dict[str, Any], num_classes: int) -> list[str]:
    """Return the class names of a checkpoint, "class 0" and so on where it holds none, as the released ones do."""
    names: list[str] | None = state.get("class_names")
    return [f"class {k}" for k in range(num_classes)] if names is None else names


class FromPixels(nn.Module):
    """A network together with the normalisation of its images: pixels (N, 32, 32, 3) uint8 RGB to logits (N, C).

    `subtracted` (C,) is taken off the logits, None takes nothing.
    """

    scale: Tensor
    shift: Tensor
    subtracted: Tensor | None

    def __init__(self, network: nn.Module, subtracted: Tensor | None = None) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("subtracted", subtracted)
        scale, shift = normalisation(torch.device("cpu"), torch.float32)
        self.register_buffer("scale", scale.clone())
        self.register_buffer("shift", shift.clone())

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits (N, C); the same values as `data_utils.normalize` before the network."""
        images = (pixels.to(self.scale.dtype) * self.scale - self.shift).permute(0, 3, 1, 2)  # (N, 3, 32, 32)
        logits: Tensor = self.network(images)[1]
        return logits if self.subtracted is None else logits - self.subtracted
