"""Mistakes and faults around ImageNet_iNat's train.py and test.py: one line that names the thing, nothing written."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT
from PIL import Image
from test_imagenet_cli import crt_checkpoint, own, write_image

from errors import UserError

TRAIN = ROOT / "ImageNet_iNat" / "train.py"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    for k, count in enumerate((5, 4, 3)):
        for split, number in (("train", count), ("meta", 2), ("val", 2)):
            for i in range(number):
                write_image(root / "my" / split / f"class{k}" / f"{i}.png", k)
    crt_checkpoint(root / "crt.pth", 3)
    crt_checkpoint(root / "seven.pth", 7)
    (root / "text.pth").write_text("no checkpoint")
    state = torch.load(root / "crt.pth", weights_only=True)
    del state["state_dict_best"]["feat_model"]["module.layer3.0.conv1.weight"]
    torch.save(state, root / "incomplete.pth")
    for name, lines in {
        "good.txt": "train/class0/0.png 0\ntrain/class1/0.png 1\ntrain/class2/0.png 2\n" * 2,
        "short.txt": "train/class0/0.png 0\ntrain/class1/0.png\n",
        "word.txt": "train/class0/0.png zero\n",
        "high.txt": "train/class0/0.png 0\ntrain/class1/0.png 3\n",
        "leaves.txt": "train/class0/0.png 0\n../outside.png 1\n",
        "empty_class.txt": "train/class0/0.png 0\ntrain/class2/0.png 2\n" * 2,
        "empty.txt": "",
    }.items():
        (root / name).write_text(lines)
    return root


@pytest.fixture
def quick(prepared, tmp_path):
    """A copy of the images that a test may spoil."""
    return shutil.copytree(prepared, tmp_path / "spoiled")


LISTS = ["--num_classes", "3", "--num_meta", "1", "--val_list", "{root}/good.txt", "--train_list"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([*LISTS, "{root}/short.txt"], ["short.txt line 2"]),
        ([*LISTS, "{root}/word.txt"], ["word.txt line 1", "zero"]),
        ([*LISTS, "{root}/high.txt"], ["high.txt line 2", "3"]),
        ([*LISTS, "{root}/leaves.txt"], ["leaves.txt line 2", "../outside.png"]),
        ([*LISTS, "{root}/empty_class.txt"], ["class 1", "empty_class.txt"]),
        ([*LISTS, "{root}/empty.txt"], ["empty.txt", "empty"]),
        ([*LISTS, "{root}/nowhere.txt"], ["nowhere.txt", "--train_list"]),
        (["--train_list", "{root}/good.txt"], ["--val_list"]),
        (["--num_classes", "4"], ["--num_classes 4", "3"]),
        (["--num_meta", "9"], []),  # a meta folder is there, so nothing is drawn
        (["--pretrained", "{root}/seven.pth"], ["seven.pth", "7 classes", "3", "--fresh_head"]),
        (["--pretrained", "{root}/text.pth"], ["text.pth", "not a checkpoint"]),
        (["--pretrained", "{root}/incomplete.pth"], ["incomplete.pth", "missing layer3.0.conv1.weight"]),
        (["--pretrained", "{root}/none.pth"], ["none.pth", "cRT"]),
        (["--dataset", "ImageNet_LT", "--num_classes", "999"], ["--num_classes 999", "1000"]),
        (["--dataset", "iNaturalist18"], ["iNaturalist18_train.txt", "prepare_lists.py iNaturalist18"]),
        (["--dataset", "iNaturalist17"], ["train2017.json"]),
        (["--batch_size", "0"], ["--batch-size 0"]),
        (["--workers", "-1"], ["--workers -1"]),
        (["--lr", "nan"], ["--lr nan"]),
        (["--cache_features", "-2"], ["--cache_features -2"]),
        (["--data_root", "{root}/nowhere"], ["nowhere/train"]),
        (["--timeout", "0"], ["--timeout 0"]),
        (["--workdir", "{root}/text.pth"], ["text.pth", "cannot be written"]),
    ],
)
@pytest.mark.filterwarnings("default")  # TensorBoard's imports may warn
def test_mistakes_are_named(main, prepared, tmp_path, flags, words):
    lists = ROOT / "ImageNet_iNat" / "data"
    if "iNaturalist18" in flags and (lists / "iNaturalist18_train.txt").exists():
        pytest.skip("the list is there")
    given = [str(flag).format(root=prepared) for flag in flags]
    call = [*own(prepared, "--epochs", "1", "--batch_size", "64"), *given]
    if not words:
        main("train.py", *call)
        return
    with pytest.raises(UserError) as error:
        main("train.py", *call)
    line = str(error.value)
    assert "\n" not in line
    assert all(word in line for word in words), line
    assert not list(tmp_path.rglob("*.pth.tar"))


@pytest.mark.parametrize("kind", ["missing", "empty", "cut", "text", "huge"])
def test_images_that_cannot_be_read_are_named(main, quick, tmp_path, monkeypatch, kind):
    path = quick / "my" / "train" / "class1" / "2.png"
    whole = path.read_bytes()
    flags = ["--epochs", "1", "--batch_size", "64"]
    if kind == "missing":
        good = (quick / "good.txt").read_text() + "train/class1/gone.png 1\n"
        (quick / "gone.txt").write_text(good)
        flags += ["--train_list", quick / "gone.txt", "--val_list", quick / "good.txt", "--num_meta", "1"]
        path = path.with_name("gone.png")
    elif kind == "huge":
        Image.new("1", (6000, 6000)).save(path)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    else:
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"not an image"}[kind])
    with pytest.raises(UserError) as error:
        main("train.py", *own(quick, *flags))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.pth.tar"))


def test_the_command_line_gives_one_line_and_status_2(refused, prepared):
    line = refused("ImageNet_iNat/train.py", *own(prepared, "--num_classes", "4"))
    assert line.startswith("train.py: error: --num_classes 4")
    line = refused("ImageNet_iNat/test.py", "--loading_path", prepared / "text.pth", "--dataset", "custom")
    assert line.startswith("test.py: error: ")


def start(tmp_path, rank, port, *flags, script="train.py"):
    """Start one of two ranks by hand, without a launcher that would stop the other."""
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank),
                 "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}  # fmt: skip
    return subprocess.Popen(
        [sys.executable, TRAIN.with_name(script), *map(str, flags)], cwd=tmp_path, env={**os.environ, **variables},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_a_rank_that_is_killed_in_training_is_named_and_the_other_stops(prepared, tmp_path):
    port = free_port()
    flags = own(prepared, "--epochs", "1000", "--batch_size", "4", "-p", "1")
    ranks = [start(tmp_path, rank, port, *flags) for rank in range(2)]
    try:
        for line in ranks[0].stdout:
            if "[1/" in line:
                break
        ranks[1].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        _, err = ranks[0].communicate(timeout=60)
        assert time.monotonic() - killed < 30
        assert ranks[0].returncode == 2
        (line,) = err.strip().splitlines()
        assert "rank 1 of 2 is gone" in line
        assert line.endswith("with --resume auto")
        state = torch.load(tmp_path / "checkpoint/ours/custom/MetaSAug_custom_resume.pth.tar", weights_only=True)
        assert state["resume"]["meta_taken"] >= 1  # what rank 0 had done is not lost
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


@pytest.mark.parametrize(("different", "words"), [(["--lr", "0.2"], "rank 1 has --lr 0.2, rank 0 has 0.0003"),
                                                  (["data"], "rank 1 has train list")])  # fmt: skip
def test_ranks_that_disagree_on_flags_or_data_say_so(quick, tmp_path, different, words):
    flags = [*own(quick, "--epochs", "1"), "--train_list", "list.txt", "--val_list", quick / "good.txt", "--num_meta", "1"]
    text = (quick / "good.txt").read_text()
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        (folder / "list.txt").write_text(text)
    extra = different
    if different == ["data"]:
        (folders[1] / "list.txt").write_text(text + "train/class0/1.png 0\n")
        extra = []
    port = free_port()
    ranks = [start(folders[0], 0, port, *flags), start(folders[1], 1, port, *flags, *extra)]
    outs = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2]
    assert words in outs[0][1]
    assert outs[1][1] == ""
    assert not list(tmp_path.rglob("*.pth.tar"))


def test_a_rank_that_dies_while_features_are_computed_is_noticed_at_the_next_batch(quick, tmp_path):
    for k in range(40):
        write_image(quick / "my" / "train" / "class0" / f"more {k}.png", k)
    sorted((quick / "my" / "train" / "class0").iterdir())[27].write_bytes(b"no image")  # the second of rank 1's 26
    port = free_port()
    flags = own(quick, "--cache_features", "1", "--cache_dir", "c", "--test_batch_size", "1", "-p", "1")
    ranks = [start(tmp_path, rank, port, *flags) for rank in range(2)]
    (out, err), (_, other) = (rank.communicate(timeout=120) for rank in ranks)
    assert [rank.returncode for rank in ranks] == [2, 2]
    assert "cannot be read as an image" in other
    assert len(other.strip().splitlines()) == 1
    assert "rank 1 of 2 is gone" in err
    assert not list((tmp_path / "c").iterdir())  # no half of a set
    steps = [int(step) for step in re.findall(r"features of the train set, view 0  \[(\d+)/", out)]
    assert len(steps) <= 3


def test_a_mistake_in_the_data_leaves_a_finished_run_where_it_is(main, quick, tmp_path):
    flags = own(quick, "--epochs", "1", "--batch_size", "64")
    main("train.py", *flags)
    folder = tmp_path / "checkpoint" / "ours" / "custom"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    (quick / "gone.txt").write_text((quick / "good.txt").read_text() + "train/class1/gone.png 1\n")
    lists = ["--train_list", quick / "gone.txt", "--val_list", quick / "good.txt", "--num_meta", "1"]
    with pytest.raises(UserError, match=r"class1/gone\.png is missing"):
        main("train.py", *own(quick, "--epochs", "1"), *lists)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_names_that_are_no_text_are_names(main, quick, tmp_path):
    odd = os.fsencode(quick / "my" / "train" / "class0") + b"/caf\351.png"
    shutil.copy(quick / "my" / "train" / "class0" / "0.png", odd)
    out = main("train.py", *own(quick, "--epochs", "1", "--batch_size", "64", "--cache_features", "1", "--cache_dir", "c"))
    assert "training 13 images" in out


def test_ranks_that_test_different_checkpoints_say_so(quick, tmp_path):
    port = free_port()
    state = torch.load(quick / "crt.pth", weights_only=True)
    state["state_dict_best"]["classifier"]["module.fc.bias"] += 1
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    shutil.copy(quick / "crt.pth", folders[0] / "c.pth")
    torch.save(state, folders[1] / "c.pth")
    flags = ["--dataset", "custom", "--data_root", quick / "my", "--loading_path", "c.pth", "--no-cuda", "--workers", "0"]
    ranks = [start(folder, rank, port, *flags, script="test.py") for rank, folder in enumerate(folders)]
    outs = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2]
    assert "rank 1 has head weights" in outs[0][1]
