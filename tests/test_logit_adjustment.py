"""The log prior subtracted when testing: which counts it is of, what is said, and MetaSAug_test.py with it."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.places import ROOT
from support.refusals import wrong

from datasets.small_sets import read_images
from harness.evaluation import adjustment_notes, prior_counts
from inference.trained import FromPixels, restored


@pytest.fixture(scope="module")
def trained(run_in, tmp_path_factory):
    """Epochs of which the last also trains on the meta images; the folder it was called in, and that of its files."""
    root = tmp_path_factory.mktemp("trained")
    shutil.copy(ROOT / "tests" / "support" / "tiny_networks.py", root)
    flags = "--arch tiny_networks:logits --no-cuda --epochs 6 --meta_start 5 --stage2 reweight --meta_images train"
    run_in(f"MetaSAug_CE_train.py --dataset digits --imb_factor 0.1 --batch-size 64 --save_name a {flags}", cwd=root)
    return root, root / "checkpoint" / "ours" / "0"


def accuracies(out):
    return [float(value) for value in re.findall(r"images, (?:many|medium|few) +([\d.]+)$", out, re.M)]


@pytest.mark.parametrize("tau", [1.0, 1000.0])
def test_figures_are_those_of_the_adjusted_logits(trained, run_in, tau, monkeypatch):
    """Of the images that stage 2 trained on: the meta images are among them, those of a checkpoint of stage 1 are not."""
    root, folder = trained
    monkeypatch.syspath_prepend(root)
    test = read_images("digits", "", train=False)
    for kind in ("last", "stage1"):
        path = folder / f"a_{kind}.pth.tar"
        state = torch.load(path, weights_only=True)
        counts = np.array(state["cls_num_list"]) + (10 if kind == "last" else 0)
        with torch.no_grad():
            logits = FromPixels(restored(state, path, "tiny_networks:logits", 10))(test.pixels).double()
        command = f"MetaSAug_test.py --checkpoint_path {path} --arch tiny_networks:logits --no-cuda --logit_adjust"
        out = {t: run_in(f"{command} {t}", cwd=root).stdout for t in (0, tau)}
        for t in (0, tau):
            predicted = (logits - t * torch.from_numpy(np.log(counts / counts.sum()))).argmax(1)
            right = predicted == test.target
            assert f"\tAccuracy: {100 * right.double().mean():.2f}\t" in out[t]
            expected = [100 * right[test.target == c].double().mean().item() for c in range(10)]
            assert accuracies(out[t]) == pytest.approx(expected, abs=0.01)
        assert out[0] != out[tau]
        assert "logits adjusted" not in out[0]
        told = f"logits adjusted: {tau:g} times the log of each class's share of the training images is subtracted\n"
        assert told in out[tau]


def test_the_counts_that_the_prior_is_of():
    x = Path("x")
    joined = {"cls_num_list": [3, 1], "stage2_counts": [4, 2], "epoch": 2, "flags": {"meta_start": 2}}
    assert prior_counts(joined, [3, 1], x) == [3, 1]  # stage 1 alone
    assert prior_counts({**joined, "epoch": 3}, [3, 1], x) == [4, 2]
    assert prior_counts({**joined, "flags": {}}, [3, 1], x) == [4, 2]  # a head, whose every epoch is stage 2
    assert prior_counts({}, [3, 1], x) == [3, 1]
    assert "class 1 has none" in wrong(prior_counts, {}, [3, 0], x)


def test_a_loss_that_made_up_for_the_long_tail_is_noted():
    flags = {"balance": "prior", "stage2": "isda", "meta_start": 2}
    assert adjustment_notes(0.0, {"flags": flags, "epoch": 3}) == []
    cases = ({}, 3, 2), ({}, 2, 1), ({"stage2": "none"}, 3, 1), ({"balance": "weights"}, 3, 2), ({"balance": "none"}, 3, 1)
    for change, epoch, lines in cases:
        assert len(adjustment_notes(0.5, {"flags": {**flags, **change}, "epoch": epoch})) == lines
    assert len(adjustment_notes(0.5, {})) == 1
