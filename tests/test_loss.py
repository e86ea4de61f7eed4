"""Statistics, semantic logits, margins and weights against loops that follow the formulas."""

import math
import statistics
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.slow_head_step import slow_loss
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import loss
from meta_gradient import mixed_gradient

pytestmark = pytest.mark.usefixtures("float64")
SIZES = st.tuples(st.integers(1, 9), st.integers(2, 9), st.integers(1, 6), st.integers(0, 2**31 - 1))


def slow_distances(weight, target, covariance):
    full = torch.stack([torch.diag(row) for row in covariance]) if covariance.dim() == 2 else covariance
    out = torch.zeros(len(target), len(weight))
    for i, y in enumerate(target.tolist()):
        for j in range(len(weight)):
            d = weight[j] - weight[y]
            out[i, j] = d @ full[y] @ d
    return out


def slow_statistics(features, target, classes):
    """Population mean and covariance of all samples of each class."""
    size = features.shape[1]
    count, mean, cov = torch.zeros(classes), torch.zeros(classes, size), torch.zeros(classes, size, size)
    for c in range(classes):
        z = features[target == c]
        if len(z):
            count[c], mean[c] = len(z), z.mean(0)
            cov[c] = torch.from_numpy(np.cov(z.numpy(), rowvar=False, bias=True).reshape(size, size))
    return count, mean, cov


def random_problem(n, classes, size, seed, diagonal=False):
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, size, generator=g)
    target = torch.randint(0, classes, (n,), generator=g)
    root = torch.randn(classes, size, size, generator=g)
    covariance = root.mT @ root
    return weight, target, covariance.diagonal(dim1=1, dim2=2).contiguous() if diagonal else covariance


@given(SIZES, st.booleans())
@settings(max_examples=60)
def test_distances_and_their_gradients_equal_those_of_the_double_loop(sizes, diagonal):
    weight, target, covariance = random_problem(*sizes, diagonal)
    probe, found = torch.randn(len(target), len(weight)), []
    for function in (loss.semantic_distances, slow_distances):
        w, s = weight.clone().requires_grad_(), covariance.clone().requires_grad_()
        distances = function(w, target, s)
        found.append((distances.detach(), *torch.autograd.grad((distances * probe).sum(), (w, s))))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("diagonal", [False, True])
