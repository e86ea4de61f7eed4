"""ImageNet_iNat as its users call it: published commands, a part of ImageNet-LT, several processes, one's own images."""

import csv
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.data import crt_checkpoint, write_image
from support.image_lists import write
from support.places import ROOT, copy_of_the_project
from support.ranks import places

from head_flags import parse_training
from heads.run_flags import PRETRAINED

# The published commands, word for word (python3.6 read as python3), inside ImageNet_iNat; the port is one that is free.
LAUNCH = "-m torch.distributed.launch --nproc_per_node=2 --master_port {port} train.py"
PUBLISHED = ("--lr 0.0003 --meta_lr 0.1 --workers 0 --batch_size 256 --epochs 1 --dataset ImageNet_LT --num_classes 1000 "
             "--data_root ../ImageNet")  # fmt: skip
OURS = "checkpoint/ours/ImageNet_LT/MetaSAug_ImageNet_LT"
WHOLE = {"RESNET50": "whole"}  # not that of support/slim_resnet.py


def imagenet_lt(folder, **classes):
    """A project with lists of ImageNet-LT, by the classes of their images; all of a class are the same file."""
    inside = copy_of_the_project(folder) / "ImageNet_iNat"
    for k in {*classes["train"]}:
        write_image(folder / f"ImageNet/train/n{k:04}/picture of {k}.jpg", k)
    for part, labels in classes.items():
        write(inside / f"data/ImageNet_LT_{part}.txt", "".join(f"train/n{k:04}/picture of {k}.jpg {k}\n" for k in labels))
    return inside


def launched(run_in, folder, flags, **kwargs):
    """What two processes print that torch.distributed.launch starts; it warns of its own age."""
    command = f"$PYTHON {LAUNCH} {flags}".format(port=places(2)[0]["MASTER_PORT"])
    return run_in("sh", "-c", command, cwd=folder, PYTHONWARNINGS="ignore", **kwargs).stdout


def last_accuracy(out):
    return re.findall(r"test acc ([\d.]+) .* top-5 ([\d.]+)", out)[-1]


def first_line(out):
    """The first line that a test of the run's last weights must print."""
    accuracy, top5 = last_accuracy(out)
    return f"Dataset: ImageNet_LT\tAccuracy: {accuracy}\tError: {100 - float(accuracy):.2f}\tTop-5: {top5}"


# A part of ImageNet-LT


@pytest.fixture(scope="module")
def part(run_in, tmp_path_factory):
    """Three classes, trained by two processes and by one: `folder` is ImageNet_iNat, `two` and `one` what was printed."""
    folder = imagenet_lt(tmp_path_factory.mktemp("part"), train=[0, 0, 0, 1, 1, 2], val=range(3), test=[0, 1, 2, 1, 1, 1])
    crt_checkpoint(folder / "models" / "resnet50_uniform_e90.pth", 3, tested=range(3), whole=True)
    (folder / "models" / "ImageNet_LT_cRT.pth").write_text("comes second")
    flags = "--lr 0.01 --epochs 2 --num_meta 1 --workers 0 --data_root ../ImageNet --no-cuda -p 1"
    two = launched(run_in, folder, f"{flags} --num_classes 3 --batch_size 2", **WHOLE)
    one = run_in(f"{folder}/train.py {flags} --batch_size 4 --workdir one", cwd=folder, **WHOLE).stdout
    return SimpleNamespace(folder=folder, two=two, one=one)


