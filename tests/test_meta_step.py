"""The step against a double-backward reference, finite differences and torch.optim, on several kinds of network."""

import pytest
import torch
from support.compare import relative
from support.step_problems import ALPHA, CLASSES, LAM_T, META_LR, NETS, Problem
from torch import nn

from covariance_rules import gradient_rule, relative_rule
from loss import MetaSAugCE, MetaSAugLDAM, traces
from meta_layers import head_of
from meta_step import augmented_step, plain_step
from passes import Passes

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


@pytest.mark.parametrize(
    ("criterion", "change"),
    [(MetaSAugLDAM, {"virtual_lr": 2 * ALPHA}), (MetaSAugLDAM, {"lam_t": 0.9 * LAM_T}), (MetaSAugCE, {})],
)
def test_the_comparison_sees_a_wrong_meta_gradient(criterion, change):
    expected = Problem(criterion=criterion).double_backward()
    assert relative(Problem(criterion=MetaSAugLDAM).step(**change).grad_covariance, expected) > 0.01


@pytest.mark.parametrize("diagonal", [False, True])
def test_meta_gradient_equals_finite_differences(diagonal):
    problem = Problem("small", diagonal)
    sigma, h = problem.estimator.covariance.clone(), 1e-4
    expected = torch.zeros_like(sigma)
    for index in range(sigma.numel()):
        around = []
        for sign in (1, -1):
            moved = sigma.clone()
            moved.view(-1)[index] += sign * h
            around.append(problem.meta_loss(moved).detach())
        expected.view(-1)[index] = (around[0] - around[1]) / (2 * h)
    assert relative(problem.step().grad_covariance, expected) < 1e-6


@pytest.mark.parametrize("diagonal", [False, True])
def test_a_class_whose_covariance_was_moved_below_a_trace_of_zero_is_seen(diagonal):
    found = []
    for meta_lr in (META_LR, 1e3, 1e6):
        problem = Problem(diagonal=diagonal)
        moved = problem.sigma - meta_lr * problem.double_backward()
        found.append(any(float((row if diagonal else row.diagonal()).sum()) < 0 for row in moved))
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
    assert relative(head.loss_meta, whole.loss_meta) < 1e-14
    torch.testing.assert_close(dict(others), dict(weights), rtol=1e-13, atol=1e-15)
    frozen = [name for name, _ in problem.model.named_parameters() if not name.startswith(trained)]
    assert all(torch.equal(weights[name], Problem(net, diagonal).model.get_parameter(name)) for name in frozen)
    assert relative(Problem(net, diagonal).step().grad_covariance, whole.grad_covariance) > 0.01  # the control


def relative_move(rule, scale, alpha, meta_lr, diagonal):
    """(Σ̂ − Σ) / ‖Σ‖ of a step with features `scale` times as large, and all else such that the logits are the same."""
    problem = Problem("no bias", diagonal)
    forward = problem.model.forward

    def scaled(x):
        features = forward(x)[0] * scale
        return features, problem.model.classifier(features)

    problem.model.forward = scaled
    with torch.no_grad():
        problem.model.classifier.weight /= scale
    problem.estimator.covariance = problem.sigma * scale**2
    result = problem.step(virtual="head", rule=rule, virtual_lr=alpha, meta_lr=meta_lr)
    return (result.covariance - problem.sigma * scale**2) / (problem.sigma.norm() * scale**2)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize(("scale", "factor"), [(10.0, 1.0), (1.0, 100.0)])
def test_neither_the_size_of_the_features_nor_the_virtual_rate_matters_to_the_relative_rule(scale, factor, diagonal):
    """At a virtual rate so small that the meta batch is judged at the same weights."""
    expected = relative_move(relative_rule, 1.0, 1e-9, 0.5, diagonal)
    assert expected.norm() > 0.1
    assert relative(relative_move(relative_rule, scale, factor * 1e-9, 0.5, diagonal), expected) < 1e-5
    published = relative_move(gradient_rule, 1.0, 1e-9, 1e10, diagonal)  # the control
    assert published.norm() > 1e-3
    assert relative(relative_move(gradient_rule, scale, factor * 1e-9, 1e10, diagonal), published) > 0.5


def take(method, problem, trained_on):
    """One step of `method`, with the meta batch trained on or not; what it saw."""
    passes = Passes(problem.model)
    extra = problem.meta if trained_on else None
    if method == "plain":
        return plain_step(passes, problem.optimizer, problem.batch, extra)
    parts = problem.model, problem.criterion, problem.estimator, problem.optimizer, problem.batch
    if method == "isda":
        return augmented_step(*parts, extra, lam_t=LAM_T, passes=passes)
    return problem.step(virtual=method, train_on_meta=trained_on, passes=passes)


@pytest.mark.parametrize("net", ["small", "torchvision"])
@pytest.mark.parametrize("method", ["plain", "isda", *VIRTUAL])
def test_the_loss_of_a_meta_batch_that_is_trained_on_is_added(method, net):
    problem, twin, without = (Problem(net) for _ in range(3))
    weights = dict(twin.model.named_parameters())
    if method == "plain":
        loss = twin.plain_loss_at(weights, twin.batch)
    else:
        moved = META_LR * twin.double_backward(method) if method in VIRTUAL else 0
        loss = twin.loss_at(weights, twin.sigma - moved)
    added = twin.plain_loss_at(weights, twin.meta)
    (loss + added).backward()
    twin.optimizer.step()
    result = take(method, problem, trained_on=True)
    for (name, ours), theirs in zip(problem.model.named_parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11, msg=name)
    if method != "plain":  # which leaves the class statistics alone
        assert_moved_once(problem, net)
    torch.testing.assert_close(result.loss, loss.detach())
    seen = take(method, without, trained_on=False)
    if method not in VIRTUAL:
        torch.testing.assert_close(result.loss_meta, added.detach())
        assert seen.loss_meta is None
    assert relative(head_of(without.model).weight, head_of(problem.model).weight) > 1e-4  # the control


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
