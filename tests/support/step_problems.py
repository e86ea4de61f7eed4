"""Networks, batches and covariances for the step, and the slow ways to its meta gradient: double backward."""

import torch
import torchvision
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from loss import EstimatorCV, MetaSAugLDAM
from meta_layers import MetaBatchNorm2d, WithFeatures, head_of
from meta_step import meta_step
from resnet import build_model

CLASSES, LAM_T, ALPHA, META_LR = 5, 0.6, 0.05, 0.3


class SmallNet(nn.Module):
    """Smooth on purpose, so that finite differences have no kinks to cross."""

    head = "classifier"

    def __init__(self, bias=True):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.bn = MetaBatchNorm2d(6)
        self.classifier = nn.Linear(6, CLASSES, bias)

    def forward(self, x):
        features = torch.tanh(self.bn(self.conv(x))).mean((2, 3)) * 3
        return features, self.classifier(features)


class WithDropout(SmallNet):
    def forward(self, x):
        features = F.dropout(super().forward(x)[0], 0.5, self.training)
        return features, self.classifier(features)


NETS = {
    "small": SmallNet,
    "resnet8": lambda: build_model("resnet8", CLASSES),
    "torchvision": lambda: WithFeatures(torchvision.models.ShuffleNetV2([1, 1, 1], [8, 16, 32, 64, 64], CLASSES), "fc"),
    "dropout": WithDropout,
    "no bias": lambda: SmallNet(bias=False),
}


class Problem:
    """A network, a criterion, two batches and covariances that are not zero."""

    def __init__(self, net="small", diagonal=False, criterion=MetaSAugLDAM):
        torch.manual_seed(0)
        self.model = NETS[net]().train()
        self.criterion = criterion([40, 20, 10, 5, 2])
        x = torch.randn(12, 3, 32, 32)
        self.batch = x, torch.randint(0, CLASSES, (12,))
        self.meta = torch.randn(10, 3, 32, 32), torch.arange(10) % CLASSES
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
        size = head_of(self.model).in_features
        self.estimator = EstimatorCV(size, CLASSES, diagonal)
        root = torch.randn(CLASSES, size, size) / size**0.5
        full = root.mT @ root
        self.sigma = full.diagonal(dim1=1, dim2=2).contiguous() if diagonal else full
        self.estimator.covariance = self.sigma

    def step(self, **changes):
        arguments = {"lam_t": LAM_T, "virtual_lr": ALPHA, "meta_lr": META_LR, **changes}
        return meta_step(self.model, self.criterion, self.estimator, self.optimizer, self.batch, self.meta, **arguments)

    def logits_at(self, weights, inputs):
        """The logits at `weights`, statistics untouched."""
        buffers = {k: v.clone() for k, v in self.model.named_buffers()}
        return functional_call(self.model, {**buffers, **weights}, (inputs,))[1]

    def loss_at(self, weights, sigma):
        """The training loss at `weights` as a function of them and Σ, statistics untouched."""
        logits = self.logits_at(weights, self.batch[0])
        return self.criterion(logits, weights[f"{self.model.head}.weight"], self.batch[1], sigma, LAM_T)

    def meta_loss(self, sigma, create_graph=False, moved=""):
        """L_meta(θ'(Σ)): the slow way, through the virtual step; differentiable in Σ if asked.

        The virtual step moves the weights whose names begin with `moved`.
        """
        weights = {n: p.detach().clone().requires_grad_(p.requires_grad) for n, p in self.model.named_parameters()}
        seed = torch.get_rng_state()
        loss = self.loss_at(weights, sigma)
        chosen = {n: w for n, w in weights.items() if n.startswith(moved) and w.requires_grad}
        grads = torch.autograd.grad(loss, list(chosen.values()), create_graph=create_graph)
        stepped = {n: w - ALPHA * g for (n, w), g in zip(chosen.items(), grads, strict=True)}
        loss_meta = F.cross_entropy(self.logits_at({**weights, **stepped}, self.meta[0]), self.meta[1])
        torch.set_rng_state(seed)
        return loss_meta

    def double_backward(self, virtual="all"):
        """The meta gradient of the whole virtual step, or of that of the head alone."""
        sigma = self.estimator.covariance.clone().requires_grad_()
        moved = {"all": "", "head": f"{self.model.head}."}[virtual]
        return torch.autograd.grad(self.meta_loss(sigma, create_graph=True, moved=moved), sigma)[0]
