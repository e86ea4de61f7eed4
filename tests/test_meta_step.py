"""The step against finite differences, a double-backward reference and torch.optim, on several kinds of network."""

import pytest
import torch
from support.compare import distance, relative
from support.step_problems import ALPHA, CLASSES, LAM_T, META_LR, NETS, Problem
from torch.nn import functional as F

from loss import MetaSAugCE, MetaSAugLDAM
from meta_gradient import gradients, trained_weights, virtual_step
from meta_layers import head_of
from meta_step import augmented_step

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("diagonal", [False, True])
def test_a_class_whose_covariance_was_moved_below_a_trace_of_zero_is_seen(diagonal):
    found = []
    for meta_lr in (META_LR, 1e3, 1e6):
        problem = Problem(diagonal=diagonal)
        expected, result = problem.double_backward(), problem.step(meta_lr=meta_lr)
        traces = [0.0] * CLASSES
        for k in range(CLASSES):
            for a in range(problem.sigma.shape[1]):
                entry = (k, a) if diagonal else (k, a, a)
                traces[k] += float(problem.sigma[entry] - meta_lr * expected[entry])
        found.append(min(traces) < 0)
        assert bool(result.negative_trace) == found[-1], meta_lr
    assert (found[0], found[-1]) == (False, True)
    problem = Problem(diagonal=diagonal)
    problem.estimator.covariance.zero_()  # nothing is estimated yet: no rate would be small enough
    result = problem.step()
    moved = result.covariance if diagonal else result.covariance.diagonal(dim1=1, dim2=2)
    assert (moved.sum(1) < 0).any()
    assert not result.negative_trace


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(("diagonal", "criterion"), [(False, MetaSAugLDAM), (True, MetaSAugLDAM), (False, MetaSAugCE)])
def test_the_step_is_an_optimizer_step_at_covariances_moved_by_double_backward(net, diagonal, criterion):
    problem, twin = (Problem(net, diagonal, criterion) for _ in range(2))
    state = torch.get_rng_state()
    expected = twin.double_backward()
    loss = twin.loss_at(dict(twin.model.named_parameters()), twin.estimator.covariance - META_LR * expected)
    loss.backward()
    twin.optimizer.step()
    torch.set_rng_state(state)
    result = problem.step()
    assert expected.norm() > 1e-7
    assert relative(result.grad_covariance, expected) < 1e-10
    torch.testing.assert_close(result.covariance, problem.sigma - META_LR * expected)
    torch.testing.assert_close(result.loss, loss.detach())
    for (n, ours), theirs in zip(problem.model.named_parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=n)


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


def test_virtual_step_equals_sgd_without_momentum():
    problem = Problem()
    weights = trained_weights(problem.model)
    loss = problem.loss_at(weights, problem.estimator.covariance)
    grads = gradients(loss, weights)
    ours = virtual_step(weights, grads, ALPHA)
    optimizer = torch.optim.SGD(problem.model.parameters(), lr=ALPHA)
    for n, p in problem.model.named_parameters():
        p.grad = grads[n]
    optimizer.step()
    for n, p in problem.model.named_parameters():
        assert torch.equal(ours[n], p)
        assert ours[n].is_leaf
        assert ours[n].requires_grad


class NoStep(torch.optim.SGD):
    """An optimizer that moves nothing, to see what steps 1 and 2 do to the module."""

    def step(self, closure=None):
        return None


@pytest.mark.parametrize("net", NETS)
def test_steps_1_and_2_leave_the_module_alone_and_the_statistics_move_once(net):
    problem, twin = Problem(net), Problem(net)
    problem.optimizer = NoStep(problem.model.parameters(), lr=1.0)
    torch.manual_seed(5)
    problem.step()
    torch.manual_seed(5)
    twin.model(twin.batch[0])  # one forward pass in train mode
    ours, expected = problem.model.state_dict(), twin.model.state_dict()
    assert ours.keys() == expected.keys()
    assert [key for key in ours if not torch.equal(ours[key], expected[key])] == []
    assert all(m.training for m in problem.model.modules())


def test_the_new_covariances_are_used_once_and_the_estimator_takes_in_the_batch():
    problem, twin = Problem(), Problem()
    features = twin.model(twin.batch[0])[0].detach()
    twin.estimator.update(features, twin.batch[1])
    problem.step()
    torch.testing.assert_close(problem.estimator.covariance, twin.estimator.covariance)
    torch.testing.assert_close(problem.estimator.mean, twin.estimator.mean)
    assert torch.equal(problem.estimator.count, twin.estimator.count)


def test_frozen_weights_stay_and_the_head_alone_can_be_trained():
    problem = Problem()
    problem.model.conv.requires_grad_(False)
    before = problem.model.conv.weight.clone()
    head = problem.model.classifier.weight.clone()
    problem.step()
    assert torch.equal(problem.model.conv.weight, before)
    assert not torch.equal(problem.model.classifier.weight, head)


def test_global_random_state_is_left_where_one_forward_pass_leaves_it():
    problem, twin = Problem("dropout"), Problem("dropout")
    torch.manual_seed(3)
    twin.model(twin.batch[0])
    twin.model(twin.meta[0])
    expected = torch.get_rng_state()
    torch.manual_seed(3)
    problem.step()
    assert torch.equal(torch.get_rng_state(), expected)


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


@pytest.mark.parametrize("lam_t", [LAM_T, 0.0])
@pytest.mark.parametrize("criterion", [MetaSAugCE, MetaSAugLDAM])
def test_the_step_without_meta_learning_is_the_step_with_a_meta_rate_of_zero(criterion, lam_t):
    ours, theirs, full = (Problem(criterion=criterion) for _ in range(3))
    result = augmented_step(ours.model, ours.criterion, ours.estimator, ours.optimizer, ours.batch, lam_t=lam_t)
    expected = theirs.step(meta_lr=0.0, lam_t=lam_t)
    full.step(lam_t=lam_t, meta_lr=1e4)
    assert result.loss_meta is result.grad_norm is None
    assert relative(result.loss, expected.loss) < 1e-12
    assert distance(ours.model.state_dict(), theirs.model.state_dict()) < 1e-12
    assert torch.equal(ours.estimator.covariance, theirs.estimator.covariance)
    moved = relative(head_of(full.model).weight, head_of(theirs.model).weight)
    assert moved > 1e-9 if lam_t else moved < 1e-12  # the control: meta-learning acts through the augmentation alone


def test_the_step_without_augmentation_is_the_weighted_loss_with_margins():
    problem, twin = Problem(), Problem()
    augmented_step(problem.model, problem.criterion, problem.estimator, problem.optimizer, problem.batch, lam_t=0.0)
    images, target = twin.batch
    _, logits = twin.model(images)
    logits = logits - F.one_hot(target, CLASSES) * twin.criterion.margins[target].unsqueeze(1)
    F.cross_entropy(logits, target, weight=twin.criterion.class_weights).backward()
    twin.optimizer.step()
    assert distance(problem.model.state_dict(), twin.model.state_dict()) < 1e-12


def test_a_head_without_a_weight_of_its_own_is_named():
    problem = Problem()
    torch.nn.utils.parametrizations.weight_norm(problem.model.classifier)
    with pytest.raises(KeyError, match=r"classifier\.weight is no trained parameter"):
        problem.step()
