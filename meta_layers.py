"""Layers and modules that can run with weights other than their own.

Meta-learning runs a network at weights it does not hold (θ' of the virtual step). Here the parameters are ordinary
`nn.Parameter`s, so that optimizers, `.to()` and DDP see an ordinary network, and `run_with` evaluates
the module at given weights as a pure function: neither the parameters nor the batch-norm statistics change. The
published code (github.com/BIT-DA/MetaSAug) keeps its weights as buffers and replaces them in place; the names of the
layers and of their weights are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Within this context a forward pass in train mode leaves the running batch-norm statistics alone.

    The batch is still normalised by its own mean and variance. Serves every batch norm of PyTorch, not only
    `MetaBatchNorm2d`. Without running statistics batch norm also works under forward-mode differentiation.
    """
    tracking = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    for m in tracking:
        m.track_running_stats = False
    try:
        yield
    finally:
        for m in tracking:
            m.track_running_stats = True


def run_with(module: nn.Module, weights: Mapping[str, Tensor], *inputs: Tensor) -> Any:
    """Return `module(*inputs)` at `weights` (name -> tensor); names left out keep the module's own values.

    Gradients flow to the given tensors, in reverse and in forward mode. Nothing in the module changes: batch-norm
    statistics are frozen, other buffers are replaced by copies for the time of the call.

    Raises
    ------
    KeyError
        If a name is not a parameter of the module.
    """
    unknown = weights.keys() - {name for name, _ in module.named_parameters()}
    if unknown:
        raise KeyError(f"not parameters of {type(module).__name__}: {', '.join(sorted(unknown))}")
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with frozen_statistics(module):
        return functional_call(module, {**buffers, **weights}, inputs)


class WithFeatures(nn.Module):
    """A network made into one that returns (features, logits) and names its `head`, as the step needs.

    Its state dict is that of the network alone. It may return logits, or (features, logits) already.

    Parameters
    ----------
    model:
        The network.
    head:
        The name of its last layer, an `nn.Linear` (for a torchvision ResNet "fc"). Features are that layer's input.
    """

    def __init__(self, model: nn.Module, head: str) -> None:
        super().__init__()
        self.model = model
        self.head = f"model.{head}"
        if not isinstance(self.get_submodule(self.head), nn.Linear):
            raise TypeError(f"{head} is not an nn.Linear, it is a {type(model.get_submodule(head)).__name__}")

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the network's own."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load the network's own."""
        return self.model.load_state_dict(*args, **kwargs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, A) and logits (N, C)."""
        seen: list[Tensor] = []
        hook = self.get_submodule(self.head).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            out = self.model(x)
        finally:
            hook.remove()
        return out if isinstance(out, tuple) else (seen[-1], out)


class HeadAlone(nn.Module):
    """A linear layer as a network of its own: features (N, A) in, features and logits (N, C) out."""

    head = "layer"

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, A) and logits (N, C)."""
        return features, self.layer(features)


def last_linear(model: nn.Module, num_classes: int) -> str:
    """Return the name of the last `nn.Linear` with `num_classes` outputs, in the order of the network's own list.

    Raises
    ------
    ValueError
        If there is none.
    """
    found = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == num_classes]
    if not found:
        raise ValueError(f"{type(model).__name__} has no nn.Linear with {num_classes} outputs: the last layer must be one")
    return found[-1]


def head_of(model: nn.Module) -> nn.Linear:
    """Return the last layer of a network that names it by its attribute `head`."""
    head = model.get_submodule(str(model.head))
    assert isinstance(head, nn.Linear)
    return head


class MetaBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose state dict is the published one.

    The published layers have no `num_batches_tracked`; it only matters for a cumulative average (momentum None), which
    is not offered here.
    """

    num_batches_tracked: Tensor | None

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.num_batches_tracked = None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        # nn.BatchNorm2d would invent a num_batches_tracked for files that have none.
        nn.Module._load_from_state_dict(self, *args, **kwargs)
