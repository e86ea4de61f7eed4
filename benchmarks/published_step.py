"""A straightforward version of the published steps, the baseline of a benchmark: of CIFAR, and of ImageNet's linear head.

Written anew after the structure of the published code (github.com/BIT-DA/MetaSAug): a new copy of the network at each step
whose weights are replaced by θ − α g with its graph, semantic logits over tensors of shape (N, C, A), and (N, C, C) of full
covariances, class statistics over (N, C, A), and the meta gradient by a second backward pass through the graph of the first.
It is neither slowed down nor optimised, and nothing else uses it. The network's layers are those of the root; the published
ones keep weights as buffers.

Notation: N batch, C classes, A feature size. One tensor (N, C, A) in float32 takes 2.1 GB at N = 256, C = 1000, A = 2048,
and seven of them are held at once at the peak.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loss import class_balanced_weights, ldam_margins
from meta_layers import HeadAlone, head_of
from resnet import ResNet


def augmented_logits(logits: Tensor, weight: Tensor, target: Tensor, covariance: Tensor, lam_t: float) -> Tensor:
    """Return the semantic logits (N, C) of logits (N, C), W (C, A), target (N,), covariances (C, A, A) or (C, A)."""
    N, (C, A) = len(logits), weight.shape
    NxW_ij = weight.expand(N, C, A)
    NxW_kj = torch.gather(NxW_ij, 1, target.view(N, 1, 1).expand(N, C, A))
    CV_temp = covariance[target]  # (N, A, A) or (N, A)
    if covariance.ndim == 2:
        sigma2 = lam_t * ((NxW_ij - NxW_kj).pow(2) * CV_temp.view(N, 1, A).expand(N, C, A)).sum(2)
    else:
        sigma2 = lam_t * torch.bmm(torch.bmm(NxW_ij - NxW_kj, CV_temp), (NxW_ij - NxW_kj).permute(0, 2, 1))  # (N, C, C)
        sigma2 = sigma2.mul(torch.eye(C, device=sigma2.device).expand(N, C, C)).sum(2).view(N, C)
    return logits + 0.5 * sigma2


class PublishedStep:
    """A network, its optimizer and the class statistics of its features, which start at zero.

    `lr` is the rate of the virtual and the real step. `diagonal` covariances go with cross-entropy, as in the published code
    of ImageNet, full ones with the margins of LDAM.
    """

    def __init__(
        self, new_model: Callable[[], ResNet | HeadAlone], cls_num_list: Sequence[int], lr: float, meta_lr: float,
        diagonal: bool = False, device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.new_model, self.device = new_model, torch.device(device)
        self.lr, self.meta_lr = lr, meta_lr
        with self.device:
            self.model = new_model()
        self.class_weights = class_balanced_weights(cls_num_list).to(self.device, torch.get_default_dtype())
        self.margins = None if diagonal else ldam_margins(cls_num_list, 0.5).to(self.class_weights)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
        C, A = head_of(self.model).weight.shape
        self.covariance = torch.zeros((C, A) if diagonal else (C, A, A), device=self.device)
        self.mean = torch.zeros(C, A, device=self.device)
        self.count = torch.zeros(C, device=self.device)

    def criterion(self, weight: Tensor, logits: Tensor, target: Tensor, covariance: Tensor, lam_t: float) -> Tensor:
        """Return the class-balanced cross-entropy (scalar) of the semantic logits less the margins, if there are any."""
        output = augmented_logits(logits, weight, target, covariance, lam_t)
        if self.margins is not None:
            index = torch.zeros_like(output, dtype=torch.bool).scatter_(1, target.view(-1, 1), True)  # (N, C)
            margins = torch.matmul(self.margins[None, :], index.to(output.dtype).transpose(0, 1)).view(-1, 1)  # (N, 1)
            output = torch.where(index, output - margins, output)
        return F.cross_entropy(output, target, weight=self.class_weights)

    def products(self, centred: Tensor) -> Tensor:
        """Return the sums over a batch of what is squared in covariances, of deviations (N, C, A)."""
        if self.covariance.ndim == 2:
            return centred.pow(2).sum(0)
        return torch.bmm(centred.permute(1, 2, 0), centred.permute(1, 0, 2))  # (C, A, A)

    @torch.no_grad()
    def update_statistics(self, features: Tensor, target: Tensor) -> None:
        """Take in one batch: features (N, A), target (N,)."""
        N, (C, A) = len(features), self.mean.shape
        rows = (C, A, 1)[: self.covariance.ndim]
        onehot = features.new_zeros(N, C).scatter_(1, target.view(N, 1), 1)
        NxCxA_features = features.view(N, 1, A).expand(N, C, A)
        NxCxA_onehot = onehot.view(N, C, 1).expand(N, C, A)

        features_by_class = NxCxA_features.mul(NxCxA_onehot)
        amount = NxCxA_onehot.sum(0)  # (C, A)
        amount[amount == 0] = 1
        mean = features_by_class.sum(0) / amount
        centred = features_by_class - mean.expand(N, C, A).mul(NxCxA_onehot)
        covariance = self.products(centred).div(amount.view(rows).expand_as(self.covariance))

        new_count = onehot.sum(0)  # (C,)
        share_AV = (new_count / (new_count + self.count)).view(C, 1).expand(C, A).clone()
        share_AV[share_AV != share_AV] = 0  # 0 / 0, classes never seen
        share_CV = share_AV.view(rows).expand_as(self.covariance)
        cross = share_CV.mul(1 - share_CV).mul(self.products((self.mean - mean)[None]))
        self.covariance = self.covariance.mul(1 - share_CV) + covariance.mul(share_CV) + cross
        self.mean = self.mean.mul(1 - share_AV) + mean.mul(share_AV)
        self.count = self.count + new_count

    def step(
        self, inputs: Tensor, target: Tensor, meta_loader: Iterable[tuple[Tensor, Tensor]], lam_t: float
    ) -> dict[str, Tensor]:
        """Take one step on images (N, 3, 32, 32) or features (N, A) and target (N,): weights and statistics move once.

        The meta batch is the first of a new iterator over `meta_loader`. Returns loss_virtual, loss_meta and loss
        (scalars), and the meta gradient grad_covariance, shaped as the covariances.
        """
        with self.device:
            meta_model = self.new_model()
        meta_model.load_state_dict(self.model.state_dict())
        covariance = self.covariance.clone().requires_grad_()
        _, virtual_logits = meta_model(inputs)
        loss_virtual = self.criterion(head_of(meta_model).weight, virtual_logits, target, covariance, lam_t)
        weights = dict(meta_model.named_parameters())
        grads = torch.autograd.grad(loss_virtual, list(weights.values()), create_graph=True)
        moved = {name: w - self.lr * grad for (name, w), grad in zip(weights.items(), grads, strict=True)}

        meta_inputs, meta_target = (part.to(self.device) for part in next(iter(meta_loader)))
        _, meta_logits = functional_call(meta_model, moved, (meta_inputs,))
        loss_meta = F.cross_entropy(meta_logits, meta_target)
        grad_covariance = torch.autograd.grad(loss_meta, covariance)[0]
        covariance_hat = (covariance - self.meta_lr * grad_covariance).detach()
        del meta_model, weights, grads, moved

        features, logits = self.model(inputs)
        loss = self.criterion(head_of(self.model).weight, logits, target, covariance_hat, lam_t)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.update_statistics(features.detach(), target)
        return {"loss_virtual": loss_virtual, "loss_meta": loss_meta, "loss": loss, "grad_covariance": grad_covariance}
