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
operations. Everything of shape (C, A) is made block by block, small enough to stay in the processor's cache, and only
the rows of classes in the batch are moved: memory beyond the weights and their gradient is O(NC + NA),
with a meta batch of M also O(NM).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from covariance_rules import Rule, grad_traces, gradient_rule
from loss import EstimatorCV, SemanticLoss, negative_trace
from meta_gradient import Batch
from meta_step import StepResult

BLOCK_BYTES = 2 << 20  # of W at once on the CPU; two scratch blocks of that size lie beside it


class CentredRows:
    """Iterate over W (C, A) by blocks of rows: (rows, block minus the mean row). The block is only valid until the next."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.mean = weight.mean(dim=0)  # (A,)
        fitting = max(1, BLOCK_BYTES // (weight.shape[1] * weight.element_size()))
        self.size = min(len(weight), fitting) if weight.device.type == "cpu" else len(weight)
        self.block = weight.new_empty(self.size, weight.shape[1])
        self.scratch = torch.empty_like(self.block), torch.empty_like(self.block)

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Yield rows, w (B, A) and two scratch blocks of its shape."""
        for start in range(0, len(self.weight), self.size):
            rows = slice(start, min(start + self.size, len(self.weight)))
            count = rows.stop - rows.start
            w = torch.sub(self.weight[rows], self.mean, out=self.block[:count])
            yield rows, w, self.scratch[0][:count], self.scratch[1][:count]


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

    `own` (N, A) are the centred rows of W of the samples' classes, `scale` (N,) as in `cross_entropy`, `margins` (N,) and
    `log_prior` (C,) what the own and all logits are changed by, if they are, `lam_t` is λ_t, and `logits` (C, N) are those
    without augmentation, up to a constant a sample.
    """

    rows: CentredRows
    features: Tensor
    target: Tensor
    own: Tensor
    scale: Tensor
    margins: Tensor | None
    log_prior: Tensor | None
    lam_t: float
    logits: Tensor

    def towards(self, sigma: Tensor) -> Tensor:
        """Return z − r s∘w_y (N, A)."""
        return torch.addcmul(self.features, sigma, self.own, value=-self.lam_t)


def prepare(head: nn.Linear, criterion: SemanticLoss | None, batch: Batch, lam_t: float) -> Samples:
    """Return the batch with all that does not depend on Σ; without a criterion the loss is plain cross-entropy."""
    features, target = batch
    rows = CentredRows(head.weight)
    scale = features.new_ones(len(target)) if criterion is None else criterion.class_weights[target]
    logits = features.new_empty(len(head.weight), len(features))  # (C, N)
    for block, w, _, _ in rows:
        torch.addmm(head.bias[block].unsqueeze(1), w, features.T, out=logits[block])
    margins, prior = (None, None) if criterion is None else (criterion.margins[target], criterion.log_prior)
    own = head.weight[target] - rows.mean
    return Samples(rows, features, target, own, scale / scale.sum(), margins, prior, lam_t, logits)


def semantic_loss(batch: Samples, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss, softmax (C, N) and residuals P (C, N) at the samples' covariances `sigma` (N, A)."""
    if batch.lam_t:
        semantic = torch.empty_like(batch.logits)
        crossed = (-2 * sigma * batch.own).T
        for block, w, square, _ in batch.rows:
            torch.mm(torch.mul(w, w, out=square), sigma.T, out=semantic[block])
            semantic[block].addmm_(w, crossed)
        semantic.mul_(batch.lam_t / 2).add_(batch.logits)
    else:
        semantic = batch.logits.clone()
    if batch.margins is not None:
        semantic.scatter_add_(0, batch.target.unsqueeze(0), -batch.margins.unsqueeze(0))
    if batch.log_prior is not None:
        semantic += batch.log_prior.unsqueeze(1)
    return cross_entropy(semantic, batch.target, batch.scale)


