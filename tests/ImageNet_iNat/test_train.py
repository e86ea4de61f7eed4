"""ImageNet_iNat as its users call it: published commands, a part of ImageNet-LT, several processes, one's own images."""

import csv
import json
import os
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from support.data import crt_checkpoint, write_image
from support.image_lists import class_folders, read_sets
from support.places import ROOT
from support.ranks import places
from support.slow_head_step import slow_step

from head_flags import parse_training
from heads.backbone import make_head
from heads.batches import meta_indices, train_indices
from heads.run_flags import PRETRAINED
from loss import EstimatorCV, MetaSAugCE

TRAIN = ROOT / "ImageNet_iNat" / "train.py"
# The published commands, word for word (python3.6 read as python3), inside ImageNet_iNat; the port is one that is free.
LAUNCH = "-m torch.distributed.launch --nproc_per_node=2 --master_port {port} train.py"
PUBLISHED = ("--lr 0.0003 --meta_lr 0.1 --workers 0 --batch_size 256 --epochs 1 --dataset ImageNet_LT --num_classes 1000 "
             "--data_root ../ImageNet")  # fmt: skip
OURS = "checkpoint/ours/ImageNet_LT/MetaSAug_ImageNet_LT"
WHOLE = {"RESNET50": "whole"}  # not that of support/slim_resnet.py


def copy_project(folder):
    """The project's code where a test may write lists and models into it."""
    own = ("ImageNet_iNat/**/*.py", "ImageNet_iNat/**/*.sh")
    for pattern in ("*.py", "datasets/*.py", "harness/*.py", "heads/*.py", "scripts/*.sh", *own):
        for path in ROOT.glob(pattern):
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return folder / "ImageNet_iNat"


def imagenet_lt(folder, counts, val=1, test=1):
    """A project with lists of ImageNet-LT that name one image a class again and again, for tests every `test`-th class."""
    inside = copy_project(folder)
    names = [f"train/n{k:04}/picture of {k}.jpg" for k in range(len(counts))]
    for k, name in enumerate(names):
        write_image(folder / "ImageNet" / name, k)
    lines = [f"{name} {k}\n" for k, name in enumerate(names)]
    train = [line for line, count in zip(lines, counts, strict=True) for _ in range(count)]
    for part, rows in (("train", train), ("val", lines * val), ("test", lines[::test])):
        (inside / "data" / f"ImageNet_LT_{part}.txt").write_text("".join(rows))
    return inside


def launched(run_in, folder, flags, **kwargs):
    """What two processes print that torch.distributed.launch starts; it warns of its own age."""
    command = f"$PYTHON {LAUNCH} {flags}".format(port=places(2)[0]["MASTER_PORT"])
    return run_in("sh", "-c", command, cwd=folder, PYTHONWARNINGS="ignore", **kwargs).stdout


def last_accuracy(out):
    return re.findall(r"test acc ([\d.]+)  top-5 ([\d.]+)", out)[-1]


def first_line(out):
    """The first line that a test of the run's last weights must print."""
    accuracy, top5 = last_accuracy(out)
    return f"Dataset: ImageNet_LT\tAccuracy: {accuracy}\tError: {100 - float(accuracy):.2f}\tTop-5: {top5}"


