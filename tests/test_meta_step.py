"""The step against finite differences, a double-backward reference and torch.optim, on three kinds of network."""

import pytest
import torch
import torchvision
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from loss import EstimatorCV, MetaSAugCE, MetaSAugLDAM
from meta_layers import MetaBatchNorm2d, MetaConv2d, MetaLinear, MetaModule
from meta_step import WithFeatures, augmented_step, gradients, meta_step, trained_weights, virtual_step
from resnet import build_model

pytestmark = pytest.mark.usefixtures("float64")
CLASSES, RATIO, ALPHA, META_LR = 5, 0.6, 0.05, 0.3


class SmallNet(MetaModule):
    """Smooth on purpose, so that finite differences have no kinks to cross."""

    head = "classifier"

    def __init__(self):
        super().__init__()
        self.conv = MetaConv2d(3, 6, 3)
        self.bn = MetaBatchNorm2d(6)
        self.classifier = MetaLinear(6, CLASSES)

    def forward(self, x):
        features = torch.tanh(self.bn(self.conv(x))).mean((2, 3)) * 3
        return features, self.classifier(features)


class WithDropout(SmallNet):
    def forward(self, x):
        features = F.dropout(super().forward(x)[0], 0.5, self.training)
        return features, self.classifier(features)


def torchvision_net():
    net = torchvision.models.shufflenet_v2_x0_5(num_classes=CLASSES)
    return WithFeatures(net, "fc")


def resnet8():
    return build_model("resnet8", CLASSES)


NETS = {"small": SmallNet, "resnet8": resnet8, "torchvision": torchvision_net, "dropout": WithDropout}


class Problem:
    """A network, a criterion, two batches and covariances that are not zero."""

    def __init__(self, net="small", diagonal=False, criterion=MetaSAugLDAM, seed=0):
        torch.manual_seed(seed)
        self.model = NETS[net]().train()
        self.head = "model.fc" if net == "torchvision" else self.model.head
        self.criterion = criterion([40, 20, 10, 5, 2])
        x = torch.randn(12, 3, 32, 32)
        self.batch = x, torch.randint(0, CLASSES, (12,))
        self.meta = torch.randn(10, 3, 32, 32), torch.arange(10) % CLASSES
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
        size = self.model.get_submodule(self.head).in_features
        self.estimator = EstimatorCV(size, CLASSES, diagonal)
        root = torch.randn(CLASSES, size, size) / size**0.5
        full = root.mT @ root
        self.estimator.covariance = full.diagonal(dim1=1, dim2=2).contiguous() if diagonal else full

    def step(self, **changes):
        arguments = {"ratio": RATIO, "virtual_lr": ALPHA, "meta_lr": META_LR, "head": self.head, **changes}
        return meta_step(self.model, self.criterion, self.estimator, self.optimizer, self.batch, self.meta, **arguments)

    def loss_at(self, weights, sigma):
        """The training loss at `weights` as a function of them and Σ, statistics untouched."""
        buffers = {k: v.clone() for k, v in self.model.named_buffers()}
        _, logits = functional_call(self.model, {**buffers, **weights}, (self.batch[0],))
        return self.criterion(logits, weights[f"{self.head}.weight"], self.batch[1], sigma, RATIO)

    def meta_loss(self, sigma, create_graph=False):
        """L_meta(θ'(Σ)): the slow way, through the virtual step; differentiable in Σ if asked."""
        weights = {n: p.detach().clone().requires_grad_() for n, p in self.model.named_parameters()}
        seed = torch.get_rng_state()
        loss = self.loss_at(weights, sigma)
        grads = torch.autograd.grad(loss, list(weights.values()), create_graph=create_graph)
        stepped = {n: w - ALPHA * g for (n, w), g in zip(weights.items(), grads, strict=True)}
        buffers = {k: v.clone() for k, v in self.model.named_buffers()}
        _, logits = functional_call(self.model, {**buffers, **stepped}, (self.meta[0],))
        torch.set_rng_state(seed)
        return F.cross_entropy(logits, self.meta[1])

    def double_backward(self):
        sigma = self.estimator.covariance.clone().requires_grad_()
        return torch.autograd.grad(self.meta_loss(sigma, create_graph=True), sigma)[0]


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(("diagonal", "criterion"), [(False, MetaSAugLDAM), (True, MetaSAugLDAM), (False, MetaSAugCE)])
def test_meta_gradient_equals_double_backward(net, diagonal, criterion):
    problem = Problem(net, diagonal, criterion)
    expected = problem.double_backward()
    result = problem.step()
    assert expected.norm() > 1e-7
    assert relative(result.grad_covariance, expected) < 1e-10


