"""Ways to make a head: each fit is what it is by definition, and steps begin where the way before ends."""

import numpy as np
import pytest
import torch
from support.defined_heads import by_definition
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


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", ["logistic", "balanced", "isda", "nearest_mean", "lda"])
def test_a_fit_is_what_it_is_by_definition(name, classes):
    """Its answers, but for the log prior that some subtract in tests; at other constants they are others."""
    rows, target = made_up(classes)
    every = np.full(len(target), True)

    def said(**constants):
        weight, bias = WAYS[name].fit(rows.astype(np.float32), target, constants)
        return torch.from_numpy(rows @ weight.T + bias - subtracted).softmax(dim=1)

    subtracted = np.log(np.bincount(target) / len(target)) if name in ("logistic", "isda") else 0
    expected = by_definition(name, {"transform": "none", "C": 10.0, "lam": 0.5}, rows, target, every).softmax(dim=1)
    torch.testing.assert_close(said(C=10.0, lam=0.5), expected, rtol=0, atol=2e-3)
    if name not in ("nearest_mean", "lda"):
        assert (said(C=20.0, lam=0.5) - expected).abs().max() > 5e-3


@pytest.mark.parametrize("classes", [2, 4])
def test_steps_begin_where_their_own_loss_has_its_minimum(classes):
    """At λ = 0: the mean cross-entropy of the logits plus the log prior, and the decay at --C."""
    rows, target = map(torch.from_numpy, made_up(classes))
    flags = parse_own(["--features", "x.npz", "--way", "metasaug", "--C", "10"])
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
