"""Class statistics, semantic logits, LDAM margins, class-balanced weights and the criteria of MetaSAug.

Notation: N batch, C classes, A feature size; features (N, A), target (N,), the last layer's weight W (C, A), and the
class covariance Σ, full (C, A, A) or diagonal (C, A). Pure functions first, thin modules below them. No tensor of shape
(N, C, A) or (N, C, C) is made, and nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LITTLE = 1e-3  # a move of the covariances, as a share of their traces, that is said to be next to nothing
SHARE_CLASSES = 256  # of which the share of the augmentation is measured
SCATTER_ELEMENTS = 1 << 22  # outer products held at once when full covariances are summed


def class_balanced_weights(cls_num_list: Sequence[int], beta: float = 0.9999) -> Tensor:
    """Return weights (C,) in float64, (1 − β) / (1 − β^n_c) scaled to sum to C (arXiv 1901.05555, eq. 2).

    Raises
    ------
    ValueError
        If a class has no image or β lies outside [0, 1).
    """
    if min(cls_num_list) < 1:
        raise ValueError("every class needs at least one training image")
    if not 0 <= beta < 1:
        raise ValueError(f"beta must lie in [0, 1), it is {beta}")
    effective = torch.tensor([1 - beta**n for n in cls_num_list], dtype=torch.float64) / (1 - beta)
    weights = 1 / effective
    return weights * (len(cls_num_list) / weights.sum())


def log_prior(cls_num_list: Sequence[int]) -> Tensor:
    """Return the log of each class's share of the training images (C,) in float64.

    Added to the logits in training it makes balanced softmax (arXiv 2007.10740), the same as the loss of logit adjustment
    with τ = 1 (arXiv 2007.07314, eq. 10); taken off those of a network that was trained without, the adjustment afterwards
    (eq. 9).
    """
    if min(cls_num_list) < 1:
        raise ValueError("every class needs at least one training image")
    counts = torch.tensor(cls_num_list, dtype=torch.float64)
    return (counts / counts.sum()).log()


def logit_adjustment(cls_num_list: Sequence[int], tau: float) -> Tensor:
    """Return what is taken off the logits of a network that was trained without the log prior (C,): τ log π (eq. 9)."""
    return (tau * log_prior(cls_num_list)).to(torch.get_default_dtype())


def balancing(cls_num_list: Sequence[int], balance: str, beta: float = 0.9999) -> tuple[Tensor, Tensor | None]:
    """Return class weights (C,) and the log prior (C,), None for none: "weights", "prior" or "none" make up for the tail."""
    if balance == "weights":
        return class_balanced_weights(cls_num_list, beta), None
    return torch.ones(len(cls_num_list)), {"prior": log_prior, "none": lambda _: None}[balance](cls_num_list)


def ldam_margins(cls_num_list: Sequence[int], max_m: float = 0.5) -> Tensor:
    """Return margins (C,) in float64, proportional to n_c^(−1/4), the largest `max_m` (arXiv 1906.07413, eq. 13).

    LDAM's scale s of the logits is left out, as in the published MetaSAug code.
    """
    if min(cls_num_list) < 1:
        raise ValueError("every class needs at least one training image")
    margins = torch.tensor([n**-0.25 for n in cls_num_list], dtype=torch.float64)
    return margins * (max_m / margins.max())


def batch_statistics(
    features: Tensor, target: Tensor, num_classes: int, diagonal: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Return count (C,), mean (C, A) and population covariance, (C, A, A) or diagonal (C, A), of each class.

    Squares are taken about the class mean, not as differences of raw moments, so that features far from zero lose no
    digits. Classes absent from the batch get zeros. Sums are scatter-adds over (N, A).
    """
    count = features.new_zeros(num_classes).index_add_(0, target, features.new_ones(len(target)))
    divisor = count.clamp(min=1).unsqueeze(1)  # (C, 1)
    mean = features.new_zeros(num_classes, features.shape[1]).index_add_(0, target, features) / divisor
    centred = features - mean[target]  # (N, A)
    if diagonal:
        return count, mean, torch.zeros_like(mean).index_add_(0, target, centred.square()) / divisor
    size = features.shape[1]
    scatter = features.new_zeros(num_classes, size, size)
    rows = max(1, SCATTER_ELEMENTS // size**2)
    for part, label in zip(centred.split(rows), target.split(rows), strict=True):
        scatter.index_add_(0, label, part.unsqueeze(2) * part.unsqueeze(1))
    return count, mean, scatter.div_(divisor.unsqueeze(2))


def merge_statistics(
    old: tuple[Tensor, Tensor, Tensor], new: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Pool two sets of (count, mean, covariance) as if their samples had been seen together.

    The cross term of the two means is included (Chan, Golub and LeVeque 1979; ISDA, arXiv 1909.12220, eq. 10-11).
    """
    (n, mean, covariance), (m, new_mean, new_covariance) = old, new
    share = (m / (n + m).clamp(min=1)).unsqueeze(1)  # (C, 1): the new samples' share
    delta = new_mean - mean  # (C, A)
    cross = share * (1 - share) * delta  # (C, A)
    pooled_mean = mean + share * delta
    if covariance.dim() == 2:
        return n + m, pooled_mean, torch.lerp(covariance, new_covariance, share) + cross * delta
    pooled = torch.lerp(covariance, new_covariance, share.unsqueeze(2))
    return n + m, pooled_mean, torch.baddbmm(pooled, cross.unsqueeze(2), delta.unsqueeze(1))


def traces(covariance: Tensor) -> Tensor:
    """Return the trace (C,) of each class's covariance, full (C, A, A) or diagonal (C, A)."""
    diagonal = covariance if covariance.dim() == 2 else covariance.diagonal(dim1=1, dim2=2)
    return diagonal.sum(dim=1)


def negative_trace(covariance: Tensor, moved: Tensor) -> Tensor:
    """Return whether the move makes some class's trace negative, which no covariance has: a scalar on the device.

    Both are (K, A, A) or (K, A). A class counts once its trace is above zero. It is zero until two images of the class were
    seen, and then any move downwards makes it negative, however small `meta_lr` is.
    """
    return ((traces(covariance) > 0) & (traces(moved) < 0)).any()


def semantic_distances(weight: Tensor, target: Tensor, covariance: Tensor) -> Tensor:
    """Return (w_j − w_{y_i})ᵀ Σ_{y_i} (w_j − w_{y_i}) as (N, C).

    Only differences of rows of W enter, so W is centred first: without the part that all rows share, expanding the
    square loses no more digits than the logits themselves have. Full covariances are used once a class when C ≤ N, else
    once a sample. Gradients flow to `weight` and `covariance`; the latter's are symmetric.
    """
    centred = weight - weight.mean(dim=0)  # (C, A)
    per_class = len(weight) <= len(target)
    own = centred if per_class else centred[target]  # (K, A), K = min(C, N)
    sigma = covariance if per_class else covariance[target]  # (K, A, A) or (K, A)
    if covariance.dim() == 2:
        cross = 2 * sigma * own  # (K, A)
        squares = sigma @ centred.square().T  # (K, C)
    else:
        cross = ((sigma + sigma.mT) @ own.unsqueeze(2)).squeeze(2)  # (K, A)
        outer = (centred.unsqueeze(2) * centred.unsqueeze(1)).flatten(1)  # (C, A²)
        squares = sigma.flatten(1) @ outer.T  # (K, C)
    distances = squares - cross @ centred.T + (cross * own).sum(1, keepdim=True) / 2  # (K, C)
    return distances[target] if per_class else distances


def semantic_logits(logits: Tensor, weight: Tensor, target: Tensor, covariance: Tensor, lam_t: float) -> Tensor:
    """Return o_ij = logits_ij + (lam_t / 2) (w_j − w_y)ᵀ Σ_y (w_j − w_y), (N, C) (ISDA, arXiv 1909.12220, eq. 7).

    `lam_t` is λ_t = lam · epoch / epochs.
    """
    return logits + (lam_t / 2) * semantic_distances(weight, target, covariance)


@torch.no_grad()
def augmentation_share(logits: Tensor, weight: Tensor, target: Tensor, covariance: Tensor, lam_t: float) -> Tensor:
    """Return how large the augmentation is beside the logits: a scalar, its mean over their spread.

    The mean of (lam_t / 2) (w_j − w_y)ᵀ Σ_y (w_j − w_y) over the samples and the other classes j, and the standard deviation
    of a sample's logits (N, C) over the classes, its mean over the samples.
    """
    others = semantic_distances(weight, target, covariance).sum() / (len(target) * max(len(weight) - 1, 1))
    return (lam_t / 2) * others / logits.std(dim=1).mean()


class SemanticLoss(nn.Module):
    """Weighted cross-entropy of the semantic logits, with a margin on the true class.

    Parameters
    ----------
    class_weights, margins:
        Both (C,). The loss is the weighted mean: divided by the sum of the weights of the batch's labels.
    log_prior:
        (C,), added to the logits of each sample; None adds nothing.
    """

    class_weights: Tensor
    margins: Tensor
    log_prior: Tensor | None

    def __init__(self, class_weights: Tensor, margins: Tensor, log_prior: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("class_weights", class_weights.to(torch.get_default_dtype()))
        self.register_buffer("margins", margins.to(torch.get_default_dtype()))
        self.register_buffer("log_prior", None if log_prior is None else log_prior.to(torch.get_default_dtype()))

    def forward(self, logits: Tensor, weight: Tensor, target: Tensor, covariance: Tensor, lam_t: float) -> Tensor:
        """Return the loss (scalar) of logits (N, C), the head's weight (C, A), target (N,), Σ and λ_t."""
        semantic = semantic_logits(logits, weight, target, covariance, lam_t)
        index = target.unsqueeze(1)  # (N, 1)
        semantic = semantic.scatter_add(1, index, -self.margins[index])
        semantic = semantic if self.log_prior is None else semantic + self.log_prior
        return F.cross_entropy(semantic, target, weight=self.class_weights)


class MetaSAugCE(SemanticLoss):
    """The cross-entropy variant: no margins."""

    def __init__(self, cls_num_list: Sequence[int], beta: float = 0.9999, balance: str = "weights") -> None:
        weights, prior = balancing(cls_num_list, balance, beta)
        super().__init__(weights, torch.zeros(len(cls_num_list)), prior)


class MetaSAugLDAM(SemanticLoss):
    """The LDAM variant: label-dependent margins."""

    def __init__(
        self, cls_num_list: Sequence[int], beta: float = 0.9999, max_m: float = 0.5, balance: str = "weights"
    ) -> None:
        weights, prior = balancing(cls_num_list, balance, beta)
        super().__init__(weights, ldam_margins(cls_num_list, max_m), prior)


class EstimatorCV(nn.Module):
    """Running count, mean and covariance of the features of each class; everything starts at zero.

    Parameters
    ----------
    feature_num, class_num:
        A and C.
    diagonal:
        Keep the variances (C, A) only, as the ImageNet and iNaturalist experiments do.
    """

    count: Tensor
    mean: Tensor
    covariance: Tensor

    def __init__(self, feature_num: int, class_num: int, diagonal: bool = False) -> None:
        super().__init__()
        shape = (class_num, feature_num) if diagonal else (class_num, feature_num, feature_num)
        self.register_buffer("count", torch.zeros(class_num))
        self.register_buffer("mean", torch.zeros(class_num, feature_num))
        self.register_buffer("covariance", torch.zeros(shape))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take statistics back; a ValueError says so if they can be none."""
        count, covariance = state_dict["count"], state_dict["covariance"]
        variances = covariance if covariance.dim() == 2 else covariance.diagonal(dim1=1, dim2=2)
        if bool((count < 0).any() or (count != count.round()).any() or (variances < 0).any()):
            raise ValueError("image counts must be integers, and counts and variances must not be negative")
        return super().load_state_dict(state_dict, strict, assign)

    @torch.no_grad()
    def update(self, features: Tensor, target: Tensor) -> None:
        """Take in one batch: features (N, A), target (N,)."""
        features = features.to(self.mean.dtype)
        diagonal = self.covariance.dim() == 2
        if diagonal and len(target) <= len(self.count):
            self._update_rows(features, target)
            return
        new = batch_statistics(features, target, len(self.count), diagonal)
        self.count, self.mean, self.covariance = merge_statistics((self.count, self.mean, self.covariance), new)

    def _update_rows(self, features: Tensor, target: Tensor) -> None:
        """Touch only the rows of classes in the batch: O(N²A) instead of O(CA), which counts when C is in the thousands.

        Each sample computes its class's new row; all write the one of the class's first sample, so that the outcome does
        not depend on which comes last.
        """
        same = target.unsqueeze(1) == target  # (N, N)
        first = same.to(torch.uint8).argmax(dim=1)  # (N,)
        sums = same.to(features.dtype)
        number = sums.sum(dim=1)  # (N,)
        mean = sums @ features / number.unsqueeze(1)
        covariance = sums @ (features - mean).square() / number.unsqueeze(1)
        buffers = self.count, self.mean, self.covariance
        old = self.count[target], self.mean[target], self.covariance[target]
        merged = merge_statistics(old, (number, mean, covariance))
        for buffer, rows in zip(buffers, merged, strict=True):
            buffer.index_copy_(0, target, rows[first])


def covariance_traces(estimator: EstimatorCV, moved: Tensor | float | None) -> dict[str, list[float]]:
    """Return the traces of the classes' covariances (C,) by name: estimated and, after meta steps, learned.

    `moved` is by how much the meta steps lowered them, mean over the steps with an image of the class. Nothing is returned
    before the first statistics.
    """
    if not bool(estimator.count.any()):
        return {}
    estimated = traces(estimator.covariance)
    learned = {} if moved is None else {"trace_learned": (estimated - moved).tolist()}
    return {"trace_estimated": estimated.tolist(), **learned}


@torch.no_grad()
def augmentation_note(head: nn.Linear, estimator: EstimatorCV, lam_t: float) -> list[str]:
    """Return a line with the `augmentation_share` at the classes' mean features, so that a λ can be carried over.

    Of at most SHARE_CLASSES classes, evenly spaced, that were seen; none where nothing is augmented.
    """
    seen = estimator.count.nonzero().squeeze(1)
    if not lam_t or not len(seen):
        return []
    target = seen[:: -(-len(seen) // SHARE_CLASSES)]
    share = augmentation_share(head(estimator.mean[target]), head.weight, target, estimator.covariance, lam_t)
    return [f"augmentation: on average {100 * float(share):.3g} % of the logits' spread, at λ_t {lam_t:.3g}"]


def moved_note(traces_of: Mapping[str, list[float]], flag: str = "--meta_lr") -> list[str]:
    """Return a line if meta steps moved the covariances by less than LITTLE of their traces (see `covariance_traces`).

    `flag` is where the step size of the rule for Σ̂ is set.
    """
    pairs = zip(traces_of.get("trace_learned", ()), traces_of.get("trace_estimated", ()), strict=False)
    shares = [abs(learned - estimated) / estimated for learned, estimated in pairs if estimated > 0]
    if not shares or not max(shares) < LITTLE:
        return []
    told = f"note: the last epoch's meta steps changed no class's covariance by more than {max(shares):.0e} of its trace"
    return [f"{told}, so they changed next to nothing: a larger λ or {flag} moves them further"]
