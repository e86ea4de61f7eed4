"""Layers that run with given weights, and leave the module as it was."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import meta_layers
from meta_layers import MetaBatchNorm2d, WithFeatures, run_with


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = MetaBatchNorm2d(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(F.relu(self.bn(self.conv(x))).mean((2, 3)))


def snapshot(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for k in a:
        assert torch.equal(a[k], b[k]), k


def test_names_left_out_keep_the_modules_values_and_unknown_names_are_refused():
    net = Net()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(run_with(net, {}, x), net(x))
    with pytest.raises(KeyError, match=r"fc\.wieght"):
        run_with(net, {"fc.wieght": net.fc.weight}, x)


@pytest.mark.parametrize("make", [Net, lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))])
def test_statistics_are_left_alone_within_and_move_again_after(make):
    net = make()
    x = torch.randn(6, 3, 8, 8)
    before = snapshot(net)
    with meta_layers.frozen_statistics(net):
        frozen = net(x)
    assert_same(snapshot(net), before)
    assert torch.equal(frozen, net(x))  # normalised by the batch all the same
    after = snapshot(net)
    assert any(not torch.equal(after[k], before[k]) for k in before if "running" in k)
    with pytest.raises(RuntimeError):
        meta_layers.run_with(net, {}, torch.zeros(1, 1, 1, 1))
    assert all(getattr(m, "track_running_stats", True) for m in net.modules())


def test_other_buffers_are_left_alone():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return x

    counter = Counter()
    meta_layers.run_with(counter, {}, torch.zeros(1))
    assert counter.calls == 0
    counter(torch.zeros(1))
    assert counter.calls == 1


def test_batch_norm_state_has_the_published_keys_and_equals_pytorchs():
    ours, theirs = MetaBatchNorm2d(4), nn.BatchNorm2d(4)
    assert list(ours.state_dict()) == ["weight", "bias", "running_mean", "running_var"]
    for _ in range(3):
        x = torch.randn(5, 4, 3, 3)
        assert torch.equal(ours(x), theirs(x))
    loaded = MetaBatchNorm2d(4)
    plain = dict(ours.state_dict())  # a plain dict has no version, as in the released files
    loaded.load_state_dict(plain, strict=True)
    assert torch.equal(loaded.eval()(x), theirs.eval()(x))


def test_a_network_of_logits_gains_features_and_keeps_its_names():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Dropout(0.0), nn.Linear(4, 2))
    assert [meta_layers.last_linear(net, classes) for classes in (2, 4)] == ["4", "2"]
    wrapped, x = WithFeatures(net, "4"), torch.randn(5, 3)
    features, logits = wrapped(x)
    assert torch.equal(features, net[:4](x))
    assert torch.equal(logits, net(x))
    assert meta_layers.head_of(wrapped) is net[4]
    assert not net[4]._forward_pre_hooks
    assert_same(wrapped.state_dict(), net.state_dict())
    wrapped.load_state_dict({name: torch.zeros_like(value) for name, value in net.state_dict().items()})
    assert not net(x).any()


def test_a_last_layer_that_is_not_linear_is_refused():
    with pytest.raises(TypeError, match="Linear"):
        WithFeatures(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "1")
    with pytest.raises(ValueError, match=r"Sequential has no nn.Linear with 7 outputs"):
        meta_layers.last_linear(nn.Sequential(nn.Linear(2, 2), nn.Conv2d(2, 7, 1)), 7)
