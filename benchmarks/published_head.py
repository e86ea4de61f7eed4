"""A straightforward version of the published ImageNet and iNaturalist head step, the baseline of a benchmark.

Written anew after the structure of the published code (github.com/BIT-DA/MetaSAug): semantic logits and class statistics
over tensors of shape (N, C, A), and the meta gradient by a second backward pass through the graph of the first. It is
neither slowed down nor optimised, and nothing else uses it.

Notation: N batch, C classes, A feature size. One tensor (N, C, A) in float32 takes 2.1 GB at N = 256, C = 1000,
A = 2048, and seven of them are held at once at the peak.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loss import class_balanced_weights


def augmented_logits(logits: Tensor, weight: Tensor, target: Tensor, covariance: Tensor, lam_t: float) -> Tensor:
    """Return the semantic logits (N, C) of logits (N, C), W (C, A), target (N,) and diagonal covariances (C, A)."""
    N, (C, A) = len(logits), weight.shape
    NxW_ij = weight.expand(N, C, A)
    NxW_kj = torch.gather(NxW_ij, 1, target.view(N, 1, 1).expand(N, C, A))
    CV_temp = covariance[target].view(N, 1, A).expand(N, C, A)
    sigma2 = lam_t * ((NxW_ij - NxW_kj).pow(2) * CV_temp).sum(2)
    return logits + 0.5 * sigma2


class PublishedHead:
    """A linear head, its optimizer and the class statistics of its features, which start at zero.

    Parameters
    ----------
    weight, bias:
        The head's first weights, (C, A) and (C,).
    cls_num_list:
        Images of each class.
    lr, meta_lr:
        Learning rate of the virtual and the real step, and the step size of the covariances.
    """

    def __init__(self, weight: Tensor, bias: Tensor, cls_num_list: Sequence[int], lr: float, meta_lr: float) -> None:
        self.fc = self.new_head(weight, bias)
        self.class_weights = class_balanced_weights(cls_num_list).to(weight)
        self.lr = lr
        self.meta_lr = meta_lr
        self.optimizer = torch.optim.SGD(self.fc.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
        self.covariance = torch.zeros_like(weight)
        self.mean = torch.zeros_like(weight)
        self.count = torch.zeros_like(bias)

    @staticmethod
    def new_head(weight: Tensor, bias: Tensor) -> nn.Linear:
        """Return a new head with a copy of these weights."""
        C, A = weight.shape
        head = nn.Linear(A, C, device=weight.device, dtype=weight.dtype)
        head.load_state_dict({"weight": weight, "bias": bias})
        return head

    def criterion(self, fc: nn.Linear, features: Tensor, target: Tensor, covariance: Tensor, lam_t: float) -> Tensor:
        """Return the class-balanced cross-entropy (scalar) of the semantic logits."""
        logits = augmented_logits(fc(features), fc.weight, target, covariance, lam_t)
        return F.cross_entropy(logits, target, weight=self.class_weights)

    @torch.no_grad()
    def update_statistics(self, features: Tensor, target: Tensor) -> None:
        """Take in one batch: features (N, A), target (N,)."""
        N, (C, A) = len(features), self.covariance.shape
        onehot = features.new_zeros(N, C).scatter_(1, target.view(N, 1), 1)
        NxCxA_features = features.view(N, 1, A).expand(N, C, A)
        NxCxA_onehot = onehot.view(N, C, 1).expand(N, C, A)

        features_by_class = NxCxA_features * NxCxA_onehot
        amount = NxCxA_onehot.sum(0)  # (C, A)
        amount[amount == 0] = 1
        mean = features_by_class.sum(0) / amount
        centred = features_by_class - mean.expand(N, C, A) * NxCxA_onehot
        variance = centred.pow(2).sum(0) / amount

        new_count = onehot.sum(0)  # (C,)
        share = (new_count / (new_count + self.count)).view(C, 1).expand(C, A).clone()
        share[share != share] = 0  # 0 / 0, classes never seen
        cross = share * (1 - share) * (self.mean - mean).pow(2)
        self.covariance = self.covariance * (1 - share) + variance * share + cross
        self.mean = self.mean * (1 - share) + mean * share
        self.count = self.count + new_count

    def step(
        self, features: Tensor, target: Tensor, meta_features: Tensor, meta_target: Tensor, lam_t: float
    ) -> dict[str, Tensor]:
        """Take one step on features (N, A) and target (N,): the head and the class statistics move once.

        Returns loss_virtual, loss_meta and loss (scalars), and the meta gradient grad_covariance (C, A).
        """
        virtual = self.new_head(self.fc.weight, self.fc.bias)
        covariance = self.covariance.clone().requires_grad_()
        loss_virtual = self.criterion(virtual, features, target, covariance, lam_t)
        grads = torch.autograd.grad(loss_virtual, (virtual.weight, virtual.bias), create_graph=True)
        stepped_weight = virtual.weight - self.lr * grads[0]
        stepped_bias = virtual.bias - self.lr * grads[1]

        loss_meta = F.cross_entropy(F.linear(meta_features, stepped_weight, stepped_bias), meta_target)
        grad_covariance = torch.autograd.grad(loss_meta, covariance)[0]
        covariance_hat = (covariance - self.meta_lr * grad_covariance).detach()
        del grads, stepped_weight, stepped_bias

        loss = self.criterion(self.fc, features, target, covariance_hat, lam_t)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.update_statistics(features, target)
        return {
            "loss_virtual": loss_virtual.detach(),
            "loss_meta": loss_meta.detach(),
            "loss": loss.detach(),
            "grad_covariance": grad_covariance,
        }