def test_images_that_cannot_be_read_are_listed_before_the_first_epoch_or_left_out(run_in, tmp_path):
    for part, count in (("train", 26), ("val", 2)):
        for name in "ab":
            for i in range(count):
                write_image(tmp_path / "my" / part / name / f"{i:02}.png", i)
    crt_checkpoint(tmp_path / "crt.pth", 2)
    bad = [*(tmp_path / "my" / "train" / "b").glob("0*.png"), *(tmp_path / "my" / "train" / "a").glob("1*.png")]
    bad += [*(tmp_path / "my" / "val").glob("?/01.png")]
    for path in bad:
        path.write_bytes(path.read_bytes()[:60])
    flags = ["--dataset", "custom", "--data_root", "my", "--pretrained", "crt.pth", "--num_meta", "5", "--epochs", "1",
             "--batch_size", "16", "--no-cuda", "--workers", "0", "--save_name", "x"]  # fmt: skip
    for more in ([], ["--cache_features", "1", "--cache_dir", "c"]):
        result = run_in(TRAIN, *flags, *more, cwd=tmp_path, status=2)
        *lines, count, last = result.stderr.splitlines()
        wanted = sorted(bad)[:20]
        assert [line.split(" (")[0] for line in lines] == [str(path.relative_to(tmp_path)) for path in wanted]
        assert count == "and 2 more"
        advice = "remove or replace them, or skip them with --skip_bad"
        assert last == f"train.py: error: 22 of 56 images cannot be read, see above: {advice}"
        assert "epoch 0" not in result.stdout
    assert not [*(tmp_path / "checkpoint").rglob("x_*"), *(tmp_path / "c").glob("*")]
    Image.new("RGBA", (40, 32), (1, 2, 3, 4)).save(tmp_path / "my" / "train" / "a" / "00.png")
    for more in ([], ["--cache_features", "1", "--cache_dir", "c"]):
        out = run_in(TRAIN, *flags, "--skip_bad", *more, cwd=tmp_path, CLOCK="1e7").stdout
        assert "note: --skip_bad: 22 of 56 images cannot be read and are left out: my/train/a/10.png" in out
        assert out.count("note: images with transparent parts, which were laid on white: 1") == 1
        assert out.count("checking images  [1/1]") == 1  # all are read once before the first epoch, or before features are
        kept = json.loads((tmp_path / "checkpoint/ours/custom/x_summary.json").read_text())
        assert kept["cls_num_list"] == [11, 11]  # of 16 that can be read five are meta images


# A part of ImageNet-LT


@pytest.fixture(scope="module")
def part(run_in, tmp_path_factory):
    """Three classes, trained by two processes and by one: `folder` is ImageNet_iNat, `two` and `one` what was printed."""
    folder = imagenet_lt(tmp_path_factory.mktemp("part"), (3, 2, 1))
    crt_checkpoint(folder / "models" / "resnet50_uniform_e90.pth", 3, tested=range(3), whole=True)
    (folder / "models" / "ImageNet_LT_cRT.pth").write_text("comes second")
    flags = "--lr 0.01 --epochs 2 --num_meta 1 --workers 0 --data_root ../ImageNet --no-cuda -p 1"
    two = launched(run_in, folder, f"{flags} --num_classes 3 --batch_size 2", **WHOLE)
    one = run_in(folder / "train.py", *flags.split(), "--batch_size", "4", "--workdir", "one", cwd=folder, **WHOLE).stdout
    return SimpleNamespace(folder=folder, two=two, one=one)


def test_two_processes_train_as_one(part):
    assert "3 classes, head of the ResNet-50 in models/resnet50_uniform_e90.pth, on cpu, 2 processes" in part.two
    assert part.two.count("done in") == 1  # only one process prints

    def losses(out):
        return [float(v) for v in re.findall(r"train loss ([\d.]+)|test loss ([\d.]+)", out) for v in v if v]

    assert losses(part.two) == pytest.approx(losses(part.one), rel=1e-4)
    paths = [part.folder / f"{workdir}{OURS}" for workdir in ("", "one/")]
    states = [torch.load(f"{path}_last.pth.tar", weights_only=True) for path in paths]
    for key in ("fc.weight", "fc.bias"):
        ours, theirs = (state["state_dict"]["classifier"][key] for state in states)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    for key in ("count", "mean", "covariance"):
        torch.testing.assert_close(states[0]["estimator"][key], states[1]["estimator"][key], rtol=1e-3, atol=1e-5)
    assert not any("num_batches_tracked" in key for key in states[0]["state_dict"]["feature"])
    assert json.loads((paths[0].parent / "MetaSAug_ImageNet_LT_summary.json").read_text())["processes"] == 2
    ours, theirs = (path.with_name(f"{path.name}_mistakes.json").read_bytes() for path in paths)
    assert ours == theirs
    for kind in ("ckpt", "last"):
        ours, theirs = (np.load(f"{path}_{kind}_predictions.npz") for path in paths)
        assert ours["target"].tolist() == theirs["target"].tolist() == [0, 1, 2]
        assert ours["predicted"].tolist() == theirs["predicted"].tolist()
        np.testing.assert_allclose(ours["confidence"], theirs["confidence"], rtol=1e-4)


