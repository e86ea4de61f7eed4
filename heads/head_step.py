"""The steps of a linear head on frozen features, in closed form: MetaSAug (arXiv 2103.12579, algorithm 1) and cheaper ones.

`meta_step.py` takes the same steps for any network by automatic differentiation. Here the head is all there is, the
covariances are diagonal, and every derivative is a few matrix products. With s_i = Σ_{y_i} (A,), residuals
P = ∂ℓ/∂o (N, C), whose rows sum to zero, and r = λ_t:

    o        = z Wᵀ + b + (r/2) [s (W∘W)ᵀ − 2 (s∘w_y) Wᵀ] + a constant a sample
    ∂ℓ/∂W    = Pᵀ (z − r s∘w_y) + r (Pᵀ s)∘W, and −r s_i∘(P W)_i in row y_i
    v        = P_metaᵀ z_meta, the derivative of the meta loss at W' = W − α ∂ℓ/∂W
    ȯ        = z vᵀ + r [s (W∘v)ᵀ − (s∘w_y) vᵀ − (s∘v_y) Wᵀ],  R = (∂²ℓ/∂o²) ȯ
    G_{y_i}  = −α Σ over the samples of the class of
               (r/2) [R (W∘W) − 2 w_y∘(R W)] + r [P (W∘v) − v_y∘(P W) − w_y∘(P v)]

A constant added to all logits of a sample changes neither a softmax nor an arg max, so constants are left out, and W enters
as its rows' distance from their mean, which keeps digits that expanding a square would lose. That is 18 products of 2·N·C·A
operations, and only the rows of classes in the batch are moved. Memory beyond the weights is O(NC + CA).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from covariance_rules import Rule, grad_traces, gradient_rule
from loss import EstimatorCV, SemanticLoss, negative_trace
from meta_gradient import Batch
from meta_step import PlainStepResult


@dataclass(frozen=True)
class HeadStepResult:
    """What one step saw.

    Losses (scalars); logits (N, C) up to a constant a sample; `grad_rows` (N, A), row i the meta gradient of Σ_{y_i};
    `grad_norm` that of the whole meta gradient, each class once; whether some Σ̂ cannot be a covariance (a scalar,
    see `loss.negative_trace`); by how much each trace was lowered (C,), see `covariance_rules.grad_traces`.
    """

    loss_virtual: Tensor
    loss_meta: Tensor
    loss: Tensor
    logits: Tensor
    grad_rows: Tensor
    grad_norm: Tensor
    negative_trace: Tensor
    grad_trace: Tensor


def cross_entropy(logits: Tensor, target: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the scaled loss (scalar), softmax (C, N) and residuals ∂ℓ/∂o (C, N) of logits (C, N).

    `scale` (N,) is what each sample's loss is multiplied by: its class weight over the sum of the batch's.
    """
    log_softmax = logits.log_softmax(dim=0)
    own = target.unsqueeze(0)  # (1, N)
    loss = -(log_softmax.gather(0, own).squeeze(0) * scale).sum()
    softmax = log_softmax.exp_()
    residual = softmax * scale
    residual.scatter_add_(0, own, -scale.unsqueeze(0))
    return loss, softmax, residual


@dataclass(frozen=True)
class Samples:
    """A batch as the step sees it.

    `weight` (C, A) is W centred, `own` (N, A) its rows of the samples' classes, `scale` (N,) as in `cross_entropy`,
    `margins` (N,) and `log_prior` (C,) what the own and all logits are changed by, if they are, `lam_t` is λ_t, and `logits`
    (C, N) are those without augmentation, up to a constant a sample.
    """

    weight: Tensor
    features: Tensor
    target: Tensor
    own: Tensor
    scale: Tensor
    margins: Tensor | None
    log_prior: Tensor | None
    lam_t: float
    logits: Tensor


def prepare(head: nn.Linear, criterion: SemanticLoss | None, batch: Batch, lam_t: float) -> Samples:
    """Return the batch with all that does not depend on Σ; without a criterion the loss is plain cross-entropy."""
    features, target = batch
    weight = head.weight - head.weight.mean(dim=0)
    scale = features.new_ones(len(target)) if criterion is None else criterion.class_weights[target]
    logits = torch.addmm(head.bias.unsqueeze(1), weight, features.T)  # (C, N)
    margins, prior = (None, None) if criterion is None else (criterion.margins[target], criterion.log_prior)
    return Samples(weight, features, target, weight[target], scale / scale.sum(), margins, prior, lam_t, logits)


