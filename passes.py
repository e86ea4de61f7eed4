"""The passes of a MetaSAug step through the network, in full precision or bfloat16.

The directional pass is taken from the record of the shared one, see `tangents.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from meta_layers import run_with
from tangents import Tape, recorded, tangent

Weights = Mapping[str, Tensor]


class Passes:
    """The passes of `model`, which returns (features (N, A), logits (N, C)).

    Parameters
    ----------
    amp:
        `torch.bfloat16` runs the network in that precision by autocast; features and logits come back in the weights' own.
        None leaves everything in the weights' precision.
    """

    def __init__(self, model: nn.Module, amp: torch.dtype | None = None) -> None:
        self.model, self.amp = model, amp
        self.dtype = next(model.parameters()).dtype
        self.tape: Tape = {}

    def precision(self, inputs: Tensor) -> torch.autocast:
        """Return the context of a pass."""
        return torch.autocast(inputs.device.type, dtype=self.amp or torch.bfloat16, enabled=self.amp is not None)

    def plain(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits at the model's own weights; batch norm's running statistics move."""
        with self.precision(inputs):
            features, logits = self.model(inputs)
        return features.to(self.dtype), logits.to(self.dtype)

    def shared(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same as `plain`, and keep what `directional` needs."""
        with recorded(self.model) as self.tape:
            return self.plain(inputs)

    def moved(self, weights: Weights, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits at other weights, the model's own where none is given; running statistics stay."""
        with self.precision(inputs):
            features, logits = run_with(self.model, weights, inputs)
        return features.to(self.dtype), logits.to(self.dtype)

    def directional(self, weights: Weights, direction: Weights, inputs: Tensor) -> Tensor:
        """Return the derivative of the last `shared` pass's logits along `direction`; what was kept for it is let go."""
        tape, self.tape = self.tape, {}
        with self.precision(inputs):
            return tangent(self.model, tape, weights, direction, inputs).to(self.dtype)
