"""Images that are missing, and ranks that disagree, around ImageNet_iNat's train.py and test.py."""

import shutil

import pytest
import torch
from support.data import crt_checkpoint, write_image
from support.image_lists import class_folders
from support.places import ROOT
from support.ranks import places, together

TRAIN, TEST = (ROOT / "ImageNet_iNat" / name for name in ("train.py", "test.py"))
FLAGS = ["--dataset", "custom", "--no-cuda", "--workers", "0", "--pretrained", "crt.pth", "--data_root", "my"]
LISTS = ["--num_meta", "1", "--val_list", "good.txt", "--train_list"]
OURS = "checkpoint/ours/custom/MetaSAug_custom"
GOOD = "train/class0/0.png 0\ntrain/class1/0.png 1\ntrain/class2/0.png 2\n" * 2


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    class_folders(root / "my", (3, 2, 1))
    crt_checkpoint(root / "crt.pth", 3)
    (root / "good.txt").write_text(GOOD)
    return root


@pytest.fixture
def folder(prepared, tmp_path):
    """A folder that holds all of it, the images as a copy that a test may spoil."""
    for path in prepared.iterdir():
        if path.is_file():
            (tmp_path / path.name).symlink_to(path)
    shutil.copytree(prepared / "my", tmp_path / "my")
    return tmp_path


def test_testing_lists_all_images_that_cannot_be_read_and_no_flag_that_it_does_not_have(run, folder):
    paths = sorted((folder / "my" / "val").rglob("*.png"))[:2]
    paths[0].write_bytes(b"")
    paths[1].unlink()
    flags = ["--loading_path", "crt.pth", "--dataset", "custom", "--no-cuda", "--workers", "0", "--data_root", "my"]
    (folder / "val.txt").write_text("val/class0/0.png 0\nval/class1/0.png 1\nval/class2/0.png 2\n")
    result = run(TEST, *flags, "--val_list", "val.txt", status=2)
    damaged, gone, last = result.stderr.splitlines()
    assert damaged.startswith("my/val/class0/0.png (0 bytes) cannot be read")
    assert gone.startswith("my/val/class1/0.png is missing")
    assert last == "test.py: error: 2 of 3 images cannot be read, see above: remove or replace them"
    assert result.stdout == ""
    said = run(TEST, *flags, "--val_list", "val.txt", "--data_root", "no", status=2).stderr
    none = "none of the 3 images of val.txt is there, no/val/class0/0.png for instance: check the list and --data_root"
    assert said == f"test.py: error: {none}\n"


# Two processes


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (["--train_list", "list.txt", "--lr", "0.2"], "rank 1 has --lr 0.2, rank 0 has 0.0003"),
        (["--train_list", "list.txt"], "rank 1 has train list"),
    ],
)
def test_ranks_that_disagree_on_flags_or_data_say_so(start, folder, second, words):
    flags = [*FLAGS, "--data_root", folder / "my", "--val_list", folder / "good.txt", "--num_meta", "1"]
    flags += ["--pretrained", folder / "crt.pth"]
    own = [["--train_list", "list.txt"], second]
    folders = [folder / "a", folder / "b"]
    for inside, text in zip(folders, (GOOD, GOOD if "--lr" in second else GOOD + "train/class0/1.png 0\n"), strict=True):
        inside.mkdir()
        (inside / "list.txt").write_text(text)
    ranks = [start(TRAIN, *flags, *more, cwd=cwd, **place)
             for more, cwd, place in zip(own, folders, places(2), strict=True)]  # fmt: skip
    outs = [rank.communicate() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2]
    assert words in outs[0][1]
    assert outs[1][1] == ""
    assert not list(folder.rglob("*.pth.tar"))


def test_ranks_that_test_different_checkpoints_say_so(start, folder, prepared):
    state = torch.load(prepared / "crt.pth", weights_only=True)
    state["state_dict_best"]["classifier"]["module.fc.bias"] += 1
    for name in ("a", "b"):
        (folder / name).mkdir()
    (folder / "a" / "c.pth").symlink_to(prepared / "crt.pth")
    torch.save(state, folder / "b" / "c.pth")
    flags = ["--dataset", "custom", "--data_root", folder / "my", "--loading_path", "c.pth", "--no-cuda"]
    (status, _, err), other = together(start, 2, TEST, *flags, each=[{"cwd": folder / "a"}, {"cwd": folder / "b"}])
    assert (status, other) == (2, (2, "", ""))
    assert "rank 1 has head weights" in err


def test_a_rank_that_dies_while_features_are_computed_is_noticed_before_the_end(start, after_line, folder):
    for k in range(60):
        write_image(folder / "my" / "train" / "class0" / f"more {k}.png", k)
    flags = [*FLAGS, "--cache_features", "1", "--cache_dir", "c", "--test_batch_size", "1", "-p", "1"]
    first, second = (start(TRAIN, *flags, **place, CLOCK="1e7") for place in places(2))  # a line for each image
    after_line(first, 2, "features of the train set, view 0")
    second.kill()
    out, err = first.communicate()
    assert first.returncode == 2
    assert "rank 1 of 2 is gone" in err
    assert not [*(folder / "c").glob("*/*.f16")]  # the only shard was not finished
    assert "features of the train set, view 0  [26/" not in out