def test_a_released_checkpoint_is_tested_as_training_tested_it(part, run):
    state = torch.load(part.folder / f"{OURS}_last.pth.tar", weights_only=True)
    checkpoints = part.folder / "checkpoints"
    checkpoints.mkdir()
    released = {key: state[key] for key in ("epoch", "state_dict", "best_acc1", "optimizer")}  # nothing else is in theirs
    torch.save(released, checkpoints / "MetaSAug_ImageNet_LT.tar")
    tested = run("sh", part.folder / "test.sh", "--no-cuda", "--workers", "1", status=1, **WHOLE)  # from any folder
    accuracy = float(last_accuracy(part.two)[0])
    assert 0 < accuracy < 100
    assert tested.stdout.splitlines()[0] == first_line(part.two)
    assert tested.stderr.startswith("missing: ImageNet_iNat/checkpoints/MetaSAug_iNat18.tar")
    table = list(csv.DictReader((checkpoints / "MetaSAug_ImageNet_LT_classes.csv").read_text().splitlines()))
    assert [float(row["training images"]) for row in table] == [3, 2, 1]
    assert np.mean([float(row["accuracy"]) for row in table]) == pytest.approx(accuracy, abs=0.01)


def test_the_mean_over_classes_of_an_uneven_test_set(part, run):
    tests = part.folder / "data" / "ImageNet_LT_test.txt"
    before = tests.read_text()
    try:
        tests.write_text(before + 3 * before.splitlines(keepends=True)[1])
        flags = ["--loading_path", f"{OURS}_last.pth.tar", "--data_root", "../ImageNet", "--no-cuda", "--workers", "0"]
        line = run(part.folder / "test.py", *flags, "--out", "classes.csv", cwd=part.folder, **WHOLE).stdout.splitlines()[0]
    finally:
        tests.write_text(before)
    table = list(csv.DictReader((part.folder / "classes.csv").read_text().splitlines()))
    per_class = [float(row["accuracy"]) for row in table]
    accuracy = (per_class[0] + 4 * per_class[1] + per_class[2]) / 6
    assert f"\tAccuracy: {accuracy:.2f}\t" in line
    assert line.endswith(f"\tMean over classes: {np.mean(per_class):.2f}")
    assert "Mean over classes" not in first_line(part.two)


# One's own images


