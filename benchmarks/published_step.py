"""A straightforward version of the published CIFAR step, the baseline of a benchmark.

Written anew after the structure of the published code (github.com/BIT-DA/MetaSAug): a ResNet whose weights are buffers
that can be replaced by θ − α g with its graph, a new copy of it at each step, semantic logits over tensors of shape
(N, C, C), class statistics over (N, C, A), and the meta gradient by a second backward pass through the graph of the
first. It is neither slowed down nor optimised, and nothing else uses it.

Notation: N batch, C classes, A = 64 feature size.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loss import class_balanced_weights, ldam_margins

FEATURES = 64


class MetaModule(nn.Module):
    """A module whose weights are buffers; they can be replaced by tensors that have a graph."""

    leaves: tuple[str, ...] = ()  # the names of a layer's own weights

    def make_leaf(self, name: str, value: Tensor) -> None:
        """Register a weight."""
        self.register_buffer(name, value.detach().clone().requires_grad_())

    def named_params(self, module: nn.Module | None = None, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Yield the weights by name, those of a layer in the order of its `leaves`."""
        module = self if module is None else module
        if isinstance(module, MetaModule):
            for name in module.leaves:
                yield prefix + name, getattr(module, name)
        for name, child in module.named_children():
            yield from self.named_params(child, f"{prefix}{name}.")

    def params(self) -> Iterator[Tensor]:
        """Yield the weights."""
        for _, param in self.named_params():
            yield param

    def set_param(self, module: nn.Module, name: str, param: Tensor) -> None:
        """Replace the weight `name` of `module`."""
        if "." in name:
            first, rest = name.split(".", 1)
            for child_name, child in module.named_children():
                if child_name == first:
                    self.set_param(child, rest, param)
                    break
        else:
            setattr(module, name, param)

    def update_params(self, lr: float, grads: Sequence[Tensor]) -> None:
        """Replace each weight by θ − lr · g; the graph is kept."""
        for (name, param), grad in zip(list(self.named_params()), grads, strict=True):
            self.set_param(self, name, param - lr * grad)

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy weights and running statistics from a mapping of name to tensor; every name must be there."""
        self.load_state_dict(dict(weights))


class MetaConv2d(MetaModule):
    """3x3 convolution without bias."""

    weight: Tensor
    leaves = ("weight",)

    def __init__(self, in_planes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        layer = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        nn.init.kaiming_normal_(layer.weight)
        self.stride = stride
        self.make_leaf("weight", layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N, in_planes, H, W) to (N, planes, H / stride, W / stride)."""
        return F.conv2d(x, self.weight, stride=self.stride, padding=1)


class MetaBatchNorm2d(MetaModule):
    """Batch norm with running statistics."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    leaves = ("weight", "bias")

    def __init__(self, planes: int) -> None:
        super().__init__()
        layer = nn.BatchNorm2d(planes)
        self.make_leaf("weight", layer.weight)
        self.make_leaf("bias", layer.bias)
        self.register_buffer("running_mean", torch.zeros(planes))
        self.register_buffer("running_var", torch.ones(planes))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (N, planes, H, W)."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, 1e-5)


class MetaLinear(MetaModule):
    """Linear layer with bias."""

    weight: Tensor
    bias: Tensor
    leaves = ("weight", "bias")

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        layer = nn.Linear(in_features, out_features)
        nn.init.kaiming_normal_(layer.weight)
        self.make_leaf("weight", layer.weight)
        self.make_leaf("bias", layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N, in_features) to (N, out_features)."""
        return F.linear(x, self.weight, self.bias)


class Shortcut(nn.Module):
    """Option A: every second pixel, zero channels on both sides."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.planes = planes

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N, planes / 2, H, W) to (N, planes, H / 2, W / 2)."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.planes // 4, self.planes // 4), "constant", 0)


class BasicBlock(MetaModule):
    """Two 3x3 convolutions with batch norm around a shortcut."""

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = MetaConv2d(in_planes, planes, stride)
        self.bn1 = MetaBatchNorm2d(planes)
        self.conv2 = MetaConv2d(planes, planes)
        self.bn2 = MetaBatchNorm2d(planes)
        self.shortcut = nn.Sequential() if stride == 1 and in_planes == planes else Shortcut(planes)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N, in_planes, H, W) to (N, planes, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out = out + self.shortcut(x)
        return F.relu(out)


class ResNet(MetaModule):
    """A CIFAR ResNet, width 16-32-64; the names of the weights are those of the root's resnet.py."""

    def __init__(self, num_classes: int, num_blocks: int = 5) -> None:
        super().__init__()
        self.conv1 = MetaConv2d(3, 16)
        self.bn1 = MetaBatchNorm2d(16)
        self.layer1 = self.make_layer(16, 16, num_blocks, stride=1)
        self.layer2 = self.make_layer(16, 32, num_blocks, stride=2)
        self.layer3 = self.make_layer(32, FEATURES, num_blocks, stride=2)
        self.linear = MetaLinear(FEATURES, num_classes)

    @staticmethod
    def make_layer(in_planes: int, planes: int, num_blocks: int, stride: int) -> nn.Sequential:
        """Return a stage."""
        blocks = [BasicBlock(in_planes, planes, stride)]
        blocks += [BasicBlock(planes, planes, 1) for _ in range(num_blocks - 1)]
        return nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map images x (N, 3, 32, 32) to features (N, A) and logits (N, C)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size(3))
        features = out.view(out.size(0), -1)
        return features, self.linear(features)


