"""Ways to make a head: each fit is the minimum of its objective, which is written out here in float64."""

from itertools import product

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch.nn import functional as F

from heads.backbone import make_head
from heads.own_flags import parse_own
from heads.ways import WAYS, begin_head, constants_of

SIZE = 5


def made_up(classes):
    """Rows (N, A) of mean zero and a mean variance of one, and labels (N,), of classes of very different sizes."""
    generator = np.random.default_rng(classes)
    target = np.repeat(np.arange(classes), [24 // (k + 1) for k in range(classes)])
    rows = generator.normal(0, 1, (classes, SIZE))[target] + generator.normal(0, 1, (len(target), SIZE))
    rows -= rows.mean(axis=0)
    return rows / np.sqrt(np.square(rows).mean()), target


def objective(weight, bias, rows, target, c, lam, weights):
    """½|W|² + C / A · the sum of the weighted cross-entropies of ISDA's logits, row by row and class by class."""
    total = weight.square().sum() / 2
    for z, y in zip(rows, target.tolist(), strict=True):
        spread = rows[target == y].var(dim=0, correction=0)
        logits = torch.stack([w @ z + b + lam / 2 * ((w - weight[y]).square() * spread).sum()
                              for w, b in zip(weight, bias, strict=True)])  # fmt: skip
        total = total + c / SIZE * weights[y] * (logits.logsumexp(dim=0) - logits[y])
    return total


@pytest.mark.parametrize(("name", "classes"), [*product(("logistic", "balanced", "isda"), (2, 4))])
def test_the_gradient_of_the_objective_vanishes(name, classes):
    rows, target = made_up(classes)
    weights = len(target) / classes / np.bincount(target) if name == "balanced" else np.ones(classes)
    fitted = WAYS[name].fit(rows.astype(np.float32), target, {"C": 10.0, "lam": 0.5})
    both = [torch.tensor(part, dtype=torch.float64, requires_grad=True) for part in fitted]

    def slope(c, lam):
        value = objective(*both, torch.from_numpy(rows), torch.from_numpy(target), c, lam, weights.tolist())
        return (torch.cat([part.flatten() for part in torch.autograd.grad(value, both)]).norm() / both[0].norm()).item()

    lam = 0.5 if name == "isda" else 0.0
    assert slope(10.0, lam) < 0.02
    assert slope(20.0, lam) > 0.5  # the controls
    assert slope(10.0, 1.0) > 0.5


@pytest.mark.parametrize("classes", [2, 4])
def test_nearest_means_and_discriminant_analysis(classes):
    rows, target = made_up(classes)
    means = [rows[target == k].mean(axis=0) for k in range(classes)]
    nearest = [min(range(classes), key=lambda k, row=row: np.square(row - means[k]).sum()) for row in rows]
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=np.full(classes, 1 / classes))
    for name, expected in (("nearest_mean", nearest), ("lda", model.fit(rows, target).predict(rows).tolist())):
        weight, bias = WAYS[name].fit(rows, target, {})
        assert (rows @ weight.T + bias).argmax(axis=1).tolist() == expected
        assert expected != target.tolist()  # so that it matters


@pytest.mark.parametrize("classes", [2, 4])
def test_steps_begin_where_their_own_loss_has_its_minimum(classes):
    """At λ = 0: the mean cross-entropy of the logits plus the log prior, and the decay at --C."""
    rows, target = map(torch.from_numpy, made_up(classes))
    flags = parse_own("", ["--features", "x.npz", "--way", "metasaug", "--C", "10"])
    prior = (torch.bincount(target) / len(target)).log()

    def slope(prior=prior, c=10.0):
        head = make_head(classes, 0, SIZE).double()
        begin_head("metasaug", head, rows, target, {"C": c, "lam": 0.0})
        F.cross_entropy(head(rows) + prior, target).backward()
        groups = flags.decayed(head, SIZE, len(target))
        slopes = [p.grad + group["weight_decay"] * p for group in groups for p in group["params"]]
        return torch.cat([part.flatten() for part in slopes]).norm().item()

    assert slope() < 2e-3
    assert min(slope(prior=0 * prior), slope(c=100.0)) > 0.02  # the controls
    assert [group["weight_decay"] for group in flags.decayed(make_head(classes, 0, SIZE), SIZE, 20)] == [SIZE / 200, 0]


def test_ways_follow_simpler_ones_and_take_over_their_constants():
    names = list(WAYS)
    for name, way in WAYS.items():
        assert way.words
        assert all(len({*values}) > 1 for values in way.tried.values())
        before = {} if way.after is None else constants_of(way.after)
        assert constants_of(name) == before | {key: values[0] for key, values in way.tried.items()}
        assert way.after is None or names.index(way.after) < names.index(name)
    assert constants_of("metasaug").keys() >= {"transform", "C", "lam", "lr"}
    assert constants_of("recipe") == {}
