"""How Σ̂ comes out of Σ and the meta gradient G: the published rule, and one that knows no scale and keeps Σ̂ a covariance.

A rule takes Σ and G, full (K, A, A) or diagonal (K, A), and a step size, and returns Σ̂ of their shape. Its rows are classes,
or samples with the covariances of their classes: each is moved by itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from loss import traces

Rule = Callable[[Tensor, Tensor, float], Tensor]  # (Σ, G, step size) -> Σ̂


def gradient_rule(sigma: Tensor, grad_covariance: Tensor, meta_lr: float) -> Tensor:
    """Return Σ̂ = Σ − meta_lr · G, the published rule (arXiv 2103.12579, algorithm 1, line 6)."""
    return sigma - meta_lr * grad_covariance


def relative_rule(sigma: Tensor, grad_covariance: Tensor, step_size: float) -> Tensor:
    """Return Σ̂_c = P(Σ_c − step_size · ‖Σ_c‖ / ‖G_c‖ · G_c), P the projection on the positive semi-definite.

    Norms are Frobenius norms. Neither the size of the features nor the rate of the virtual step, of which G is a multiple,
    plays a part: before the projection a class's covariance moves by the share `step_size` of its norm. Where G_c is zero,
    as for a class that is not in the batch, Σ̂_c is Σ_c.
    """
    if sigma.device.type != "cpu":  # elsewhere a choice of rows would wait for the device
        return _moved_by_share(sigma, grad_covariance, step_size)
    there = grad_covariance.flatten(1).any(dim=1).nonzero().squeeze(1)
    if len(there) == len(sigma):
        return _moved_by_share(sigma, grad_covariance, step_size)
    return sigma.index_copy(0, there, _moved_by_share(sigma[there], grad_covariance[there], step_size))


RULES: dict[str, Rule] = {"published": gradient_rule, "relative": relative_rule}


def grad_traces(rule: Rule, sigma: Tensor, grad_covariance: Tensor, moved: Tensor, step_size: float) -> Tensor:
    """Return by how much `rule` lowered the trace of each class (K,), over its step size.

    For the published rule that is the trace of G itself, which Σ − Σ̂ is too coarse for when its moves are small.
    """
    if rule is gradient_rule or not step_size:
        return traces(grad_covariance)
    return traces(sigma - moved) / step_size


def _moved_by_share(sigma: Tensor, grad_covariance: Tensor, step_size: float) -> Tensor:
    unit, there = _normalised(grad_covariance)
    direction, norm = _normalised(sigma)
    moved = positive_part(direction - step_size * unit) * norm
    return torch.where((there == 0) | (norm == 0), sigma, moved)  # what is not finite stays so, for all to see


def _normalised(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x (K, ...) over its norms, and the norms (K, 1, ...); zeros stay zeros, and no square leaves the range."""
    axes = tuple(range(1, x.dim()))
    largest = x.abs().amax(dim=axes, keepdim=True)
    scaled = x / torch.where(largest > 0, largest, 1)
    norm = scaled.square().sum(dim=axes, keepdim=True).sqrt()
    return scaled / torch.where(norm > 0, norm, 1), norm * largest


def positive_part(x: Tensor) -> Tensor:
    """Return the nearest positive semi-definite matrix to each symmetric one, (K, A, A); of diagonals (K, A) a clamp.

    That is x with its negative eigenvalues set to zero, Π x Π with Π = (I + sign x) / 2. The sign is the polar factor of x,
    from Newton and Schulz's iteration, scaled so that it needs the fewest steps (Chen and Chow 2014): products of matrices
    only, which a CUDA graph can hold and nothing waits for, unlike a decomposition. Eigenvalues are right to the rounding of
    the largest of x, and no diagonal is below zero.
    """
    if x.dim() == 2:
        return x.clamp(min=0)
    x = (x + x.mT) / 2
    sign, _ = _normalised(x)
    least = torch.finfo(x.dtype).eps / 2  # eigenvalues nearer to zero, as a share of the norm, may keep either sign
    while least < 1 - torch.finfo(x.dtype).eps:
        cushion = max(least, 0.3)  # the scaling for an even smaller one would send 1 near 0, and lose its digits
        scale = (3 / (1 + cushion + cushion * cushion)) ** 0.5
        # The transpose matters: what rounding makes of eigenvalues of zero is not symmetric, and would grow without it.
        sign = torch.baddbmm(sign, sign, sign.mT @ sign, beta=1.5 * scale, alpha=-0.5 * scale**3)
        least = min(scale * least * (3 - (scale * least) ** 2) / 2, 1.0)
    half = (sign + sign.mT) / 4  # half the sign, symmetric
    half.diagonal(dim1=1, dim2=2).add_(0.5)
    part = half @ x @ half
    part = (part + part.mT) / 2
    part.diagonal(dim1=1, dim2=2).clamp_(min=0)  # what rounding left below it
    return part
