"""Accuracies against scikit-learn and against loops."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, recall_score

from harness import metrics
from harness.evaluation import Predictions

LABELS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@given(LABELS)
def test_accuracies_equal_scikit_learns(pairs):
    target, predicted = (torch.tensor(column) for column in zip(*pairs, strict=True))
    sure = torch.ones(len(pairs))
    result = Predictions(0.0, target, predicted, sure, sure).accuracy([500, 101, 100, 20, 19])
    recalls = recall_score(target, predicted, labels=range(5), average=None, zero_division=math.nan)
    per_class, tests = 100 * torch.tensor(recalls), target.bincount()
    assert result.overall == pytest.approx(100 * accuracy_score(target, predicted))
    assert result.macro_f1 == pytest.approx(100 * f1_score(target, predicted, labels=target.unique(), average="macro"))
    assert result.per_class == pytest.approx(per_class.tolist(), nan_ok=True)
    shots = {"many": per_class[:2], "medium": per_class[2:4], "few": per_class[4:]}
    assert result.per_shot == pytest.approx({shot: float(part.nanmean()) for shot, part in shots.items()}, nan_ok=True)
    # The mean over classes is a figure of its own where classes have more test images than others.
    mean, uneven = float(per_class.nanmean()), len(tests[tests > 0].unique()) > 1
    assert result.mean_over_classes == pytest.approx(mean)
    assert uneven or mean == pytest.approx(result.overall)
    assert result.figures().get("mean_per_class") == (result.mean_over_classes if uneven else None)
    assert metrics.mean_words(result.figures()) == ([f"mean over classes {mean:.2f}"] if uneven else [])


def test_shots_line():
    assert metrics.shots_line({"few": math.nan, "many": 81.204, "medium": 60.157}) == "many 81.20  medium 60.16  few -"


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=80))
def test_calibration_error_is_that_of_the_definition(pairs):
    confidence, right = (torch.tensor(column) for column in zip(*pairs, strict=True))
    expected = 0
    for k in range(15):  # bins (k / 15, (k + 1) / 15], the first with 0; images in a bin / all * |accuracy - confidence|
        inside = [r - c for c, r in pairs if k / 15 < c <= (k + 1) / 15 or (k == 0 and c == 0)]
        expected += abs(sum(inside)) / len(pairs)
    found = metrics.calibration_error(confidence, right)
    assert found == pytest.approx(100 * expected, abs=1e-9)


def test_without_images_there_is_no_calibration_error():
    assert math.isnan(metrics.calibration_error(torch.zeros(0), torch.zeros(0)))
