"""The benchmarks run and write their rows, and their baselines compute what ours does."""

import json
import re

import numpy as np
import pytest
import torch
from support.golden import Head, assert_close, batch, figures, load_weights

from benchmarks.published_head import PublishedHead
from benchmarks.published_pipeline import make_loader
from benchmarks.published_step import PublishedStep
from data_utils import CropsAndFlips, augment, normalize
from loss import EstimatorCV, MetaSAugLDAM
from meta_step import meta_step
from passes import lacks_bf16
from resnet import make_model


def rows_of(run, tmp_path, script, *flags):
    out = run(f"benchmarks/{script}.py", *flags, "--json", "rows.json", PYTHONWARNINGS="ignore").stdout
    return json.loads((tmp_path / "rows.json").read_text()), out


@pytest.mark.slow
def test_steps_are_measured(run, refused, tmp_path):
    flags = ["--arch", "resnet8", "--batch-size", "8", "--num_classes", "4", "--repeats", "1", "--no-cuda"]
    rows, out = rows_of(run, tmp_path, "meta_step", *flags)
    kinds = ("metasaug", "metasaug-head", "plain")
    names = ["published", *(f"{kind} {precision}" for kind in kinds for precision in ("float32", "bf16"))]
    if lacks_bf16(torch.device("cpu")):
        names = [name for name in names if "bf16" not in name]
        assert "bf16 left out" in out
    others = ["parts of metasaug float32", "parts of metasaug-head float32", "relative rule"]
    assert [row["name"] for row in rows] == names + others
    for row in rows[: len(names)]:
        assert row["speedup"] == pytest.approx(row["baseline_seconds"] / row["seconds"])
        assert row["min"] <= row["seconds"] <= row["max"]
        assert row["peak_mb"] >= 0
    assert rows[names.index("plain float32")]["ratio_to_ce"] == 1
    whole, head, rule = rows[len(names) :]
    two = {"forward: shared", "forward: meta", "directional pass", "backward: virtual", "backward: meta", "mixed_gradient"}
    assert two < whole["parts"].keys()
    assert {"forward", "forward: meta", "head_gradient"} < head["parts"].keys()
    assert not (two - {"forward: meta"}) & head["parts"].keys()
    assert rule["shares"]["metasaug"] == pytest.approx(rule["seconds"] / rows[names.index("metasaug float32")]["seconds"])
    assert "sgemm" in out
    assert "--repeats 0" in refused("benchmarks/meta_step.py", "--repeats", "0")


def test_the_head_step_and_epoch_are_measured(run, refused, tmp_path):
    rows, out = rows_of(run, tmp_path, "head_step", "--cells", "12x6", "--size", "16", "--rounds", "1")
    assert rows[0]["name"] == "C 12, N 6"
    assert rows[0]["speedup"] == pytest.approx(rows[0]["baseline_seconds"] / rows[0]["seconds"])
    assert re.search(r"C 12, N 6 +[\d.]+", out)
    assert "--cells '12'" in refused("benchmarks/head_step.py", "--cells", "12")
    rows, _ = rows_of(run, tmp_path, "head_epoch", "--images", "2000", "--num_classes", "5", "--batch_size", "500")
    assert rows[0]["seconds"] > 0
    assert rows[0]["peak_mb"] > 0


@pytest.mark.slow
def test_pipeline_and_precision_are_measured(run, tmp_path):
    flags = ["--images", "60", "--batch-size", "10", "--arch", "resnet8", "--repeats", "1"]
    rows, _ = rows_of(run, tmp_path, "pipeline", *flags)
    assert [row["name"] for row in rows] == ["an augmented batch", "an epoch of cross-entropy"]
    flags = ["--arch", "resnet8", "--batch-size", "4", "--plain", "10", "--steps", "10"]
    rows, out = rows_of(run, tmp_path, "precision", *flags)
    assert 0 < rows[0]["relative_norm"] < 1
    assert rows[0]["change"] == pytest.approx(rows[0]["losses"]["bf16"] / rows[0]["losses"]["float32"] - 1)
    assert "cosine" in out


