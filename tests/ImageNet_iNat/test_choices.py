"""What one can choose beside MetaSAug for a head, as the flags of train.py and test.py say it."""

import csv
import json
from signal import SIGKILL
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.compare import relative
from support.data import crt_checkpoint
from support.image_lists import class_folders, read_sets
from support.places import ROOT
from support.ranks import together
from support.runs import differences, saved_state
from torch.nn import functional as F

from heads.batches import meta_indices, train_indices
from loss import class_balanced_weights

TRAIN, TEST = (ROOT / "ImageNet_iNat" / name for name in ("train.py", "test.py"))
SEED, BATCH, EPOCHS, LR = 5, 4, 2, 0.02
FLAGS = ["--dataset", "custom", "--data_root", "my", "--pretrained", "crt.pth", "--no-cuda", "--workers", "0", "--lr", LR,
         "--seed", SEED, "--lam", "0.9", "--meta_lr", "40", "--num_meta", "2"]  # fmt: skip
SHORT = ["--batch_size", BATCH, "--epochs", EPOCHS, "--cache_features", "1", "--cache_dir", "c"]
OURS = "checkpoint/ours/custom"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Folders of three classes with 11, 6 and 5 training images, two meta images and three test images each."""
    folder = tmp_path_factory.mktemp("choices")
    class_folders(folder / "my", (11, 6, 5), meta=2, val=3)
    crt_checkpoint(folder / "crt.pth", 3, tested=range(3))
    return folder


@pytest.fixture(scope="module")
def train(run_in, root):
    """Train by a name and more flags; a second call with the same returns what the first did: weights, log, output."""
    kept = {}

    def call(name, *more):
        if (given := (name, *more)) not in kept:
            out = run_in(TRAIN, *FLAGS, *SHORT, "--save_name", name, *more, cwd=root).stdout
            kept[given] = SimpleNamespace(out=out, **left_by(root / OURS, name))
        return kept[given]

    return call


def left_by(folder, name):
    state = torch.load(folder / f"{name}_last.pth.tar", weights_only=True)
    log = [json.loads(line) for line in (folder / f"{name}_metrics.jsonl").read_text().splitlines()]
    head = state["state_dict"]["classifier"]
    return {"state": state, "log": log, "weight": head["fc.weight"], "bias": head["fc.bias"]}


def rows_of(root, name, images):
    """The cached features of a set in float64, and its labels."""
    (path,) = [p for p in (root / "c").glob(f"{name}_0_*/*.f16") if p.stat().st_size == len(images) * 4096]
    rows = np.fromfile(path, np.float16).reshape(len(images), 2048).astype(np.float64)
    return torch.from_numpy(rows), torch.from_numpy(images.targets)


def plain_sgd(root, sets, class_weights=None, prior=0, with_meta=False):
    """The head's weight that torch's own SGD makes of cross-entropy, in float64; that of the meta batches may be added."""
    start = torch.load(root / "crt.pth", weights_only=True)["state_dict_best"]["classifier"]
    head = torch.nn.Linear(2048, 3, dtype=torch.float64)
    head.load_state_dict({name: start[f"module.fc.{name}"].double() for name in ("weight", "bias")})
    optimizer = torch.optim.SGD(head.parameters(), LR, momentum=0.9, nesterov=True, weight_decay=5e-4)
    (features, labels), meta = rows_of(root, "train", sets.trained), rows_of(root, "meta", sets.meta) if with_meta else None
    metas = meta_indices(len(sets.meta), BATCH, SEED)
    for epoch, index in train_indices(len(labels), BATCH, SEED):
        if epoch == EPOCHS:
            return head.weight.detach()
        loss = F.cross_entropy(head(features[index]) + prior, labels[index], weight=class_weights)
        if meta:
            _, chosen = next(metas)
            loss = loss + F.cross_entropy(head(meta[0][chosen]), meta[1][chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return None


def moved(root, run_or_weight):
    """How far the weights are from those that training begins with."""
    start = torch.load(root / "crt.pth", weights_only=True)["state_dict_best"]["classifier"]["module.fc.weight"]
    return (run_or_weight if isinstance(run_or_weight, torch.Tensor) else run_or_weight.weight).double() - start.double()


def drawn(root, *more):
    return read_sets("custom", root / "my", 2).lists.sets(2, *more)


@pytest.mark.slow
def test_each_is_the_whole_method_with_its_parts_switched_off(root, train):
    runs = {name: train(name, "--stage2", name) for name in ("isda", "reweight")}
    for name, parts in (("isda", ["--meta_lr", "0"]), ("reweight", ["--meta_lr", "0", "--lam", "0"])):
        twin = train(f"{name}_twin", *parts)
        assert relative(moved(root, runs[name]), moved(root, twin)) < 1e-5
        for key in ("count", "mean", "covariance"):
            torch.testing.assert_close(runs[name].state["estimator"][key], twin.state["estimator"][key])


def test_what_takes_the_place_of_metasaug(root, train):
    """Each is another thing; plain cross-entropy is what SGD makes of it."""
    runs = {name: train(name, "--stage2", name) for name in ("metasaug", "isda", "reweight", "none")}
    assert relative(moved(root, runs["none"]), moved(root, plain_sgd(root, drawn(root)))) < 1e-4
    names = list(runs)
    for i, name in enumerate(names):
        for other in names[:i]:
            assert relative(moved(root, runs[name]), moved(root, runs[other])) > 1e-3, (name, other)
        assert [line["grad_norm"] is None for line in runs[name].log] == [name != "metasaug"] * EPOCHS
        assert ("augmentation: " in runs[name].out) == (name in ("metasaug", "isda"))
    assert "every epoch: ISDA, estimated covariances without meta-learning\n" in runs["isda"].out
    assert "every epoch" not in runs["metasaug"].out


@pytest.mark.slow
def test_a_rule_with_its_own_step_size(root, train):
    rule = ["--meta_update", "relative", "--meta_step_size"]
    ours, small = (train(f"relative{size}", *rule, size) for size in ("0.5", "1e-5"))
    assert "so they changed next to nothing: a larger λ or --meta_step_size moves them further" in small.out
    assert "--meta_step_size moves" not in ours.out
    assert "every epoch: MetaSAug, --meta_update relative\n" in ours.out  # at the default step size
    assert "every epoch: MetaSAug, --meta_update relative, --meta_step_size 1e-05\n" in small.out
    for other in (small, train("metasaug", "--stage2", "metasaug")):
        assert relative(moved(root, ours), moved(root, other)) > 1e-4


def test_meta_images_that_are_trained_on(root, train):
    """In the list each image once, with the counts of that list; in the loss beside each batch; compared with SGD."""
    ours = train("joined", "--stage2", "reweight", "--meta_images", "train")
    sets = drawn(root, 0, True)
    assert "training and meta images together, each once: 28" in ours.out
    assert (ours.state["cls_num_list"], ours.state["stage2_counts"]) == ([11, 6, 5], [13, 8, 7])
    assert float(ours.state["estimator"]["count"].sum()) == EPOCHS * 28
    assert ours.state["estimator"]["count"].tolist() == [EPOCHS * n for n in (13, 8, 7)]
    expected = plain_sgd(root, sets, class_balanced_weights([13, 8, 7]))
    assert relative(moved(root, ours), moved(root, expected)) < 1e-4
    control = plain_sgd(root, sets, class_balanced_weights([11, 6, 5]))
    assert relative(moved(root, ours), moved(root, control)) > 1e-3
    ours = train("added", "--stage2", "none", "--meta_images", "loss")
    assert relative(moved(root, ours), moved(root, plain_sgd(root, drawn(root), with_meta=True))) < 1e-4
    assert relative(moved(root, ours), moved(root, train("none", "--stage2", "none"))) > 1e-2
    assert ours.state["cls_num_list"] == [11, 6, 5]
    assert "stage2_counts" not in ours.state


@pytest.mark.slow
def test_the_log_prior_in_the_loss_takes_the_place_of_weights(root, train):
    ours = train("prior", "--stage2", "reweight", "--balance", "prior")
    prior = (torch.tensor([11, 6, 5]).double() / 22).log()
    assert relative(moved(root, ours), moved(root, plain_sgd(root, drawn(root), prior=prior))) < 1e-4
    for control in (plain_sgd(root, drawn(root)), plain_sgd(root, drawn(root), class_balanced_weights([11, 6, 5]), prior)):
        assert relative(moved(root, ours), moved(root, control)) > 1e-3


def test_the_best_epoch_is_chosen_on_images_that_are_held_out(root, train):
    """With the meta images joined: the three sets have no image in common, and the log has what the rows give."""
    ours = train("heldout", "--stage2", "isda", "--select_on", "heldout", "--num_heldout", "2", "--meta_images", "train")
    sets = drawn(root, 2, True)
    assert "train 18  meta 6  test 9  held out 4  (9 to 4 training images a class)" in ours.out
    assert ours.state["cls_num_list"] == [9, 5, 4]
    files = [set(part.paths) for part in (sets.heldout, sets.train, sets.meta, sets.test)]
    assert len(set.union(*files)) == sum(map(len, files)) == 37
    assert set(sets.trained.paths) == files[1] | files[2]
    features, labels = rows_of(root, "heldout", sets.heldout)
    right = (features @ ours.weight.double().T + ours.bias.double()).argmax(1) == labels
    mean = np.mean([100 * right[labels == c].double().mean().item() for c in range(3)])
    assert ours.log[-1]["heldout_acc1"] == pytest.approx(mean)
    summary = json.loads((root / OURS / "heldout_summary.json").read_text())
    assert summary["best"]["heldout_acc1"] == max(line["heldout_acc1"] for line in ours.log)
    assert "(the best epoch is chosen on held-out training images" in ours.out
    assert all("heldout_acc1" not in line for line in train("isda", "--stage2", "isda").log)


@pytest.mark.slow
def test_no_features_are_computed_that_no_step_takes(root, train, run_in):
    train("none", "--stage2", "none")
    out = run_in(TRAIN, *FLAGS, *SHORT[:-1], "own", "--stage2", "isda", "--save_name", "own", cwd=root).stdout
    assert {path.name.split("_")[0] for path in (root / "own").iterdir()} == {"train", "test"}
    assert "features of the meta set" not in out


@pytest.mark.slow
def test_two_processes_on_images_do_what_one_does_on_features(root, run_in, start):
    """One epoch, whose crops are those of the first cached view; features in the cache are rounded to fp16."""
    more = ["--epochs", "1", "--meta_images", "train", "--select_on", "heldout", "--num_heldout", "2", "--balance", "prior",
            "--meta_update", "relative"]  # fmt: skip
    for stage2 in ("metasaug", "isda"):
        own = ["--stage2", stage2, "--save_name", f"{stage2}_twice", *more]
        flags = map(str, [*FLAGS, *own, "--batch_size", "2"])
        ranks = together(start, 2, TRAIN, *flags, "--workdir", root / "two", cwd=root)
        assert [status for status, _, _ in ranks] == [0, 0], ranks[0]
        run_in(TRAIN, *FLAGS, *SHORT, *own, cwd=root)
        two, one = (SimpleNamespace(**left_by(folder / OURS, f"{stage2}_twice")) for folder in (root / "two", root))
        assert relative(moved(root, two), moved(root, one)) < 5e-3
        assert two.log[0]["heldout_acc1"] == one.log[0]["heldout_acc1"]
        assert two.state["stage2_counts"] == one.state["stage2_counts"]
        assert torch.equal(two.state["estimator"]["count"], one.state["estimator"]["count"])


def test_a_run_with_other_choices_goes_on_to_the_same_bytes_and_only_with_the_same(root, run_in, refused, chance):
    own = [*FLAGS, *SHORT, "--save_name", "a", "--stage2", "isda", "--meta_images", "loss", "--select_on", "heldout"]
    folders = {name: root / name / OURS for name in ("whole", "cut")}
    run_in(TRAIN, *own, "--workdir", "whole", cwd=root)
    cut = [*own, "--workdir", "cut", "--resume", "auto"]
    at = chance.randint(2, 10)
    run_in(TRAIN, *cut, "--save_every", "0", cwd=root, status=137, STOP_AT=str(at), STOP_BY=str(int(SIGKILL)))
    assert saved_state(folders["cut"])["resume"]["meta_taken"] == at - 1
    for flag, value in (("--stage2", "reweight"), ("--meta_images", "apart"), ("--balance", "prior"), ("--num_heldout", "1"),
                        ("--meta_update", "relative")):  # fmt: skip
        assert f"with {flag} " in refused(TRAIN, *cut, flag, value, cwd=root)
    run_in(TRAIN, *cut, cwd=root)
    for kind in ("ckpt", "last", "resume"):
        assert differences(saved_state(folders["cut"], kind), saved_state(folders["whole"], kind)) == []


# Testing with adjusted logits


def table_of(run_in, root, name, *more):
    """What test.py prints of a run's last weights, and the accuracies of the classes that it writes."""
    path = f"{OURS}/{name}_last.pth.tar"
    out = run_in(TEST, "--loading_path", path, "--data_root", "my", "--no-cuda", "--workers", "0", "--out", "t.csv", *more,
                 cwd=root).stdout  # fmt: skip
    rows = csv.DictReader((root / "t.csv").read_text().splitlines())
    return out, [float(row["accuracy"]) for row in rows]


