"""Folds over the training rows and what their scores say, against loops over rows and classes."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from heads.folds import FOLDS, Score, fold_numbers, kept, over_classes, score_file, scored

SEEDS = st.integers(0, 1000)
ROWS = np.arange(40)
ONES = np.ones(40)


@given(st.lists(st.integers(1, 23), min_size=1, max_size=9), SEEDS)
def test_every_class_is_spread_over_the_folds_and_trained_on_in_each(counts, seed):
    target = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    folds = fold_numbers(target)
    assert np.array_equal(folds, fold_numbers(target))
    for k, count in enumerate(counts):
        own = folds[target == k].tolist()
        if count == 1:
            assert own == [-1]
        else:
            assert {*own} <= {*range(FOLDS)}
            assert max(map(own.count, own)) == math.ceil(count / FOLDS) < count
    sizes = [int((folds == k).sum()) for k in range(FOLDS)]
    assert max(sizes) - min(sizes) <= 1


@given(SEEDS, st.integers(1, 30))
def test_the_mean_over_classes_has_the_error_of_a_pooled_variance(seed, rows):
    generator = np.random.default_rng(seed)
    target, values = generator.integers(0, 6, rows), generator.normal(1, 2, rows)
    classes = pd.Series(values).groupby(target)
    pooled = np.square(values - classes.transform("mean")).sum() / max(rows - classes.ngroups, 1)
    expected = classes.mean().mean(), math.sqrt((pooled / classes.size()).sum()) / classes.ngroups
    assert over_classes(values, target) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(SEEDS, st.sampled_from([1, 1000]))
def test_scores_are_those_of_a_softmax(seed, scale):
    generator = np.random.default_rng(seed)
    logits, target = generator.normal(0, 1, (9, 4)) * scale, generator.integers(0, 4, 9)
    found, expected = scored(logits, target), F.cross_entropy(*map(torch.from_numpy, (logits, target)), reduction="none")
    np.testing.assert_allclose(found.loss, expected, atol=1e-9)
    assert np.array_equal(found.right, logits.argmax(axis=1) == target)


@pytest.mark.parametrize(
    ("gained", "lost", "loss", "better"),
    [
        (9, 0, 2.0, True), (0, 0, 0.9, True), (0, 1, 0.5, False), (0, 0, 1.0, False), (2, 1, 1.0, False),
    ],
)  # fmt: skip
def test_what_is_an_improvement(gained, lost, loss, better):
    """Significantly more accurate; or no less accurate, with a significantly smaller log-loss."""
    before = Score(ROWS % 2, np.isin(ROWS, range(20)), ONES)
    after = Score(ROWS % 2, np.isin(ROWS, range(lost, 20 + gained)), ONES * loss)
    assert after.improves(before) == better


def test_scores_are_kept_and_what_is_damaged_is_computed_again(tmp_path):
    def ask(*keys, about="some rows"):
        computed, made = [], [Score(ROWS % 2, key["C"] > ROWS, ONES / key["C"]) for key in keys]
        for i, key in enumerate(keys):
            found = kept(score_file(tmp_path / "folds", [about, key]), lambda i=i: computed.append(i) or made[i])
            assert all(map(np.array_equal, vars(found).values(), vars(made[i]).values()))
        return computed

    one, two, three = ({"C": C, "lam": 3.0} for C in (20.0, 30.0, 5.0))
    assert ask(one, two) == [0, 1]
    assert ask(dict(reversed(one.items())), three) == [1]
    assert ask(one, about="other rows") == [0]
    path = score_file(tmp_path / "folds", ["some rows", one])
    path.write_bytes(path.read_bytes()[:-40])
    assert ask(one, two) == [0]