def test_two_processes_train_as_one(part):
    assert "3 classes, head of the ResNet-50 in models/resnet50_uniform_e90.pth, on cpu, 2 processes" in part.two
    assert part.two.count("done in") == 1  # only one process prints
    ours, theirs = ([float(value) for value in re.findall(r"loss ([\d.]+)", out)] for out in (part.two, part.one))
    assert ours == pytest.approx(theirs, rel=1e-4)
    paths = [part.folder / f"{workdir}{OURS}" for workdir in ("", "one/")]
    ours, theirs = (torch.load(f"{path}_last.pth.tar", weights_only=True) for path in paths)
    torch.testing.assert_close(ours["state_dict"], theirs["state_dict"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours["estimator"], theirs["estimator"], rtol=1e-3, atol=1e-5)
    assert not any("num_batches_tracked" in key for key in ours["state_dict"]["feature"])
    ours, theirs = (path.with_name(f"{path.name}_mistakes.json").read_bytes() for path in paths)
    assert ours == theirs
    ours, theirs = (np.load(f"{path}_last_predictions.npz") for path in paths)
    assert ours["target"].tolist() == theirs["target"].tolist() == [0, 1, 2, 1, 1, 1]
    np.testing.assert_allclose(ours["confidence"], theirs["confidence"], rtol=1e-4)


def test_a_released_checkpoint_is_tested_as_training_tested_it(part, run):
    state = torch.load(part.folder / f"{OURS}_last.pth.tar", weights_only=True)
    released = {key: state[key] for key in ("epoch", "state_dict", "best_acc1", "optimizer")}  # nothing else is in theirs
    checkpoints = part.folder / "checkpoints"
    checkpoints.mkdir()
    torch.save(released, checkpoints / "MetaSAug_ImageNet_LT.tar")
    tested = run(f"sh {part.folder}/test.sh --no-cuda --workers 1", status=1, **WHOLE)  # from any folder
    assert tested.stderr.startswith("missing: ImageNet_iNat/checkpoints/MetaSAug_iNat18.tar")
    table = list(csv.DictReader((checkpoints / "MetaSAug_ImageNet_LT_classes.csv").read_text().splitlines()))
    assert [float(row["training images"]) for row in table] == [3, 2, 1]
    per_class = [float(row["accuracy"]) for row in table]
    accuracy = float(last_accuracy(part.two)[0])
    assert 0 < accuracy < 100
    assert accuracy == pytest.approx((per_class[0] + 4 * per_class[1] + per_class[2]) / 6, abs=0.01)
    assert tested.stdout.splitlines()[0] == f"{first_line(part.two)}\tMean over classes: {np.mean(per_class):.2f}"


# Commands and places


@pytest.mark.parametrize("dataset", PRETRAINED)
def test_weights_of_crt_are_looked_for_by_their_published_name_first(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    published = {"ImageNet_LT": "resnet50_uniform_e90.pth", "iNaturalist18": "iNat18/resnet50_uniform_e200.pth"}
    places = [f"models/{name}" for name in (published.get(dataset), f"{dataset}_cRT.pth") if name]
    for place in reversed(places):
        assert parse_training(["--dataset", dataset]).pretrained == places[-1]  # named also where there is none
        write(tmp_path / place)
    assert parse_training(["--dataset", dataset]).pretrained == places[0]


def test_the_test_script_looks_for_released_files_first(run, tmp_path):
    folder = copy_of_the_project(tmp_path) / "ImageNet_iNat"
    names = {"ImageNet_LT": "MetaSAug_ImageNet_LT.tar", "iNaturalist18": "MetaSAug_iNat18.tar"}
    ours = {name: f"checkpoint/ours/{name}/MetaSAug_{name}_ckpt.pth.tar" for name in names}
    released = {name: f"checkpoints/{file}" for name, file in names.items()}
    missing = run(f"sh {folder}/test.sh", status=1, PYTHON="echo").stderr.splitlines()
    assert [line.split()[:2] for line in missing] == [["missing:", f"ImageNet_iNat/{path}"] for path in released.values()]
    for found in (ours, released):
        for path in found.values():
            write(folder / path)
        roots = {"ImageNet_LT": "../ImageNet", "iNaturalist18": "../iNaturalist18"}
        expected = [f"test.py --dataset {k} --data_root {roots[k]} --loading_path {found[k]} --gpu 1" for k in found]
        assert run(f"sh {folder}/test.sh --gpu 1", PYTHON="echo").stdout.splitlines() == expected


def test_scripts_call_the_published_commands(run):
    scripts = ROOT / "ImageNet_iNat" / "scripts"
    for variables, count in (({}, 4), ({"NPROC": "2"}, 2)):
        first, second = run(f"sh {scripts}/train.sh --seed 3", PYTHON="echo", **variables).stdout.splitlines()
        launch = f"-m torch.distributed.launch --nproc_per_node={count} --master_port 53212 train.py"
        assert first == f"{launch} {PUBLISHED.replace('epochs 1', 'epochs 20')} --seed 3"
        assert "--dataset iNaturalist18 --num_classes 8142" in second
    run(f"sh -n {scripts}/slurm_train.sh")


@pytest.mark.slow
def test_the_published_command_with_a_thousand_classes(run, run_in, tmp_path):
    """One training image each; the meta and test lists name the same files again."""
    folder = imagenet_lt(tmp_path, train=range(1000), val=[*range(1000)] * 10, test=range(0, 1000, 20))
    crt_checkpoint(folder / "models" / "ImageNet_LT_cRT.pth", 1000, tested=range(0, 1000, 20), whole=True)
    out = launched(run_in, folder, PUBLISHED, fresh=True)
    accuracy, top5 = map(float, last_accuracy(out))
    assert 0 < accuracy < top5 < 100
    assert first_line(out) in run(f"sh {folder}/test.sh", status=1, fresh=True).stdout.splitlines()
