"""Images that are missing, and ranks that disagree, around ImageNet_iNat's train.py and test.py."""

import pytest
import torch
from support.data import crt_checkpoint, write_image
from support.image_lists import class_folders, write
from support.ranks import begin, together

TRAIN, TEST = (f"ImageNet_iNat/{name}.py --dataset custom --no-cuda --workers 0" for name in ("train", "test"))
GOOD = "train/class0/0.png 0\ntrain/class1/0.png 1\ntrain/class2/0.png 2\n" * 2


@pytest.fixture
def folder(tmp_path):
    class_folders(tmp_path / "my", (3, 2, 1))
    crt_checkpoint(tmp_path / "crt.pth", 3)
    return tmp_path


def test_testing_lists_all_images_that_cannot_be_read_and_no_flag_that_it_does_not_have(run, folder):
    write(folder / "val.txt", GOOD.replace("train/", "val/"))
    command = f"{TEST} --loading_path crt.pth --val_list val.txt --data_root"
    assert "note: no shot groups, because neither the checkpoint nor a training list" in run(f"{command} my").stdout
    (folder / "my/val/class0/0.png").write_bytes(b"")
    (folder / "my/val/class1/0.png").unlink()
    result = run(f"{command} my", status=2)
    damaged, gone, last = result.stderr.splitlines()
    assert damaged.startswith("my/val/class0/0.png (0 bytes) cannot be read")
    assert gone.startswith("my/val/class1/0.png is missing")
    assert (last, result.stdout) == ("test.py: error: 2 of 3 images cannot be read, see above: remove or replace them", "")
    none = "none of the 6 images of val.txt is there, no/val/class0/0.png for instance: check the list and --data_root"
    assert run(f"{command} no", status=2).stderr == f"test.py: error: {none}\n"


# Two processes


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (f"{TRAIN} --num_meta 1 --pretrained c.pth --train_list list.txt --val_list list.txt", "train list"),
        (f"{TEST} --loading_path c.pth", "head weights"),
    ],
)
def test_ranks_that_disagree_on_data_or_weights_say_so(start, folder, command, words):
    state = torch.load(folder / "crt.pth", weights_only=True)
    for inside, text in (("a", GOOD), ("b", GOOD + "train/class0/1.png 0\n")):
        write(folder / inside / "list.txt", text)
        torch.save(state, folder / inside / "c.pth")
        state["state_dict_best"]["classifier"]["module.fc.bias"] += 1
    each = [{"cwd": folder / "a"}, {"cwd": folder / "b"}]
    (status, _, err), other = together(start, 2, f"{command} --data_root {folder}/my", each=each)
    assert (status, other) == (2, (2, "", ""))
    assert f"rank 1 has {words}" in err
    assert not [*folder.rglob("*.pth.tar")]


def test_a_rank_that_dies_while_features_are_computed_is_noticed_before_the_end(start, after_line, folder):
    for k in range(60):
        write_image(folder / "my" / "train" / "class0" / f"more {k}.png", k)
    flags = "--data_root my --pretrained crt.pth --cache_features 1 --cache_dir c --test_batch_size 1 -p 1"
    first, second = begin(start, 2, f"{TRAIN} {flags}", CLOCK="1e7")  # a line for each image
    after_line(first, 2, "features of the train set, view 0")
    second.kill()
    out, err = first.communicate()
    assert first.returncode == 2
    assert "another process is gone" in err
    assert not [*(folder / "c").glob("*/*.f16")]  # the only shard was not finished
    assert "features of the train set, view 0  [66/" not in out
