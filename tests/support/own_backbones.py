"""Networks of one's own as --backbone takes them, and such as it refuses."""

import random

import numpy as np
import torch
from torch import nn

RAN = []  # what was called


def stem():
    """Images (N, 3, H, W) -> (N, 16)."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )


class Named(nn.Module):
    """A network whose parts have names of one's choice: the first, then perhaps an inner layer, then the last layer."""

    def __init__(self, first="body", last="fc", inner=None, classes=5):
        super().__init__()
        self.first, self.inner, self.last = first, inner, last
        self.add_module(first, stem())
        if inner:
            self.add_module(inner, nn.Linear(16, 16))
        self.add_module(last, nn.Linear(16, classes))

    def forward(self, images):
        features = self.get_submodule(self.first)(images)
        if self.inner:
            features = self.get_submodule(self.inner)(features).sin()
        return self.get_submodule(self.last)(features)

    @classmethod
    def small(cls):
        return cls(last="out")


class Wrapped(nn.Module):
    """A network in another, under the name `model` or `module`."""

    def __init__(self, name, inner):
        super().__init__()
        self.name = name
        self.add_module(name, inner)

    def forward(self, images):
        return self.get_submodule(self.name)(images)


def network():
    return Named()


def in_module():
    return Wrapped("module", Named())


def in_model():
    return Wrapped("model", Named(last="out", inner="fc"))


def compiled():
    return Wrapped("_orig_mod", Named())


def inner():
    return Named(inner="fc", last="out")


def configured():
    made = Named()
    made.pretrained_cfg = {"input_size": (3, 40, 40), "crop_pct": 1.0, "std": [1, 1, 1], "interpolation": "bilinear"}
    return made


def with_border():
    made = Named()
    made.pretrained_cfg = {"crop_mode": "border"}
    return made


def recorded():
    RAN.append(True)
    return Named()


def drawing():
    """Seeds, draws and changes what is global."""
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(5)
    torch.set_default_dtype(torch.float64)
    torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002
    torch.set_default_dtype(torch.float32)
    made = Named()
    torch.set_default_dtype(torch.float64)
    return made


def no_network():
    return [1, 2]


def failing():
    raise KeyError("no such size")


class Changed(Named):
    """A network whose answers are `change` of the last layer's."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, images):
        return self.change(super().forward(images))


def pair():
    return Changed(lambda logits: (logits, logits))


def scaled_in_place():
    return Changed(lambda logits: logits.mul_(2))


def not_finite():
    made = Named()
    made.body[0].weight.data.fill_(float("nan"))
    return made


class TwoNames(Named):
    """The last layer has two names, and is called by the second."""

    def __init__(self):
        super().__init__()
        self.again = self.fc

    def forward(self, images):
        return self.again(self.body(images))


class Asking(Named):
    """A network that looks at its last layer's weights."""

    def forward(self, images):
        return self.fc(self.body(images).to(self.fc.weight.dtype))


class ByName(Named):
    """A network that calls its last layer by the name of its argument."""

    def forward(self, images):
        return self.fc(input=self.body(images))


class OneSize(Named):
    """A network for images of 24 x 24."""

    def forward(self, images):
        if images.shape[-1] != 24:
            raise ValueError(f"images must be 24\nnot {images.shape[-1]}")
        return super().forward(images)
