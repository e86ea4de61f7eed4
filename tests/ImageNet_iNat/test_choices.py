"""MetaSAug and what one can choose beside it for a head, as the flags of train.py and test.py say it."""

import csv
import os
import shutil
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.compare import relative
from support.data import crt_checkpoint
from support.image_lists import class_folders, read_sets
from support.runs import differences, log_of, saved_state
from support.slow_head_step import slow_loss, slow_step
from torch.nn import functional as F

from heads.backbone import make_head
from heads.batches import meta_indices, train_indices
from loss import EstimatorCV, MetaSAugCE

SEED, BATCH, EPOCHS, LR = 5, 4, 2, 0.02
TRAIN = (
    "ImageNet_iNat/train.py --dataset custom --data_root my --pretrained crt.pth --no-cuda --workers 0 --num_meta 2"
    f" --momentum 0.8 --lam 0.9 --meta_lr 40 --wd 0.01 --lr {LR} --seed {SEED} --batch_size {BATCH} --epochs {EPOCHS}"
    " --cache_features 1 --cache_dir c"
)
OURS = "checkpoint/ours/custom"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Folders of three classes with 11, 6 and 5 training images, two meta images and three test images each."""
    folder = tmp_path_factory.mktemp("choices")
    class_folders(folder / "my", (11, 6, 5), meta=2, val=3)
    one = folder / "my" / "train" / "class0" / "0.png"
    one.rename(os.fsdecode(os.fsencode(one.parent) + b"/caf\351.png"))  # a name that is no text
    crt_checkpoint(folder / "crt.pth", 3, tested=range(3))
    crt_checkpoint(folder / "torchvision.pth", 3, "torchvision")
    return folder


@pytest.fixture(scope="module")
def train(run_in, root):
    """Train by a name and more flags; a second call with the same returns what the first did: weights, log, output."""

    @cache
    def call(name, flags):
        out = run_in(f"{TRAIN} --save_name {name} {flags}", cwd=root).stdout
        state = torch.load(root / OURS / f"{name}_last.pth.tar", weights_only=True)
        head, log = state["state_dict"]["classifier"], log_of(root / OURS, name)
        return SimpleNamespace(out=out, state=state, log=log, weight=head["fc.weight"], bias=head["fc.bias"])

    return call


def rows_of(root, name, images):
    """The cached features of a set in float64, and its labels."""
    (path,) = [p for p in (root / "c").glob(f"{name}_0_*/*.f16") if p.stat().st_size == len(images) * 4096]
    rows = np.fromfile(path, np.float16).reshape(len(images), 2048).astype(np.float64)
    return torch.from_numpy(rows), torch.from_numpy(images.targets)


def beginning(root):
    head = torch.load(root / "crt.pth", weights_only=True)["state_dict_best"]["classifier"]
    return {name: head[f"module.fc.{name}"].double() for name in ("weight", "bias")}


def moved(root, weight):
    """How far a head's weight is from that which training begins with."""
    return weight.double() - beginning(root)["weight"]


def drawn(root, *more):
    return read_sets("custom", root / "my", 2).lists.sets(2, *more)


def reference(root, counts, balance="none", join=False, lam=0.0, meta_lr=0.0, with_meta=False, wd=0.01, nesterov=True):
    """What steps by loops and double backward make of the head in float64: its weight, the statistics, the last loss."""
    sets = drawn(root, 0, join)
    rows, meta_rows = rows_of(root, "train", sets.trained), rows_of(root, "meta", sets.meta)
    head, criterion = torch.nn.Linear(2048, 3), MetaSAugCE(counts, balance=balance)
    head.load_state_dict(beginning(root))
    estimator, losses = EstimatorCV(2048, 3, diagonal=True), []
    optimizer = torch.optim.SGD(head.parameters(), LR, momentum=0.8, nesterov=nesterov, weight_decay=wd)
    metas = meta_indices(len(sets.meta), BATCH, SEED)
    for (epoch, index), (_, meta_index) in zip(train_indices(len(sets.trained), BATCH, SEED), metas, strict=False):
        if epoch == EPOCHS:
            break
        batch, meta = ([part[i] for part in of] for of, i in ((rows, index), (meta_rows, meta_index)))
        if with_meta:
            loss = slow_loss(head.weight, head.bias, batch, estimator.covariance, criterion, 0.0)
            optimizer.zero_grad()
            (loss + F.cross_entropy(head(meta[0]), meta[1])).backward()
            optimizer.step()
        else:
            rates = {"lam_t": lam * epoch / EPOCHS, "virtual_lr": LR, "meta_lr": meta_lr}
            loss = slow_step(head, criterion, estimator, optimizer, batch, meta, **rates)[2]
        losses += [float(loss.detach())] * len(index)
    return head.weight.detach(), estimator, sum(losses[-len(sets.trained) :]) / len(sets.trained)