@pytest.fixture(scope="module")
def own(run_in, tmp_path_factory):
    """A training on cached features; the same, and one with a fresh head, when the images are no longer images."""
    root = tmp_path_factory.mktemp("own")
    class_folders(root / "my", (4, 2, 1))
    one = root / "my" / "train" / "class0" / "0.png"
    shutil.copy(one, os.fsencode(one.parent) + b"/caf\351.png")  # a name that is no text
    crt_checkpoint(root / "crt.pth", 3, tested=range(3))
    crt_checkpoint(root / "torchvision.pth", 3, "torchvision")
    settings = SimpleNamespace(epochs=3, lr=0.02, lam=0.9, meta_lr=40.0, weight_decay=0.01, batch_size=3)
    flags = [word for name, value in vars(settings).items() for word in (f"--{name}", value)]
    flags += ["--momentum", "0.8", "--seed", "5", "--dataset", "custom", "--data_root", "my", "--cache_features", "1",
              "--cache_dir", "c", "--no-cuda", "--workers", "0"]  # fmt: skip

    def train(name, *more):
        return run_in(TRAIN, *flags, "--save_name", name, "--pretrained", *more, cwd=root).stdout

    outs = [train("first", "crt.pth")]
    for path in (root / "my").rglob("*.png"):  # the same size and time, no longer an image
        stat = path.stat()
        path.write_bytes(b"x" * stat.st_size)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    outs += [train("again", "crt.pth"), train("fresh", "torchvision.pth", "--fresh_head", "--epochs", "1", "--lr", "1e-9")]
    files = {name: root / f"checkpoint/ours/custom/{name}_last.pth.tar" for name in ("first", "again", "fresh")}
    states = {name: torch.load(path, weights_only=True) for name, path in files.items()}
    return SimpleNamespace(root=root, settings=settings, outs=outs, states=states)


def test_cached_features_train_without_the_images_and_a_fresh_head_is_drawn_from_the_seed(own):
    assert own.states["first"]["cls_num_list"] == [5, 2, 1]
    assert [out.count("read from") for out in own.outs] == [0, 3, 3]  # for the same backbone in any file
    first, again, fresh = (state["state_dict"]["classifier"]["fc.weight"] for state in own.states.values())
    assert torch.equal(first, again)
    torch.testing.assert_close(fresh, make_head(3, 5).weight.detach())  # what took only the backbone
    theirs = torch.load(own.root / "torchvision.pth", weights_only=True)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in own.states["fresh"]["state_dict"]["feature"].items())


def test_training_takes_metasaug_steps_with_the_rates_that_the_flags_say(own):
    """Against double backward over the cached features, in float64; and what it would be without one of the parts."""
    sets, given = read_sets("custom", own.root / "my", 10), own.settings
    parts = {}
    for name, images in (("train", sets.train), ("meta", sets.meta)):
        (path,) = (own.root / "c").glob(f"{name}_0_*/*.f16")
        rows = np.fromfile(path, np.float16).reshape(len(images), 2048)
        parts[name] = torch.from_numpy(rows.astype(np.float64)), torch.from_numpy(images.targets)
    start = torch.load(own.root / "crt.pth", weights_only=True)["state_dict_best"]["classifier"]
    begin = {name: start[f"module.fc.{name}"].double() for name in ("weight", "bias")}

    def loop(counts=sets.cls_num_list, nesterov=True, **changes):
        s = SimpleNamespace(**{**vars(given), **changes})
        torch.set_default_dtype(torch.float64)
        head = torch.nn.Linear(2048, 3)
        head.load_state_dict(begin)
        criterion, estimator = MetaSAugCE(counts), EstimatorCV(2048, 3, diagonal=True)
        optimizer = torch.optim.SGD(head.parameters(), s.lr, momentum=0.8, nesterov=nesterov, weight_decay=s.weight_decay)
        batches, metas = train_indices(len(sets.train), s.batch_size, 5), meta_indices(len(sets.meta), s.batch_size, 5)
        losses = []
        for (epoch, index), (_, meta_index) in zip(batches, metas, strict=False):
            if epoch == s.epochs:
                break
            training, meta = ((z[i], y[i]) for (z, y), i in ((parts["train"], index), (parts["meta"], meta_index)))
            rates = {"lam_t": s.lam * epoch / s.epochs, "virtual_lr": s.lr, "meta_lr": s.meta_lr}
            seen = slow_step(head, criterion, estimator, optimizer, training, meta, **rates)
            losses.append(float(seen[2]) * len(index))
        torch.set_default_dtype(torch.float32)
        return head.weight.detach() - begin["weight"], estimator, sum(losses[-3:]) / len(sets.train)

    state = own.states["first"]
    ours = state["state_dict"]["classifier"]["fc.weight"].double() - begin["weight"]
    expected, estimator, loss = loop()
    assert float((ours - expected).norm() / expected.norm()) < 1e-4
    for name in ("count", "mean", "covariance"):
        torch.testing.assert_close(state["estimator"][name].double(), getattr(estimator, name), rtol=1e-4, atol=1e-6)
    assert float(re.findall(r"train loss ([\d.]+)", own.outs[0])[-1]) == pytest.approx(loss, abs=2e-4)
    for change in ({"lam": 0.0}, {"meta_lr": 0.0}, {"weight_decay": 0.0}, {"lr": 0.021}, {"counts": [1] * 3},
                   {"nesterov": False}):  # fmt: skip
        other = loop(**change)[0]
        assert float((other - ours).norm() / ours.norm()) > 1e-3, change


