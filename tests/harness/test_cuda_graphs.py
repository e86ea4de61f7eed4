"""Steps as CUDA graphs take the same steps; what cannot be recorded is stepped as it is."""

import pytest
import torch
from support.compare import distance
from torch import nn

from covariance_rules import relative_rule
from harness.cuda_graphs import StepTaker
from loss import EstimatorCV, MetaSAugLDAM
from meta_layers import WithFeatures
from meta_step import augmented_step, meta_step, plain_step
from passes import Passes
from resnet import make_model

CLASSES, BATCHES = 5, (12, 12, 12, 7, 12, 12, 7, 7, 12)  # with shorter last ones
VARIANTS = {
    "metasaug": {},
    "relative": {"rule": relative_rule, "meta_lr": 0.5},
    "head": {"rule": relative_rule, "meta_lr": 0.5, "virtual": "head"},
    "trained on": {"virtual": "head", "train_on_meta": True},
}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def trained(method, enabled, device, make=lambda: make_model("resnet8", CLASSES)):
    """Weights, class statistics and what the steps saw, after steps whose rate and λ change on the way."""
    torch.manual_seed(0)
    model = make().to(device).train()
    criterion = MetaSAugLDAM(range(20, 20 - CLASSES, -1)).to(device)
    estimator = EstimatorCV(model.get_submodule(model.head).in_features, CLASSES).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    take, passes, seen = StepTaker(device, (model, criterion, estimator), enabled), Passes(model), []
    batches = torch.Generator().manual_seed(1)
    for k, size in enumerate(BATCHES):
        optimizer.param_groups[0]["lr"] = lr = 0.1 if k < 5 else 0.01
        batch, meta = (
            (
                torch.randn(n, 3, 16, 16, generator=batches).to(device),
                torch.randint(CLASSES, (n,), generator=batches).to(device),
            )
            for n in (size, 10)
        )
        extra = meta if method.endswith("trained on") else None  # its loss is added
        if method.startswith("plain"):
            result = take(plain_step, passes, optimizer, batch, extra)
        elif method.startswith("isda"):
            result = take(augmented_step, model, criterion, estimator, optimizer, batch, extra, lam_t=lr, passes=passes)
        else:
            numbers = {"lam_t": 5 * lr, "virtual_lr": lr, "meta_lr": 10.0, **VARIANTS[method]}
            result = take(meta_step, model, criterion, estimator, optimizer, batch, meta, passes=passes, **numbers)
            seen += [result.grad_covariance.clone(), result.covariance.clone(), result.negative_trace.double()]
        seen += [result.loss.clone(), result.logits.clone()]
    return model.state_dict(), estimator.state_dict(), seen, take


def assert_same(ours, theirs, bound):
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(mine, other, rtol=bound, atol=bound)
    torch.testing.assert_close(ours[2], theirs[2], rtol=bound, atol=bound)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("method", ["isda, trained on", *VARIANTS])
def test_elsewhere_every_step_is_called_as_it_is(method):
    device = torch.device("cpu")
    ours, theirs = (trained(method, enabled, device) for enabled in (True, False))
    assert_same(ours, theirs, 1e-15)
    assert not ours[3].enabled


@pytest.mark.cuda
@needs_cuda
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("method", ["plain", "isda", "plain, trained on", "isda, trained on", *VARIANTS])
def test_graphs_take_the_same_steps(method):
    device = torch.device("cuda", 0)
    ours, theirs, cpu = (
        trained(method, True, device),
        trained(method, False, device),
        trained(method, True, torch.device("cpu")),
    )
    assert_same(ours, theirs, 1e-8)
    assert_same([{k: v.cpu() for k, v in part.items()} for part in ours[:2]] + [[t.cpu() for t in ours[2]]], cpu, 1e-7)
    assert [recorded is not None for recorded in ours[3].seen.values()] == [True, True]  # both sizes of batches
    assert (
        distance(ours[0], trained(method, True, device, lambda: make_model("resnet8", CLASSES, 1))[0]) > 1e-3
    )  # the control


class Odd(nn.Module):
    """A network that draws random numbers, or reads a value off the device."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.conv, self.fc = kind, nn.Conv2d(3, 8, 3), nn.Linear(8, CLASSES)
        nn.init.normal_(self.fc.weight, generator=torch.Generator().manual_seed(3))

    def forward(self, x):
        out = torch.relu(self.conv(x)).mean(dim=(2, 3))
        if self.kind == "dropout":
            return self.fc(torch.dropout(out, 0.5, True))
        return self.fc(out * 2 if float(out.detach().sum()) < 1e9 else out)


@pytest.mark.cuda
@needs_cuda
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["dropout", "value"])
@pytest.mark.parametrize("method", ["plain", "metasaug"])
def test_a_step_that_cannot_be_recorded_is_called_as_it_is(method, kind):
    device = torch.device("cuda", 0)

    def make():
        return WithFeatures(Odd(kind), "fc")

    if kind == "value":
        with pytest.warns(UserWarning, match="--cuda_graphs: this step cannot be recorded, continuing without"):
            ours = trained(method, True, device, make)
    else:
        ours = trained(method, True, device, make)
    assert not ours[3].enabled
    assert_same(ours, trained(method, False, device, make), 1e-8)
