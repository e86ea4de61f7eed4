"""The step whose virtual step moves the head alone, both rules through the step, and a meta batch that is trained on."""

import pytest
import torch
from support.compare import relative
from support.step_problems import LAM_T, META_LR, NETS, Problem
from torch import nn

from covariance_rules import gradient_rule, relative_rule
from loss import MetaSAugCE, MetaSAugLDAM
from meta_layers import head_of
from meta_step import augmented_step, plain_step
from passes import Passes

pytestmark = pytest.mark.usefixtures("float64")
VIRTUAL = ("all", "head")
KINDS = [(False, MetaSAugLDAM), (True, MetaSAugLDAM), (False, MetaSAugCE), (True, MetaSAugCE)]


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(("diagonal", "criterion"), KINDS)
def test_the_meta_gradient_is_that_of_a_double_backward_through_the_head_alone(net, diagonal, criterion):
    problem, twin = (Problem(net, diagonal, criterion) for _ in range(2))
    state = torch.get_rng_state()
    expected = twin.double_backward("head")
    expected_meta = twin.meta_loss(twin.estimator.covariance, moved=f"{twin.model.head}.")
    loss = twin.loss_at(dict(twin.model.named_parameters()), twin.estimator.covariance - META_LR * expected)
    loss.backward()
    twin.optimizer.step()
    torch.set_rng_state(state)
    result = problem.step(virtual="head")
    assert expected.norm() > 1e-7
    assert relative(result.grad_covariance, expected) < 1e-9
    assert relative(result.loss_meta, expected_meta) < 1e-12
    assert relative(result.loss, loss) < 1e-12
    for (name, ours), theirs in zip(problem.model.named_parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)
    if net != "dropout":  # the control: the whole virtual step has another meta gradient
        assert relative(twin.double_backward("all"), expected) > 0.01


@pytest.mark.parametrize("net", ["small", "resnet8", "no bias"])
@pytest.mark.parametrize("diagonal", [False, True])
def test_with_a_frozen_backbone_both_virtual_steps_are_the_same(net, diagonal):
    found = []
    for virtual in VIRTUAL:
        problem = Problem(net, diagonal)
        problem.model.requires_grad_(False)
        head_of(problem.model).requires_grad_(True)
        found.append((problem.step(virtual=virtual), problem.model.state_dict()))
    (whole, weights), (head, others) = found
    assert relative(head.grad_covariance, whole.grad_covariance) < 1e-12
    assert relative(head.loss_meta, whole.loss_meta) < 1e-14
    torch.testing.assert_close(dict(others), dict(weights), rtol=1e-13, atol=1e-15)
    assert relative(Problem(net, diagonal).step().grad_covariance, whole.grad_covariance) > 0.01  # the control


def test_a_bias_that_is_not_trained_takes_no_virtual_step():
    found = []
    for virtual in VIRTUAL:
        problem = Problem()
        problem.model.requires_grad_(False)
        problem.model.classifier.weight.requires_grad_(True)
        found.append(problem.step(virtual=virtual).grad_covariance)
    assert relative(found[1], found[0]) < 1e-12
    assert relative(found[1], Problem().step(virtual="head").grad_covariance) > 0.01  # the control


class NoStep(torch.optim.SGD):
    """An optimizer that moves nothing."""

    def step(self, closure=None):
        return None


@pytest.mark.parametrize("net", NETS)
def test_the_statistics_of_batch_norm_move_once(net):
    problem, twin = Problem(net), Problem(net)
    problem.optimizer = NoStep(problem.model.parameters(), lr=1.0)
    torch.manual_seed(5)
    problem.step(virtual="head", train_on_meta=True)
    torch.manual_seed(5)
    features, _ = twin.model(twin.batch[0])  # one forward pass in train mode
    twin.estimator.update(features.detach(), twin.batch[1])
    for ours, expected in ((problem.model, twin.model), (problem.estimator, twin.estimator)):
        torch.testing.assert_close(dict(ours.state_dict()), dict(expected.state_dict()), rtol=0, atol=0)
    assert all(m.training for m in problem.model.modules())


def test_a_head_that_is_no_linear_layer_is_named():
    problem = Problem()
    problem.model.classifier = nn.Bilinear(6, 1, 5)
    with pytest.raises(TypeError, match=r"classifier is not an nn\.Linear, it is a Bilinear"):
        problem.step(virtual="head")


@pytest.mark.parametrize("virtual", VIRTUAL)
@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("rule", [gradient_rule, relative_rule])
def test_the_real_step_is_taken_at_what_the_rule_makes_of_the_meta_gradient(rule, diagonal, virtual):
    problem, twin = (Problem("small", diagonal) for _ in range(2))
    expected = rule(twin.sigma, twin.double_backward(virtual), META_LR)
    loss = twin.loss_at(dict(twin.model.named_parameters()), expected)
    loss.backward()
    twin.optimizer.step()
    result = problem.step(virtual=virtual, rule=rule)
    torch.testing.assert_close(result.covariance, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(result.loss, loss.detach())
    lowered = (problem.sigma - expected).flatten(1)[:, :: 1 if diagonal else expected.shape[1] + 1].sum(1)
    torch.testing.assert_close(META_LR * result.grad_trace, lowered, rtol=1e-6, atol=1e-12)
    assert not result.negative_trace
    for ours, theirs in zip(problem.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    if rule is relative_rule:  # the control: that is another loss than at the published rule's
        assert abs(float(loss.detach() - Problem("small", diagonal).step(virtual=virtual).loss)) > 1e-4


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


@pytest.mark.parametrize("net", ["small", "resnet8", "torchvision"])
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
    twin_statistics = Problem(net)
    twin_statistics.model(twin_statistics.batch[0])

    result = take(method, problem, trained_on=True)
    for (name, ours), theirs in zip(problem.model.named_parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11, msg=name)
    ours, expected = dict(problem.model.named_buffers()), dict(twin_statistics.model.named_buffers())
    assert [name for name in expected if not torch.equal(ours[name], expected[name])] == []
    torch.testing.assert_close(result.loss, loss.detach())
    if method not in VIRTUAL:
        torch.testing.assert_close(result.loss_meta, added.detach())
        assert take(method, Problem(net), trained_on=False).loss_meta is None
    take(method, without, trained_on=False)  # the control
    assert relative(head_of(without.model).weight, head_of(problem.model).weight) > 1e-4
