"""The derivative of a network's output along a direction in weight space, from a forward pass that was already made.

Forward-mode differentiation computes every layer twice over: its value again, and its tangent. The values are known from the
pass before. So `recorded` keeps each layer's output, and `tangent` runs the network once more in forward mode with these
layers replaced by their own tangents (x the layer's input, dots the derivatives):

    convolution, linear     ẏ = W ẋ + Ẇ x + ḃ
    batch norm              ẏ = (γ/σ) (I − 1/n − x̂ x̂ᵀ/n) ẋ + γ̇ x̂ + β̇, the first the same symmetric map as its backward pass

That is two units of a forward pass instead of three. Everything between these layers (activations, sums, pooling, dropout,
layers of other kinds) is left to PyTorch's forward mode, so any network works.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from meta_layers import run_with


@dataclass(frozen=True)
class Recorded:
    """A layer's output in the pass that was recorded, and what batch norm divided by.

    `version` tells whether something changed the output in place after it was recorded; it is then computed again.
    """

    output: Tensor
    version: int
    mean: Tensor | None = None
    invstd: Tensor | None = None

    @property
    def value(self) -> Tensor | None:
        """The output, None if it is no longer what the layer returned."""
        return self.output if self.output._version == self.version else None


Tape = dict[nn.Module, list[Recorded]]


def is_known(module: nn.Module) -> bool:
    """Return whether `module` is a layer whose tangent is written here, and nothing else has a hand in its output."""
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        return False
    forward = type(module).forward
    if isinstance(module, nn.Conv2d):
        return forward is nn.Conv2d.forward and module.padding_mode == "zeros"
    if isinstance(module, nn.BatchNorm2d):
        return forward is nn.BatchNorm2d.forward and module.training and module.weight is not None
    return isinstance(module, nn.Linear) and forward is nn.Linear.forward


@contextmanager
def recorded(model: nn.Module) -> Iterator[Tape]:
    """Within this context every forward pass of `model` is recorded on the tape."""
    tape: Tape = {}

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        saved = batch_norm_statistics(module, inputs[0], output) if isinstance(module, nn.BatchNorm2d) else ()
        tape.setdefault(module, []).append(Recorded(output.detach(), output._version, *saved))

    hooks = [module.register_forward_hook(keep) for module in model.modules() if is_known(module)]
    try:
        yield tape
    finally:
        for hook in hooks:
            hook.remove()


def batch_norm_statistics(module: nn.BatchNorm2d, x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (K,) and 1/σ (K,) of a batch norm in train mode: saved for its backward pass, or else computed again."""
    saved = getattr(output.grad_fn, "_saved_result1", None), getattr(output.grad_fn, "_saved_result2", None)
    if isinstance(saved[0], Tensor) and isinstance(saved[1], Tensor) and len(saved[0]) == module.num_features:
        return saved[0], saved[1]
    x = x.detach().to(module.weight.dtype)  # in bfloat16 the statistics have the weights' precision
    variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    return mean, (variance + module.eps).rsqrt()


@cache
def load_forward_mode() -> None:
    """Let PyTorch load its forward-mode formulas; some versions print a deprecation warning of their own at this."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))


def split(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the value and the tangent of a dual tensor; a plain one has none."""
    dual = forward_ad.unpack_dual(x)
    return dual.primal, dual.tangent


def joined(value: Tensor, *parts: Tensor | None) -> Tensor:
    """Return the dual tensor whose tangent is the sum of the parts that there are."""
    there = [part for part in parts if part is not None]
    if not there:
        return value
    total = there[0]
    for part in there[1:]:
        total = total.add_(part)
    return forward_ad.make_dual(value, total)


def parameter(layer: nn.Module, name: str) -> tuple[Tensor | None, Tensor | None]:
    """Return a layer's weight or bias and its tangent, (None, None) if it has none."""
    own = getattr(layer, name)
    return (None, None) if own is None else split(own)