def gradient_blocks(
    batch: Samples, sigma: Tensor, residual: Tensor, out: Tensor | None = None
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Yield rows, w, ∂ℓ/∂W of these rows, in `out` if given, and a scratch block; the own rows' part comes on top."""
    towards = batch.towards(sigma)
    for block, w, spare, grad in batch.rows:
        if out is not None:
            grad = out[block]
        if batch.lam_t:
            torch.mm(residual[block], sigma, out=spare).mul_(w)
        torch.addmm(spare, residual[block], towards, beta=batch.lam_t, out=grad)  # with a beta of 0 spare is not read
        yield block, w, grad, spare


def meta_logits(
    batch: Samples, sigma: Tensor, residual: Tensor, bias: Tensor, lr: float, meta_features: Tensor
) -> tuple[Tensor, Tensor]:
    """Take the virtual step; return its logits of the meta features (C, M) and P W (N, A)."""
    logits = residual.new_empty(len(residual), len(meta_features))
    residual_weight = torch.zeros_like(batch.features)
    for block, w, grad, moved in gradient_blocks(batch, sigma, residual):
        torch.mm(torch.add(w, grad, alpha=-lr, out=moved), meta_features.T, out=logits[block])
        residual_weight.addmm_(residual[block].T, w)
    logits += (bias - lr * residual.sum(dim=1)).unsqueeze(1)
    own_rows = (sigma * residual_weight) @ meta_features.T  # (N, M)
    return logits.index_add_(0, batch.target, own_rows, alpha=lr * batch.lam_t), residual_weight


def mixed_gradient_rows(
    batch: Samples, sigma: Tensor, softmax: Tensor, residual: Tensor, residual_weight: Tensor,
    meta_features: Tensor, meta_residual: Tensor,
) -> Tensor:  # fmt: skip
    """Return, for each sample, ∇_{s_i} of ⟨∂ℓ/∂o, ȯ⟩ + ⟨∂ℓ/∂W, v⟩, (N, A)."""
    lam_t, own = batch.lam_t, batch.own
    own_v = meta_residual[batch.target] @ meta_features  # (N, A): v_y
    towards = batch.towards(sigma) @ meta_features.T  # (N, M)
    logits_dot = meta_residual.sum(dim=1, keepdim=True).addmm(meta_residual, towards.T)  # (C, N)
    crossed = (sigma * own_v).T
    outer = torch.zeros_like(own)  # P (W∘v)
    for block, w, wv, _ in batch.rows:
        torch.mm(meta_residual[block], meta_features, out=wv).mul_(w)
        logits_dot[block].addmm_(wv, sigma.T, alpha=lam_t).addmm_(w, crossed, alpha=-lam_t)
        outer.addmm_(residual[block].T, wv)
    weighted = softmax * logits_dot
    curvature = weighted.sub_(softmax * weighted.sum(dim=0)).mul_(batch.scale)  # R (C, N)
    squares, curved_weight = torch.zeros_like(own), torch.zeros_like(own)  # R (W∘W), R W
    for block, w, square, _ in batch.rows:
        squares.addmm_(curvature[block].T, torch.mul(w, w, out=square))
        curved_weight.addmm_(curvature[block].T, w)
    residual_v = (residual.T @ meta_residual) @ meta_features  # P v
    return (squares / 2 - own * curved_weight + outer - own_v * residual_weight - own * residual_v) * lam_t


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
    out = torch.empty_like(head.weight) if head.weight.grad is None else head.weight.grad
    residual_weight = torch.zeros_like(batch.features)
    for block, w, _, _ in gradient_blocks(batch, sigma, residual, out):
        if batch.lam_t:
            residual_weight.addmm_(residual[block].T, w)
    head.weight.grad = out.index_add_(0, batch.target, sigma * residual_weight, alpha=-batch.lam_t)
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
def augmented_head_step(
    head: nn.Linear, criterion: SemanticLoss | None, estimator: EstimatorCV | None, optimizer: torch.optim.Optimizer,
    batch: Batch, extra_batch: Batch | None = None, *, lam_t: float = 0.0,
) -> StepResult:  # fmt: skip
    """Take one step on L(θ, Σ) at the estimated covariances, as ISDA does; with a `lam_t` of 0 without augmentation.

    The same as `meta_step.augmented_step`, without criterion and estimator as `meta_step.plain_step`. Parameters are those
    of `head_step`; the plain cross-entropy of `extra_batch`, if it is given, is added to the loss. Logits are those up to a
    constant a sample.
    """
    samples = prepare(head, criterion, batch, lam_t)
    sigma = torch.zeros_like(batch[0]) if estimator is None else estimator.covariance[batch[1]]
    loss, extra = move_head(head, optimizer, samples, sigma, extra_batch)
    if estimator is not None:
        estimator.update(*batch)
    return StepResult(loss, samples.logits.T, extra)


@torch.no_grad()
def head_step(
    head: nn.Linear, criterion: SemanticLoss, estimator: EstimatorCV, optimizer: torch.optim.Optimizer,
    batch: Batch, meta_batch: Batch, *, lam_t: float, virtual_lr: float, meta_lr: float, rule: Rule = gradient_rule,
    train_on_meta: bool = False,
) -> StepResult:  # fmt: skip
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
    meta_features, meta_target = meta_batch
    samples = prepare(head, criterion, batch, lam_t)
    sigma = estimator.covariance[target]  # (N, A)

    loss_virtual, softmax, residual = semantic_loss(samples, sigma)
    stepped, residual_weight = meta_logits(samples, sigma, residual, head.bias, virtual_lr, meta_features)
    meta_scale = meta_features.new_full((len(meta_target),), 1 / len(meta_target))
    loss_meta, _, meta_residual = cross_entropy(stepped, meta_target, meta_scale)
    mixed = mixed_gradient_rows(samples, sigma, softmax, residual, residual_weight, meta_features, meta_residual)
    grad_rows, members = class_sums(mixed, target, len(head.weight))
    grad_rows.mul_(-virtual_lr)
    sigma_hat = rule(sigma, grad_rows, meta_lr)

    loss, _ = move_head(head, optimizer, samples, sigma_hat, meta_batch if train_on_meta else None)
    estimator.update(*batch)
    grad_norm = (grad_rows.square().sum(dim=1) / members).sum().sqrt()  # each class once
    negative = negative_trace(sigma, sigma_hat)
    lowered = grad_traces(rule, sigma, grad_rows, sigma_hat, meta_lr)
    grad_trace = grad_rows.new_zeros(len(head.weight)).index_copy_(0, target, lowered)
    seen = loss, samples.logits.T, loss_meta, loss_virtual, grad_norm, negative, grad_trace
    return StepResult(*seen, grad_rows=grad_rows)