def augmented_logits(logits: Tensor, weight: Tensor, target: Tensor, covariance: Tensor, ratio: float) -> Tensor:
    """Return the semantic logits (N, C) of logits (N, C), W (C, A), target (N,) and covariances (C, A, A)."""
    N, (C, A) = len(logits), weight.shape
    NxW_ij = weight.expand(N, C, A)
    NxW_kj = torch.gather(NxW_ij, 1, target.view(N, 1, 1).expand(N, C, A))
    CV_temp = covariance[target]  # (N, A, A)
    sigma2 = ratio * torch.bmm(torch.bmm(NxW_ij - NxW_kj, CV_temp), (NxW_ij - NxW_kj).permute(0, 2, 1))  # (N, C, C)
    sigma2 = sigma2.mul(torch.eye(C, device=sigma2.device).expand(N, C, C)).sum(2).view(N, C)
    return logits + 0.5 * sigma2


class PublishedStep:
    """A network, its optimizer and the class statistics of its features, which start at zero.

    Parameters
    ----------
    num_classes, cls_num_list:
        C and the images of each class.
    lr, meta_lr:
        Learning rate of the virtual and the real step, and the step size of the covariances.
    num_blocks:
        Blocks in each of the three stages; 5 makes ResNet-32.
    max_m:
        The largest margin; 0 makes the cross-entropy variant.
    device:
        Where everything lives.
    """

    def __init__(
        self,
        num_classes: int,
        cls_num_list: Sequence[int],
        lr: float,
        meta_lr: float,
        num_blocks: int = 5,
        max_m: float = 0.5,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_classes = num_classes
        self.num_blocks = num_blocks
        self.device = torch.device(device)
        self.model = self.new_model()
        self.class_weights = class_balanced_weights(cls_num_list).to(self.device, torch.get_default_dtype())
        self.margins = ldam_margins(cls_num_list, max_m).to(self.device, torch.get_default_dtype())
        self.lr = lr
        self.meta_lr = meta_lr
        self.optimizer = torch.optim.SGD(self.model.params(), lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
        self.covariance = torch.zeros(num_classes, FEATURES, FEATURES, device=self.device)
        self.mean = torch.zeros(num_classes, FEATURES, device=self.device)
        self.count = torch.zeros(num_classes, device=self.device)

    def new_model(self) -> ResNet:
        """Return a network; it is made on the device, since its weights would be no leaves after a move."""
        with self.device:
            return ResNet(self.num_classes, self.num_blocks)

    def criterion(self, linear: MetaLinear, logits: Tensor, target: Tensor, covariance: Tensor, ratio: float) -> Tensor:
        """Return the class-balanced cross-entropy (scalar) of the semantic logits less the margins."""
        augmented = augmented_logits(logits, linear.weight, target, covariance, ratio)
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
        self, images: Tensor, target: Tensor, meta_loader: Iterable[tuple[Tensor, Tensor]], ratio: float
    ) -> dict[str, Tensor]:
        """Take one step on images (N, 3, 32, 32) and target (N,): network and class statistics move once.

        The meta batch is the first of a new iterator over `meta_loader`. Returns loss_virtual, loss_meta and loss
        (scalars), and the meta gradient grad_covariance (C, A, A).
        """
        meta_model = self.new_model()
        meta_model.load_state_dict(self.model.state_dict())
        covariance = self.covariance.clone().requires_grad_()
        _, virtual_logits = meta_model(images)
        loss_virtual = self.criterion(meta_model.linear, virtual_logits, target, covariance, ratio)
        grads = torch.autograd.grad(loss_virtual, list(meta_model.params()), create_graph=True)
        meta_model.update_params(self.lr, grads)

        meta_images, meta_target = (part.to(self.device) for part in next(iter(meta_loader)))
        _, meta_logits = meta_model(meta_images)
        loss_meta = F.cross_entropy(meta_logits, meta_target)
        grad_covariance = torch.autograd.grad(loss_meta, covariance)[0]
        covariance_hat = (covariance - self.meta_lr * grad_covariance).detach()
        del meta_model, grads

        features, logits = self.model(images)
        loss = self.criterion(self.model.linear, logits, target, covariance_hat, ratio)
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

    def cross_entropy_step(self, images: Tensor, target: Tensor) -> Tensor:
        """Take one step of plain cross-entropy, as in the published first stage; return the loss (scalar)."""
        _, logits = self.model(images)
        loss = F.cross_entropy(logits, target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()
