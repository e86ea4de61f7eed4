"""The rules for Σ̂ against eigendecompositions class by class, on covariances and meta gradients of any scale."""

import pytest
import torch
from support.compare import relative

from covariance_rules import RULES, _moved_by_share, grad_traces, gradient_rule, positive_part, relative_rule
from loss import traces

EPS = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}


def slow_positive_part(x):
    """The eigenvalues below zero made zero, of one symmetric matrix in float64."""
    values, vectors = torch.linalg.eigh(x.double())
    total = torch.zeros_like(vectors)
    for value, vector in zip(values, vectors.T, strict=True):
        total += max(float(value), 0.0) * torch.outer(vector, vector)
    return total


def slow_relative(sigma, grad, step_size):
    """The relative rule, one class at a time in float64."""
    moved = []
    for s, g in zip(sigma.double(), grad.double(), strict=True):
        if not s.any() or not g.any():
            moved.append(s)
            continue
        size = torch.sqrt((s * s).sum()) / torch.sqrt((g * g).sum())
        x = s - step_size * size * g
        moved.append(slow_positive_part(x) if s.dim() == 2 else x.clamp(min=0))
    return torch.stack(moved)


def covariances(generator, classes, size, rank, diagonal=False):
    root = torch.randn(classes, size, rank, generator=generator, dtype=torch.float64)
    full = root @ root.mT
    return full.diagonal(dim1=1, dim2=2).contiguous() if diagonal else full


def gradients(generator, classes, size, diagonal=False):
    g = torch.randn(classes, size, size, generator=generator, dtype=torch.float64)
    return g.diagonal(dim1=1, dim2=2).contiguous() if diagonal else g + g.mT


def a_pair(diagonal=False, classes=5, size=6):
    generator = torch.Generator().manual_seed(3)
    return covariances(generator, classes, size, size, diagonal), gradients(generator, classes, size, diagonal)


@pytest.mark.parametrize("step_size", [0.0, 0.5, 30.0])
@pytest.mark.parametrize("diagonal", [False, True])
def test_the_relative_rule_equals_the_loop_over_the_classes(diagonal, step_size):
    sigma, grad = a_pair(diagonal)
    sigma[1], grad[2], grad[3] = 0, 0, 0  # no statistics yet; not in the batch, twice
    expected = slow_relative(sigma, grad, step_size)
    for rule in (relative_rule, _moved_by_share):  # the second is all of it on devices where no row is left out
        torch.testing.assert_close(rule(sigma, grad, step_size), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(relative_rule(sigma[[0, 1, 4]], grad[[0, 1, 4]], step_size), expected[[0, 1, 4]])
    assert torch.equal(relative_rule(sigma, grad, step_size)[1:4], sigma[1:4])
    if step_size:  # the control: another step is seen
        assert relative(relative_rule(sigma, grad, 1.1 * step_size), expected) > 1e-3


@pytest.mark.parametrize("fault", [float("nan"), float("inf")])
@pytest.mark.parametrize("diagonal", [False, True])
def test_a_gradient_that_is_not_finite_is_not_hidden(diagonal, fault):
    sigma, grad = a_pair(diagonal)
    expected = relative_rule(sigma, grad, 0.5)
    grad.view(len(grad), -1)[0, 0] = fault
    found = relative_rule(sigma, grad, 0.5)
    assert found[0].isnan().any()
    torch.testing.assert_close(found[1:], expected[1:])  # the control: other classes are as they were


@pytest.mark.parametrize("kind", ["random", "gradual", "low rank", "nearly none", "negative", "two values", "zero"])
@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_the_positive_part_equals_that_of_an_eigendecomposition(size, dtype, kind):
    g = torch.Generator().manual_seed(size)
    basis = torch.linalg.qr(torch.randn(4, size, size, generator=g, dtype=torch.float64))[0]
    drawn = torch.randn(4, size, generator=g, dtype=torch.float64)
    ranks = torch.arange(size)
    values = {
        "random": drawn,
        "gradual": 10.0 ** (-16.0 * ranks / size) * drawn.sign(),
        "low rank": torch.where(ranks < 2, drawn, 0),
        "nearly none": torch.where(ranks == 0, -1, 1e-7 * drawn.abs()),
        "negative": -drawn.abs(),
        "two values": drawn.sign(),
        "zero": 0 * drawn,
    }[kind]
    x = (basis * values.unsqueeze(1) @ basis.mT).to(dtype)
    x = (x + x.mT) / 2
    ours = positive_part(x)
    assert ours.dtype == dtype
    for found, given_x in zip(ours.double(), x, strict=True):
        largest = float(torch.linalg.matrix_norm(given_x.double(), 2))
        error = float(torch.linalg.matrix_norm(found - slow_positive_part(given_x), 2))
        assert error <= 100 * EPS[dtype] * largest
    for scale in (2.0**-90, 2.0**60):  # no square leaves the range
        torch.testing.assert_close(positive_part(x * scale) / scale, ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize(("large", "steep"), [(1e-12, 1e25), (1e12, 1e-25), (1.0, 1.0)])
def test_the_relative_rule_gives_covariances_of_any_scale_and_rank(large, steep, diagonal):
    generator = torch.Generator().manual_seed(1)
    sigma = torch.cat([covariances(generator, 2, 7, rank, diagonal) for rank in (1, 3, 7)])
    grad = gradients(generator, 6, 7, diagonal)
    grad[1], grad[3], grad[5] = sigma[1], -sigma[3], sigma[5] + 1e-4 * grad[5]  # Σ itself, and nearly so
    sigma, grad = (large * sigma).float(), (steep * grad).float()
    for step_size in (1.0, 2.0):
        ours = relative_rule(sigma, grad, step_size)
        assert torch.equal(ours, ours if diagonal else ours.mT)
        assert ((ours if diagonal else ours.diagonal(dim1=1, dim2=2)) >= 0).all()
        distance = (ours.double() - slow_relative(sigma, grad, step_size)).flatten(1).norm(dim=1)
        assert (distance <= 600 * EPS[torch.float32] * sigma.double().flatten(1).norm(dim=1)).all()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("diagonal", [False, True])
def test_the_lowered_traces_are_those_of_the_move_over_its_step_size(rule, diagonal):
    sigma, grad = a_pair(diagonal)
    grad[1] = 0
    moved = rule(sigma, grad, 0.3)
    lowered = grad_traces(rule, sigma, grad, moved, 0.3)
    for c in range(len(sigma)):
        parts = [(sigma - moved)[(c, a) if diagonal else (c, a, a)] for a in range(sigma.shape[1])]
        torch.testing.assert_close(0.3 * lowered[c], sum(parts))
    assert lowered[1] == 0
    assert torch.equal(grad_traces(rule, sigma, grad, sigma, 0.0), traces(grad))  # no move, and no division by zero


def test_a_move_of_the_published_rule_that_is_too_small_for_float32_keeps_its_trace():
    sigma, grad = (x.float() for x in a_pair())
    moved = gradient_rule(sigma, 1e-9 * grad, 1.0)
    torch.testing.assert_close(grad_traces(gradient_rule, sigma, 1e-9 * grad, moved, 1.0), 1e-9 * traces(grad))
    assert relative(traces(sigma - moved), 1e-9 * traces(grad)) > 0.01  # the control
