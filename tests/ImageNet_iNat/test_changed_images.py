"""A training that was interrupted does not go on with other images or classes than it had."""

import os
import shutil
from dataclasses import replace

import pytest
from support.data import crt_checkpoint, write_image
from support.image_lists import class_folders, save_noise

TRAIN = (
    "ImageNet_iNat/train.py --dataset custom --no-cuda --workers 0 --pretrained crt.pth --batch_size 2 --epochs 1"
    " --data_root my --skip_bad"
)
STEP = {"STOP_AT": "1", "STOP_BY": "15", "status": 143}  # a run of one step, which is saved


@pytest.fixture(scope="module")
def begun(tmp_path_factory, run_in):
    """The folder of a training that was stopped after its first step, and had left an image out."""
    root = tmp_path_factory.mktemp("begun")
    class_folders(root / "my", (3, 2, 2))
    cut(root / "my/train/class0/0.png")
    crt_checkpoint(root / "crt.pth", 3)
    assert "--skip_bad: 1 of " in run_in(TRAIN, cwd=root, **STEP).stdout
    return root


def cut(path):
    path.write_bytes(path.read_bytes()[:50])


def longer(path):
    path.write_bytes(path.read_bytes() + b"x")


def rename(folders):
    for folder in folders:
        folder.rename(folder.with_name("class1b"))


CHANGES = [
    (lambda my: None, "going on in epoch 0 after step 1"),  # a copy, of another time
    (lambda my: longer(my / "train/class1/1.png"), "was made with train images 6 files of "),
    (lambda my: rename([*my.glob("*/class1")]), "was made with train list "),
    (lambda my: write_image(my / "train/class0/0.png", 0), "was made with train list "),  # which is read again
    (lambda my: cut(my / "train/class0/1.png"), "was made with train list "),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_what_changed_is_noticed(begun, tmp_path, run, change, words):
    for name in ("my", "checkpoint"):
        shutil.copytree(begun / name, tmp_path / name)
    (tmp_path / "crt.pth").symlink_to(begun / "crt.pth")
    change(tmp_path / "my")
    result = run(f"{TRAIN} --resume auto", **(STEP if "going on" in words else {"status": 2}))
    assert words in result.stdout + result.stderr
    assert result.stderr.endswith(": they must be the same\n") == (result.returncode == 2)


def test_every_size_counts_and_no_time(tmp_path):
    images = save_noise(tmp_path, [f"{i:03}.png" for i in range(30)])
    before = images.content
    assert before.startswith(f"30 files of {sum(path.stat().st_size for path in tmp_path.iterdir())} bytes (")
    for path in tmp_path.iterdir():
        os.utime(path, ns=(0, 0))
        assert replace(images).content == before
        raw = path.read_bytes()
        longer(path)
        assert replace(images).content != before
        path.write_bytes(raw)
