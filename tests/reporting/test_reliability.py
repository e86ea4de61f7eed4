"""The bins of reliability diagrams: against loops, and the error of them against what a training logs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.made_runs import outcome_run
from support.runs import TARGET, small_run, take_step

from harness.evaluation import Predictions
from harness.metrics import BINS
from reporting.finished_runs import read_runs
from reporting.reliability import bins_of

WIDTH = 100 / BINS


@st.composite
def drawn_runs(draw):
    count = draw(st.integers(1, 30))
    target, predicted = (draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)) for _ in range(2))
    confidence = draw(st.lists(st.floats(0, 1, width=32), min_size=count, max_size=count))
    return outcome_run(target, predicted, np.array(confidence, dtype=np.float32), classes=3)


def slow_bins(runs):
    """Of each bin with images: its number, mean confidence, accuracy, images."""
    found = {}
    for run in runs:
        for target, predicted, confidence in zip(*(part.tolist() for part in run.tested), strict=True):
            k = next(k for k in range(BINS) if confidence <= (k + 1) / BINS or k == BINS - 1)
            found.setdefault(k, []).append((confidence, target == predicted))
    return [
        (k, 100 * sum(c for c, _ in part) / len(part), 100 * sum(r for _, r in part) / len(part), len(part))
        for k, part in sorted(found.items())
    ]


def error_of(runs):
    """The expected calibration error that the bins come to."""
    bins = bins_of(runs)
    return sum(one.images * abs(one.accuracy - one.confidence) for one in bins) / sum(one.images for one in bins)


@given(st.lists(drawn_runs(), min_size=1, max_size=3))
def test_bins_are_those_of_loops(runs):
    bins = bins_of(runs)
    shown = [(round(one.low / WIDTH), one.confidence, one.accuracy, one.images) for one in bins]
    assert shown == [pytest.approx(expected) for expected in slow_bins(runs)]
    assert all(one.high - one.low == pytest.approx(WIDTH) for one in bins)


def test_the_error_of_one_run_is_the_one_that_its_training_logged(tmp_path):
    with small_run(tmp_path, "--epochs", 1, steps=lambda _: 1) as run:
        for _ in run.epochs:
            for _ in run.watch(range(1), "x"):
                take_step(run)
            confidence = torch.tensor([0.31, 0.72, 0.93, 0.68])
            run.after_epoch(Predictions(1.0, TARGET, torch.tensor([0, 0, 1, 1]), confidence, torch.ones(4).bool()), {})
    (found,) = read_runs([tmp_path])
    logged = found.summary["last"]["ece"]
    assert error_of([found]) == pytest.approx(logged)
    control = found.tested._replace(confidence=found.tested.confidence / 2)
    assert abs(error_of([replace(found, tested=control)]) - logged) > 1


def test_confidences_of_any_kind_and_runs_without_predictions():
    for kind in (np.float16, ">f4", np.float64, np.longdouble):
        run = outcome_run([0, 1], [0, 0], np.array([0.75, 0.5], dtype=kind))
        silent = replace(run, tested=None)
        assert [one[2:] for one in bins_of([silent, run])] == [(50, 0, 1), (75, 100, 1)]
    assert bins_of([silent]) == []
