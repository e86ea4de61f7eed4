"""Checkpoints of others, as a user hands them to predict.py and MetaSAug_test.py."""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from resnet import make_model


def prefixed(prefix):
    return {prefix + name: value for name, value in WEIGHTS.items()}


WEIGHTS, OTHER = make_model("resnet8", 3, 0).state_dict(), make_model("resnet8", 3, 1).state_dict()
FORMS = {
    "bare": prefixed("module."),
    "model": {"model": prefixed("_orig_mod."), "args": argparse.Namespace(lr=0.1), "arch": 3, "dataset": ["a"]},
    "model_state_dict": {"model_state_dict": prefixed("module._orig_mod.model."), "curve": np.float64(3), "from": Path("x")},
    "state_dict_best": {"state_dict_best": WEIGHTS, "state_dict": OTHER},
    "counter": {"state_dict": {**prefixed("model."), "criterion.weight": torch.ones(3), "model.bn1.num_batches_tracked": 5}},
    "extra": {"state_dict": {**WEIGHTS, "bn1.num_batches_tracked": torch.tensor(5), "_extra_state": None}},
    "old": {"state_dict": {name: value.requires_grad_() for name, value in WEIGHTS.items()}},
}


@pytest.fixture(scope="module")
def outputs(photos, run_in):
    """What both scripts print of a checkpoint."""

    def call(state, old=False):
        torch.save(state, photos / "x.pth", _use_new_zipfile_serialization=not old)
        return [run_in(f"{command} --checkpoint_path x.pth --no-cuda", cwd=photos).stdout for command in (
            "predict.py test/class0/0.png", "MetaSAug_test.py --dataset folder --data_root ."
        )]  # fmt: skip

    return call


@pytest.fixture(scope="module")
def expected(outputs):
    known, other = (outputs({"state_dict": weights, "epoch": 1}) for weights in (WEIGHTS, OTHER))
    assert not set(known) & set(other)  # the control
    return known


@pytest.mark.parametrize("form", FORMS)
def test_any_form_is_the_same_network(outputs, expected, form):
    assert outputs(FORMS[form], old=form == "old") == expected


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"weights": WEIGHTS, "ema": OTHER}, "holds no weights of a network under a name known here, but ema, weights"),
        ({"state_dict": {"fc.weight": torch.zeros(3, 4)}}, "does not fit: missing bn1.bias"),
        (nn.Linear(2, 2), "but an object of kind torch.nn.modules.linear.Linear: save its state_dict()"),
        ({"state_dict": {**WEIGHTS, "linear.bias": 3}}, "its linear.bias is of kind int; weights are tensors with names"),
        ({"state_dict": WEIGHTS, "seen": defaultdict(int, a=1)}, "(it holds collections.defaultdict"),
        ({k: value for k, value in WEIGHTS.items() if k != "linear.bias"}, "does not fit: missing linear.bias"),
        ({**WEIGHTS, "linear.weight": torch.full((3, 64), 1e38)}, "the outputs of its network are not finite"),
        ({"state_dict": WEIGHTS, "checksum": "sha256"}, "its checksum is missing; if you saved it again yourself, remove"),
    ],
)  # fmt: skip
def test_only_a_damaged_file_is_called_damaged(refused, photos, tmp_path, state, words):
    torch.save(state, tmp_path / "x.pth")
    line = refused(f"MetaSAug_test.py --checkpoint_path x.pth --dataset folder --data_root {photos} --no-cuda")
    assert words in line
    assert ("damaged" in line) == ("checksum" in words)
