"""A straightforward version of the published CIFAR step, the baseline of a benchmark.

Written anew after the structure of the published code (github.com/BIT-DA/MetaSAug): a new copy of the network at each step
whose weights are replaced by θ − α g with its graph, semantic logits over tensors of shape (N, C, C), class statistics over
(N, C, A), and the meta gradient by a second backward pass through the graph of the first. It is neither slowed down nor
optimised, and nothing else uses it. The network's layers are those of the root; the published ones keep weights as buffers.

Notation: N batch, C classes, A = 64 feature size.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loss import class_balanced_weights, ldam_margins
from resnet import ResNet

FEATURES = 64


def augmented_logits(logits: Tensor, weight: Tensor, target: Tensor, covariance: Tensor, lam_t: float) -> Tensor:
    """Return the semantic logits (N, C) of logits (N, C), W (C, A), target (N,) and covariances (C, A, A)."""
    N, (C, A) = len(logits), weight.shape
    NxW_ij = weight.expand(N, C, A)
    NxW_kj = torch.gather(NxW_ij, 1, target.view(N, 1, 1).expand(N, C, A))
    CV_temp = covariance[target]  # (N, A, A)
    sigma2 = lam_t * torch.bmm(torch.bmm(NxW_ij - NxW_kj, CV_temp), (NxW_ij - NxW_kj).permute(0, 2, 1))  # (N, C, C)
    sigma2 = sigma2.mul(torch.eye(C, device=sigma2.device).expand(N, C, C)).sum(2).view(N, C)
    return logits + 0.5 * sigma2


class PublishedStep:
    """A network, its optimizer and the class statistics of its features, which start at zero.

    `lr` is the rate of the virtual and the real step, `max_m` the largest margin; 5 blocks a stage make ResNet-32.
    """

    def __init__(
        self, num_classes: int, cls_num_list: Sequence[int], lr: float, meta_lr: float, num_blocks: int = 5,
        max_m: float = 0.5, device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.num_classes = num_classes
        self.num_blocks = num_blocks
        self.device = torch.device(device)
        self.model = self.new_model()
        self.class_weights = class_balanced_weights(cls_num_list).to(self.device, torch.get_default_dtype())
        self.margins = ldam_margins(cls_num_list, max_m).to(self.device, torch.get_default_dtype())
        self.lr = lr
        self.meta_lr = meta_lr
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
        self.covariance = torch.zeros(num_classes, FEATURES, FEATURES, device=self.device)
        self.mean = torch.zeros(num_classes, FEATURES, device=self.device)
        self.count = torch.zeros(num_classes, device=self.device)

    def new_model(self) -> ResNet:
        """Return a network on the device."""
        with self.device:
            return ResNet(self.num_classes, self.num_blocks)

    def criterion(self, weight: Tensor, logits: Tensor, target: Tensor, covariance: Tensor, lam_t: float) -> Tensor:
        """Return the class-balanced cross-entropy (scalar) of the semantic logits less the margins."""
        augmented = augmented_logits(logits, weight, target, covariance, lam_t)
        index = torch.zeros_like(augmented, dtype=torch.bool).scatter_(1, target.view(-1, 1), True)  # (N, C)
        margins = torch.matmul(self.margins[None, :], index.to(augmented.dtype).transpose(0, 1)).view(-1, 1)  # (N, 1)
        output = torch.where(index, augmented - margins, augmented)
        return F.cross_entropy(output, target, weight=self.class_weights)

    @torch.no_grad()
    def update_statistics(self, features: Tensor, target: Tensor) -> None:
        """Take in one batch: features (N, A), target (N,)."""
        N, (C, A) = len(features), self.mean.shape
        onehot = features.new_zeros(N, C).scatter_(1, target.view(N, 1), 1)
        NxCxA_features = features.view(N, 1, A).expand(N, C, A)
        NxCxA_onehot = onehot.view(N, C, 1).expand(N, C, A)

        features_by_class = NxCxA_features.mul(NxCxA_onehot)
        amount = NxCxA_onehot.sum(0)  # (C, A)
        amount[amount == 0] = 1
        mean = features_by_class.sum(0) / amount
        centred = features_by_class - mean.expand(N, C, A).mul(NxCxA_onehot)
        covariance = torch.bmm(centred.permute(1, 2, 0), centred.permute(1, 0, 2))  # (C, A, A)
        covariance = covariance.div(amount.view(C, A, 1).expand(C, A, A))

        new_count = onehot.sum(0)  # (C,)
        share_CV = (new_count / (new_count + self.count)).view(C, 1, 1).expand(C, A, A).clone()
        share_CV[share_CV != share_CV] = 0  # 0 / 0, classes never seen
        share_AV = (new_count / (new_count + self.count)).view(C, 1).expand(C, A).clone()
        share_AV[share_AV != share_AV] = 0
        delta = self.mean - mean
        cross = share_CV.mul(1 - share_CV).mul(torch.bmm(delta.view(C, A, 1), delta.view(C, 1, A)))
        self.covariance = self.covariance.mul(1 - share_CV) + covariance.mul(share_CV) + cross
        self.mean = self.mean.mul(1 - share_AV) + mean.mul(share_AV)
        self.count = self.count + new_count

    def step(
        self, images: Tensor, target: Tensor, meta_loader: Iterable[tuple[Tensor, Tensor]], lam_t: float
    ) -> dict[str, Tensor]:
        """Take one step on images (N, 3, 32, 32) and target (N,): network and class statistics move once.

        The meta batch is the first of a new iterator over `meta_loader`. Returns loss_virtual, loss_meta and loss
        (scalars), and the meta gradient grad_covariance (C, A, A).
        """
        meta_model = self.new_model()
        meta_model.load_state_dict(self.model.state_dict())
        covariance = self.covariance.clone().requires_grad_()
        _, virtual_logits = meta_model(images)
        loss_virtual = self.criterion(meta_model.linear.weight, virtual_logits, target, covariance, lam_t)
        weights = dict(meta_model.named_parameters())
        grads = torch.autograd.grad(loss_virtual, list(weights.values()), create_graph=True)
        moved = {name: w - self.lr * grad for (name, w), grad in zip(weights.items(), grads, strict=True)}

        meta_images, meta_target = (part.to(self.device) for part in next(iter(meta_loader)))
        _, meta_logits = functional_call(meta_model, moved, (meta_images,))
        loss_meta = F.cross_entropy(meta_logits, meta_target)
        grad_covariance = torch.autograd.grad(loss_meta, covariance)[0]
        covariance_hat = (covariance - self.meta_lr * grad_covariance).detach()
        del meta_model, weights, grads, moved

        features, logits = self.model(images)
        loss = self.criterion(self.model.linear.weight, logits, target, covariance_hat, lam_t)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.update_statistics(features.detach(), target)
        return {
            "loss_virtual": loss_virtual.detach(),
            "loss_meta": loss_meta.detach(),
            "loss": loss.detach(),
            "grad_covariance": grad_covariance,
        }
