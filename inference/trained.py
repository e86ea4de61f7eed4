"""A trained network as one takes it into use: read from its checkpoint, pixels in, logits out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from data_utils import normalize
from harness import schemas
from harness.errors import UserError, blamed_on
from harness.weights import fit_weights
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
    found = num_classes or rows or (len(counts) if counts else None)
    if not found:
        raise UserError(f"{source} does not tell its class count by the names of a CIFAR ResNet's weights: see --arch")
    check_class_count(state, source, rows or found)
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


def check_class_count(state: dict[str, Any], source: Path, classes: int) -> None:
    """Check that what a checkpoint says of its classes is said of as many as its weights have."""
    for key in ("cls_num_list", "stage2_counts", "class_names"):
        if len(state.get(key, range(classes))) != classes:
            count = f"its {key} has {len(state[key])} entries"
            raise UserError(f"{source} cannot be used: {count}, its weights are those of {classes} classes")


class FromPixels(nn.Module):
    """A network together with the normalisation of its images: pixels (N, 32, 32, 3) uint8 RGB to logits (N, C)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits (N, C)."""
        logits: Tensor = self.network(normalize(pixels))[1]
        return logits