# Commands and places


@pytest.mark.parametrize("dataset", PRETRAINED)
def test_weights_of_crt_are_looked_for_by_their_published_name_first(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    published = {"ImageNet_LT": "resnet50_uniform_e90.pth", "iNaturalist18": "iNat18/resnet50_uniform_e200.pth"}
    places = [f"models/{name}" for name in (published.get(dataset), f"{dataset}_cRT.pth") if name]
    for place in reversed(places):
        assert parse_training(["--dataset", dataset]).pretrained == places[-1]  # named also where there is none
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    assert parse_training(["--dataset", dataset]).pretrained == places[0]


def test_the_test_script_looks_for_released_files_first(run, tmp_path):
    folder = copy_project(tmp_path)
    names = {"ImageNet_LT": "MetaSAug_ImageNet_LT.tar", "iNaturalist18": "MetaSAug_iNat18.tar"}
    ours = {name: f"checkpoint/ours/{name}/MetaSAug_{name}_ckpt.pth.tar" for name in names}
    released = {name: f"checkpoints/{file}" for name, file in names.items()}
    missing = run("sh", folder / "test.sh", status=1, PYTHON="echo").stderr.splitlines()
    assert [line.split()[:2] for line in missing] == [["missing:", f"ImageNet_iNat/{path}"] for path in released.values()]
    for found in (ours, released):
        for path in found.values():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).touch()
        roots = {"ImageNet_LT": "../ImageNet", "iNaturalist18": "../iNaturalist18"}
        expected = [f"test.py --dataset {k} --data_root {roots[k]} --loading_path {found[k]} --gpu 1" for k in found]
        assert run("sh", folder / "test.sh", "--gpu", "1", PYTHON="echo").stdout.splitlines() == expected


def test_scripts_call_the_published_commands(run):
    scripts = ROOT / "ImageNet_iNat" / "scripts"
    for variables, count in (({}, 4), ({"NPROC": "2"}, 2)):
        first, second = run("sh", scripts / "train.sh", "--seed", "3", PYTHON="echo", **variables).stdout.splitlines()
        launch = f"-m torch.distributed.launch --nproc_per_node={count} --master_port 53212 train.py"
        assert first == f"{launch} {PUBLISHED.replace('epochs 1', 'epochs 20')} --seed 3"
        assert "--dataset iNaturalist18 --num_classes 8142" in second
    run("sh", "-n", scripts / "slurm_train.sh")


@pytest.mark.slow
def test_the_published_command_with_a_thousand_classes(run, run_in, tmp_path):
    """One training image each; the meta and test lists name the same files again."""
    folder = imagenet_lt(tmp_path, [1] * 1000, val=10, test=20)
    crt_checkpoint(folder / "models" / "ImageNet_LT_cRT.pth", 1000, tested=range(0, 1000, 20), whole=True)
    out = launched(run_in, folder, PUBLISHED, fresh=True)
    accuracy, top5 = map(float, last_accuracy(out))
    assert 0 < accuracy < top5 < 100
    assert first_line(out) in run("sh", folder / "test.sh", status=1, fresh=True).stdout.splitlines()
