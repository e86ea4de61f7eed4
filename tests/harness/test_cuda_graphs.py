"""Steps as CUDA graphs take the same steps; what cannot be recorded is stepped as it is."""

from contextlib import nullcontext

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
METASAUG = {
    "metasaug": {},
    "relative": {"rule": relative_rule, "meta_lr": 0.5},
    "head": {"rule": relative_rule, "meta_lr": 0.5, "virtual": "head"},
    "trained on": {"virtual": "head", "train_on_meta": True},
}
METHODS = ["plain", "isda", "plain, trained on", "isda, trained on", *METASAUG]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def trained(method, enabled, device, make=lambda: make_model("resnet8", CLASSES)):
    """Weights, class statistics and what the steps saw, after steps whose rate and λ change on the way; what took them."""
    torch.manual_seed(0)
    model = make().to(device).train()
    criterion = MetaSAugLDAM(range(20, 20 - CLASSES, -1)).to(device)
    estimator = EstimatorCV(model.get_submodule(model.head).in_features, CLASSES).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    take, passes, seen = StepTaker(device, (model, criterion, estimator), enabled), Passes(model), {}
    draws = torch.Generator().manual_seed(1)

    def draw(count):
        images, target = torch.randn(count, 3, 16, 16, generator=draws), torch.randint(CLASSES, (count,), generator=draws)
        return images.to(device), target.to(device)

    for k, size in enumerate(BATCHES):
        optimizer.param_groups[0]["lr"] = lr = 0.1 if k < 5 else 0.01
        batch, meta = draw(size), draw(10)
        extra = meta if method.endswith("trained on") else None  # its loss is added
        if method.startswith("plain"):
            result = take(plain_step, passes, optimizer, batch, extra)
        elif method.startswith("isda"):
            result = take(augmented_step, model, criterion, estimator, optimizer, batch, extra, lam_t=lr, passes=passes)
        else:
            numbers = {"lam_t": 5 * lr, "virtual_lr": lr, "meta_lr": 10.0, **METASAUG[method]}
            result = take(meta_step, model, criterion, estimator, optimizer, batch, meta, passes=passes, **numbers)
            seen[f"covariance {k}"] = result.covariance.clone()
        seen |= {f"loss {k}": result.loss.clone(), f"logits {k}": result.logits.clone()}
    return {**seen, **model.state_dict(), **estimator.state_dict()}, take


def assert_same(ours, theirs, bound):
    torch.testing.assert_close({name: value.cpu() for name, value in ours.items()},
                               {name: value.cpu() for name, value in theirs.items()}, rtol=bound, atol=bound)  # fmt: skip


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("method", METHODS[3:])
def test_elsewhere_every_step_is_called_as_it_is(method):
    (ours, take), (theirs, _) = (trained(method, enabled, torch.device("cpu")) for enabled in (True, False))
    assert_same(ours, theirs, 1e-15)
    assert not take.enabled


@pytest.mark.cuda
@needs_cuda
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("method", METHODS)
def test_graphs_take_the_same_steps(method):
    device = torch.device("cuda", 0)
    ours, take = trained(method, True, device)
    assert_same(ours, trained(method, False, device)[0], 1e-8)
    assert_same(ours, trained(method, True, torch.device("cpu"))[0], 1e-7)
    assert [recorded is not None for recorded in take.seen.values()] == [True, True]  # both sizes of batches
    other, _ = trained(method, True, device, lambda: make_model("resnet8", CLASSES, 1))
    assert distance(ours, other) > 1e-3  # the control


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
    said = "--cuda_graphs: this step cannot be recorded, continuing without"
    with pytest.warns(UserWarning, match=said) if kind == "value" else nullcontext():
        ours, take = trained(method, True, device, lambda: WithFeatures(Odd(kind), "fc"))
    assert not take.enabled
    assert_same(ours, trained(method, False, device, lambda: WithFeatures(Odd(kind), "fc"))[0], 1e-8)