OWN, JOINED = [11, 6, 5], [13, 8, 7]
METASAUG = {"counts": OWN, "balance": "weights", "lam": 0.9, "meta_lr": 40.0}
CHOICES = {  # flags; the step by its definition; what each of these makes another of it
    "metasaug": ("", METASAUG, [{"lam": 0.0}, {"meta_lr": 0.0}, {"wd": 0.0}, {"nesterov": False}, {"counts": [1] * 3}]),
    "isda": ("--stage2 isda", METASAUG | {"meta_lr": 0.0}, [METASAUG, {"lam": 0.0}]),
    "reweight": ("--stage2 reweight", {"counts": OWN, "balance": "weights"}, [{"balance": "none"}]),
    "none": ("--stage2 none", {"counts": OWN}, [{"balance": "weights"}]),
    "prior": ("--stage2 reweight --balance prior", {"counts": OWN, "balance": "prior"}, [{"balance": "weights"}]),
    "joined": ("--stage2 reweight --meta_images train",
               {"counts": JOINED, "balance": "weights", "join": True}, [{"counts": OWN}]),
    "added": ("--stage2 none --meta_images loss", {"counts": OWN, "with_meta": True}, [{"with_meta": False}]),
}  # fmt: skip


@pytest.mark.parametrize("name", CHOICES)
def test_each_takes_the_steps_of_its_definition(root, train, float64, name):
    """At the rates that the flags say, on the images that they say, with the weights of their counts."""
    flags, definition, others = CHOICES[name]
    train("metasaug", "")  # computes the features of the meta set, which not all need
    ours = train(name, flags)
    weight, estimator, loss = reference(root, **definition)
    assert relative(moved(root, ours.weight), moved(root, weight)) < 1e-4
    for change in others:
        other = reference(root, **{**definition, **change})[0]
        assert relative(moved(root, other), moved(root, ours.weight)) > 1e-3, change
    if name in ("metasaug", "isda"):
        for key in ("count", "mean", "covariance"):
            torch.testing.assert_close(ours.state["estimator"][key].double(), getattr(estimator, key), rtol=1e-4, atol=1e-6)
    assert [line["grad_norm"] is None for line in ours.log] == [name != "metasaug"] * EPOCHS
    assert ours.log[-1]["train_loss"] == pytest.approx(loss, abs=2e-4)
    assert ours.state["cls_num_list"] == OWN
    assert ours.state.get("stage2_counts", OWN) == definition["counts"]
    assert ("augmentation: " in ours.out) == (name in ("metasaug", "isda"))
    assert ("every epoch: ISDA, estimated covariances without meta-learning\n" in ours.out) == (name == "isda")
    assert ("training and meta images together, each once: 28" in ours.out) == (name == "joined")


@pytest.mark.slow
def test_a_rule_with_its_own_step_size(root, train):
    ours, small = (train(f"relative{size}", f"--meta_update relative --meta_step_size {size}") for size in ("0.5", "1e-5"))
    assert "so they changed next to nothing: a larger λ or --meta_step_size moves them further" in small.out
    assert "every epoch: MetaSAug, --meta_update relative\n" in ours.out  # at the default step size
    assert relative(moved(root, ours.weight), moved(root, small.weight)) > 1e-4


