"""CIFAR ResNets of 6n + 2 layers (He et al., arXiv 1512.03385, section 4.2).

Shortcuts between stages are the parameter-free ones (option A): every second pixel, zero channels added on both
sides. `forward` returns the features before the classifier as well as the logits. The names of the weights are those
of the released checkpoints.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from operator import attrgetter

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meta_layers import MetaBatchNorm2d, WithFeatures, last_linear

DEEPEST = 1202  # of the paper


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around an identity or option A shortcut."""

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = MetaBatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
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


class ResNet(nn.Module):
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
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = MetaBatchNorm2d(16)
        self.layer1 = self._stage(16, 16, num_blocks, stride=1)
        self.layer2 = self._stage(16, 32, num_blocks, stride=2)
        self.layer3 = self._stage(32, 64, num_blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d | nn.Linear):
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


def depth_of(arch: str) -> int:
    """Return the depth that "resnet32", or "resnet" and any 6n + 2, names.

    Raises
    ------
    ValueError
        If the name is not of that form.
    """
    match = re.fullmatch(r"resnet(\d+)", arch)
    depth = int(match[1][:9]) if match else 0
    if not 8 <= depth <= DEEPEST or depth % 6 != 2:
        form = f"resnet and a depth of 6n + 2 from 8 to {DEEPEST}, as in resnet32"
        raise ValueError(f"{arch[:60]!r} is unknown: use {form}, or package.module:function")
    return depth


def build_model(arch: str, num_classes: int) -> ResNet:
    """Return the CIFAR ResNet named `arch`, as `depth_of` reads it."""
    return ResNet(num_classes, num_blocks=depth_of(arch) // 6)


def own_function(arch: str) -> Callable[[int], nn.Module]:
    """Import `package.module:function`, or `package.module:Class.method`; the current folder is searched too.

    Raises
    ------
    ValueError
        If there is no such function.
    """
    module, _, function = arch.partition(":")
    path = [*sys.path]
    sys.path.append(os.getcwd())
    try:
        make: Callable[[int], nn.Module] = attrgetter(function)(importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{arch!r} cannot be imported ({error}): write package.module:function") from error
    finally:
        sys.path[:] = path
    return make


def architecture(weights: Mapping[str, Tensor]) -> tuple[str | None, int | None]:
    """Read the architecture, for instance "resnet32", and the class count off the names and shapes of weights.

    None, None where they are those of another network.
    """
    blocks = [len({m[1] for k in weights if (m := re.match(rf"layer{s}\.(\d+)\.conv1\.weight$", k))}) for s in (1, 2, 3, 4)]
    first, head = weights.get("conv1.weight"), weights.get("linear.weight")
    of_cifar = first is not None and first.shape == (16, 3, 3, 3) and blocks[0] > 0 and blocks == [*[blocks[0]] * 3, 0]
    whole = of_cifar and head is not None and head.shape[1:] == (64,) and 6 * blocks[0] + 2 <= DEEPEST
    return (f"resnet{6 * blocks[0] + 2}", len(head)) if whole and head is not None else (None, None)


def own_network(arch: str, num_classes: int) -> nn.Module:
    """Return what `package.module:function` makes of the class count, in the form that the step needs.

    It has to return logits, or (features, logits). Its last layer is what its attribute `head` is or names, or else its last
    `nn.Linear` with as many outputs.

    Raises
    ------
    ValueError
        If it returns something else.
    """
    model = own_function(arch)(num_classes)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{arch} returned a {type(model).__name__}, not an nn.Module")
    layers, said = dict(model.named_modules()), getattr(model, "head", None)
    named = said if isinstance(said, str) else next((name for name, m in layers.items() if m is said), None)
    head = last_linear(model, num_classes) if named is None else named
    if not isinstance(layers.get(head), nn.Linear) or layers[head].out_features != num_classes:
        raise ValueError(f"{arch}: its head {head!r} is no nn.Linear with {num_classes} outputs")
    wrapped = WithFeatures(model, head).eval()
    with torch.no_grad():
        out = wrapped(torch.zeros(2, 3, 32, 32))
    if len(out) != 2 or any(part.dim() != 2 or len(part) != 2 for part in out) or out[1].shape[1] != num_classes:
        raise ValueError(f"{arch} must return logits (N, {num_classes}), or features (N, A) and logits")
    return wrapped.train()


def make_model(arch: str, num_classes: int, seed: int = 0) -> nn.Module:
    """Return a new network with weights drawn from `seed`; the global random state is left as it was.

    Parameters
    ----------
    arch:
        As for `depth_of`, or as for `own_function`.

    Raises
    ------
    ValueError
        If there is no such architecture, or what it makes cannot be trained here.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not manual_seed, which seeds the GPU as well
        return own_network(arch, num_classes) if ":" in arch else build_model(arch, num_classes)
