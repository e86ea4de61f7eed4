"""train_own.py --finetune: whole networks for one's own images, on one process and on two."""

import pytest
import torch
from support.compare import distance
from support.image_lists import CPU, read_sets
from support.image_lists import first as first_of
from support.own import COUNTS, FLAGS, network, saved, write_photos
from support.ranks import together
from support.runs import differences

from harness.process_group import Group
from heads.batches import Batches, drawn_images
from heads.finetune import Shares
from heads.preparation import Preparation

OURS = "checkpoint/ours/own"
TRAIN = f"train_own.py {' '.join(FLAGS)} --val_fraction 0.3 --finetune --backbone my_network:make_normed"  # 22 are left


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with photos, and with networks."""
    made = tmp_path_factory.mktemp("own")
    write_photos(made)
    return made


@pytest.fixture(scope="module")
def train(run_in, folder):
    def call(more="", **settings):
        return run_in(f"{TRAIN} {more}", cwd=folder, **settings).stdout

    return call


@pytest.fixture(scope="module")
def first(train):
    """What the run `head` printed."""
    return train()


def weights_of(folder, name, kind="last"):
    return saved(folder / OURS / f"{name}_{kind}.pth.tar")["state_dict"]


def test_all_of_a_network_is_trained_and_saved_under_its_own_names(first, folder):
    assert "own, 4 classes, all of my_network:make_normed, on cpu, 1 process" in first
    assert "from epoch 2: MetaSAug, --meta_update relative" in first
    assert not (folder / "feature_cache").exists()
    whole, before = network(len(COUNTS), "make_normed"), network(5, "make_normed").state_dict()
    whole.load_state_dict(weights_of(folder, "head"))
    assert all(not torch.equal(weight, before[name]) for name, weight in whole.state_dict().items())


DYING = """
import os, signal
from my_network import make_normed

def normed():
    network, left = make_normed(), [int(os.environ.get("DIES_AT", "0"))]

    def count(_):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    network[0].register_forward_hook(lambda _, __, out: out.register_hook(count) and None if out.requires_grad else None)
    return network
"""


@pytest.mark.parametrize(
    "more", ["--micro_batch 4", "--stage2 isda --select_on heldout --num_heldout 1 --meta_images train"]
)
def test_two_processes_train_a_network_without_batch_norm_as_one(train, start, folder, more):
    """The last batch of an epoch is 6 images, or 5."""
    more = f"--backbone my_network:make {more}"
    train(f"{more} --save_name one")
    for status, out, err in together(start, 2, f"{TRAIN} {more} --batch_size 4 --save_name two", cwd=folder):
        assert (status, err) == (0, ""), out
    assert distance(weights_of(folder, "two"), weights_of(folder, "one")) < 1e-4


def test_each_step_and_each_process_draws_its_own_random_numbers(folder):
    """The first batches and the rest of an epoch can be left out."""
    images = drawn_images(read_sets("custom", folder / "photos", 2, val_fraction=0.3), Preparation(32, 36), 3)["train"]

    def drawn(world, rank, taken=0):
        shares = Batches({"train": Shares(images, None, 0, 3)}, Group(rank, world, CPU), 5, 5, 3)
        return [share.seed for share, _ in first_of(shares.drawn("train", taken), 6 - taken)]

    assert len({seed for rank in range(3) for seed in drawn(3, rank)}) == 18
    assert drawn(1, 0, 5) == drawn(1, 0)[5:]


def assert_same_bits(folder, whole, cut):
    for kind in ("last", "ckpt"):
        assert differences(*(saved(folder / OURS / f"{name}_{kind}.pth.tar") for name in (whole, cut))) == []


def test_an_interrupted_run_ends_as_an_uninterrupted_one(first, train, folder):
    """Stopped in stage 1 and in stage 2, with a network that draws random numbers."""
    cut = "--save_name cut --resume auto"
    for step in ("2", "5"):
        train(cut, status=143, STOP_AT=step, STOP_BY="15")
    assert "going on in epoch 2 after step 1" in train(cut)
    assert_same_bits(folder, "head", "cut")
    assert "is finished" in train(cut)


def test_a_process_that_dies_in_a_backward_pass_ends_the_others_in_a_line_and_the_run_goes_on(start, folder):
    """Their running statistics have not moved then."""
    (folder / "dying.py").write_text(DYING)
    command = f"{TRAIN} --backbone dying:normed --batch_size 4 --resume auto --save_name"
    for status, _, err in together(start, 2, f"{command} pair", cwd=folder):
        assert (status, err) == (0, "")
    (status, _, err), (killed, *_) = together(start, 2, f"{command} parted", cwd=folder, each=[{}, {"DIES_AT": "8"}])
    assert (status, killed) == (2, 137)
    assert err.startswith("train_own.py: error: another process is gone, is stopped or took longer")
    assert err.endswith("then start again with --resume auto\n")
    (status, out, err), _ = together(start, 2, f"{command} parted", cwd=folder)
    assert status == 0, err
    assert "going on in epoch 2 after step 1" in out
    assert_same_bits(folder, "pair", "parted")


def test_other_flags_make_another_network(first, train, folder):
    """So that what is alike elsewhere is not alike because nothing matters."""
    for more in ("micro_batch 4", "seed 1", "amp bf16"):
        train(f"--{more} --save_name '{more}'")
        assert distance(weights_of(folder, more), weights_of(folder, "head")) > 1e-6, more


def test_images_that_cannot_be_read_can_be_left_out(run, tmp_path):
    write_photos(tmp_path)
    (tmp_path / "photos" / "cat" / "bad.png").write_bytes(b"x")
    assert "epoch 0" in run(f"{TRAIN} --epochs 1 --skip_bad").stdout