def affine_tangent(
    layer: nn.Conv2d | nn.Linear, apply: Callable[[Tensor, Tensor, Tensor | None], Tensor], seen: Recorded, x: Tensor
) -> Tensor:
    """Return the dual output of a convolution or linear layer; `apply` computes it from x, W and b."""
    value, dot = split(x)
    (weight, weight_dot), (bias, bias_dot) = parameter(layer, "weight"), parameter(layer, "bias")
    assert weight is not None
    y = seen.value if seen.value is not None else apply(value, weight, bias)
    through = None if dot is None else apply(dot, weight, None)
    own = None if weight_dot is None else apply(value, weight_dot, bias_dot)
    if own is None and bias_dot is not None:
        shape = (-1, 1, 1) if isinstance(layer, nn.Conv2d) else (-1,)
        own = bias_dot.view(shape).expand_as(y).clone()
    return joined(y, through, own)


def batch_norm_tangent(layer: nn.BatchNorm2d, seen: Recorded, x: Tensor) -> Tensor:
    """Return the dual output of a batch norm in train mode."""
    assert seen.mean is not None
    assert seen.invstd is not None
    value, dot = split(x)
    (weight, weight_dot), (bias, bias_dot) = parameter(layer, "weight"), parameter(layer, "bias")
    y = seen.value
    if y is None:
        y = F.batch_norm(value, None, None, weight, bias, training=True, eps=layer.eps)
    through = own = None
    if dot is not None:
        through = torch.ops.aten.native_batch_norm_backward(
            dot, value, weight, None, None, seen.mean, seen.invstd, True, layer.eps, [True, False, False]
        )[0]
    if weight_dot is not None or bias_dot is not None:
        slope = torch.zeros_like(seen.mean) if weight_dot is None else weight_dot * seen.invstd
        shift = -slope * seen.mean if bias_dot is None else bias_dot - slope * seen.mean
        shift, slope = (part.to(value.dtype).view(-1, 1, 1) for part in (shift, slope))
        own = torch.addcmul(shift, value, slope)  # γ̇ x̂ + β̇
    return joined(y, through, own)


@torch.no_grad()
def tangent(
    model: nn.Module, tape: Tape, weights: Mapping[str, Tensor], direction: Mapping[str, Tensor], inputs: Tensor
) -> Tensor:
    """Return ȯ (N, C), the derivative of the logits along `direction`, after a recorded pass of the same inputs.

    Parameters
    ----------
    model:
        Returns (features, logits).
    tape:
        Of one forward pass at the model's own weights.
    weights, direction:
        The trained parameters and their derivatives, by name; those without an entry stand still.
    """
    load_forward_mode()
    replaced = [(module, replay(module, iter(passes))) for module, passes in tape.items()]
    with forward_ad.dual_level():
        duals = {name: forward_ad.make_dual(w.detach(), direction[name]) for name, w in weights.items()}
        for module, forward in replaced:
            module.forward = forward  # of this one object; its class keeps its own
        try:
            _, logits = run_with(model, duals, inputs)
        finally:
            for module, _ in replaced:
                del module.forward
        found = forward_ad.unpack_dual(logits).tangent
    return torch.zeros_like(logits) if found is None else found


def replay(module: nn.Module, passes: Iterator[Recorded]) -> Callable[[Tensor], Tensor]:
    """Return a forward function that gives the recorded output, and its tangent, pass by pass."""
    if isinstance(module, nn.Conv2d):
        conv = partial(
            F.conv2d, stride=module.stride, padding=module.padding, dilation=module.dilation, groups=module.groups
        )
        return lambda x: affine_tangent(module, conv, next(passes), x)
    if isinstance(module, nn.BatchNorm2d):
        return lambda x: batch_norm_tangent(module, next(passes), x)
    assert isinstance(module, nn.Linear)
    return lambda x: affine_tangent(module, F.linear, next(passes), x)
