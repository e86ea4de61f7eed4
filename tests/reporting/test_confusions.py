"""The pairs of classes that are mistaken most often, against counts by loops."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.made_runs import outcome_run

from reporting.confusions import confused, count_of


def slow_pairs(runs):
    """(mean count, true, predicted) of all pairs, in order."""
    counts = Counter()
    for run in runs:
        for true, predicted in zip(run.tested.target.tolist(), run.tested.predicted.tolist(), strict=True):
            counts[true, predicted] += true != predicted
    return sorted((-count / len(runs), *pair) for pair, count in counts.items() if count)


@st.composite
def groups(draw):
    classes, images = draw(st.integers(2, 5)), draw(st.integers(0, 25))
    labels = st.lists(st.integers(0, classes - 1), min_size=images, max_size=images)
    sure = st.lists(st.sampled_from([0.25, 0.5, 0.75]), min_size=images, max_size=images)  # sums of these are exact
    target = draw(labels)
    return [outcome_run(target, draw(labels), draw(sure), classes=classes) for _ in range(draw(st.integers(1, 3)))]


@given(groups(), st.integers(1, 30))
def test_pairs_are_those_counted_by_loops(runs, most):
    pairs = confused(runs, most)
    assert [(-pair.mean_count, pair.true, pair.predicted) for pair in pairs] == slow_pairs(runs)[:most]
    for pair in pairs:
        tested = runs[0].tested.target.tolist().count(pair.true)
        assert (pair.tested, pair.share) == (tested, pytest.approx(100 * pair.mean_count / tested))
    assert count_of(runs, pairs) == [pytest.approx(pair.mean_count) for pair in pairs]


def test_runs_on_different_test_sets_count_by_their_mean():
    first, same = outcome_run([0, 0, 1, 1], [1, 0, 1, 0]), outcome_run([0, 0, 1, 1], [1, 1, 1, 1])
    other = outcome_run([1, 0, 0], [1, 1, 1])
    (pair, second) = confused([first, same, other])
    assert (pair.true, pair.predicted, pair.mean_count, pair.tested) == (0, 1, pytest.approx(5 / 3), 2)
    assert (second.true, second.predicted) == (1, 0)
    assert (second.mean_count, second.tested) == pytest.approx((1 / 3, 5 / 3))


def test_runs_without_predictions_are_left_out():
    run = outcome_run([0, 0, 1], [1, 0, 1])
    silent = replace(run, tested=None)
    assert confused([silent, run]) == confused([run])
    assert confused([silent]) == [] == confused([run], 0)
    assert count_of([silent], confused([run])) is None
    assert count_of([outcome_run([0, 0, 1], [0, 0, 1])], confused([run])) == [0.0]


def test_as_many_classes_as_the_large_sets_have():
    """A matrix of them would have 66 million places; classes * classes does not fit 32 bits with 100,000 of them."""
    for classes in (8142, 100_000):
        target = np.repeat(np.arange(classes), 3)
        predicted = target.copy()
        predicted[-3:], predicted[0] = classes - 2, classes - 1
        pairs = confused([outcome_run(target, predicted, classes=classes)])
        assert [(p.true, p.predicted, p.mean_count, p.share) for p in pairs] == [
            (classes - 1, classes - 2, 3, 100), (0, classes - 1, 1, pytest.approx(100 / 3)),
        ]  # fmt: skip
