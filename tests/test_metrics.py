"""Accuracies against scikit-learn and against loops."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score

import metrics

LABELS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@given(LABELS)
def test_confusion_and_accuracy_equal_scikit_learns(pairs):
    target, predicted = (torch.tensor(column) for column in zip(*pairs, strict=True))
    confusion = metrics.confusion_matrix(target, predicted, 5)
    assert (confusion.numpy() == confusion_matrix(target, predicted, labels=range(5))).all()
    result = metrics.accuracy(confusion, [500, 101, 100, 20, 19])
    assert math.isclose(result.overall, 100 * accuracy_score(target, predicted))
    recalls = recall_score(target, predicted, labels=range(5), average=None, zero_division=float("nan"))
    present = set(target.tolist())
    for k in range(5):
        assert math.isclose(result.per_class[k], 100 * recalls[k]) if k in present else math.isnan(result.per_class[k])
    for shot, classes in (("many", [0, 1]), ("medium", [2, 3]), ("few", [4])):
        values = [100 * recalls[k] for k in classes if k in present]
        expected = sum(values) / len(values) if values else math.nan
        ours = result.per_shot[shot]
        assert math.isclose(ours, expected) or (math.isnan(ours) and math.isnan(expected))


def test_shot_groups_have_the_published_bounds():
    assert [metrics.shot_of(n) for n in (101, 100, 20, 19)] == ["many", "medium", "medium", "few"]


def test_shots_line():
    assert (
        metrics.shots_line({"few": math.nan, "many": 81.2, "medium": 60.15, "other": 1}) == "many 81.20  medium 60.15  few -"
    )


def test_percent():
    assert metrics.percent(12.347) == "12.35"
    assert metrics.percent(math.nan) == "-"
