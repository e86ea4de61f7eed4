"""The closed-form steps of a head against the general ones, what they cost, and their digits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.compare import relative
from support.golden import Head
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from covariance_rules import gradient_rule, relative_rule
from heads import head_step
from loss import EstimatorCV, MetaSAugCE, MetaSAugLDAM
from meta_step import augmented_step, meta_step, plain_step
from passes import Passes

RATES = {"lam_t": 0.6, "virtual_lr": 0.05, "meta_lr": 0.3}
pytestmark = pytest.mark.usefixtures("float64")


class Problem:
    """A head, statistics from one batch, and batches; the last class is never seen in training."""

    def __init__(self, classes=7, size=5, batch=6, meta=4, criterion=MetaSAugCE, seed=0, offset=0.0, balance="weights"):
        torch.manual_seed(seed)
        self.classes, self.sizes, self.head = classes, (batch, meta), nn.Linear(size, classes)
        for part in self.head.parameters():
            nn.init.normal_(part)
        self.head.weight.data += offset * torch.randn(size)
        self.criterion = criterion([2 + round(90 * 0.8**k) for k in range(classes)], balance=balance)
        self.estimator = EstimatorCV(size, classes, diagonal=True)
        self.estimator.update(*self.draw(3 * classes))
        self.optimizer = torch.optim.SGD(self.head.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
        self.parts = self.criterion, self.estimator, self.optimizer

    def to(self, place):
        for part in (self.head, self.criterion, self.estimator):
            part.to(place)
        return self

    def draw(self, count, classes=None):
        return torch.randn(count, self.head.in_features).abs(), torch.randint(0, classes or self.classes - 1, (count,))

    def batches(self):
        return self.draw(self.sizes[0]), self.draw(self.sizes[1], self.classes)

    def step(self, batch, meta, step=head_step.head_step, **changes):
        return step(self.head, *self.parts, batch, meta, **{**RATES, **changes})


def network_of(head):
    """A network that is a head alone."""
    network = Head(head.in_features, head.out_features)
    network.fc = head
    return network


def general_step(head, *parts, **rates):
    return meta_step(network_of(head), *parts, **rates)


def assert_same(problem, twin, tolerance=1e-11):
    for ours, theirs in zip(problem.head.parameters(), twin.head.parameters(), strict=True):
        assert relative(ours, theirs) < tolerance
    for ours, theirs in zip(problem.estimator.buffers(), twin.estimator.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def assert_same_step(problem, twin, tolerance=1e-10, virtual="all", **more):
    """Let one take the step in closed form, and the other the general one; return whether a Σ̂ can be no covariance."""
    training, meta = problem.batches()
    ours, theirs = problem.step(training, meta, **more), twin.step(training, meta, general_step, virtual=virtual, **more)
    gradient = theirs.grad_covariance
    for found, expected in (
        *((getattr(ours, name), getattr(theirs, name)) for name in ("loss_virtual", "loss_meta", "loss")),
        (ours.grad_norm, gradient.norm()), (ours.grad_rows, gradient[training[1]]),
        (ours.logits.log_softmax(1), theirs.logits.log_softmax(1)),
    ):  # fmt: skip
        assert (found - expected).norm() <= tolerance * expected.norm().clamp(min=1e-12)
    assert_same(problem, twin, tolerance)
    torch.testing.assert_close(ours.grad_trace, theirs.grad_trace)
    assert bool(ours.negative_trace) == bool(theirs.negative_trace)
    return bool(ours.negative_trace)


@settings(max_examples=30)  # a fresh thirty in every run
@given(
    classes=st.integers(2, 9), size=st.integers(1, 6), batch=st.integers(1, 12), meta=st.integers(1, 8),
    lam_t=st.sampled_from([0.0, 0.3, 1.0]), ldam=st.booleans(), block_rows=st.integers(1, 4), seed=st.integers(0, 10**6),
    balance=st.sampled_from(["weights", "prior", "none"]), on_meta=st.booleans(),
    rule=st.sampled_from([gradient_rule, relative_rule]), virtual=st.sampled_from(["all", "head"]),
)  # fmt: skip
def test_three_steps_equal_the_general_ones(classes, size, batch, meta, ldam, block_rows, seed, balance, on_meta, **more):
    """Whichever virtual step those take: with frozen features they are the same."""
    kind = {"criterion": MetaSAugLDAM if ldam else MetaSAugCE, "seed": seed, "balance": balance}
    problem, twin = (Problem(classes, size, batch, meta, **kind) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head_step, "BLOCK_BYTES", block_rows * size * 8)
        for _ in range(3):
            assert_same_step(problem, twin, train_on_meta=on_meta, **more)


@pytest.mark.parametrize(("meta_lr", "negative"), [(0.3, False), (1e6, True)])
def test_steps_whose_covariance_can_be_none_are_told(meta_lr, negative):
    problem, twin = (Problem(23, 16, 9, 7, balance="prior") for _ in range(2))
    seen = [assert_same_step(problem, twin, 1e-12, meta_lr=meta_lr) for _ in range(5)]
    assert any(seen) == negative


@pytest.mark.parametrize("lam_t", [None, 0.0, 0.7])
@pytest.mark.parametrize("with_extra", [False, True])
@pytest.mark.parametrize("balance", ["weights", "prior", "none"])
def test_the_steps_without_meta_learning_are_the_general_ones(lam_t, with_extra, balance):
    """Five of each; without λ_t plain ones, which take no part in the statistics."""
    problem, twin = (Problem(11, 6, 9, 7, MetaSAugLDAM, balance=balance) for _ in range(2))
    passes, before = Passes(network_of(twin.head)), problem.estimator.count.clone()
    for _ in range(5):
        training, meta = problem.batches()
        batches = training, meta if with_extra else None
        if lam_t is None:
            ours = head_step.augmented_head_step(problem.head, None, None, problem.optimizer, *batches)
            theirs = plain_step(passes, twin.optimizer, *batches)
        else:
            ours = head_step.augmented_head_step(problem.head, *problem.parts, *batches, lam_t=lam_t)
            theirs = augmented_step(passes.model, *twin.parts, *batches, lam_t=lam_t, passes=passes)
        for name in ("loss", "loss_meta")[: 1 + with_extra]:
            assert relative(getattr(ours, name), getattr(theirs, name)) < 1e-12
        assert relative(ours.logits.log_softmax(1), theirs.logits.log_softmax(1)) < 1e-12
    assert_same(problem, twin)
    assert torch.equal(problem.estimator.count, before) == (lam_t is None)


class Largest(TorchDispatchMode):
    """Remember the size of the largest tensor that is returned."""

    seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.seen = max(self.seen, out.numel())
        return out


def test_no_tensor_has_the_size_of_three_dimensions_or_of_the_square_of_the_batch():
    problem = Problem(50, 40, 60, 30)
    batches = problem.batches()
    with Largest() as largest:
        problem.step(*batches)
    assert largest.seen == 60 * 50


class Uncentred(head_step.CentredRows):
    """Rows from which nothing is taken away."""

    def __init__(self, weight):
        super().__init__(weight)
        self.mean.zero_()


@pytest.mark.parametrize("rows", [head_step.CentredRows, Uncentred])
def test_float32_keeps_its_digits_where_all_rows_of_the_weight_share_a_large_part(monkeypatch, rows):
    exact, single = (Problem(30, 40, 16, 16, offset=100.0).to(kind) for kind in (torch.float64, torch.float32))
    batches = exact.batches()
    expected = exact.step(*batches)
    monkeypatch.setattr(head_step, "CentredRows", rows)
    ours = single.step(*((features.float(), target) for features, target in batches))
    assert (relative(ours.grad_rows.double(), expected.grad_rows) > 1e-3) == (rows is Uncentred)  # the control


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_head_step_on_cuda_equals_the_cpu():
    cpu, gpu = Problem(20, 16, 12, 9), Problem(20, 16, 12, 9).to("cuda")
    for _ in range(3):
        batches = cpu.batches()
        expected, ours = cpu.step(*batches), gpu.step(*((features.cuda(), target.cuda()) for features, target in batches))
        assert relative(ours.grad_rows.cpu(), expected.grad_rows) < 1e-8
    assert relative(gpu.head.weight.cpu(), cpu.head.weight) < 1e-10