@pytest.mark.usefixtures("float64")
def test_the_published_step_is_the_same_step():
    counts, sizes = [40, 20, 10, 5], (12, 3, 32, 32)
    published = PublishedStep(4, counts, lr=0.05, meta_lr=0.3, num_blocks=1)
    model = make_model("resnet8", 4).train()
    published.model.load_state_dict(model.state_dict())
    criterion, estimator = MetaSAugLDAM(counts), EstimatorCV(64, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    torch.manual_seed(0)
    for _ in range(2):
        training, meta = ((torch.randn(sizes), torch.randint(0, 4, (sizes[0],))) for _ in range(2))
        ours = meta_step(model, criterion, estimator, optimizer, training, meta, lam_t=0.6, virtual_lr=0.05, meta_lr=0.3)
        theirs = published.step(*training, [meta], lam_t=0.6)
        for key in ("loss_virtual", "loss_meta", "loss", "grad_covariance"):
            torch.testing.assert_close(getattr(ours, key), theirs[key], rtol=1e-9, atol=1e-12)
    assert float(ours.grad_covariance.norm()) > 1e-9
    torch.testing.assert_close(estimator.covariance, published.covariance, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_the_published_head_step_has_the_golden_figures():
    g = figures("head.npz")
    size, classes = int(g["feature_dim"]), int(g["num_classes"])
    head = Head(size, classes)
    load_weights(head, int(g["seed"]))
    published = PublishedHead(
        head.fc.weight.detach(), head.fc.bias.detach(), g["counts"].tolist(), float(g["lr"]), float(g["meta_lr"])
    )
    for t in range(int(g["steps"])):
        (x, y), (meta_x, meta_y) = batch(2 * t, g, (size,)), batch(2 * t + 1, g, (size,))
        found = published.step(x.abs(), y, meta_x.abs(), meta_y, lam_t=float(g["ratio"]))
        assert_close(found["grad_covariance"], g[f"grad_cv_{t}"])
        assert_close(published.covariance, g[f"covariance_{t}"])


def test_the_published_pipeline_makes_one_of_our_augmentations():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8))
    images, target = next(iter(make_loader(pixels, torch.arange(3), 3, workers=0)))
    tops, lefts, flips = torch.meshgrid(torch.arange(9), torch.arange(9), torch.arange(2), indexing="ij")
    draws = CropsAndFlips(tops.flatten(), lefts.flatten(), flips.flatten() == 1)
    for image, label in zip(images, target, strict=True):
        ours = normalize(augment(pixels, label.expand(162), draws))
        assert float((ours - image).abs().amax(dim=(1, 2, 3)).min()) < 1e-5


def test_both_ways_to_compute_features_are_measured(run, refused, tmp_path):
    """On the same images: what one calls logits are the head on what the other calls features, which test_networks shows."""
    flags = ["--backbone", "mobilenetv3_small_050", "--images", "8", "--repeats", "1"]
    (row,), out = rows_of(run, tmp_path, "feature_images", *flags)
    assert row["name"] == "features, mobilenetv3_small_050"
    assert row["speedup"] == pytest.approx(row["baseline_seconds"] / row["seconds"])
    assert "8 JPEGs" in out
    assert "--images 2" in refused("benchmarks/feature_images.py", "--images", "2")


def test_reports_are_measured(run, refused, tmp_path):
    (row,), out = rows_of(run, tmp_path, "report_pages", "--cells", "4x5", "--images", "12", "--epochs", "3")
    assert row["name"] == "4 runs of 5 classes"
    assert row["seconds"] > 0
    assert 0.01 < row["page_mb"] < 5
    assert 0 < row["tables_mb"] < 0.1
    assert re.search(r"4 runs of 5 classes +[\d.]+ +[\d.]+ +[\d.]+\n", out)
    assert "--cells '2x' makes no sense" in refused("benchmarks/report_pages.py", "--cells", "2x")
    assert "at least 2 runs and 2 classes" in refused("benchmarks/report_pages.py", "--cells", "1x5")
