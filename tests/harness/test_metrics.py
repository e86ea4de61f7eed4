"""Accuracies against scikit-learn and against loops."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, recall_score

from harness import metrics
from harness.evaluation import Predictions

LABELS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


def said(target, predicted):
    return Predictions(0.0, target, predicted, torch.ones(len(target)), torch.ones(len(target)).bool())


@given(LABELS)
def test_accuracies_equal_scikit_learns(pairs):
    target, predicted = (torch.tensor(column) for column in zip(*pairs, strict=True))
    result = said(target, predicted).accuracy([500, 101, 100, 20, 19])
    assert math.isclose(result.overall, 100 * accuracy_score(target, predicted))
    recalls = recall_score(target, predicted, labels=range(5), average=None, zero_division=float("nan"))
    present = set(target.tolist())
    assert math.isclose(result.macro_f1, 100 * f1_score(target, predicted, labels=sorted(present), average="macro"))
    for k in range(5):
        assert math.isclose(result.per_class[k], 100 * recalls[k]) if k in present else math.isnan(result.per_class[k])
    for shot, classes in (("many", [0, 1]), ("medium", [2, 3]), ("few", [4])):
        values = [100 * recalls[k] for k in classes if k in present]
        expected = sum(values) / len(values) if values else math.nan
        ours = result.per_shot[shot]
        assert math.isclose(ours, expected) or (math.isnan(ours) and math.isnan(expected))


@given(LABELS)
def test_the_mean_over_classes_is_a_figure_of_its_own_where_it_differs_from_the_accuracy(pairs):
    target, predicted = (torch.tensor(column) for column in zip(*pairs, strict=True))
    result = said(target, predicted).accuracy([1] * 5)
    uneven = len({n for n in target.bincount().tolist() if n}) > 1  # classes without test images count for neither
    recalls = recall_score(target, predicted, labels=sorted(set(target.tolist())), average="macro", zero_division=0)
    assert math.isclose(result.mean_over_classes, 100 * recalls, abs_tol=1e-9)
    assert uneven or math.isclose(result.mean_over_classes, result.overall, abs_tol=1e-9)
    assert result.figures().get("mean_per_class") == (result.mean_over_classes if uneven else None)
    assert metrics.mean_words(result.figures()) == ([f"mean over classes {100 * recalls:.2f}"] if uneven else [])


def test_shot_groups_have_the_published_bounds():
    assert [metrics.shot_of(n) for n in (101, 100, 20, 19)] == ["many", "medium", "medium", "few"]


def test_shots_line():
    assert (
        metrics.shots_line({"few": math.nan, "many": 81.2, "medium": 60.15, "other": 1}) == "many 81.20  medium 60.15  few -"
    )


def test_percent():
    assert metrics.percent(12.347) == "12.35"
    assert metrics.percent(math.nan) == "-"


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=80), st.integers(0, 80))
def test_calibration_error_is_that_of_the_definition_and_parts_sum_up(pairs, cut):
    confidence, right = (torch.tensor(column) for column in zip(*pairs, strict=True))
    expected = 0
    for k in range(15):  # bins (k / 15, (k + 1) / 15], the first with 0
        inside = [(c, r) for c, r in pairs if k / 15 < c <= (k + 1) / 15 or (k == 0 and c == 0)]
        if inside:
            gap = sum(r for _, r in inside) / len(inside) - sum(c for c, _ in inside) / len(inside)
            expected += len(inside) / len(pairs) * abs(gap)
    whole = metrics.calibration_bins(confidence, right)
    assert math.isclose(metrics.calibration_error(whole), 100 * expected, rel_tol=1e-9, abs_tol=1e-9)
    parts = [metrics.calibration_bins(confidence[p], right[p]) for p in (slice(cut), slice(cut, None))]
    torch.testing.assert_close(parts[0] + parts[1], whole)


def test_the_figures_of_a_model_that_is_always_sure():
    right = torch.tensor([True, True, True, False])
    assert metrics.calibration_error(metrics.calibration_bins(torch.ones(4), right)) == 25
    assert metrics.calibration_error(metrics.calibration_bins(torch.full((4,), 0.75), right)) == 0
    assert math.isnan(metrics.calibration_error(metrics.calibration_bins(torch.zeros(0), torch.zeros(0))))
