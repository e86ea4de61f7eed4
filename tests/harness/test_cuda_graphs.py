"""Steps as CUDA graphs take the same steps; what cannot be recorded is stepped as it is."""

from contextlib import nullcontext

import pytest
import torch
from support.compare import relative
from support.step_problems import NETS, Problem

from covariance_rules import relative_rule
from harness.cuda_graphs import StepTaker
from meta_step import augmented_step, meta_step, plain_step
from passes import Passes

BATCHES = (12, 12, 12, 7, 12, 12, 7, 7, 12)  # with shorter last ones
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
METASAUG = {
    "metasaug": {"meta_lr": 10.0},
    "relative": {"rule": relative_rule, "meta_lr": 0.5},
    "trained on": {"meta_lr": 10.0, "virtual": "head", "train_on_meta": True},
}
METHODS = ["plain", "isda", "plain, trained on", "isda, trained on", *METASAUG]
pytestmark = pytest.mark.usefixtures("float64")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def trained(method, enabled, device, net="resnet8", seed=0):
    """Weights, class statistics and what the steps saw, after steps whose rate and λ change on the way; what took them."""
    p = Problem(net)
    model, criterion, estimator = (module.to(device) for module in (p.model, p.criterion, p.estimator))
    take, passes, seen = StepTaker(device, (model, criterion, estimator), enabled), Passes(model), {}
    meta = tuple(part.to(device) for part in p.meta)
    extra = meta if method.endswith("trained on") else None  # its loss is added
    for k, size in enumerate(BATCHES):
        p.optimizer.param_groups[0]["lr"] = lr = 0.1 if k < 5 else 0.01
        batch = tuple(part.roll(k + seed, 0)[:size].to(device) for part in p.batch)
        parts = model, criterion, estimator, p.optimizer, batch
        if method.startswith("plain"):
            result = take(plain_step, passes, p.optimizer, batch, extra)
        elif method.startswith("isda"):
            result = take(augmented_step, *parts, extra, lam_t=lr, passes=passes)
        else:
            result = take(meta_step, *parts, meta, lam_t=5 * lr, virtual_lr=lr, passes=passes, **METASAUG[method])
            seen[f"covariance {k}"] = result.covariance.clone()
        seen |= {f"loss {k}": result.loss.clone(), f"logits {k}": result.logits.clone()}
    both = {**seen, **model.state_dict(), **estimator.state_dict()}
    return {name: value.cpu() for name, value in both.items()}, take


def test_elsewhere_every_step_is_called_as_it_is():
    (ours, take), (theirs, _) = (trained("trained on", enabled, CPU) for enabled in (True, False))
    torch.testing.assert_close(ours, theirs, rtol=1e-15, atol=1e-15)
    assert not take.enabled


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("method", METHODS)
def test_graphs_take_the_same_steps(method):
    ours, take = trained(method, True, CUDA)
    for (theirs, _), bound in ((trained(method, False, CUDA), 1e-8), (trained(method, True, CPU), 1e-7)):
        torch.testing.assert_close(ours, theirs, rtol=bound, atol=bound)
    assert [recorded is not None for recorded in take.seen.values()] == [True, True]  # both sizes of batches
    other, _ = trained(method, True, CUDA, seed=1)
    assert relative(ours["logits 8"], other["logits 8"]) > 1e-3  # the control


class Reading(NETS["small"]):
    """A network that reads a value off the device."""

    def forward(self, x):
        features, logits = super().forward(x)
        return features, logits * 2 if float(features.detach().sum()) < 1e9 else logits


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("net", ["dropout", "reading"])
@pytest.mark.parametrize("method", ["plain", "metasaug"])
def test_a_step_that_cannot_be_recorded_is_called_as_it_is(monkeypatch, method, net):
    monkeypatch.setitem(NETS, "reading", Reading)
    said = "--cuda_graphs: this step cannot be recorded, continuing without"
    with pytest.warns(UserWarning, match=said) if net == "reading" else nullcontext():
        ours, take = trained(method, True, CUDA, net)
    assert not take.enabled
    torch.testing.assert_close(ours, trained(method, False, CUDA, net)[0], rtol=1e-8, atol=1e-8)
