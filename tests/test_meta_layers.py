"""Layers that run with given weights; test_meta_step.py and test_golden.py see what these leave of a module."""

import pytest
import torch
from torch import nn

from meta_layers import MetaBatchNorm2d, WithFeatures, frozen_statistics, last_linear, run_with


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x


def test_buffers_are_left_alone():
    counter = Counter()
    run_with(counter, {}, torch.zeros(1))
    assert counter.calls == 0
    norm, x = nn.BatchNorm2d(4), torch.randn(6, 4, 2, 2)
    with frozen_statistics(norm):
        norm(x)
    assert not norm.running_mean.any()
    norm(x)
    assert norm.running_mean.all()
    with pytest.raises(KeyError, match="wieght"):
        run_with(norm, {"wieght": norm.weight}, x)


def test_batch_norm_loads_a_dict_without_a_version():
    """As released files have it; its keys and figures are compared in test_golden.py."""
    norm = MetaBatchNorm2d(4)
    norm.load_state_dict(dict(norm.state_dict()))


def test_the_last_layer_is_linear_with_a_logit_a_class():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Dropout(0.0), nn.Linear(4, 2))
    assert [last_linear(net, classes) for classes in (2, 4)] == ["4", "2"]
    with pytest.raises(TypeError, match="Linear"):
        WithFeatures(net, "1")
    features, logits = WithFeatures(net, "4")(torch.randn(5, 3))
    assert torch.equal(net[4](features), logits)
    assert not net[4]._forward_pre_hooks