def test_the_best_epoch_is_chosen_on_images_that_are_held_out(root, train):
    """With the meta images joined: the three sets have no image in common, and the log has what the rows give."""
    ours = train("heldout", "--stage2 isda --select_on heldout --num_heldout 2 --meta_images train")
    sets = drawn(root, 2, True)
    assert "train 18  meta 6  test 9  held out 4  (9 to 4 training images a class)" in ours.out
    assert ours.state["train_digest"] == sets.train.digest()
    features, labels = rows_of(root, "heldout", sets.heldout)
    right = (features @ ours.weight.double().T + ours.bias.double()).argmax(1) == labels
    mean = np.mean([100 * right[labels == c].double().mean().item() for c in range(3)])
    assert ours.log[-1]["heldout_acc1"] == pytest.approx(mean)
    assert "(the best epoch is chosen on held-out training images" in ours.out


def test_a_run_with_other_choices_goes_on_to_the_same_bytes_and_only_with_the_same(root, run_in, refused, chance):
    own = f"{TRAIN} --save_name a --stage2 isda --meta_images loss --select_on heldout"
    run_in(f"{own} --workdir whole", cwd=root)
    cut = f"{own} --workdir cut --resume auto"
    at = chance.randint(2, 10)
    run_in(f"{cut} --save_every 0", cwd=root, status=137, STOP_AT=str(at), STOP_BY="9")
    assert saved_state(root / "cut" / OURS)["resume"]["meta_taken"] == at - 1
    for other in ("--stage2 reweight", "--meta_images apart", "--num_heldout 1"):
        assert f"with {other.split()[0]} " in refused(f"{cut} {other}", cwd=root)
    run_in(cut, cwd=root)
    for kind in ("ckpt", "last", "resume"):
        assert differences(*(saved_state(root / folder / OURS, kind) for folder in ("cut", "whole"))) == []


@pytest.mark.slow
def test_the_log_prior_is_subtracted_when_testing(root, train, run_in):
    """That of the images trained on; a share so large that the larger classes are given up shows that it is used."""
    ours = train("joined", CHOICES["joined"][0])
    features, labels = rows_of(root, "test", drawn(root).test)
    logits = features @ ours.weight.double().T + ours.bias.double()
    prior = (torch.tensor(JOINED).double() / sum(JOINED)).log()
    command = f"ImageNet_iNat/test.py --loading_path {OURS}/joined_last.pth.tar --data_root my --no-cuda --workers 0"
    for tau in (1, 1000):
        right = (logits - tau * prior).argmax(1) == labels
        out = run_in(f"{command} --logit_adjust {tau} --out t.csv", cwd=root).stdout
        found = [float(row["accuracy"]) for row in csv.DictReader((root / "t.csv").read_text().splitlines())]
        assert found == pytest.approx([100 * float(right[labels == c].double().mean()) for c in range(3)], abs=0.01)
        assert f"\tAccuracy: {100 * right.double().mean():.2f}\t" in out
    assert found == [0, 0, 100]  # the smallest class alone


def test_cached_features_serve_without_the_images_and_a_fresh_head_is_drawn_from_the_seed(root, train):
    first = train("metasaug", "")
    shutil.copytree(root / "my", root / "kept")
    try:
        for path in (root / "my").rglob("*.png"):  # the same size and time, no longer an image
            stat = path.stat()
            path.write_bytes(b"x" * stat.st_size)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        again = train("again", "")
        fresh = train("fresh", "--pretrained torchvision.pth --fresh_head --epochs 1 --lr 1e-9")
    finally:
        shutil.copytree(root / "kept", root / "my", dirs_exist_ok=True)
    assert [run.out.count("read from") for run in (again, fresh)] == [3, 3]  # for the same backbone in any file
    assert torch.equal(first.weight, again.weight)
    torch.testing.assert_close(fresh.weight, make_head(3, SEED).weight.detach())
