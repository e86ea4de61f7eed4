"""The published code's figures, in float64, see support/golden.py."""

import hashlib
import json
from typing import NamedTuple

import numpy as np
import pytest
import torch
from support.golden import GOLDEN, RTOL, Head, assert_close, batch, figures, load_weights

import data_utils
from datasets.drawn_sets import Lists
from datasets.examples import Examples
from heads.head_step import head_step
from loss import EstimatorCV, SemanticLoss, class_balanced_weights, ldam_margins
from meta_step import meta_step
from resnet import build_model

pytestmark = pytest.mark.usefixtures("float64")


def digest(tensor):
    a = tensor.detach().numpy().ravel()
    probe = np.random.RandomState(a.size % 2**32).standard_normal(a.size)
    return np.array([a.sum(), np.linalg.norm(a), a @ probe, a @ np.cos(np.arange(a.size))])


def assert_digest(tensor, expected):
    # The sums of a digest may cancel to nearly nothing: their rounding is relative to the tensor's norm.
    np.testing.assert_allclose(digest(tensor), expected, rtol=RTOL, atol=RTOL * max(float(tensor.detach().norm()), 1e-300))


def make_criterion(g):
    counts = g["counts"].tolist()
    weights = class_balanced_weights(counts)
    assert_close(weights, g["class_weights"])
    max_m = float(g.get("max_m", 0))
    return SemanticLoss(weights, ldam_margins(counts, max_m))


def run_steps(g, model, estimator, shape, absolute=False, step=meta_step):
    """Yield (t, result) of each step; the model and the estimator move."""
    criterion = make_criterion(g)
    optimizer = torch.optim.SGD(model.parameters(), lr=float(g["lr"]), momentum=0.9, nesterov=True, weight_decay=5e-4)
    for t in range(int(g["steps"])):
        train, meta = batch(2 * t, g, shape), batch(2 * t + 1, g, shape)
        if absolute:
            train, meta = (train[0].abs(), train[1]), (meta[0].abs(), meta[1])
        result = step(
            model, criterion, estimator, optimizer, train, meta,
            lam_t=float(g["ratio"]), virtual_lr=float(g["lr"]), meta_lr=float(g["meta_lr"]),
        )  # fmt: skip
        assert_close(result.loss_virtual, g[f"loss_virtual_{t}"])
        assert_close(result.loss_meta, g[f"loss_meta_{t}"])
        assert_close(result.loss, g[f"loss_{t}"])
        yield t, result


@pytest.mark.parametrize("name", ["cifar_ldam", "cifar_ce"])
def test_three_metasaug_steps_of_resnet32(name):
    g = figures(f"{name}.npz")
    classes = int(g["num_classes"])
    model = build_model("resnet32", classes).train()
    load_weights(model, int(g["seed"]))
    estimator = EstimatorCV(64, classes)
    for t, result in run_steps(g, model, estimator, (3, 32, 32)):
        assert_close(result.grad_covariance[0], g[f"grad_cv_class0_{t}"])
        assert_digest(result.grad_covariance, g[f"grad_cv_digest_{t}"])
        assert_digest(estimator.covariance, g[f"covariance_digest_{t}"])
    expected = {k for k in g if k.startswith(("param/", "buffer/"))}
    named = {f"param/{k}": v for k, v in model.named_parameters()}
    named |= {f"buffer/{k}": v for k, v in model.named_buffers()}
    assert named.keys() == expected
    for key in sorted(expected):
        assert_digest(named[key], g[key])
    inputs, _ = batch(99, g, (3, 32, 32), batch_size=8)
    with torch.no_grad():
        _, logits = model.eval()(inputs)
    assert_close(logits, g["eval_logits"])


class ClosedForm(NamedTuple):
    """A result of head_step in the form of meta_step's."""

    loss_virtual: torch.Tensor
    loss_meta: torch.Tensor
    loss: torch.Tensor
    grad_covariance: torch.Tensor


def closed_form(model, criterion, estimator, optimizer, train, meta, **rates):
    result = head_step(model.fc, criterion, estimator, optimizer, train, meta, **rates)
    whole = torch.zeros_like(estimator.covariance)
    whole[train[1]] = result.grad_rows
    return ClosedForm(result.loss_virtual, result.loss_meta, result.loss, whole)


@pytest.mark.parametrize("step", [meta_step, closed_form])
def test_three_steps_of_a_linear_head_with_diagonal_covariances(step):
    g = figures("head.npz")
    model = Head(int(g["feature_dim"]), int(g["num_classes"]))
    load_weights(model, int(g["seed"]))
    estimator = EstimatorCV(int(g["feature_dim"]), int(g["num_classes"]), diagonal=True)
    for t, result in run_steps(g, model, estimator, (int(g["feature_dim"]),), absolute=True, step=step):
        assert_close(result.grad_covariance, g[f"grad_cv_{t}"])
        assert_close(estimator.covariance, g[f"covariance_{t}"])
    assert_close(model.fc.weight, g["fc.weight"])
    assert_close(model.fc.bias, g["fc.bias"])


@pytest.mark.parametrize("kind", ["full", "diagonal"])
def test_class_statistics(kind):
    g = figures(f"estimator_{kind}.npz")
    classes, size, n = (int(g[k]) for k in ("num_classes", "feature_dim", "batch_size"))
    estimator = EstimatorCV(size, classes, diagonal=kind == "diagonal")
    for i in range(int(g["steps"])):
        r = np.random.RandomState(50 + i + int(g["seed"]))
        features = torch.from_numpy(r.standard_normal((n, size)))
        estimator.update(features, torch.from_numpy(r.randint(0, classes - 1, n)).long())
        assert_close(estimator.count, g[f"count_{i}"])
        assert_close(estimator.mean, g[f"mean_{i}"])
        assert_close(estimator.covariance, g[f"covariance_{i}"])


def test_subsets():
    for g in json.loads((GOLDEN / "splits.json").read_text()):
        classes = len(g["counts"])
        labels = np.random.RandomState(g["label_seed"]).permutation(np.repeat(np.arange(classes), 50000 // classes))
        num_meta = g.get("num_meta", g["meta_size"] // classes)
        counts = data_utils.get_img_num_per_cls(g["dataset"], g["imb_factor"], num_meta * classes)
        assert counts == g["counts"]
        assert_close(class_balanced_weights(counts), g["class_weights"])
        whole = Examples(np.arange(50000), labels, [str(k) for k in range(classes)], "CIFAR")
        sets = Lists(whole, whole, whole, "take out", []).sets(num_meta, imb_factor=g["imb_factor"])
        assert sets.cls_num_list == counts
        for ours, part in ((sets.train, "train"), (sets.meta, "meta")):
            indices = ours.items.astype("<i8")
            assert len(indices) == g[f"{part}_size"]
            first = g[f"{part}_first"]
            assert indices[: len(first)].tolist() == first
            assert hashlib.sha256(indices.tobytes()).hexdigest() == g[f"{part}_sha256"]


def test_the_comparisons_see_small_differences():
    tensor = torch.linspace(-1, 2, 50)
    assert_digest(tensor, digest(tensor))
    assert_close(tensor, tensor.numpy())
    other = tensor.clone()
    other[7] += 1e-7
    for check in (lambda: assert_digest(other, digest(tensor)), lambda: assert_close(other, tensor.numpy())):
        with pytest.raises(AssertionError):
            check()