def semantic_loss(batch: Samples, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss, softmax (C, N) and residuals P (C, N) at the samples' covariances `sigma` (N, A)."""
    semantic = batch.logits.clone()
    if batch.lam_t:
        crossed = (-2 * sigma * batch.own).T
        distances = (batch.weight.square() @ sigma.T).addmm_(batch.weight, crossed)
        semantic += distances.mul_(batch.lam_t / 2)
    if batch.margins is not None:
        semantic.scatter_add_(0, batch.target.unsqueeze(0), -batch.margins.unsqueeze(0))
    if batch.log_prior is not None:
        semantic += batch.log_prior.unsqueeze(1)
    return cross_entropy(semantic, batch.target, batch.scale)


def weight_gradient(batch: Samples, sigma: Tensor, residual: Tensor) -> Tensor:
    """Return ∂ℓ/∂W (C, A), the own rows' part left out."""
    towards = torch.addcmul(batch.features, sigma, batch.own, value=-batch.lam_t)  # z − r s∘w_y
    if not batch.lam_t:
        return residual @ towards
    return torch.addmm((residual @ sigma).mul_(batch.weight), residual, towards, beta=batch.lam_t)


def meta_gradient_rows(
    batch: Samples, sigma: Tensor, softmax: Tensor, residual: Tensor, bias: Tensor, lr: float, meta_batch: Batch
) -> tuple[Tensor, Tensor]:
    """Take the virtual step; return its loss of the meta batch (scalar) and, for each sample, G / −α (N, A)."""
    weight, own, lam_t, (meta_features, meta_target) = batch.weight, batch.own, batch.lam_t, meta_batch
    own_residual = residual.T @ weight  # P W (N, A)
    stepped = torch.add(weight, weight_gradient(batch, sigma, residual), alpha=-lr)
    logits = (stepped @ meta_features.T).add_((bias - lr * residual.sum(dim=1)).unsqueeze(1))  # (C, M)
    logits.index_add_(0, batch.target, (sigma * own_residual) @ meta_features.T, alpha=lr * lam_t)
    meta_scale = meta_features.new_full((len(meta_target),), 1 / len(meta_target))
    loss_meta, _, meta_residual = cross_entropy(logits, meta_target, meta_scale)

    own_v = meta_residual[batch.target] @ meta_features  # (N, A)
    weight_v = (meta_residual @ meta_features).mul_(weight)  # W∘v (C, A)
    towards = torch.addcmul(batch.features, sigma, own, value=-lam_t) @ meta_features.T  # (N, M)
    logits_dot = torch.addmm(meta_residual.sum(dim=1, keepdim=True), meta_residual, towards.T)  # (C, N)
    logits_dot.addmm_(weight_v, sigma.T, alpha=lam_t).addmm_(weight, (sigma * own_v).T, alpha=-lam_t)
    weighted = softmax * logits_dot
    curvature = weighted.sub_(softmax * weighted.sum(dim=0)).mul_(batch.scale).T  # R (N, C)
    residual_v = (residual.T @ meta_residual) @ meta_features  # P v
    first = curvature @ weight.square() / 2 - own * (curvature @ weight)
    return loss_meta, (first + residual.T @ weight_v - own_v * own_residual - own * residual_v) * lam_t


def class_sums(rows: Tensor, target: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return, for each of the rows (N, A), the sum of the rows of its class (N, A), and how many they are (N,)."""
    if len(target) > classes:
        sums = rows.new_zeros(classes, rows.shape[1]).index_add_(0, target, rows)
        return sums[target], torch.bincount(target, minlength=classes)[target].to(rows.dtype)
    same_class = (target.unsqueeze(1) == target).to(rows.dtype)  # (N, N)
    return same_class @ rows, same_class.sum(dim=1)


def move_head(
    head: nn.Linear, optimizer: torch.optim.Optimizer, batch: Samples, sigma: Tensor, extra_batch: Batch | None
) -> tuple[Tensor, Tensor | None]:
    """Take the optimizer's step on the loss at `sigma` (N, A), and on the plain cross-entropy of `extra_batch` if given.

    Return both losses (scalars), of the weights before the step.
    """
    loss, _, residual = semantic_loss(batch, sigma)
    head.weight.grad = weight_gradient(batch, sigma, residual)
    if batch.lam_t:
        own_rows = sigma * (residual.T @ batch.weight)
        head.weight.grad.index_add_(0, batch.target, own_rows, alpha=-batch.lam_t)
    head.bias.grad = residual.sum(dim=1)
    extra = None
    if extra_batch is not None:
        more = prepare(head, None, extra_batch, 0.0)
        extra, _, residual = cross_entropy(more.logits, more.target, more.scale)
        head.weight.grad.addmm_(residual, more.features)
        head.bias.grad += residual.sum(dim=1)
    optimizer.step()
    return loss, extra


@torch.no_grad()
def plain_head_step(
    head: nn.Linear, optimizer: torch.optim.Optimizer, batch: Batch, extra_batch: Batch | None = None
) -> PlainStepResult:
    """Take one step of plain, unweighted cross-entropy; that of `extra_batch` is added if it is given.

    The batches are (features (N, A), target (N,)). The same as `meta_step.plain_step`.
    """
    samples = prepare(head, None, batch, 0.0)
    loss, extra = move_head(head, optimizer, samples, torch.zeros_like(samples.features), extra_batch)
    return PlainStepResult(loss, samples.logits.T, extra)


@torch.no_grad()
def augmented_head_step(
    head: nn.Linear, criterion: SemanticLoss, estimator: EstimatorCV, optimizer: torch.optim.Optimizer,
    batch: Batch, extra_batch: Batch | None = None, *, lam_t: float,
) -> PlainStepResult:  # fmt: skip
    """Take one step on L(θ, Σ) at the estimated covariances, as ISDA does; with a `lam_t` of 0 without augmentation.

    The same as `meta_step.augmented_step`. Parameters are those of `head_step`; the plain cross-entropy of `extra_batch`, if
    it is given, is added to the loss.
    """
    samples = prepare(head, criterion, batch, lam_t)
    loss, extra = move_head(head, optimizer, samples, estimator.covariance[batch[1]], extra_batch)
    estimator.update(*batch)
    return PlainStepResult(loss, samples.logits.T, extra)


@torch.no_grad()
def head_step(
    head: nn.Linear, criterion: SemanticLoss, estimator: EstimatorCV, optimizer: torch.optim.Optimizer,
    batch: Batch, meta_batch: Batch, *, lam_t: float, virtual_lr: float, meta_lr: float, rule: Rule = gradient_rule,
    train_on_meta: bool = False,
) -> HeadStepResult:  # fmt: skip
    """Take one MetaSAug step of the head: its weights, the optimizer and the class statistics move once.

    The same figures as `meta_step.meta_step` gives for a network that is this head alone.

    Parameters
    ----------
    head:
        W (C, A) and b (C,).
    criterion:
        `loss.MetaSAugCE` or `loss.MetaSAugLDAM`; its class weights and margins are used.
    estimator:
        With diagonal covariances.
    batch, meta_batch:
        (features (N, A), target (N,)) and (features (M, A), target (M,)).
    lam_t, virtual_lr, meta_lr:
        λ_t, the α of the virtual step, and the step size of `rule`.
    rule:
        Makes Σ̂ from Σ, G and its step size, see `covariance_rules`.
    train_on_meta:
        Whether the plain cross-entropy of the meta batch at θ is added to the loss of the real step.
    """
    target = batch[1]
    samples = prepare(head, criterion, batch, lam_t)
    sigma = estimator.covariance[target]  # (N, A)

    loss_virtual, softmax, residual = semantic_loss(samples, sigma)
    loss_meta, mixed = meta_gradient_rows(samples, sigma, softmax, residual, head.bias, virtual_lr, meta_batch)
    grad_rows, members = class_sums(mixed, target, len(head.weight))
    grad_rows.mul_(-virtual_lr)
    sigma_hat = rule(sigma, grad_rows, meta_lr)

    loss, _ = move_head(head, optimizer, samples, sigma_hat, meta_batch if train_on_meta else None)
    estimator.update(*batch)
    grad_norm = (grad_rows.square().sum(dim=1) / members).sum().sqrt()  # each class once
    negative = negative_trace(sigma, sigma_hat)
    lowered = grad_traces(rule, sigma, grad_rows, sigma_hat, meta_lr)
    grad_trace = grad_rows.new_zeros(len(head.weight)).index_copy_(0, target, lowered)
    return HeadStepResult(loss_virtual, loss_meta, loss, samples.logits.T, grad_rows, grad_norm, negative, grad_trace)
