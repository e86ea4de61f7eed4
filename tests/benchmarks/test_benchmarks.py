"""The versions are measured, and those of the published structure compute what ours do."""

import json
import re

import pytest
import torch
from support.golden import Head, assert_close, batch, figures, load_weights
from support.step_problems import LAM_T, META_LR, Problem

from benchmarks.published_step import PublishedStep
from benchmarks.versions import VERSIONS
from meta_layers import HeadAlone
from resnet import build_model


@pytest.mark.slow
def test_all_versions_are_measured(run, tmp_path):
    flags = "--arch resnet8 --batch_size 4 --num_classes 4 --rounds 1 --seconds 0.1 --no-cuda --json rows.json"
    out = run(f"benchmarks/compare.py {flags}", PYTHONWARNINGS="ignore").stdout
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["case"], row["name"]) for row in rows] == [(case, name) for case in VERSIONS for name in VERSIONS[case]]
    assert [row for row in rows if not re.search(rf"^{row['name']} +{row['seconds']:.4f}", out, re.MULTILINE)] == []


@pytest.mark.usefixtures("float64")
def test_the_published_step_is_the_same_step():
    problem = Problem("resnet8")
    published = PublishedStep(lambda: build_model("resnet8", 5), [40, 20, 10, 5, 2], lr=0.1, meta_lr=META_LR)
    published.model.load_state_dict(problem.model.state_dict())
    published.covariance = problem.sigma
    for _ in range(2):
        ours, theirs = problem.step(virtual_lr=0.1), published.step(*problem.batch, [problem.meta], lam_t=LAM_T)
        for key, expected in theirs.items():
            torch.testing.assert_close(getattr(ours, key), expected, rtol=1e-9, atol=1e-12)
    assert float(ours.grad_covariance.norm()) > 1e-9
    torch.testing.assert_close(problem.estimator.covariance, published.covariance, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_the_published_head_step_has_the_golden_figures():
    g = figures("head.npz")
    size, classes = int(g["feature_dim"]), int(g["num_classes"])
    head = Head(size, classes)
    load_weights(head, int(g["seed"]))
    counts, rates = g["counts"].tolist(), (float(g["lr"]), float(g["meta_lr"]))
    published = PublishedStep(lambda: HeadAlone(torch.nn.Linear(size, classes)), counts, *rates, diagonal=True)
    published.model.layer.load_state_dict(head.fc.state_dict())
    for t in range(int(g["steps"])):
        (x, y), (meta_x, meta_y) = batch(2 * t, g, (size,)), batch(2 * t + 1, g, (size,))
        found = published.step(x.abs(), y, [(meta_x.abs(), meta_y)], lam_t=float(g["ratio"]))
        assert_close(found["grad_covariance"], g[f"grad_cv_{t}"])
        assert_close(published.covariance, g[f"covariance_{t}"])
