"""The files that a run speaks of: there and whole when it goes on, or said, put back from the file before, or refused."""

import json
import shutil

import pytest
import torch
from support.runs import CutError, differences, end_epoch, files_of, saved_state, small_run, take_step

from harness.errors import UserError
from harness.files import previous
from harness.run import Run

GO_ON = ["--resume", "auto"]


def train(folder, *flags, rights=(), killed_in=None, monkeypatch=None):
    """Train a small run, each epoch with so many of four test images right; killed between the best file and the state."""
    with small_run(folder, *flags, cut=killed_in is not None) as run:
        for epoch in run.epochs:
            take_step(run)
            if epoch == killed_in:
                monkeypatch.setattr(Run, "save", kill)
            end_epoch(run, right=rights[epoch])


def kill(_):
    raise CutError


def spoil(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The folder of a finished run of five epochs, the third of them the best, the second the best before."""
    folder = tmp_path_factory.mktemp("ended")
    train(folder, rights=(0, 2, 3, 1, 1))
    return folder


@pytest.fixture
def folder(ended, tmp_path):
    return shutil.copytree(ended, tmp_path / "x")


@pytest.mark.parametrize("epochs", [5, 8])
def test_a_best_file_of_an_epoch_that_is_not_in_the_state_gives_way_to_the_one_before(tmp_path, monkeypatch, capsys, epochs):
    folder = tmp_path / "x"
    train(folder, rights=(1, 2, 0, 3), killed_in=3, monkeypatch=monkeypatch)
    monkeypatch.undo()
    path = folder / "a_ckpt.pth.tar"
    assert (saved_state(folder, "ckpt")["epoch"], saved_state(folder)["epoch"]) == (4, 3)
    capsys.readouterr()
    train(folder, *GO_ON, "--epochs", epochs, rights=(None, None, None, 1, 0, 0, 0, 0))  # the epoch is not the best now
    said = capsys.readouterr().out
    assert f"note: {path} is not that of epoch 1: {path} is now a copy of {previous(path)}\n" in said
    assert f"note: {folder / 'a_ckpt_predictions.npz'} was damaged or of another epoch and is removed\n" in said
    best = json.loads((folder / "a_summary.json").read_text())["best"]
    assert (best["epoch"], best["acc1"]) == (1, 50)
    assert (saved_state(folder, "ckpt")["epoch"], saved_state(folder, "ckpt")["best_acc1"]) == (2, 50)


@pytest.mark.parametrize("spoiled", [True, False])
def test_a_lost_best_file_is_said_and_the_best_is_chosen_anew(folder, capsys, spoiled):
    path = folder / "a_ckpt.pth.tar"
    spoil(path) if spoiled else path.unlink()
    train(folder, *GO_ON, "--epochs", 7, rights=(None,) * 5 + (1, 2))
    said = capsys.readouterr().out
    lost = f"note: {path} is missing or damaged, the checkpoint of the best epoch, 2"
    assert f"{lost}: the best one is now chosen from epoch 5 on\n" in said
    assert "from epoch 5 on; classes" in said.splitlines()[-3]
    assert (folder / "a_ckpt.pth.tar.damaged").exists() == spoiled
    assert saved_state(folder, "ckpt")["epoch"] == 7


def test_a_best_epoch_that_is_the_last_one_is_put_back_from_there(tmp_path, capsys):
    train(tmp_path, rights=(0, 1, 1, 1, 3))
    (tmp_path / "a_ckpt.pth.tar").unlink()
    train(tmp_path, *GO_ON, "--epochs", 6, rights=(None,) * 5 + (0,))
    assert f"is now a copy of {tmp_path / 'a_last.pth.tar'}" in capsys.readouterr().out
    assert saved_state(tmp_path, "ckpt")["epoch"] == 5


def test_a_finished_run_without_its_checkpoints_is_mended_or_refused(folder, capsys):
    path, last = folder / "a_ckpt.pth.tar", folder / "a_last.pth.tar"
    before = {kind: saved_state(folder, kind) for kind in ("ckpt", "last")}
    shutil.copy(path, previous(path))
    spoil(path)
    last.unlink()
    train(folder, *GO_ON)
    assert f"{path} is now a copy of {previous(path)}" in capsys.readouterr().out
    assert differences(saved_state(folder, "ckpt"), before["ckpt"]) == []
    assert differences(saved_state(folder, "last"), before["last"]) == []

    path.unlink()
    kept = files_of(folder)
    with pytest.raises(UserError, match="and no epoch is left to make another: put it back, or train anew"):
        train(folder, *GO_ON)
    for file in folder.glob("a_resume*"):
        file.unlink()
        del kept[file]
    with pytest.raises(UserError, match=r"a is finished, but .*ckpt\.pth\.tar is missing: put it back, or train anew"):
        train(folder, *GO_ON)
    assert files_of(folder) == kept


def test_a_damaged_file_is_never_listed_as_written(folder, capsys):
    shutil.copy(folder / "a_last.pth.tar", folder / "a_stage1.pth.tar")
    spoil(folder / "a_stage1.pth.tar")
    train(folder, *GO_ON, "--epochs", 6, rights=(None,) * 5 + (0,))
    said = capsys.readouterr().out
    assert "a_stage1.pth.tar is damaged (its checksum differs)" in said
    assert "it is now a_stage1.pth.tar.damaged" in said
    assert "stage1" not in said.splitlines()[-2]


def test_a_best_file_of_another_run_with_the_same_accuracy_is_not_taken(folder, tmp_path, capsys):
    train(tmp_path / "other", "--seed", 5, rights=(0, 2, 3, 1, 1))
    shutil.copy(folder / "a_ckpt.pth.tar", folder / "a_ckpt.pth.tar.previous")
    for kind in ("ckpt", "last"):
        shutil.copy(tmp_path / "other" / f"a_{kind}.pth.tar", folder / f"a_{kind}.pth.tar")
    train(folder, *GO_ON)
    said = capsys.readouterr().out
    assert f"note: {folder / 'a_last.pth.tar'} is of another run, with another --seed: it is made again\n" in said
    assert f"note: {folder / 'a_ckpt.pth.tar'} is of another run, with another --seed: " in said
    assert [saved_state(folder, kind)["flags"]["seed"] for kind in ("ckpt", "last")] == [42, 42]


def test_a_finished_run_whose_best_epoch_is_the_last_is_mended_from_its_state(tmp_path, capsys):
    train(tmp_path, rights=(0, 1, 1, 1, 3))
    for path in (*tmp_path.glob("a_ckpt.pth*"), *tmp_path.glob("a_last.pth*")):
        path.unlink()
    train(tmp_path, *GO_ON)
    assert f"a_ckpt.pth.tar is missing: {tmp_path / 'a_ckpt.pth.tar'} is now a copy of" in capsys.readouterr().out
    assert [saved_state(tmp_path, kind)["epoch"] for kind in ("ckpt", "last")] == [5, 5]


def test_damaged_predictions_and_a_cut_log_are_said_and_not_listed(folder, capsys):
    for kind in ("ckpt", "last"):
        (folder / f"a_{kind}_predictions.npz").write_bytes(b"x")
    log = folder / "a_metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([lines[0], "x" + lines[1], *lines[2:]]))
    train(folder, *GO_ON)
    said = capsys.readouterr().out
    assert said.count("_predictions.npz was damaged or of another epoch and is removed\n") == 2
    assert f"note: {log} is damaged or was removed: it lacks 1 epochs\n" in said
    assert "npz" not in said.splitlines()[-2]


def test_a_file_that_the_run_begins_with_is_never_replaced(large_training, run, refused, tmp_path):
    """A finished head, given as --pretrained to a run of the same name."""
    flags = [*large_training, "--cache_features", "1", "--workers", "0", "--epochs", "1"]
    run("ImageNet_iNat/train.py", *flags)
    before = files_of(tmp_path / "checkpoint")
    path = tmp_path / "checkpoint/ours/custom/MetaSAug_custom_ckpt.pth.tar"
    line = refused("ImageNet_iNat/train.py", *flags, "--pretrained", path)
    assert f"{path} is a file that this run replaces: give the run another --save_name" in line
    assert files_of(tmp_path / "checkpoint") == before
    run("ImageNet_iNat/train.py", *flags, "--pretrained", path, "--save_name", "further")
    inner = torch.load(path, weights_only=True)["state_dict"]["classifier"]["fc.weight"]
    assert saved_state(path.parent, "last", "further")["epoch"] == 1
    assert not torch.equal(saved_state(path.parent, "last", "further")["state_dict"]["fc.weight"], inner)
