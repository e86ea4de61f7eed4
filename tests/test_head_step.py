"""The closed-form head step against loops and double backward over (N, C, A) tensors, and against the general step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import head_step
from loss import EstimatorCV, MetaSAugCE, MetaSAugLDAM
from meta_step import meta_step

LR, META_LR = 0.05, 0.3


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Problem:
    """A head, statistics from one batch, and batches; the last class is never seen in training."""

    def __init__(self, classes=7, size=5, batch=6, meta=4, criterion=MetaSAugCE, seed=0, offset=0.0, dtype=torch.float64):
        g = torch.Generator().manual_seed(seed)
        self.classes, self.generator, self.sizes, self.dtype = classes, g, (batch, meta), dtype
        self.head = nn.Linear(size, classes)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(classes, size, generator=g) + offset * torch.randn(size, generator=g))
            self.head.bias.copy_(torch.randn(classes, generator=g))
        self.head.to(dtype)
        self.criterion = criterion([2 + round(90 * 0.8**k) for k in range(classes)]).to(dtype)
        self.estimator = EstimatorCV(size, classes, diagonal=True).to(dtype)
        self.estimator.update(*self.draw(3 * classes))
        self.optimizer = torch.optim.SGD(self.head.parameters(), lr=LR, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def draw(self, count, classes=None):
        features = torch.randn(count, self.head.in_features, generator=self.generator).abs()
        target = torch.randint(0, classes or self.classes - 1, (count,), generator=self.generator)
        return features.to(self.dtype), target

    def batches(self):
        return self.draw(self.sizes[0]), self.draw(self.sizes[1], self.classes)

    def step(self, batch, meta, ratio=0.6, **rates):
        rates = {"virtual_lr": LR, "meta_lr": META_LR, **rates}
        return head_step.head_step(
            self.head, self.criterion, self.estimator, self.optimizer, batch, meta, ratio=ratio, **rates
        )


def slow_loss(weight, bias, batch, sigma, criterion, ratio):
    """The weighted cross-entropy of the semantic logits, one sample and class at a time."""
    features, target = batch
    total = 0
    for z, y in zip(features, target, strict=True):
        logits = []
        for j in range(len(weight)):
            difference = weight[j] - weight[y]
            logits.append(z @ weight[j] + bias[j] + ratio / 2 * (difference * sigma[y] * difference).sum())
        logits[y] = logits[y] - criterion.margins[y]
        total = total - criterion.class_weights[y] * torch.stack(logits).log_softmax(0)[y]
    return total / criterion.class_weights[target].sum()


def slow_step(problem, batch, meta, ratio):
    """Losses and meta gradient by double backward; the weights after the real step by torch.optim."""
    weight, bias = problem.head.weight, problem.head.bias
    sigma = problem.estimator.covariance.clone().requires_grad_()
    loss_virtual = slow_loss(weight, bias, batch, sigma, problem.criterion, ratio)
    grads = torch.autograd.grad(loss_virtual, (weight, bias), create_graph=True)
    stepped = [p - LR * g for p, g in zip((weight, bias), grads, strict=True)]
    loss_meta = F.cross_entropy(F.linear(meta[0], *stepped), meta[1])
    grad = torch.autograd.grad(loss_meta, sigma)[0]
    sigma_hat = (sigma - META_LR * grad).detach()
    loss = slow_loss(weight, bias, batch, sigma_hat, problem.criterion, ratio)
    problem.optimizer.zero_grad()
    loss.backward()
    problem.optimizer.step()
    return loss_virtual.detach(), loss_meta.detach(), loss.detach(), grad


def relative(ours, expected):
    return float(((ours - expected).norm() / expected.norm().clamp(min=1e-30)).detach())


def assert_equal(problem, twin, result, expected, target, tolerance=1e-10):
    for ours, theirs in zip((result.loss_virtual, result.loss_meta, result.loss), expected[:3], strict=True):
        assert relative(ours, theirs) < tolerance
    scale = max(float(expected[3].norm()), 1e-12)
    assert abs(float(result.grad_norm - expected[3].norm())) < tolerance * scale
    assert float((result.grad_rows - expected[3][target]).norm()) < tolerance * scale
    assert relative(problem.head.weight, twin.head.weight) < tolerance
    assert relative(problem.head.bias, twin.head.bias) < tolerance


@given(
    classes=st.integers(2, 9), size=st.integers(1, 6), batch=st.integers(1, 12), meta=st.integers(1, 8),
    ratio=st.sampled_from([0.0, 0.3, 1.0]), ldam=st.booleans(), block_rows=st.integers(1, 4), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_three_steps_equal_double_backward(classes, size, batch, meta, ratio, ldam, block_rows, seed):
    torch.set_default_dtype(torch.float64)
    kind = {"criterion": MetaSAugLDAM if ldam else MetaSAugCE, "seed": seed}
    problem, twin = (Problem(classes, size, batch, meta, **kind) for _ in range(2))
    default, head_step.BLOCK_BYTES = head_step.BLOCK_BYTES, block_rows * size * 8
    try:
        for _ in range(3):
            training, meta_batch = problem.batches()
            expected = slow_step(twin, training, meta_batch, ratio)
            assert_equal(problem, twin, problem.step(training, meta_batch, ratio), expected, training[1])
            twin.estimator.update(*training)
    finally:
        head_step.BLOCK_BYTES = default


@pytest.mark.parametrize("change", [{"ratio": 0.54}, {"virtual_lr": 2 * LR}])
def test_the_comparison_sees_a_wrong_step(change):
    problem, twin = Problem(), Problem()
    training, meta = problem.batches()
    expected = slow_step(twin, training, meta, 0.6)
    assert relative(problem.step(training, meta, **change).grad_rows, expected[3][training[1]]) > 0.01


@pytest.mark.parametrize("criterion", [MetaSAugCE, MetaSAugLDAM])
@pytest.mark.parametrize(("classes", "batch"), [(23, 9), (5, 30)])
def test_the_same_as_the_general_step(criterion, classes, batch):
    class Head(nn.Module):
        head = "fc"

        def __init__(self, fc):
            super().__init__()
            self.fc = fc

        def forward(self, x):
            return x, self.fc(x)

    problem, twin = (Problem(classes, 16, batch, 7, criterion) for _ in range(2))
    for _ in range(5):
        training, meta = problem.batches()
        ours = problem.step(training, meta)
        theirs = meta_step(
            Head(twin.head), twin.criterion, twin.estimator, twin.optimizer, training, meta,
            ratio=0.6, virtual_lr=LR, meta_lr=META_LR,
        )  # fmt: skip
        expected = (theirs.loss_virtual, theirs.loss_meta, theirs.loss, theirs.grad_covariance)
        assert_equal(problem, twin, ours, expected, training[1], 1e-12)
        assert relative(ours.logits.log_softmax(1), theirs.logits.log_softmax(1)) < 1e-12


def test_float32_keeps_its_digits_where_all_rows_of_the_weight_share_a_large_part():
    exact, single = Problem(30, 40, 16, 16, offset=100.0), Problem(30, 40, 16, 16, offset=100.0, dtype=torch.float32)
    training, meta = exact.batches()
    ours = single.step((training[0].float(), training[1]), (meta[0].float(), meta[1]))
    expected = exact.step(training, meta)
    assert relative(ours.loss.double(), expected.loss) < 1e-4
    assert relative(ours.grad_rows.double(), expected.grad_rows) < 1e-3

    # The control: without centring the digits are gone.
    w, s = exact.head.weight.float(), exact.estimator.covariance[training[1]].float()
    own = w[training[1]]
    naive = s @ w.square().T - 2 * (s * own) @ w.T + (s * own.square()).sum(1, keepdim=True)
    slow = ((exact.head.weight - exact.head.weight[training[1]].unsqueeze(1)).square() * s.double().unsqueeze(1)).sum(2)
    assert relative(naive.double(), slow) > 1e-4


class Largest(TorchDispatchMode):
    """Remember the size of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numel = max(self.numel, out.numel())
        return out


