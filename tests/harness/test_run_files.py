"""The files that a run speaks of: there and whole when it goes on, or refused, or chosen anew."""

import json
import shutil

import numpy as np
import pytest
import torch
from support.refusals import refusal
from support.runs import CutError, end_epoch, files_of, saved_state, small_run, take_step

GO_ON = "--resume auto --epochs"


def train(folder, *flags, rights=(), killed_in=None):
    """Train a small run, each epoch with so many of four test images right; killed between the best file and the state."""
    with small_run(folder, *flags, cut=killed_in is not None) as run:
        for epoch in run.epochs:
            take_step(run)
            if epoch == killed_in:
                run.save = kill
            end_epoch(run, right=rights[epoch])


def kill():
    raise CutError


def test_a_best_file_of_an_epoch_that_is_not_in_the_state_gives_way_to_the_next_epoch(tmp_path):
    train(tmp_path, rights=(1, 2, 0, 3), killed_in=3)
    assert (saved_state(tmp_path, "ckpt")["epoch"], saved_state(tmp_path)["epoch"]) == (4, 3)
    train(tmp_path, GO_ON, 8, rights=(None, None, None, 1, 0, 0, 0, 0))  # the epoch would not be the best now
    summary = json.loads((tmp_path / "a_summary.json").read_text())
    assert (summary["best"]["epoch"], summary["best"]["acc1"], summary["since"]) == (3, 25, 0)
    assert (saved_state(tmp_path, "ckpt")["epoch"], saved_state(tmp_path, "ckpt")["best_acc1"]) == (4, 25)
    assert np.load(tmp_path / "a_ckpt_predictions.npz")["predicted"].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), ": check the path"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), " is damaged"),
        (lambda path: shutil.copy(path.with_name("a_last.pth.tar"), path), " is not that of epoch 2, the best one: put"),
    ],
)
def test_a_best_file_that_something_else_took_is_refused_by_name(tmp_path, spoil, words):
    train(tmp_path, rights=(0, 2, 3, 1, 1))
    spoil(tmp_path / "a_ckpt.pth.tar")
    with refusal(f"a_ckpt.pth.tar{words}"):
        train(tmp_path, GO_ON, 7)


def test_a_file_that_the_run_begins_with_is_never_replaced(large_training, run, refused, tmp_path):
    """A finished head, given as --pretrained to a run of the same name."""
    command = f"{large_training} --cache_features 1 --epochs 1"
    run(command)
    before = files_of(tmp_path / "checkpoint")
    path = tmp_path / "checkpoint/ours/custom/MetaSAug_custom_ckpt.pth.tar"
    line = refused(f"{command} --pretrained {path}")
    assert f"{path} is a file that this run replaces: give the run another --save_name" in line
    assert files_of(tmp_path / "checkpoint") == before
    run(f"{command} --save_name further --pretrained {path}")
    inner = torch.load(path, weights_only=True)["state_dict"]["classifier"]["fc.weight"]
    assert not torch.equal(saved_state(path.parent, "last", "further")["state_dict"]["fc.weight"], inner)