def test_large_common_part_of_the_weights_costs_no_digits(diagonal):
    weight, target, covariance = random_problem(8, 5, 6, 2, diagonal)
    shifted = (weight + 300).float()
    ours = loss.semantic_distances(shifted, target, covariance.float()).double()
    expected = slow_distances(shifted.double(), target, covariance.float().double())
    error = (ours - expected).abs().max() / expected.abs().max()
    assert error < 1e-6
    # The control: the same expansion without centring loses nearly everything.
    w, sigma = shifted, covariance.float()
    full = torch.diag_embed(sigma) if diagonal else sigma
    squares = torch.einsum("ja,nab,jb->nj", w, full[target], w)
    cross = torch.einsum("ja,nab,nb->nj", w, full[target], w[target])
    own = torch.einsum("na,nab,nb->n", w[target], full[target], w[target])
    naive = (squares - 2 * cross + own[:, None]).double()
    assert (naive - expected).abs().max() / expected.abs().max() > 1e-4


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, torch.Tensor):
                self.largest = max(self.largest, value.untyped_storage().nbytes() // value.element_size())
        return out


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize(("n", "classes", "size"), [(400, 60, 16), (40, 300, 16)])
def test_no_tensor_is_larger_than_the_covariances_or_the_logits(n, classes, size, diagonal):
    weight, target, covariance = random_problem(n, classes, size, 0, diagonal)
    allowed = max(covariance.numel(), n * classes, n * size * (1 if diagonal else size))
    assert allowed < n * classes * min(size, classes)
    criterion = loss.MetaSAugLDAM(list(range(classes + 1, 1, -1)))
    estimator = loss.EstimatorCV(size, classes, diagonal)
    with LargestTensor() as mode:
        logits = torch.randn(n, classes, requires_grad=True)
        value = criterion(logits, weight.requires_grad_(), target, covariance.requires_grad_(), 0.5)
        value.backward()
        estimator.update(torch.randn(n, size), target)
        dots = torch.randn(n, classes), torch.randn(classes, size)
        mixed_gradient(criterion, logits, weight, target, covariance, 0.5, *dots)
    assert mode.largest <= allowed
    with LargestTensor() as mode:  # the control: the published way is seen
        F.relu(weight.expand(n, classes, size) - weight[target].unsqueeze(1))
    assert mode.largest >= n * classes * size


@given(SIZES, st.integers(1, 4), st.booleans())
@settings(max_examples=60)
def test_running_statistics_equal_those_of_all_samples_at_once(sizes, batches, diagonal):
    n, classes, size, seed = sizes
    g = torch.Generator().manual_seed(seed)
    estimator = loss.EstimatorCV(size, classes, diagonal)
    features = torch.randn(n * batches, size, generator=g) * 3 + 5
    target = torch.randint(0, classes, (n * batches,), generator=g)
    for z, y in zip(features.split(n), target.split(n), strict=True):
        estimator.update(z, y)
    count, mean, cov = slow_statistics(features, target, classes)
    torch.testing.assert_close(estimator.count, count)
    torch.testing.assert_close(estimator.mean, mean, atol=1e-10, rtol=1e-10)
    expected = cov.diagonal(dim1=1, dim2=2) if diagonal else cov
    torch.testing.assert_close(estimator.covariance, expected, atol=1e-10, rtol=1e-10)


def test_statistics_of_features_far_from_zero_keep_their_digits():
    g = torch.Generator().manual_seed(0)
    features = (torch.randn(64, 3, generator=g) + 1000).float()
    target = torch.randint(0, 2, (64,), generator=g)
    estimator = loss.EstimatorCV(3, 2).float()
    for part in range(4):
        estimator.update(features[part::4], target[part::4])
    expected = slow_statistics(features.double(), target, 2)[2]
    assert (estimator.covariance.double() - expected).abs().max() < 1e-3
    classes = [features[target == c] for c in (0, 1)]
    moments = torch.stack([(z.T @ z) / len(z) - torch.outer(z.mean(0), z.mean(0)) for z in classes])
    assert (moments.double() - expected).abs().max() > 1e-2  # the control: raw moments in float32


def test_statistics_in_parts_equal_the_whole(monkeypatch):
    features, target = torch.randn(50, 4), torch.randint(0, 3, (50,))
    whole = loss.batch_statistics(features, target, 3)
    monkeypatch.setattr(loss, "SCATTER_ELEMENTS", 7 * 16)
    torch.testing.assert_close(loss.batch_statistics(features, target, 3), whole)


@given(st.lists(st.integers(1, 50000), min_size=2, max_size=20), st.sampled_from([0.0, 0.9, 0.9999]), st.floats(0.01, 2))
def test_weights_margins_and_prior_follow_the_counts(counts, beta, max_m):
    weights, margins = [(1 - beta) / (1 - beta**n) for n in counts], [1 / math.sqrt(math.sqrt(n)) for n in counts]
    for ours, expected in (
        (loss.class_balanced_weights(counts, beta), [w * len(counts) / sum(weights) for w in weights]),
        (loss.ldam_margins(counts, max_m), [max_m * m / max(margins) for m in margins]),
        (loss.log_prior(counts), [math.log(n / sum(counts)) for n in counts]),
    ):
        torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_classes_without_images_are_refused():
    for function in (loss.class_balanced_weights, loss.ldam_margins, loss.log_prior):
        with pytest.raises(ValueError, match="at least one"):
            function([3, 0, 1])
    with pytest.raises(ValueError, match="beta"):
        loss.class_balanced_weights([1, 2], 1.0)


@pytest.mark.parametrize("balance", ["weights", "prior", "none"])
@pytest.mark.parametrize("name", ["MetaSAugCE", "MetaSAugLDAM"])
def test_criterion_equals_the_formula(name, balance):
    """With class weights, margins and prior as another test has them."""
    counts, bias, lam_t = [50, 20, 5, 2], torch.randn(4), 0.6
    weight, target, covariance = random_problem(9, 4, 3, 5, diagonal=True)
    batch = torch.randn(9, 3), target
    definition = SimpleNamespace(
        class_weights=loss.class_balanced_weights(counts) if balance == "weights" else torch.ones(4),
        margins=loss.ldam_margins(counts) if name == "MetaSAugLDAM" else torch.zeros(4),
        log_prior=loss.log_prior(counts) if balance == "prior" else None,
    )
    expected = float(slow_loss(weight, bias, batch, covariance, definition, lam_t))
    logits = F.linear(batch[0], weight, bias)
    found = {
        kind: float(getattr(loss, name)(counts, balance=kind)(logits, weight, target, covariance, lam_t))
        for kind in ("weights", "prior", "none")
    }
    assert found[balance] == pytest.approx(expected, rel=1e-12)
    assert min(abs(found[kind] - expected) for kind in found.keys() - {balance}) > 1e-3  # the control


@given(SIZES, st.booleans(), st.floats(0.01, 2))
@settings(max_examples=60)
def test_the_share_of_the_augmentation_equals_the_loop(sizes, diagonal, lam_t):
    weight, target, covariance = random_problem(*sizes, diagonal)
    logits = torch.randn(len(target), len(weight))
    others = slow_distances(weight, target, covariance)[torch.arange(len(weight)) != target.unsqueeze(1)]
    expected = lam_t / 2 * float(others.mean()) / statistics.fmean(map(statistics.stdev, logits.tolist()))
    ours = loss.augmentation_share(logits, weight, target, covariance, lam_t)
    assert float(ours) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_share_of_the_augmentation_is_said(monkeypatch):
    """Of classes that were seen, where something is augmented."""
    head, estimator = torch.nn.Linear(3, 4), loss.EstimatorCV(3, 4)
    assert loss.augmentation_note(head, estimator, 0.5) == []
    estimator.update(torch.randn(30, 3), torch.arange(30) % 3)  # none of the last class
    assert loss.augmentation_note(head, estimator, 0.0) == []
    for most, seen in ((256, [0, 1, 2]), (2, [0, 2])):
        monkeypatch.setattr(loss, "SHARE_CLASSES", most)
        share = loss.augmentation_share(
            head(estimator.mean[seen]), head.weight, torch.tensor(seen), estimator.covariance, 0.5
        )
        expected = f"augmentation: on average {100 * float(share):.3g} % of the logits' spread, at λ_t 0.5"
        assert loss.augmentation_note(head, estimator, 0.5) == [expected]


@pytest.mark.parametrize(
    ("estimated", "learned", "lines"),
    [([1.0, 0.0, 2.0], [1.0, 0.0, 2.0 - 4e-4], 1), ([1.0], [], 0), ([0.0], [0.1], 0), ([1.0], [1.0 - 4e-3], 0)],
)
def test_covariances_that_hardly_moved_are_said(estimated, learned, lines):
    assert len(loss.moved_note({"trace_estimated": estimated, "trace_learned": learned})) == lines
