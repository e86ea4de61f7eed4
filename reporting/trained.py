"""A trained network as one takes it into use: read from its checkpoint, pixels in, logits out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data_utils import normalisation
from harness.checkpoint import fit_weights
from harness.errors import UserError, blamed_on
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
    if "layer1.0.conv3.weight" in weights:
        raise UserError(f"{source} holds a ResNet-50: test it with ImageNet_iNat/test.py")
    told, rows = architecture(weights)
    found = num_classes or (len(counts) if counts else rows)
    if not found:
        raise UserError(f"{source} does not tell its class count by the names of a CIFAR ResNet's weights: see --arch")
    recorded = state.get("arch")
    if arch is None and recorded and ":" in recorded:  # a file that a stranger may have written is not to choose what is run
        raise UserError(f"{source} holds the network {recorded}: give --arch {recorded} if that is code of yours")
    if told and arch and ":" not in arch and told != arch:
        raise UserError(f"{source} holds a {told}, not a {arch}: leave --arch out")
    with blamed_on("--arch"):
        model = make_model(arch or recorded or told or "resnet32", found)
    fit_weights(model, weights, source, str(model.head))
    return model.eval()


def names_of_classes(state: dict[str, Any], num_classes: int) -> list[str]:
    """Return the class names of a checkpoint, "class 0" and so on where it holds none, as the released ones do."""
    names = state.get("class_names")
    return names if names is not None and len(names) == num_classes else [f"class {k}" for k in range(num_classes)]


class FromPixels(nn.Module):
    """A network together with the normalisation of its images: pixels (N, 32, 32, 3) uint8 RGB to logits (N, C)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        scale, shift = normalisation(torch.device("cpu"), torch.float32)
        self.register_buffer("scale", scale.clone())
        self.register_buffer("shift", shift.clone())

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits (N, C); the same values as `data_utils.normalize` before the network."""
        images = (pixels.to(self.scale.dtype) * self.scale - self.shift).permute(0, 3, 1, 2)  # (N, 3, 32, 32)
        logits: Tensor = self.network(images)[1]
        return logits


@torch.no_grad()
def probabilities(model: FromPixels, pixels: Tensor, batch_size: int = 256) -> Iterator[Sequence[float]]:
    """Yield for each image of pixels (N, 32, 32, 3) the softmax of its logits (C,)."""
    for start in range(0, len(pixels), batch_size):
        yield from model(pixels[start : start + batch_size].to(model.scale.device)).softmax(dim=1).tolist()
