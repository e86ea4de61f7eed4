"""The meta gradient of the covariances: the virtual step, the judgement of the meta batch, and what follows for Σ.

Two virtual steps: of every trained weight, as published, and of the head alone. See `meta_step.py` for the algorithm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meta_layers import HeadAlone
from passes import Passes

Criterion = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]  # (logits, W, target, Σ, λ_t) -> scalar
Batch = tuple[Tensor, Tensor]  # inputs, target


@contextmanager
def replayed(state: list[Tensor], device: torch.device) -> Iterator[None]:
    """Draw the same random numbers as from `state` (of `random_state`) on; afterwards go on where things stood."""
    now = random_state(device)
    set_random_state(state, device)
    try:
        yield
    finally:
        set_random_state(now, device)


def random_state(device: torch.device) -> list[Tensor]:
    """Return the state of the CPU's generator and of the device's own; while a CUDA graph is recorded nothing is drawn."""
    states = [torch.get_rng_state()]
    if device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
        states.append(torch.cuda.get_rng_state(device))
    elif device.type == "mps":
        states.append(torch.mps.get_rng_state())
    return states


def set_random_state(states: list[Tensor], device: torch.device) -> None:
    """Put the generators back to what `random_state` returned."""
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device) if device.type == "cuda" else torch.mps.set_rng_state(state)


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def virtual_step(weights: Mapping[str, Tensor], grads: Mapping[str, Tensor], lr: float) -> dict[str, Tensor]:
    """Return θ' = θ − lr · g as new leaf tensors: plain SGD, no momentum, no decay."""
    stepped = torch._foreach_add([w.detach() for w in weights.values()], [grads[n] for n in weights], alpha=-lr)
    return {name: w.requires_grad_() for name, w in zip(weights, stepped, strict=True)}


def gradients(loss: Tensor, weights: Mapping[str, Tensor], retain_graph: bool = False) -> dict[str, Tensor]:
    """Return the gradient of `loss` for each weight; zeros for those it does not depend on."""
    grads = torch.autograd.grad(loss, list(weights.values()), retain_graph=retain_graph, materialize_grads=True)
    return dict(zip(weights, grads, strict=True))


def mixed_gradient(
    criterion: Criterion, logits: Tensor, weight: Tensor, target: Tensor, covariance: Tensor, lam_t: float,
    logits_dot: Tensor, weight_dot: Tensor,
) -> Tensor:  # fmt: skip
    """Return ∇_Σ [⟨∂ℓ/∂o, ȯ⟩ + ⟨∂ℓ/∂W, Ẇ⟩], of Σ's shape: a double backward through the loss alone.

    logits and ȯ are (N, C), weight and Ẇ (C, A).
    """
    o = logits.detach().requires_grad_()
    w = weight.detach().requires_grad_()
    sigma = covariance.detach().requires_grad_()
    inner = torch.autograd.grad(criterion(o, w, target, sigma, lam_t), (o, w), create_graph=True, materialize_grads=True)
    along = (inner[0] * logits_dot).sum() + (inner[1] * weight_dot).sum()
    return torch.autograd.grad(along, sigma, materialize_grads=True)[0]


@dataclass(frozen=True)
class VirtualStep:
    """What a virtual step and the judgement of the meta batch found.

    Features (N, A) and logits (N, C) at θ with their graph, L at θ and L_meta at θ' (scalars), and G / −α, of Σ's shape.
    """

    features: Tensor
    logits: Tensor
    loss: Tensor
    loss_meta: Tensor
    mixed: Tensor


def whole_virtual_step(
    model: nn.Module, passes: Passes, criterion: Criterion, head: str, batch: Batch, meta_batch: Batch, sigma: Tensor,
    lam_t: float, virtual_lr: float,
) -> VirtualStep:  # fmt: skip
    """Take the virtual step with every trained weight; parameters are those of `meta_step`."""
    inputs, target = batch
    weights, name = trained_weights(model), f"{head}.weight"
    state = random_state(inputs.device)
    features, logits = passes.shared(inputs)  # serves the virtual step, the directional pass and the real step
    loss = criterion(logits, weights[name], target, sigma, lam_t)
    stepped = virtual_step(weights, gradients(loss, weights, retain_graph=True), virtual_lr)

    loss_meta = F.cross_entropy(passes.moved(stepped, meta_batch[0])[1], meta_batch[1])
    direction = gradients(loss_meta, stepped)

    with replayed(state, inputs.device):  # dropout, if any, drops the same units as in the shared pass
        logits_dot = passes.directional(weights, direction, inputs)
    mixed = mixed_gradient(criterion, logits, weights[name], target, sigma, lam_t, logits_dot, direction[name])
    return VirtualStep(features, logits, loss.detach(), loss_meta.detach(), mixed)


def head_virtual_step(
    model: nn.Module, passes: Passes, criterion: Criterion, head: str, batch: Batch, meta_batch: Batch, sigma: Tensor,
    lam_t: float, virtual_lr: float,
) -> VirtualStep:  # fmt: skip
    """Take the virtual step with the head alone, everything else at θ: that of a network that is the head, on features.

    Parameters are those of `meta_step`.
    """
    layer = model.get_submodule(head)
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"{head} is not an nn.Linear, it is a {type(layer).__name__}")
    features, logits = passes.plain(batch[0])
    with torch.no_grad():
        meta_features, _ = passes.moved({}, meta_batch[0])
    alone = HeadAlone(layer)
    batches = (features.detach(), batch[1]), (meta_features, meta_batch[1])
    seen = whole_virtual_step(alone, Passes(alone), criterion, alone.head, *batches, sigma, lam_t, virtual_lr)
    return replace(seen, features=features, logits=logits)
