"""CIFAR ResNets of 6n + 2 layers (He et al., arXiv 1512.03385, section 4.2) made of meta layers.

Shortcuts between stages are the parameter-free ones (option A): every second pixel, zero channels added on both
sides. `forward` returns the features before the classifier as well as the logits. The names of the weights are those
of the released checkpoints.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meta_layers import MetaBatchNorm2d, MetaConv2d, MetaLinear, MetaModule, WithFeatures, last_linear


class BasicBlock(MetaModule):
    """Two 3x3 convolutions with batch norm around an identity or option A shortcut."""

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = MetaConv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = MetaBatchNorm2d(planes)
        self.conv2 = MetaConv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = MetaBatchNorm2d(planes)
        self.stride = stride
        self.added_planes = planes - in_planes

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N, in_planes, H, W) to (N, planes, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride != 1 or self.added_planes:
            half = self.added_planes // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.added_planes - half))
        return F.relu(out + x)


class ResNet(MetaModule):
    """A ResNet for 32x32 images, width 16-32-64, `num_blocks` blocks a stage.

    Parameters
    ----------
    num_classes:
        Number of classes C.
    num_blocks:
        Blocks in each of the three stages; 5 makes ResNet-32.
    """

    head = "linear"  # the name of the last layer, for meta_step

    def __init__(self, num_classes: int, num_blocks: int = 5) -> None:
        super().__init__()
        self.conv1 = MetaConv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = MetaBatchNorm2d(16)
        self.layer1 = self._stage(16, 16, num_blocks, stride=1)
        self.layer2 = self._stage(16, 32, num_blocks, stride=2)
        self.layer3 = self._stage(32, 64, num_blocks, stride=2)
        self.linear = MetaLinear(64, num_classes)
        for m in self.modules():
            if isinstance(m, MetaConv2d | MetaLinear):
                nn.init.kaiming_normal_(m.weight)

    @staticmethod
    def _stage(in_planes: int, planes: int, num_blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(in_planes, planes, stride)
        return nn.Sequential(first, *(BasicBlock(planes, planes, 1) for _ in range(num_blocks - 1)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map images x (N, 3, 32, 32) to features (N, 64) and logits (N, C)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        with torch.autocast(x.device.type, enabled=False):  # the head keeps its digits under --amp
            features = out.to(self.linear.weight.dtype).mean(dim=(2, 3))  # (N, 64)
            return features, self.linear(features)


def build_model(arch: str, num_classes: int) -> ResNet:
    """Return the network named `arch`: "resnet32", or "resnet" and any 6n + 2.

    Raises
    ------
    ValueError
        If the name is not of that form.
    """
    match = re.fullmatch(r"resnet(\d+)", arch)
    depth = int(match[1]) if match else 0
    if depth < 8 or depth % 6 != 2:
        raise ValueError(
            f"{arch!r} is unknown: use resnet and a depth of 6n + 2, as in resnet32, or package.module:function"
        )
    return ResNet(num_classes, num_blocks=depth // 6)


def architecture(weights: Mapping[str, Tensor]) -> tuple[str | None, int | None]:
    """Read the architecture, for instance "resnet32", and the class count off the names and shapes of weights.

    None, None where they are those of another network.
    """
    blocks = [len({m[1] for k in weights if (m := re.match(rf"layer{s}\.(\d+)\.conv1\.weight$", k))}) for s in (1, 2, 3, 4)]
    first, head = weights.get("conv1.weight"), weights.get("linear.weight")
    of_cifar = first is not None and first.shape == (16, 3, 3, 3) and blocks[0] > 0 and blocks == [*[blocks[0]] * 3, 0]
    return (f"resnet{6 * blocks[0] + 2}", len(head)) if of_cifar and head is not None and head.dim() == 2 else (None, None)


def own_network(arch: str, num_classes: int) -> nn.Module:
    """Return what `package.module:function` makes of the class count; the current folder is searched too.

    It has to return (features, logits) and name its last layer by an attribute `head`, or logits, the output of its last
    `nn.Linear`.

    Raises
    ------
    ValueError
        If there is no such function, or it returns something else.
    """
    module, _, function = arch.partition(":")
    path = [*sys.path]
    sys.path.append(os.getcwd())
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{arch!r} cannot be imported ({error}): write package.module:function") from error
    finally:
        sys.path[:] = path
    model = make(num_classes)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{arch} returned a {type(model).__name__}, not an nn.Module")
    return model if isinstance(getattr(model, "head", None), str) else WithFeatures(model, last_linear(model, num_classes))


def make_model(arch: str, num_classes: int, seed: int = 0) -> nn.Module:
    """Return a new network with weights drawn from `seed`; the global random state is left as it was.

    Parameters
    ----------
    arch:
        As for `build_model`, or as for `own_network`.

    Raises
    ------
    ValueError
        If there is no such architecture.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return own_network(arch, num_classes) if ":" in arch else build_model(arch, num_classes)
