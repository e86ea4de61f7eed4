"""The step against a double-backward reference and torch.optim, on several kinds of network."""

import pytest
import torch
from support.compare import relative
from support.step_problems import CLASSES, META_LR, NETS, Problem
from torch import nn

from covariance_rules import gradient_rule, relative_rule
from loss import MetaSAugCE, MetaSAugLDAM, traces

pytestmark = pytest.mark.usefixtures("float64")
VIRTUAL = ("all", "head")
KINDS = [(False, MetaSAugLDAM), (True, MetaSAugLDAM), (False, MetaSAugCE)]


def assert_moved_once(problem, net):
    """The running statistics and those of the classes took in the training batch, once, at the weights before the step."""
    fresh = Problem(net, problem.sigma.dim() == 2, type(problem.criterion))
    torch.manual_seed(3)
    features, _ = fresh.model(fresh.batch[0])
    fresh.estimator.update(features.detach(), fresh.batch[1])
    for name in ("model", "estimator"):
        ours, expected = (dict(getattr(one, name).named_buffers()) for one in (problem, fresh))
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-13)
    assert all(module.training for module in problem.model.modules())


@pytest.mark.parametrize(
    ("net", "virtual", "kind", "rule"),
    [*((net, virtual, kind, gradient_rule) for net in NETS for virtual in VIRTUAL for kind in KINDS),
     *(("small", virtual, kind, relative_rule) for virtual in VIRTUAL for kind in KINDS)],
)  # fmt: skip
def test_the_step_is_an_optimizer_step_at_covariances_moved_by_double_backward(net, virtual, kind, rule):
    problem, twin = (Problem(net, *kind) for _ in range(2))
    torch.manual_seed(3)
    gradient = twin.double_backward(virtual)
    expected = rule(twin.sigma, gradient, META_LR)
    loss_meta = twin.meta_loss(twin.sigma, moved="" if virtual == "all" else f"{twin.model.head}.")
    loss = twin.loss_at(dict(twin.model.named_parameters()), expected)
    loss.backward()
    twin.optimizer.step()
    torch.manual_seed(3)
    result = problem.step(virtual=virtual, rule=rule)
    assert gradient.norm() > 1e-7
    assert relative(result.grad_covariance, gradient) < 1e-9
    torch.testing.assert_close(result.covariance, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close((result.loss, result.loss_meta), (loss.detach(), loss_meta.detach()))
    torch.testing.assert_close(META_LR * result.grad_trace, traces(problem.sigma - expected), rtol=1e-6, atol=1e-12)
    for (name, ours), theirs in zip(problem.model.named_parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11, msg=name)
    assert_moved_once(problem, net)
    other = Problem(net, *kind)  # the control: the other virtual step has another meta gradient
    if net != "dropout":
        assert relative(other.double_backward(VIRTUAL[virtual == "all"]), gradient) > 0.01


@pytest.mark.parametrize("diagonal", [False, True])
def test_a_class_whose_covariance_was_moved_below_a_trace_of_zero_is_seen(diagonal):
    found = []
    for meta_lr in (META_LR, 1e3, 1e6):
        problem = Problem(diagonal=diagonal)
        moved = problem.sigma - meta_lr * problem.double_backward()
        found.append(bool((traces(moved) < 0).any()))
        assert bool(problem.step(meta_lr=meta_lr).negative_trace) == found[-1], meta_lr
    assert (found[0], found[-1]) == (False, True)
    problem = Problem(diagonal=diagonal)
    problem.estimator.covariance.zero_()  # nothing is estimated yet: no rate would be small enough
    result = problem.step()
    assert (traces(result.covariance) < 0).any()
    assert not result.negative_trace


@pytest.mark.parametrize(
    ("net", "trained"),
    [("small", "classifier"), ("resnet8", "linear"), ("no bias", "classifier"), ("small", "classifier.weight")],
)
@pytest.mark.parametrize("diagonal", [False, True])
def test_with_a_frozen_backbone_both_virtual_steps_are_the_same(net, trained, diagonal):
    found = []
    for virtual in VIRTUAL:
        problem = Problem(net, diagonal)
        for name, parameter in problem.model.named_parameters():
            parameter.requires_grad_(name.startswith(trained))
        found.append((problem.step(virtual=virtual), problem.model.state_dict()))
    (whole, weights), (head, others) = found
    assert relative(head.grad_covariance, whole.grad_covariance) < 1e-12
    torch.testing.assert_close(dict(others), dict(weights), rtol=1e-13, atol=1e-15)
    assert relative(Problem(net, diagonal).step().grad_covariance, whole.grad_covariance) > 0.01  # the control


def test_global_random_state_is_left_where_one_forward_pass_leaves_it():
    problem, twin = Problem("dropout"), Problem("dropout")
    torch.manual_seed(3)
    twin.model(twin.batch[0])
    twin.model(twin.meta[0])
    expected = torch.get_rng_state()
    torch.manual_seed(3)
    problem.step()
    assert torch.equal(torch.get_rng_state(), expected)


def test_a_head_that_the_step_cannot_use_is_named():
    problem = Problem()
    problem.model.classifier = nn.Bilinear(6, 1, CLASSES)
    with pytest.raises(TypeError, match=r"classifier is not an nn\.Linear, it is a Bilinear"):
        problem.step(virtual="head")
    problem = Problem()
    nn.utils.parametrizations.weight_norm(problem.model.classifier)
    with pytest.raises(KeyError, match=r"classifier\.weight is no trained parameter"):
        problem.step()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_step_on_cuda_equals_the_cpu():
    cpu, gpu = Problem("resnet8"), Problem("resnet8")
    for part in ("model", "criterion", "estimator"):
        getattr(gpu, part).cuda()
    gpu.batch, gpu.meta = tuple(t.cuda() for t in gpu.batch), tuple(t.cuda() for t in gpu.meta)
    gpu.optimizer = torch.optim.SGD(gpu.model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    expected, ours = cpu.step(), gpu.step()
    assert relative(ours.grad_covariance.cpu(), expected.grad_covariance) < 1e-8
