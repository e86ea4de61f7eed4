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

With `virtual="head"` step 1 moves the head (W, b) alone, so that steps 1 and 2 need two forward passes, and all else is done
on features: the step costs 1 + 1 (meta) + 2 (real) = 4 units. G is the exact gradient of that smaller problem.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from covariance_rules import Rule, grad_traces, gradient_rule
from loss import EstimatorCV, negative_trace
from meta_gradient import Batch, Criterion, head_virtual_step, trained_weights, whole_virtual_step
from passes import Passes

META_COST = {"all": 10 / 3, "head": 4 / 3}  # the cost of a MetaSAug step over that of a plain one, by --virtual


@dataclass(frozen=True)
class StepResult:
    """What a step saw: losses (scalars), logits (N, C), and what only a step with meta-learning has.

    Without it `loss_meta` is that of a meta batch that was trained on. With it: the norm of the meta gradient, whether some
    Σ̂ cannot be a covariance (a scalar, see `loss.negative_trace`), by how much each trace was lowered (C,), over the step
    size of Σ (see `covariance_rules.grad_traces`), the meta gradient G and the covariances Σ̂ it led to. `heads.head_step`
    has no G, but `grad_rows` (N, A), row i that of Σ_{y_i}.
    """

    loss: Tensor
    logits: Tensor
    loss_meta: Tensor | None = None
    loss_virtual: Tensor | None = None
    grad_norm: Tensor | None = None
    negative_trace: Tensor | None = None
    grad_trace: Tensor | None = None
    grad_covariance: Tensor | None = None
    covariance: Tensor | None = None
    grad_rows: Tensor | None = None


def move(optimizer: torch.optim.Optimizer, loss: Tensor, extra: Tensor | None = None) -> None:
    """Take the optimizer's step on `loss`, and on `extra` too if it is given."""
    optimizer.zero_grad(set_to_none=True)
    (loss if extra is None else loss + extra).backward()
    optimizer.step()


def extra_loss(passes: Passes, batch: Batch | None) -> Tensor | None:
    """Return the plain cross-entropy of a meta batch at θ, to be trained on; running statistics stay."""
    return None if batch is None else F.cross_entropy(passes.moved({}, batch[0])[1], batch[1])


def plain_step(
    passes: Passes, optimizer: torch.optim.Optimizer, batch: Batch, extra_batch: Batch | None = None
) -> StepResult:
    """Take one step of plain, unweighted cross-entropy, as stage 1 does; that of `extra_batch` is added if it is given."""
    inputs, target = batch
    _, logits = passes.plain(inputs)
    loss, extra = F.cross_entropy(logits, target), extra_loss(passes, extra_batch)
    move(optimizer, loss, extra)
    return StepResult(loss.detach(), logits.detach(), extra if extra is None else extra.detach())


def augmented_step(
    model: nn.Module, criterion: Criterion, estimator: EstimatorCV, optimizer: torch.optim.Optimizer, batch: Batch,
    extra_batch: Batch | None = None, *, lam_t: float, passes: Passes | None = None,
) -> StepResult:  # fmt: skip
    """Take one step on L(θ, Σ) at the estimated covariances, as ISDA does (arXiv 1909.12220); there is no meta-learning.

    The same as `meta_step` with a `meta_lr` of 0, at the cost of plain cross-entropy. With a `lam_t` of 0 there is no
    augmentation either: what is left are the criterion's class weights and margins. Parameters are those of `meta_step`;
    the plain cross-entropy of `extra_batch`, if it is given, is added to the loss.
    """
    passes = passes or Passes(model)
    inputs, target = batch
    features, logits = passes.plain(inputs)
    weight = model.get_parameter(f"{model.head}.weight")
    loss = criterion(logits, weight, target, estimator.covariance, lam_t)
    extra = extra_loss(passes, extra_batch)
    move(optimizer, loss, extra)
    estimator.update(features.detach(), target)
    return StepResult(loss.detach(), logits.detach(), extra if extra is None else extra.detach())


def meta_step(
    model: nn.Module, criterion: Criterion, estimator: EstimatorCV, optimizer: torch.optim.Optimizer, batch: Batch,
    meta_batch: Batch, *, lam_t: float, virtual_lr: float, meta_lr: float, rule: Rule = gradient_rule, virtual: str = "all",
    train_on_meta: bool = False, passes: Passes | None = None,
) -> StepResult:  # fmt: skip
    """Take one MetaSAug step: the weights, the batch-norm statistics and the class statistics move once.

    Parameters
    ----------
    model:
        Returns (features (N, A), logits (N, C)), the logits being the output of the linear layer that its attribute `head`
        names; see `meta_layers.WithFeatures`.
        In train mode batch norm uses the statistics of each batch, also of the meta batch.
    criterion:
        `loss.MetaSAugCE`, `loss.MetaSAugLDAM` or any function of (logits, W, target, Σ, λ_t), twice differentiable.
    estimator, optimizer:
        The class statistics and the optimizer of the real step; both are updated.
    batch, meta_batch:
        (inputs, target) each.
    lam_t, virtual_lr, meta_lr:
        λ_t, the α of the virtual step, and the step size of `rule`.
    rule:
        Makes Σ̂ from Σ, G and its step size, see `covariance_rules`.
    virtual:
        "all": the virtual step moves every trained weight, as published; "head": the head alone.
    train_on_meta:
        Whether the plain cross-entropy of the meta batch at θ is added to the loss of the real step.
    passes:
        How the model is run, `passes.Passes(model)` if left out. Losses, gradients of the weights, statistics and updates
        are in the weights' precision, whatever that of the passes.

    Raises
    ------
    KeyError
        If the head has no trained parameter `weight`, for instance because it is parametrised.
    TypeError
        If `virtual` is "head" and the head is no nn.Linear.
    """
    passes = passes or Passes(model)
    name = str(model.head)
    weight = trained_weights(model).get(f"{name}.weight")
    if weight is None:
        raise KeyError(f"{name}.weight is no trained parameter: the head must be a plain nn.Linear, its weights trained")
    target, sigma = batch[1], estimator.covariance
    gradient = {"all": whole_virtual_step, "head": head_virtual_step}[virtual]
    seen = gradient(model, passes, criterion, name, batch, meta_batch, sigma, lam_t, virtual_lr)
    grad_covariance = -virtual_lr * seen.mixed
    sigma_hat = rule(sigma, grad_covariance, meta_lr)
    negative = negative_trace(sigma, sigma_hat)
    lowered = grad_traces(rule, sigma, grad_covariance, sigma_hat, meta_lr)

    loss = criterion(seen.logits, weight, target, sigma_hat, lam_t)
    move(optimizer, loss, extra_loss(passes, meta_batch if train_on_meta else None))
    estimator.update(seen.features.detach(), target)
    figures = loss.detach(), seen.logits.detach(), seen.loss_meta, seen.loss
    return StepResult(*figures, grad_covariance.norm(), negative, lowered, grad_covariance, sigma_hat)
