"""The steps of `meta_step.py` for batches that are too large to go through the network at once, on one process or many.

A batch is a list of micro-batches, of which each process takes some. The outcome is the same on any number of processes, up
to rounding, since nothing depends on where a micro-batch is computed:

- Batch norm normalises a micro-batch by its own statistics. The running ones move by the mean of what the micro-batches say.
- The random numbers that a network draws on a micro-batch (dropout, stochastic depth) follow from the batch's seed and the
  micro-batch's place, and are the same in all passes of a step.
- A loss is the weighted mean over the whole batch: that of a micro-batch counts by its share of the sum of the weights.
- Gradients are summed over micro-batches and processes. Features (N, A), logits (N, C) and their derivative are gathered, so
  that ∇_Σ and the class statistics are those of the whole batch, computed on every process.

With one micro-batch and one process a step is that of `meta_step.py`, at its cost. The graph of a micro-batch is then kept
from the first pass to the last. Of several the graph of one is held at a time, and a MetaSAug step runs them anew: 5 forward
passes in place of 4, or 12 in place of 10 where the virtual step moves all weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from covariance_rules import Rule, grad_traces, gradient_rule
from heads.micro_batches import MeanLoss, MicroBatches, MicroPasses, Network
from loss import EstimatorCV, SemanticLoss, negative_trace
from meta_gradient import head_gradient, mixed_gradient, virtual_step
from meta_layers import head_of
from meta_step import MetaStepResult, PlainStepResult


def real_step(
    network: Network, optimizer: torch.optim.Optimizer, micro: MicroPasses, loss_of: MeanLoss,
    class_weights: Tensor | None, extra_batch: MicroBatches | None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Move weights and running statistics once; return the loss, and that of `extra_batch` (scalars)."""
    weights = network.weights
    loss, grads = network.summed(micro.losses(loss_of, micro.outputs(), class_weights), weights)
    loss_extra = None
    if extra_batch is not None:
        extra = MicroPasses(network, extra_batch)
        loss_extra, more = network.summed(extra.losses(F.cross_entropy, extra.moved({})), weights)
        for name, grad in more.items():
            grads[name] = grads[name] + grad if name in grads else grad
    micro.move_statistics()
    network.move(optimizer, grads)
    return loss, loss_extra


def plain_network_step(
    network: Network, optimizer: torch.optim.Optimizer, batch: MicroBatches, extra_batch: MicroBatches | None = None
) -> PlainStepResult:
    """Take one step of plain cross-entropy, as `meta_step.plain_step` does."""
    micro = MicroPasses(network, batch)
    loss, extra = real_step(network, optimizer, micro, F.cross_entropy, None, extra_batch)
    return PlainStepResult(loss, micro.logits, extra)


def augmented_network_step(
    network: Network, criterion: SemanticLoss, estimator: EstimatorCV, optimizer: torch.optim.Optimizer,
    batch: MicroBatches, extra_batch: MicroBatches | None = None, *, lam_t: float,
) -> PlainStepResult:  # fmt: skip
    """Take one step on L(θ, Σ) at the estimated covariances, as `meta_step.augmented_step` does."""
    micro = MicroPasses(network, batch)
    loss_of = semantic(network, criterion, estimator.covariance, lam_t)
    loss, extra = real_step(network, optimizer, micro, loss_of, criterion.class_weights, extra_batch)
    estimator.update(micro.features, batch.target)
    return PlainStepResult(loss, micro.logits, extra)


def meta_network_step(
    network: Network, criterion: SemanticLoss, estimator: EstimatorCV, optimizer: torch.optim.Optimizer,
    batch: MicroBatches, meta_batch: MicroBatches, *, lam_t: float, virtual_lr: float, meta_lr: float,
    rule: Rule = gradient_rule, virtual: str = "all", train_on_meta: bool = False,
) -> MetaStepResult:  # fmt: skip
    """Take one MetaSAug step, as `meta_step.meta_step` does, whose parameters these are."""
    micro, meta, sigma = MicroPasses(network, batch), MicroPasses(network, meta_batch), estimator.covariance
    seek = {"all": whole_mixed_gradient, "head": head_mixed_gradient}[virtual]
    loss_virtual, loss_meta, mixed = seek(network, criterion, micro, meta, sigma, lam_t, virtual_lr)
    grad_covariance = -virtual_lr * mixed
    sigma_hat = rule(sigma, grad_covariance, meta_lr)
    lowered = grad_traces(rule, sigma, grad_covariance, sigma_hat, meta_lr)
    negative = negative_trace(sigma, sigma_hat)

    loss_of, extra_batch = semantic(network, criterion, sigma_hat, lam_t), meta_batch if train_on_meta else None
    loss, _ = real_step(network, optimizer, micro, loss_of, criterion.class_weights, extra_batch)
    estimator.update(micro.features, batch.target)
    return MetaStepResult(loss_virtual, loss_meta, loss, micro.logits, grad_covariance, sigma_hat, negative, lowered)


def semantic(network: Network, criterion: SemanticLoss, covariance: Tensor, lam_t: float) -> MeanLoss:
    """Return L at given covariances, as a function of logits and target; it depends on W besides."""
    return lambda logits, target: criterion(logits, network.head_weight, target, covariance, lam_t)


def whole_mixed_gradient(
    network: Network, criterion: SemanticLoss, micro: MicroPasses, meta: MicroPasses, sigma: Tensor, lam_t: float,
    virtual_lr: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return L, L_meta at θ' (scalars) and G / −α, of Σ's shape, where the virtual step moves all weights."""
    weights = network.weights
    outputs = micro.outputs(recorded=micro.alone)
    losses = micro.losses(semantic(network, criterion, sigma, lam_t), outputs, criterion.class_weights)
    loss, grads = network.summed(losses, weights, again=micro.alone)
    stepped = virtual_step(weights, with_zeros(grads, weights), virtual_lr)
    loss_meta, found = network.summed(meta.losses(F.cross_entropy, meta.moved(stepped)), stepped)
    direction = with_zeros(found, weights)
    logits_dot = micro.gathered(list(micro.directional(weights, direction)), len(network.head_weight))
    name = f"{network.model.head}.weight"
    parts = micro.logits, weights[name], micro.batch.target, sigma, lam_t, logits_dot, direction[name]
    return loss, loss_meta, mixed_gradient(criterion, *parts)


def with_zeros(grads: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a gradient for every weight, zeros where there is none."""
    return {name: grads[name] if name in grads else torch.zeros_like(weight) for name, weight in weights.items()}


def head_mixed_gradient(
    network: Network, criterion: SemanticLoss, micro: MicroPasses, meta: MicroPasses, sigma: Tensor, lam_t: float,
    virtual_lr: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return L, L_meta at θ' (scalars) and G / −α, of Σ's shape, where the virtual step moves the head alone."""
    for _ in micro.outputs(graph=False):
        pass
    with torch.no_grad():
        rows = meta.gathered([features for features, _, _ in meta.moved({})], network.head_weight.shape[1])
    seen = micro.features, micro.logits, micro.batch.target
    meta_rows = rows, meta.batch.target
    return head_gradient(criterion, head_of(network.model), *seen, meta_rows, sigma, lam_t, virtual_lr)
