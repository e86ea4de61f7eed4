"""train_own.py --finetune: whole networks for one's own images, on one process and on two."""

import csv
import json
from itertools import islice

import pytest
import torch
from support.compare import distance
from support.own import COUNTS, FLAGS, network, saved, write_photos
from support.ranks import together
from torch.nn import functional as F

from data_utils import TRAIN_STREAM
from heads.backbone import make_head
from heads.features import ListedImages, train_indices
from heads.image_lists import read_tree
from heads.large_sets import read_lists
from heads.preparation import Preparation

OURS = "checkpoint/ours/own"
NORMED = [word.replace("my_network:make", "my_network:make_normed") for word in FLAGS]
FINE = [*NORMED, "--val_fraction", "0.3", "--finetune", "--micro_batch", "4"]  # 22 images are left: no batch of one


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with photos, and with networks."""
    made = tmp_path_factory.mktemp("own")
    write_photos(made)
    return made


@pytest.fixture(scope="module")
def train(run_in, folder):
    def call(*more, **settings):
        return run_in("train_own.py", *FINE, *more, cwd=folder, **settings).stdout

    return call


@pytest.fixture(scope="module")
def first(train):
    """What the run `head` printed."""
    return train()


def weights_of(folder, name, kind="last"):
    return saved(folder / OURS / f"{name}_{kind}.pth.tar")["state_dict"]


def test_a_network_is_trained_and_predicts(first, run_in, folder):
    assert "own, 4 classes, all of my_network:make_normed, on cpu, 1 process" in first
    assert "from epoch 2: MetaSAug, --meta_update relative, --virtual head" in first
    assert "micro-batches of 4 images at most, --amp off" in first
    assert not (folder / "feature_cache").exists()
    state = saved(folder / OURS / "head_last.pth.tar")
    whole, before = network(len(COUNTS), "make_normed"), network(5, "make_normed").state_dict()
    whole.load_state_dict(state["state_dict"])  # its own names, nothing else
    assert all(not torch.equal(state["state_dict"][name], before[name]) for name in before)
    images = sorted((folder / "photos").glob("*/1 ö.png"))
    path = folder / OURS / "head_last.pth.tar"
    flags = ["--checkpoint_path", path, "--arch", "my_network:make_normed", "--out", "p.csv", "--no-cuda"]
    run_in("predict.py", *flags, *images, cwd=folder)
    tested = ListedImages(read_tree(folder / "photos", None), Preparation(32, 36), False, 0, TRAIN_STREAM)
    places = {str(file): place for place, file in enumerate(tested.images.files())}
    with torch.no_grad():
        pixels = torch.stack([tested[places[str(file)], 0][0] for file in images])
        chances = whole(pixels).softmax(dim=1)
    with open(folder / "p.csv", encoding="utf-8", newline="") as file:
        for row, expected in zip(csv.DictReader(file), chances, strict=True):
            found = {row[f"class {k}"]: float(row[f"probability {k}"]) for k in range(1, 5)}
            assert [found[name] for name in state["class_names"]] == pytest.approx(expected.tolist(), abs=1e-5)


def by_hand(sets, epochs, drop, lr, batch_size, seed):
    """A network that draws nothing at random, trained with plain cross-entropy on images augmented by epoch."""
    model = network(len(COUNTS), "make_normed", dropout=0.0)
    model[6] = make_head(len(COUNTS), seed, 24)
    optimizer = torch.optim.SGD(model.train().parameters(), lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    images = ListedImages(sets.train, Preparation(32, 36), True, seed, TRAIN_STREAM)
    steps = -(-len(images.images) // batch_size)
    for epoch, index in islice(train_indices(len(images.images), batch_size, seed), epochs * steps):
        optimizer.param_groups[0]["lr"] = lr / 10 if epoch >= drop else lr
        pixels = torch.stack([images[i, epoch][0] for i in index.tolist()])
        optimizer.zero_grad()
        F.cross_entropy(model(pixels), torch.from_numpy(sets.train.targets)[index]).backward()
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("tau", [0, 1])
def test_plain_training_is_sgd_on_images_that_are_augmented_anew_in_every_epoch(train, folder, tau):
    """In what is saved the log prior is taken off the bias, if that is asked for."""
    flags = ["--backbone", "my_network:make_normed(dropout=0.0)", "--micro_batch", "8", "--stage2", "none", "--lr", "0.05"]
    train(*flags, "--seed", "3", "--num_meta", "1", "--logit_adjust", str(tau), "--save_name", f"plain{tau}")
    sets = read_lists("custom", str(folder / "photos"), 1, None, None, None, None, 0.3, 0).sets(0)
    expected = by_hand(sets, 3, 2, 0.05, 8, 3)
    expected["6.bias"] -= tau * torch.tensor(sets.cls_num_list).div(sum(sets.cls_num_list)).log()
    assert distance(weights_of(folder, f"plain{tau}"), expected) < 1e-4
    control = by_hand(sets, 3, 3, 0.05, 8, 3)
    assert distance(control, expected) > 1e-3


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--virtual", "all", "--meta_images", "loss", "--meta_update", "published", "--meta_lr", "10"],
        ["--stage2", "isda", "--select_on", "heldout", "--num_heldout", "1", "--meta_images", "train"],
    ],
)
def test_two_processes_train_as_one(train, start, folder, more):
    train(*more, "--save_name", "one")
    flags = [*FINE, *more, "--batch_size", "4", "--save_name", "two"]
    for status, out, err in together(start, 2, "train_own.py", *flags, cwd=folder):
        assert status == 0, out + err
    one, two = (weights_of(folder, name) for name in ("one", "two"))
    assert distance(two, one) < 1e-4
    figures = [json.loads((folder / OURS / f"{name}_summary.json").read_text()) for name in ("one", "two")]
    assert figures[0]["last"]["acc1"] == figures[1]["last"]["acc1"]


def test_a_run_stopped_on_one_process_goes_on_on_two(first, run_in, start, folder):
    run_in("train_own.py", *FINE, "--save_name", "moved", cwd=folder, status=143, STOP_AT="4", STOP_BY="15")
    flags = [*FINE, "--batch_size", "4", "--save_name", "moved", "--resume", "auto"]
    (status, out, err), _ = together(start, 2, "train_own.py", *flags, cwd=folder)
    assert status == 0, err
    assert "going on in epoch 1 after step 1" in out
    assert distance(weights_of(folder, "moved"), weights_of(folder, "head")) < 1e-4


def test_an_interrupted_run_ends_as_an_uninterrupted_one(first, train, folder):
    """Stopped in stage 1 and in stage 2, with a network that draws random numbers."""
    train("--save_name", "cut", status=143, STOP_AT="2", STOP_BY="15")
    train("--save_name", "cut", "--resume", "auto", status=143, STOP_AT="5", STOP_BY="15")
    assert "going on in epoch 2 after step 1" in train("--save_name", "cut", "--resume", "auto")
    for kind in ("last", "ckpt"):
        whole, cut = (weights_of(folder, name, kind) for name in ("head", "cut"))
        assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())
    assert "is finished" in train("--save_name", "cut", "--resume", "auto")


def test_other_flags_make_another_network(first, train, folder):
    """So that what is alike elsewhere is not alike because nothing matters."""
    for number, more in enumerate((["--micro_batch", "8"], ["--virtual", "all"], ["--seed", "1"], ["--amp", "bf16"])):
        train(*more, "--save_name", f"other{number}")
        assert distance(weights_of(folder, f"other{number}"), weights_of(folder, "head")) > 1e-6, more


@pytest.mark.parametrize(
    ("script", "flags", "words"),
    [
        ("train_own.py", [*NORMED, "--micro_batch", "4"], "--micro_batch goes with --finetune"),
        ("train_own.py", [*NORMED, "--virtual", "all"], "--virtual goes with --finetune"),
        ("train_own.py", [*NORMED, "--amp", "bf16"], "--amp goes with --finetune"),
        ("train_own.py", [*FINE, "--views", "2"], "--views and --finetune do not go together"),
        ("train_own.py", [*FINE, "--cache_dir", "x"], "--cache_dir and --finetune do not go together"),
        ("train_own.py", [*FINE, "--micro_batch", "0"], "--micro_batch 0 makes no sense: it must be at least 1"),
        ("train_own.py", [*FINE, "--micro_batch", "1"], "--micro_batch 1: a micro-batch"),
        ("train_own.py", [*FINE, "--batch_size", "7"], "--micro_batch 4: a micro-batch, perhaps the last of an epoch"),
        ("train_own.py", ["--features", "f.npz", "--finetune"], "--features and --finetune do not go together"),
        ("scripts/compare_own.py", FINE, "has no effect with --way logistic"),
    ],
)
def test_flags_that_make_no_sense_end_in_one_line(refused, tmp_path, script, flags, words):
    write_photos(tmp_path)
    assert words in refused(script, *flags)


NO_FORWARD_MODE = """
import torch
from my_network import make_normed

class Double(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return 2 * x

    @staticmethod
    def backward(context, grad):
        return 2 * grad

class Doubled(torch.nn.Module):
    def forward(self, x):
        return Double.apply(x)

def make():
    network = make_normed()
    network.insert(0, Doubled())
    network.insert(4, Doubled())
    return network
"""


def test_a_network_without_forward_mode_is_trained_with_a_virtual_step_of_the_head_alone(refused, run, tmp_path):
    write_photos(tmp_path)
    (tmp_path / "other.py").write_text(NO_FORWARD_MODE)
    flags = [*FINE, "--backbone", "other:make", "--epochs", "1"]
    line = refused("train_own.py", *flags, "--virtual", "all")
    assert "--virtual all cannot be used with this network" in line
    assert "take --virtual head" in line
    assert "epoch 0" in run("train_own.py", *flags).stdout


def test_images_that_cannot_be_read_are_named_before_the_first_epoch(refused, run, tmp_path):
    write_photos(tmp_path)
    (tmp_path / "photos" / "cat" / "bad.png").write_bytes(b"x")
    assert "bad.png" in refused("train_own.py", *FINE)
    assert "epoch 0" in run("train_own.py", *FINE, "--epochs", "1", "--skip_bad").stdout
