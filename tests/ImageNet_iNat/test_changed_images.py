"""A training that was interrupted does not go on with other images or classes than it had."""

import os
import shutil
from dataclasses import replace

import pytest
from support.data import crt_checkpoint
from support.image_lists import class_folders, save_noise
from support.places import ROOT

TRAIN = ROOT / "ImageNet_iNat" / "train.py"
FLAGS = ["--dataset", "custom", "--no-cuda", "--workers", "0", "--pretrained", "crt.pth", "--batch_size", "2", "--epochs",
         "1", "--data_root"]  # fmt: skip
GO_ON = ["--resume", "auto"]
STEP = {"STOP_AT": "1", "STOP_BY": "15", "status": 143}  # a run of one step, which is saved
STATE = "checkpoint/ours/custom/MetaSAug_custom_resume.pth.tar"


@pytest.fixture(scope="module")
def begun(tmp_path_factory, run_in):
    """The folder of a training that was stopped after its first step."""
    root = tmp_path_factory.mktemp("begun")
    class_folders(root / "my", (3, 2, 2))
    crt_checkpoint(root / "crt.pth", 3)
    run_in(TRAIN, *FLAGS, "my", cwd=root, **STEP)
    return root


@pytest.fixture
def folder(begun, tmp_path):
    for name in ("my", "checkpoint"):
        shutil.copytree(begun / name, tmp_path / name)
    (tmp_path / "crt.pth").symlink_to(begun / "crt.pth")
    return tmp_path


def longer(path):
    path.write_bytes(path.read_bytes() + b"x")


def test_images_that_changed_are_noticed(folder, run, refused):
    assert "going on in epoch 0 after step 1" in run(TRAIN, *FLAGS, "my", *GO_ON, **STEP).stdout  # a copy, of another time
    longer(folder / "my/train/class1/1.png")
    line = refused(TRAIN, *FLAGS, "my", *GO_ON)
    assert f"--resume {STATE} was made with train images 7 files of " in line
    assert line.endswith(": they must be the same")


def test_a_class_of_another_name_is_noticed(folder, refused):
    for part in ("train", "meta", "val"):
        (folder / "my" / part / "class1").rename(folder / "my" / part / "class1b")
    line = refused(TRAIN, *FLAGS, "my", *GO_ON)
    assert f"--resume {STATE} was made with train list " in line


def test_other_images_left_out_are_noticed(folder, run, refused):
    paths = [folder / "my/train/class0" / f"{i}.png" for i in (0, 1)]
    whole = [path.read_bytes() for path in paths]
    paths[0].write_bytes(whole[0][:50])
    assert "--skip_bad: 1 of " in run(TRAIN, *FLAGS, "my", "--skip_bad", "--save_name", "b", **STEP).stdout
    out = run(TRAIN, *FLAGS, "my", "--skip_bad", "--save_name", "b", *GO_ON, **STEP).stdout
    assert "going on in epoch 0" in out
    paths[1].write_bytes(whole[1][:50])
    assert "was made with train list" in refused(TRAIN, *FLAGS, "my", "--skip_bad", "--save_name", "b", *GO_ON)
    for path, content in zip(paths, whole, strict=True):
        path.write_bytes(content)
    assert "was made with train list" in refused(TRAIN, *FLAGS, "my", "--save_name", "b", *GO_ON)


def test_every_size_counts_and_no_time(tmp_path):
    images = save_noise(tmp_path, [f"{i:03}.png" for i in range(30)])
    before = images.content
    assert before.startswith(f"30 files of {sum(path.stat().st_size for path in tmp_path.iterdir())} bytes (")
    for path in tmp_path.iterdir():
        raw, stat = path.read_bytes(), path.stat()
        path.write_bytes(raw + b"x")
        assert replace(images).content != before
        path.write_bytes(raw)
        os.utime(path, ns=(0, stat.st_mtime_ns + 10**9))
        assert replace(images).content == before
