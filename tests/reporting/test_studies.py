"""The made-up studies of support/studies.py agree with themselves: their figures are those of their predictions."""

import json

import numpy as np
import pytest
import torch
from support.studies import LONG, ODD_NAMES, WAYS, Way, write_study

from harness.evaluation import Predictions
from harness.metrics import PER_CLASS_MEAN
from reporting.finished_runs import figure, grouped, read_runs


def test_the_figures_of_a_study_are_those_of_its_predictions(tmp_path):
    sizes = [0, *range(1, 30)]  # of the test set: uneven, and none of the first class
    write_study(tmp_path, 30, seeds=(4, 7), names=ODD_NAMES, test_per_class=sizes, epochs=10)
    runs = read_runs([tmp_path])
    assert len(LONG) == 79
    assert [(len(group), group[0].class_names[:24]) for group in grouped(runs).values()] == [(2, [*ODD_NAMES])] * len(WAYS)
    for run in runs:
        arrays = (torch.from_numpy(array) for array in run.tested)
        figures = Predictions(0.0, *arrays, torch.zeros(0)).accuracy(run.summary["cls_num_list"]).figures()
        per_class = figures.pop("per_class")
        assert figures == {key: run.summary["last"][key] for key in figures}
        assert PER_CLASS_MEAN in figures
        np.testing.assert_equal(per_class, [figure({"": value}, "") for value in run.summary["last"]["per_class"]])
        assert run.summary["last"]["per_class"].count(None) == 1
        assert np.bincount(run.tested.target).tolist() == sizes
        assert {f"test_{key}": value for key, value in figures.items()}.items() <= run.log[-1].items()
        assert [line["stage"] for line in run.log] == ([1] * 10 if "none" in run.name else [1] * 8 + [2] * 2)


def test_a_way_that_gains_on_rare_classes_does(tmp_path):
    write_study(tmp_path, 100, (Way("a", stage2="isda"), Way("b", few=2.0)), seeds=1, test_per_class=40)
    a, b = (json.loads((tmp_path / f"{name}_seed1_summary.json").read_text())["last"] for name in "ab")
    assert b["few"] > a["few"] + 20
    assert abs(b["many"] - a["many"]) < 5
    assert "trace_learned" in b.keys() - a.keys()


@pytest.mark.parametrize("classes", [2, 3, 8142])
def test_any_number_of_classes(tmp_path, classes):
    write_study(tmp_path, classes, seeds=1, test_per_class=2, most=1000, least=2, epochs=5)
    runs = read_runs([tmp_path])
    assert [len(run.summary["last"]["per_class"]) for run in runs] == [classes] * len(WAYS)
    assert [len(run.tested.target) for run in runs] == [2 * classes] * len(WAYS)
