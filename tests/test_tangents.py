"""The tangent of a recorded pass against finite differences and against PyTorch's forward mode on every layer."""

import pytest
import torch
from support.compare import relative
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet
from torchvision.models.shufflenetv2 import ShuffleNetV2

from meta_gradient import random_state, replayed, trained_weights
from meta_layers import WithFeatures, run_with
from resnet import build_model
from tangents import recorded, tangent

pytestmark = pytest.mark.usefixtures("float64")


class Cosine(nn.Linear):
    """A head of another kind: cosines."""

    def forward(self, x):
        return F.linear(F.normalize(x), F.normalize(self.weight))


class Odd(nn.Module):
    """Layers of other kinds between known ones, one layer used twice, biases, groups, strides, in-place sums, dropout."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.twice = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.bn = nn.BatchNorm2d(8)
        self.norm = nn.GroupNorm(2, 8)
        self.circular = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")
        self.still = nn.BatchNorm2d(8)
        self.hidden = nn.Linear(8, 8)
        self.head = Cosine(8, 5)

    def forward(self, x):
        x = self.twice(torch.tanh(self.first(x)))
        x = self.twice(x)
        y = self.bn(x)
        y += x
        y = self.circular(F.gelu(self.norm(y)))
        y = self.still(y)
        features = F.dropout(torch.tanh(self.hidden(y.mean((2, 3)))), 0.3, self.training)
        return features, self.head(features)


class Doubled(nn.Module):
    """A parametrisation: the weight is twice the parameter."""

    def forward(self, weight):
        return 2 * torch.tanh(weight)


class Tied(nn.Module):
    """Weights that are reached by more than their own layer: shared, used directly, parametrised; a hook on a layer."""

    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.c3 = (nn.Conv2d(n, 6, 3, padding=1) for n in (3, 6, 6))
        self.c3.weight = self.c2.weight
        self.bn = nn.BatchNorm2d(6)
        self.l1, self.l2 = nn.Linear(6, 6), nn.Linear(6, 6)
        self.l2.weight = self.l1.weight
        self.own = parametrize.register_parametrization(nn.Conv2d(6, 6, 1), "weight", Doubled())
        self.hooked = nn.Conv2d(6, 6, 1)
        self.hooked.register_forward_hook(lambda module, inputs, output: output + 0.5 * inputs[0].square())
        self.patched = nn.Linear(6, 6)
        self.patched.forward = lambda x: F.linear(x, 3 * self.patched.weight)
        self.head = Cosine(6, 5)

    def forward(self, x):
        x = self.c3(torch.tanh(self.c2(self.c1(x))))
        x = self.bn(F.conv2d(x, self.c2.weight, padding=1) + self.hooked(self.own(x)))
        features = torch.tanh(self.patched(self.l2(self.l1(x.mean((2, 3))))))
        return features, self.head(features)


def odd():
    net = Odd()
    net.still.eval()
    net.still.running_mean.normal_()
    return net


NETS = {
    "resnet8": lambda: build_model("resnet8", 5),
    "shufflenet": lambda: WithFeatures(ShuffleNetV2([1, 1, 1], [8, 16, 32, 64, 64], 5), "fc"),
    "resnet, in-place": lambda: WithFeatures(TorchvisionResNet(Bottleneck, [1, 1, 1, 1], 5, width_per_group=4), "fc"),
    "odd": odd,
    "tied": Tied,
}


class Problem:
    def __init__(self, name, frozen=()):
        torch.manual_seed(0)
        self.model = NETS[name]()
        if name != "odd":
            self.model.train()
        for n, p in self.model.named_parameters():
            p.requires_grad_(not any(n.startswith(part) for part in frozen))
        self.x = torch.randn(6, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        self.weights = trained_weights(self.model)
        self.direction = {n: torch.randn_like(w) for n, w in self.weights.items()}

    def ours(self, grad=True):
        state = random_state(self.x.device)
        with torch.set_grad_enabled(grad), recorded(self.model) as tape:
            self.model(self.x)
        with replayed(state, self.x.device):
            return tangent(self.model, tape, self.weights, self.direction, self.x)

    def forward_mode(self):
        torch.manual_seed(1)
        with torch.no_grad(), forward_ad.dual_level():
            duals = {n: forward_ad.make_dual(w.detach(), self.direction[n]) for n, w in self.weights.items()}
            return forward_ad.unpack_dual(run_with(self.model, duals, self.x)[1]).tangent


FROZEN = [("resnet8", ["layer2", "bn1.weight"]), ("odd", ["first.weight", "bn.bias"]), ("odd", ["first", "twice", "bn"])]


@pytest.mark.parametrize(("name", "frozen"), [*((name, []) for name in NETS), *FROZEN])
def test_equals_forward_mode_on_every_layer_and_frozen_parameters_stand_still(name, frozen):
    problem = Problem(name, frozen)
    for grad in (True, False):  # without a graph batch norm's statistics are computed again
        torch.manual_seed(1)
        assert relative(problem.ours(grad), problem.forward_mode()) < 1e-12


def test_an_interrupted_pass_leaves_the_layers_their_own_forward(monkeypatch):
    problem = Problem("resnet8")
    with recorded(problem.model) as tape:
        problem.model(problem.x)
    monkeypatch.setattr("tangents.affine_tangent", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tangent(problem.model, tape, problem.weights, problem.direction, problem.x)
    assert not any("forward" in vars(module) or module._forward_hooks for module in problem.model.modules())


def test_it_costs_two_forward_passes_where_plain_forward_mode_costs_three():
    problem = Problem("resnet8")
    counts = {}
    with recorded(problem.model) as tape, torch.no_grad(), FlopCounterMode(display=False) as counter:
        problem.model(problem.x)
    counts["forward"] = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        tangent(problem.model, tape, problem.weights, problem.direction, problem.x)
    counts["tangent"] = counter.get_total_flops()
    first = next(m for m in problem.model.modules() if isinstance(m, nn.Conv2d))
    image_part = 2 * 6 * 32 * 32 * 3 * 9 * first.out_channels  # the images stand still: their convolution has one term only
    assert counts["tangent"] == 2 * counts["forward"] - image_part
