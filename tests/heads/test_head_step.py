"""The closed-form head step against loops and double backward over (N, C, A) tensors, and against the general step."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.compare import relative
from support.golden import Head
from support.slow_head_step import slow_step
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from covariance_rules import gradient_rule, relative_rule
from heads import head_step
from loss import EstimatorCV, MetaSAugCE, MetaSAugLDAM
from meta_step import augmented_step, meta_step, plain_step
from passes import Passes

LR, META_LR = 0.05, 0.3
pytestmark = pytest.mark.usefixtures("float64")


class Problem:
    """A head, statistics from one batch, and batches; the last class is never seen in training."""

    def __init__(
        self, classes=7, size=5, batch=6, meta=4, criterion=MetaSAugCE, seed=0, offset=0.0, dtype=torch.float64,
        balance="weights",
    ):  # fmt: skip
        g = torch.Generator().manual_seed(seed)
        self.classes, self.generator, self.sizes, self.dtype = classes, g, (batch, meta), dtype
        self.head = nn.Linear(size, classes)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(classes, size, generator=g) + offset * torch.randn(size, generator=g))
            self.head.bias.copy_(torch.randn(classes, generator=g))
        self.head.to(dtype)
        self.criterion = criterion([2 + round(90 * 0.8**k) for k in range(classes)], balance=balance).to(dtype)
        self.estimator = EstimatorCV(size, classes, diagonal=True).to(dtype)
        self.estimator.update(*self.draw(3 * classes))
        self.optimizer = torch.optim.SGD(self.head.parameters(), lr=LR, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def draw(self, count, classes=None):
        features = torch.randn(count, self.head.in_features, generator=self.generator).abs()
        target = torch.randint(0, classes or self.classes - 1, (count,), generator=self.generator)
        return features.to(self.dtype), target

    def batches(self):
        return self.draw(self.sizes[0]), self.draw(self.sizes[1], self.classes)

    def step(self, batch, meta, step=head_step.head_step, **changes):
        rates = {"lam_t": 0.6, "virtual_lr": LR, "meta_lr": META_LR, **changes}
        return step(self.head, self.criterion, self.estimator, self.optimizer, batch, meta, **rates)


def assert_equal(problem, twin, result, expected, target, tolerance=1e-10):
    for ours, theirs in zip((result.loss_virtual, result.loss_meta, result.loss), expected[:3], strict=True):
        assert relative(ours, theirs) < tolerance
    scale = max(float(expected[3].norm()), 1e-12)
    assert abs(float(result.grad_norm - expected[3].norm())) < tolerance * scale
    assert float((result.grad_rows - expected[3][target]).norm()) < tolerance * scale
    assert relative(problem.head.weight, twin.head.weight) < tolerance
    assert relative(problem.head.bias, twin.head.bias) < tolerance


@settings(max_examples=30)  # a fresh thirty in every run
@given(
    classes=st.integers(2, 9), size=st.integers(1, 6), batch=st.integers(1, 12), meta=st.integers(1, 8),
    lam_t=st.sampled_from([0.0, 0.3, 1.0]), ldam=st.booleans(), block_rows=st.integers(1, 4), seed=st.integers(0, 10**6),
    balance=st.sampled_from(["weights", "prior", "none"]),
)  # fmt: skip
def test_three_steps_equal_double_backward(classes, size, batch, meta, lam_t, ldam, block_rows, seed, balance):
    kind = {"criterion": MetaSAugLDAM if ldam else MetaSAugCE, "seed": seed, "balance": balance}
    problem, twin = (Problem(classes, size, batch, meta, **kind) for _ in range(2))
    default, head_step.BLOCK_BYTES = head_step.BLOCK_BYTES, block_rows * size * 8
    try:
        for _ in range(3):
            training, meta_batch = problem.batches()
            expected = twin.step(training, meta_batch, slow_step, lam_t=lam_t)
            assert_equal(problem, twin, problem.step(training, meta_batch, lam_t=lam_t), expected, training[1])
    finally:
        head_step.BLOCK_BYTES = default


def general(problem):
    """A network that is the head of a problem alone, and how it is run."""
    network = Head(problem.head.in_features, problem.classes)
    network.fc = problem.head
    return network, Passes(network)


def test_a_class_whose_covariance_was_moved_below_a_trace_of_zero_is_seen():
    found = []
    for meta_lr in (META_LR, 1e3, 1e6):
        problem, twin = Problem(), Problem()
        training, meta = problem.batches()
        sigma = twin.estimator.covariance.clone()
        moved = sigma - meta_lr * twin.step(training, meta, slow_step, meta_lr=meta_lr)[3]
        found.append(any(sum(row) < 0 < sum(before) for row, before in zip(moved.tolist(), sigma.tolist(), strict=True)))
        assert bool(problem.step(training, meta, meta_lr=meta_lr).negative_trace) == found[-1], meta_lr
    assert (found[0], found[-1]) == (False, True)
    problem = Problem()
    problem.estimator.covariance.zero_()  # nothing is estimated yet: no rate would be small enough
    training, meta = problem.batches()
    result = problem.step(training, meta)
    assert (result.grad_rows.sum(1) > 0).any()
    assert not result.negative_trace


@pytest.mark.parametrize(("virtual", "train_on_meta"), [("all", False), ("head", False), ("head", True)])
@pytest.mark.parametrize("rule", [gradient_rule, relative_rule])
@pytest.mark.parametrize(
    ("criterion", "balance"), [(MetaSAugCE, "weights"), (MetaSAugLDAM, "weights"), (MetaSAugCE, "prior")]
)
@pytest.mark.parametrize(("classes", "batch"), [(23, 9), (5, 30)])
def test_the_same_as_the_general_step(criterion, balance, classes, batch, rule, virtual, train_on_meta):
    """Whichever virtual step that takes: with frozen features they are the same."""
    problem, twin, control = (Problem(classes, 16, batch, 7, criterion, balance=balance) for _ in range(3))
    network, _ = general(twin)
    for _ in range(5):
        training, meta = problem.batches()
        ours = problem.step(training, meta, rule=rule, train_on_meta=train_on_meta)
        control.step(training, meta, rule=rule, train_on_meta=not train_on_meta)
        theirs = meta_step(
            network, twin.criterion, twin.estimator, twin.optimizer, training, meta,
            lam_t=0.6, virtual_lr=LR, meta_lr=META_LR, rule=rule, virtual=virtual,
            train_on_meta=train_on_meta,
        )  # fmt: skip
        expected = (theirs.loss_virtual, theirs.loss_meta, theirs.loss, theirs.grad_covariance)
        assert_equal(problem, twin, ours, expected, training[1], 1e-12)
        assert relative(ours.logits.log_softmax(1), theirs.logits.log_softmax(1)) < 1e-12
        torch.testing.assert_close(ours.grad_trace, theirs.grad_trace)
        assert bool(ours.negative_trace) == bool(theirs.negative_trace)
    for name, buffer in problem.estimator.named_buffers():
        assert torch.equal(buffer, getattr(twin.estimator, name))
    assert relative(problem.head.weight, control.head.weight) > 1e-4


def losses_of(result):
    return [float(loss) for loss in (result.loss, result.loss_meta) if loss is not None]


@pytest.mark.parametrize("kind", ["none", "reweight", "isda"])
@pytest.mark.parametrize("with_extra", [False, True])
@pytest.mark.parametrize("balance", ["weights", "prior", "none"])
def test_the_steps_without_meta_learning_are_the_general_ones(kind, with_extra, balance):
    """Five of each; that of isda is also the slow MetaSAug step that does not move Σ."""
    problem, twin, slow = (Problem(11, 6, 9, 7, MetaSAugLDAM, balance=balance) for _ in range(3))
    network, passes = general(twin)
    lam_t = 0.7 if kind == "isda" else 0.0
    for _ in range(5):
        training, meta = problem.batches()
        extra = meta if with_extra else None
        if kind == "none":
            ours = head_step.plain_head_step(problem.head, problem.optimizer, training, extra)
            theirs = plain_step(passes, twin.optimizer, training, extra)
        else:
            parts = [(p.criterion, p.estimator, p.optimizer, training, extra) for p in (problem, twin)]
            ours = head_step.augmented_head_step(problem.head, *parts[0], lam_t=lam_t)
            theirs = augmented_step(network, *parts[1], lam_t=lam_t, passes=passes)
            slow_step(slow.head, slow.criterion, slow.estimator, slow.optimizer, training, meta,
                      lam_t=lam_t, virtual_lr=LR, meta_lr=0.0)  # fmt: skip
        assert losses_of(ours) == pytest.approx(losses_of(theirs), rel=1e-12)
        assert len(losses_of(ours)) == 1 + with_extra
        assert relative(ours.logits.log_softmax(1), theirs.logits.log_softmax(1)) < 1e-12
    for name in ("weight", "bias"):
        assert relative(getattr(problem.head, name), getattr(twin.head, name)) < 1e-11
        if kind != "none":
            distance = relative(getattr(problem.head, name), getattr(slow.head, name))
            assert distance > 1e-4 if with_extra else distance < 1e-11
    for name, buffer in problem.estimator.named_buffers():
        assert torch.equal(buffer, getattr(twin.estimator, name))
    assert bool(problem.estimator.count.sum() == 3 * 11) == (kind == "none")  # which updates nothing


class Products(TorchDispatchMode):
    """Count the multiplications of all matrix products."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("mm", "addmm", "addmm_"):
            self.count += args[-2].numel() * args[-1].shape[1]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("kind", "lam_t", "cost"), [("none", 0.0, 2), ("reweight", 0.0, 2), ("isda", 0.5, 6), ("metasaug", 0.5, None)]
)
def test_what_each_step_costs(kind, lam_t, cost):
    """In products of N · C · A multiplications; a meta batch, here half as large, that is trained on costs one more."""
    counts = []
    for trained_on in (False, True):
        problem = Problem(50, 40, 60, 30)
        training, meta = problem.batches()
        parts = problem.criterion, problem.estimator, problem.optimizer, training
        with Products() as seen:
            if kind == "none":
                head_step.plain_head_step(problem.head, *parts[2:], meta if trained_on else None)
            elif kind == "metasaug":
                problem.step(training, meta, lam_t=lam_t, train_on_meta=trained_on)
            else:
                head_step.augmented_head_step(problem.head, *parts, meta if trained_on else None, lam_t=lam_t)
        counts.append(seen.count / (60 * 50 * 40))
    assert cost in (None, counts[0])
    assert counts[1] == pytest.approx(counts[0] + 1)


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


@pytest.mark.parametrize(("sizes", "largest"), [((60, 50, 40, 30), 60 * 50), ((4, 3, 3000, 10), 3000 * 10)])
def test_no_tensor_is_made_of_three_dimensions_or_of_the_square_of_a_large_batch(sizes, largest):
    problem = Problem(*sizes)
    batches = problem.batches()
    with Largest() as seen:
        problem.step(*batches)
    assert seen.numel <= largest


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