@pytest.mark.parametrize("change", [{"virtual_lr": 2 * ALPHA}, {"ratio": 0.9 * RATIO}])
def test_the_comparison_sees_a_wrong_meta_gradient(change):
    expected = Problem().double_backward()
    assert relative(Problem().step(**change).grad_covariance, expected) > 0.01


def test_criterion_matters_to_the_meta_gradient():
    expected = Problem(criterion=MetaSAugCE).double_backward()
    assert relative(Problem(criterion=MetaSAugLDAM).step().grad_covariance, expected) > 0.01


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
    for key in ours:
        assert torch.equal(ours[key], expected[key]), key
    assert all(m.training for m in problem.model.modules())


@pytest.mark.parametrize("net", ["small", "resnet8", "torchvision"])
def test_real_step_is_one_optimizer_step_on_the_loss_with_the_new_covariances(net):
    problem, twin = Problem(net), Problem(net)
    sigma_hat = twin.estimator.covariance - META_LR * twin.double_backward()
    twin.model.zero_grad()
    loss = twin.loss_at(dict(twin.model.named_parameters()), sigma_hat)
    loss.backward()
    twin.optimizer.step()
    result = problem.step()
    torch.testing.assert_close(result.loss, loss.detach())
    torch.testing.assert_close(result.covariance, sigma_hat)
    for (n, ours), theirs in zip(problem.model.named_parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=n)


def test_the_new_covariances_are_used_once_and_the_estimator_takes_in_the_batch():
    problem = Problem()
    twin = Problem()
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


def test_a_head_that_is_not_linear_is_refused():
    with pytest.raises(TypeError, match="Linear"):
        WithFeatures(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "1")


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


@pytest.mark.parametrize("ratio", [RATIO, 0.0])
@pytest.mark.parametrize("criterion", [MetaSAugCE, MetaSAugLDAM])
def test_the_step_without_meta_learning_is_the_step_with_a_meta_rate_of_zero(criterion, ratio):
    ours, theirs, full = (Problem("resnet8", criterion=criterion) for _ in range(3))
    result = augmented_step(ours.model, ours.criterion, ours.estimator, ours.optimizer, ours.batch, ratio=ratio)
    expected = theirs.step(meta_lr=0.0, ratio=ratio)
    full.step(ratio=ratio, meta_lr=1e4)
    assert result.loss_meta is result.grad_norm is None
    assert relative(result.loss, expected.loss) < 1e-12
    for name, value in theirs.model.state_dict().items():
        assert relative(ours.model.state_dict()[name], value) < 1e-12, name
    assert torch.equal(ours.estimator.covariance, theirs.estimator.covariance)
    moved = relative(full.model.linear.weight, theirs.model.linear.weight)
    assert moved > 1e-9 if ratio else moved < 1e-12  # the control: meta-learning acts through the augmentation alone


def test_the_step_without_augmentation_is_the_weighted_loss_with_margins():
    problem, twin = (Problem("resnet8") for _ in range(2))
    augmented_step(problem.model, problem.criterion, problem.estimator, problem.optimizer, problem.batch, ratio=0.0)
    images, target = twin.batch
    _, logits = twin.model(images)
    logits = logits - F.one_hot(target, CLASSES) * twin.criterion.margins[target].unsqueeze(1)
    F.cross_entropy(logits, target, weight=twin.criterion.class_weights).backward()
    twin.optimizer.step()
    for name, value in twin.model.state_dict().items():
        assert relative(problem.model.state_dict()[name], value) < 1e-12, name


def test_a_head_without_a_weight_of_its_own_is_named():
    problem = Problem()
    torch.nn.utils.parametrizations.weight_norm(problem.model.classifier)
    with pytest.raises(KeyError, match=r"classifier\.weight is no trained parameter"):
        problem.step()