def test_no_tensor_of_three_dimensions_is_made():
    problem = Problem(60, 50, 40, 30)
    training, meta = problem.batches()
    with Largest() as seen:
        problem.step(training, meta)
    assert seen.numel == 60 * 50


def test_a_batch_of_many_more_images_than_classes_takes_no_square_of_it():
    problem = Problem(4, 3, 3000, 10)
    training, meta = problem.batches()
    with Largest() as seen:
        problem.step(training, meta)
    assert seen.numel <= 3000 * 10


def test_rows_of_absent_classes_stay_and_an_update_equals_the_dense_one():
    problem = Problem(12, 4, 5, 5)
    before = {name: buffer.clone() for name, buffer in problem.estimator.named_buffers()}
    dense = EstimatorCV(4, 12, diagonal=True)
    dense.load_state_dict(before)
    features, target = problem.draw(9, classes=3)
    problem.estimator.update(features, target)
    every = torch.cat([features] * 5), torch.cat([target] * 5)  # more samples than classes: the other way of computing
    again = EstimatorCV(4, 12, diagonal=True)
    once = EstimatorCV(4, 12, diagonal=True)
    again.update(*every)
    once.update(features, target)
    assert torch.equal(once.count * 5, again.count)
    torch.testing.assert_close(once.mean, again.mean)
    torch.testing.assert_close(once.covariance, again.covariance)
    for name, buffer in problem.estimator.named_buffers():
        assert torch.equal(buffer[3:], before[name][3:])
    for c in range(3):
        new = features[target == c]
        n, m = before["count"][c], len(new)
        mean = (n * before["mean"][c] + new.sum(0)) / (n + m)
        second = n * (before["covariance"][c] + before["mean"][c] ** 2) + new.square().sum(0)
        torch.testing.assert_close(problem.estimator.mean[c], mean)
        torch.testing.assert_close(problem.estimator.covariance[c], second / (n + m) - mean**2)
        assert problem.estimator.count[c] == n + m


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_head_step_on_cuda_equals_the_cpu():
    cpu, gpu = Problem(20, 16, 12, 9), Problem(20, 16, 12, 9)
    for part in ("head", "criterion", "estimator"):
        getattr(gpu, part).cuda()
    gpu.optimizer = torch.optim.SGD(gpu.head.parameters(), lr=LR, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    for _ in range(3):
        training, meta = cpu.batches()
        expected = cpu.step(training, meta)
        ours = gpu.step(tuple(t.cuda() for t in training), tuple(t.cuda() for t in meta))
        assert relative(ours.grad_rows.cpu(), expected.grad_rows) < 1e-8
    assert relative(gpu.head.weight.cpu(), cpu.head.weight) < 1e-10
