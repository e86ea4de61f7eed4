"""Trainings that compute features into one folder: stopped, killed, two at a time, on one process or two."""

import os
import re
import shutil
from signal import SIGCONT, SIGINT, SIGKILL, SIGSTOP, SIGTERM

import pytest
from support.data import crt_checkpoint
from support.image_lists import class_folders
from support.places import ROOT
from support.ranks import places

TRAIN = ROOT / "ImageNet_iNat" / "train.py"
FLAGS = ["--dataset", "custom", "--no-cuda", "--workers", "0", "--pretrained", "crt.pth", "--data_root", "my",
         "--cache_features", "1", "--test_batch_size", "1", "--cache_dir"]  # fmt: skip
FAST = {"CLOCK": "1e7"}  # a line for each image
FIRST_STEP = {"STOP_AT": "1", "STOP_BY": "9"}  # so far all of them come: when the features are there, at no further cost
ROW = r"features of the train set, view 0  \["


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    class_folders(root / "my", (31, 16, 13))  # so many that a signal comes before the last
    crt_checkpoint(root / "crt.pth", 3)
    return root


@pytest.fixture(scope="module")
def whole(prepared, run_in):
    """The rows that a run computes which nothing stops."""
    run_in(TRAIN, *FLAGS, "whole", cwd=prepared, status=137, **FIRST_STEP)
    return rows_in(prepared / "whole")


@pytest.fixture
def folder(prepared, tmp_path):
    for path in prepared.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


def rows_in(folder):
    """The features in a folder, by set and view: all files that there are, but for the jsons."""
    return {path.name.rsplit("_", 1)[0]: path.read_bytes() for path in folder.iterdir() if path.suffix != ".json"}


def kept(out):
    """How many rows of the training set a run before had computed."""
    return int((re.search(r"train set, view 0: (\d+) of 60 were computed by a run before", out) or [0, 0])[1])


def test_stopped_and_killed_runs_on_one_and_two_processes_lose_no_row(start, after_line, run, folder, whole, chance):
    before = 0
    for number, world in ((SIGTERM, 1), (SIGINT, 2), (SIGKILL, 1)):
        ranks = [start(TRAIN, *FLAGS, "c", **FAST, **place) for place in (places(world) if world > 1 else [{}])]
        said = "".join(after_line(ranks[0], chance.randint(2, 3), ROW))
        for rank in ranks:
            rank.send_signal(number)
        outs = [rank.communicate() for rank in ranks]
        assert [rank.returncode for rank in ranks] == [-9 if number == SIGKILL else 128 + number] * world
        if number != SIGKILL:
            why = f"stopped by {number.name} while features were computed; those computed so far are kept"
            assert [err for _, err in outs] == [f"train.py: {why}; to go on, give the same command again\n"] * world
        assert kept(said) >= before + bool(before)
        before = kept(said) or 1
    assert [path.suffix for path in sorted((folder / "c").iterdir())][-2:] == [".part", ".crc32"]
    out = run(TRAIN, *FLAGS, "c", status=137, **FAST, **FIRST_STEP).stdout
    assert kept(out) > before
    assert out.count("features of the train set, view 0  [") == 60 - kept(out)
    assert rows_in(folder / "c") == whole


def stopped_in_the_middle(start, after_line, folder):
    """A run that stands still while it computes features, and the number of its process."""
    first = start(TRAIN, *FLAGS, "c", **FAST, **FIRST_STEP)
    after_line(first, 2, ROW)
    (lock,) = (folder / "c").glob("*.lock")
    process = int(re.match(r"process (\d+) on", lock.read_text())[1])
    os.kill(process, SIGSTOP)
    return first, process


@pytest.mark.parametrize("killed", [False, True])
def test_a_run_waits_for_another_that_computes_the_same_set(start, after_line, folder, whole, killed):
    first, process = stopped_in_the_middle(start, after_line, folder)
    second = start(TRAIN, *FLAGS, "c", "--save_name", "second", **FAST, **FIRST_STEP)
    waiting = after_line(second, 1, "waiting for it")[-1]
    assert re.search(rf"train set, view 0: process {process} on \S+ is computing them \(c/train_0_\w+\.lock\)", waiting)
    os.kill(process, SIGKILL if killed else SIGCONT)
    (out, err), (_, first_err) = second.communicate(), first.communicate()
    assert [second.returncode, err, first.returncode, first_err] == [137, "", 137, ""]
    if killed:
        assert kept(out) >= 2
    else:
        assert "features of the train set, view 0: read from c/train_0_" in out
        assert not re.search(ROW, out)
    assert rows_in(folder / "c") == whole


def test_a_folder_that_vanishes_is_named_in_one_line(start, after_line, folder):
    first, process = stopped_in_the_middle(start, after_line, folder)
    shutil.rmtree(folder / "c")
    os.kill(process, SIGCONT)
    _, err = first.communicate()
    assert first.returncode == 2
    assert re.fullmatch(r"train.py: error: c/train_0_\w+\.part cannot be written \(No such file or directory\): .*\n", err)
