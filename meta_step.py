"""The MetaSAug step, for any network with a linear head (Li et al., CVPR 2021, arXiv 2103.12579, algorithm 1).

On a training batch and a balanced meta batch, with θ the weights and Σ the class covariances:

1. virtual step   θ' = θ − α g,  g = ∇_θ L(θ, Σ)
2. meta gradient  G = ∇_Σ L_meta(θ'),  Σ̂ = Σ − meta_lr · G
3. real step      one optimizer step on L(θ, Σ̂), Σ̂ held constant
4. the running statistics take in the batch's features

The published code obtains G by a second backward pass through the graph of the first. Σ enters only through the last
layer, L = ℓ(o(θ), W, Σ), so with v = ∇_θ' L_meta

    G = −α ∇_Σ ⟨∇_θ L, v⟩ = −α ∇_Σ [⟨∂ℓ/∂o, ȯ⟩ + ⟨∂ℓ/∂W, Ẇ⟩],

where (ȯ, Ẇ) is the derivative of (logits, W) along v: one forward-mode pass through the network (`tangents.py`), and a
second backward through the loss alone. The forward pass of step 1 serves the directional pass and step 3. In units of one
forward pass this costs 1 + 2 (virtual) + 1 + 2 (meta) + 2 (directional) + 2 (real) = 10; plain cross-entropy costs 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loss import EstimatorCV, negative_trace, traces
from passes import Passes

Criterion = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]  # (logits, W, target, Σ, λ_t) -> scalar
Rule = Callable[[Tensor, Tensor, float], Tensor]  # (Σ, G, meta_lr) -> Σ̂


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


@dataclass(frozen=True)
class PlainStepResult:
    """What a step without a meta batch saw: loss (scalar) and logits (N, C)."""

    loss: Tensor
    logits: Tensor
    loss_meta: None = None
    grad_norm: None = None
    grad_trace: None = None
    negative_trace: None = None


@dataclass(frozen=True)
class MetaStepResult:
    """What one MetaSAug step saw.

    Losses (scalars), logits (N, C), the meta gradient G, the covariances Σ̂ it led to, and whether one of these cannot be a
    covariance (a scalar, see `loss.negative_trace`).
    """

    loss_virtual: Tensor
    loss_meta: Tensor
    loss: Tensor
    logits: Tensor
    grad_covariance: Tensor
    covariance: Tensor
    negative_trace: Tensor

    @property
    def grad_norm(self) -> Tensor:
        """The norm of the meta gradient."""
        return self.grad_covariance.norm()

    @property
    def grad_trace(self) -> Tensor:
        """The trace of each class's meta gradient (C,)."""
        return traces(self.grad_covariance)


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


def gradient_rule(sigma: Tensor, grad_covariance: Tensor, meta_lr: float) -> Tensor:
    """Return Σ̂ = Σ − meta_lr · G, the published rule (algorithm 1, line 6)."""
    return sigma - meta_lr * grad_covariance


def move(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take the optimizer's step on `loss`."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def plain_step(passes: Passes, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> PlainStepResult:
    """Take one step of plain, unweighted cross-entropy, as stage 1 does."""
    inputs, target = batch
    _, logits = passes.plain(inputs)
    loss = F.cross_entropy(logits, target)
    move(optimizer, loss)
    return PlainStepResult(loss.detach(), logits.detach())


def augmented_step(
    model: nn.Module, criterion: Criterion, estimator: EstimatorCV, optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor], *, lam_t: float, head: str | None = None, passes: Passes | None = None,
) -> PlainStepResult:  # fmt: skip
    """Take one step on L(θ, Σ) at the estimated covariances, as ISDA does (arXiv 1909.12220); there is no meta-learning.

    The same as `meta_step` with a `meta_lr` of 0, at the cost of plain cross-entropy. With a `lam_t` of 0 there is no
    augmentation either: what is left are the criterion's class weights and margins. Parameters are those of `meta_step`.
    """
    passes = passes or Passes(model)
    inputs, target = batch
    features, logits = passes.plain(inputs)
    weight = model.get_parameter(f"{head or model.head}.weight")
    loss = criterion(logits, weight, target, estimator.covariance, lam_t)
    move(optimizer, loss)
    estimator.update(features.detach(), target)
    return PlainStepResult(loss.detach(), logits.detach())


def meta_step(
    model: nn.Module, criterion: Criterion, estimator: EstimatorCV, optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor], meta_batch: tuple[Tensor, Tensor], *, lam_t: float, virtual_lr: float, meta_lr: float,
    rule: Rule = gradient_rule, head: str | None = None, passes: Passes | None = None,
) -> MetaStepResult:  # fmt: skip
    """Take one MetaSAug step: the weights, the batch-norm statistics and the class statistics move once.

    Parameters
    ----------
    model:
        Returns (features (N, A), logits (N, C)), the logits being its linear head's output; see `meta_layers.WithFeatures`.
        In train mode batch norm uses the statistics of each batch, also of the meta batch.
    criterion:
        `loss.MetaSAugCE`, `loss.MetaSAugLDAM` or any function of (logits, W, target, Σ, λ_t), twice differentiable.
    estimator, optimizer:
        The class statistics and the optimizer of the real step; both are updated.
    batch, meta_batch:
        (inputs, target) each.
    lam_t, virtual_lr, meta_lr:
        λ_t, the α of the virtual step, and the step size of Σ.
    rule:
        Makes Σ̂ from Σ, G and meta_lr.
    head:
        Name of the linear head; `model.head` if left out.
    passes:
        How the model is run, `passes.Passes(model)` if left out. Losses, gradients of the weights, statistics and updates
        are in the weights' precision, whatever that of the passes.

    Raises
    ------
    KeyError
        If the head has no trained parameter `weight`, for instance because it is parametrised.
    """
    passes = passes or Passes(model)
    inputs, target = batch
    weights = trained_weights(model)
    head_weight = f"{head or model.head}.weight"
    if head_weight not in weights:
        raise KeyError(f"{head_weight} is no trained parameter: the head must be a plain nn.Linear, its weights trained")
    sigma = estimator.covariance
    state = random_state(inputs.device)

    features, logits = passes.shared(inputs)  # serves the virtual step, the directional pass and the real step
    loss_virtual = criterion(logits, weights[head_weight], target, sigma, lam_t)
    grads = gradients(loss_virtual, weights, retain_graph=True)
    stepped = virtual_step(weights, grads, virtual_lr)

    loss_meta = F.cross_entropy(passes.moved(stepped, meta_batch[0]), meta_batch[1])
    direction = gradients(loss_meta, stepped)

    with replayed(state, inputs.device):  # dropout, if any, drops the same units as in the shared pass
        logits_dot = passes.directional(weights, direction, inputs)
    mixed = mixed_gradient(criterion, logits, weights[head_weight], target, sigma, lam_t, logits_dot, direction[head_weight])
    grad_covariance = -virtual_lr * mixed
    sigma_hat = rule(sigma, grad_covariance, meta_lr)
    negative = negative_trace(sigma, sigma_hat)

    loss = criterion(logits, weights[head_weight], target, sigma_hat, lam_t)
    move(optimizer, loss)
    estimator.update(features.detach(), target)
    losses = loss_virtual.detach(), loss_meta.detach(), loss.detach()
    return MetaStepResult(*losses, logits.detach(), grad_covariance, sigma_hat, negative)