@pytest.mark.slow
def test_the_log_prior_is_subtracted_when_testing(root, train, run_in):
    """The prior is that of the images trained on; a share so large that a class is given up shows that it is used."""
    for name, more, counts in (("none", ["--stage2", "none"], [11, 6, 5]),
                               ("joined", ["--stage2", "reweight", "--meta_images", "train"], [13, 8, 7])):  # fmt: skip
        ours = train(name, *more)
        features, labels = rows_of(root, "test", drawn(root).test)
        logits = features @ ours.weight.double().T + ours.bias.double()
        prior = (torch.tensor(counts).double() / sum(counts)).log()
        found = []
        for tau in (0, 1, 1000):
            right = (logits - tau * prior).argmax(1) == labels
            out, per_class = table_of(run_in, root, name, *(["--logit_adjust", tau] if tau else []))
            assert per_class == pytest.approx([100 * right[labels == c].double().mean().item() for c in range(3)], abs=0.01)
            assert f"\tAccuracy: {100 * right.double().mean():.2f}\t" in out
            told = f"logits adjusted: {tau} times the log of each class's share of the training images is subtracted\n"
            assert (told in out) == bool(tau)
            found.append(per_class)
        assert found[2] == [0, 0, 100] != found[0]  # the smallest class alone


@pytest.mark.slow
def test_what_is_said_of_logits_that_cannot_or_need_not_be_adjusted(root, train, run_in, refused):
    train("prior", "--stage2", "reweight", "--balance", "prior")
    twice = "note: the loss of this network had the log prior: --logit_adjust makes up for the long tail a second time"
    assert twice in table_of(run_in, root, "prior", "--logit_adjust", "1")[0]
    assert twice not in table_of(run_in, root, "prior")[0]
    test = [TEST, "--data_root", "my", "--no-cuda", "--workers", "0", "--dataset", "custom", "--loading_path"]
    path = f"{OURS}/prior_last.pth.tar"
    for tau in ("nan", "inf", "-1"):
        assert f"--logit_adjust {float(tau)} is not valid" in refused(*test, path, "--logit_adjust", tau, cwd=root)
    line = refused(*test, "crt.pth", "--logit_adjust", "1", cwd=root)
    assert "--logit_adjust needs the training images of each class, which neither crt.pth nor a list says" in line
