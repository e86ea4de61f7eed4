"""Folders of images in any form, digits, and CIFAR's own files through torchvision; and images that are there twice."""

import hashlib
import json
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image
from support.data import colour, make_cifar, write_image
from support.own import write_features
from support.refusals import wrong
from torchvision.datasets import CIFAR10

from data_utils import build_dataset
from datasets import small_sets
from datasets.large_sets import read_lists


@pytest.fixture
def tree(tmp_path):
    """Images of 40 x 32 pixels in train/{a,b} and test/{a,b}."""
    for k in range(12):
        write_image(tmp_path / ("train", "test")[k % 2] / "ab"[k // 2 % 2] / f"{k // 4}.png", k)
    return tmp_path


def test_a_folder_is_read_as_classes_of_small_images(tree):
    (tree / "train" / "a" / "notes.txt").touch()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tree / "train" / "a" / "9.png")  # of the right size it is left as it is
    Image.new("RGBA", (8, 40)).save(tree / "train" / "b" / "9.png")
    data = small_sets.read_images("folder", str(tree), train=True)
    assert (data.class_names, data.targets.tolist(), data.pixels.shape) == (["a", "b"], [0] * 4 + [1] * 4, (8, 32, 32, 3))
    assert tuple(data.pixels[0, 5, 5].tolist()) == colour(0)
    assert np.array_equal(data.pixels[3], pixels)
    assert [*data.notes] == [f"{tree / 'train'}: {line}" for line in (
        "files left out: 1 .txt", "8 images of 2 classes, a, b",
        "images with transparent parts, which were laid on white: 1",
        "images are taken in 32 x 32 (train_own.py takes photographs at the size that its network wants)",
    )]  # fmt: skip


def test_a_single_class_is_refused(tree):
    shutil.rmtree(tree / "train" / "b")
    assert "train holds one class folder; at least two are needed" in wrong(build_dataset, "folder", 1, root=str(tree))


SAME = "{0} of the {0} examples of the test set are trained on too: the accuracy on them says nothing about new ones"


def test_examples_that_are_there_twice_are_counted_be_they_files_pixels_or_rows(tree, run):
    shutil.rmtree(tree / "test")
    (tree / "test").symlink_to("train")
    twice = "training examples that are in more than one class: 1"
    for number in (6, 7):
        for made in (read_lists("custom", tree), build_dataset("folder", 1, root=str(tree))):
            assert (SAME.format(number) in made.notes, twice in made.notes) == (True, number == 7)
        (tree / "train" / "b" / f"{number}.png").symlink_to(tree / "train" / "a" / "0.png")
    rows = write_features(tree / "f.npz", [12, 8, 5], val=0)
    np.savez(tree / "f.npz", features=rows["features"], labels=rows["labels"])
    assert SAME.format(25) in run("train_own.py --features f.npz --val_features f.npz --no-cuda").stdout
    assert SAME.format(25) in json.loads((tree / "checkpoint/ours/own/head_summary.json").read_text())["notes"]
    run("report.py checkpoint")
    assert f'<p class="note">{SAME.format(25)}</p>' in (tree / "report" / "report.html").read_text(encoding="utf-8")


def test_digits_are_the_scans_in_a_fixed_stratified_split():
    train, test = (small_sets.read_images("digits", "", train=part) for part in (True, False))
    assert (len(train), len(test), train.flip) == (1257, 540, False)
    assert np.bincount(test.targets).min() >= 52
    assert train.pixels.max() == 255  # of 16
    assert hashlib.sha256(train.targets.tobytes()).hexdigest()[:16] == "7ccd324319b54677"


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """The folder of small files of CIFAR-10's form, with torchvision expecting their md5 sums."""
    sums = json.loads(make_cifar(tmp_path, "cifar10", per_class=10, test_per_class=3))
    for key in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, key, [[name, sums[name]] for name, _ in getattr(CIFAR10, key)])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")  # nothing listens there
    return tmp_path / "cifar-10-batches-py"


def test_cifar_is_read_as_torchvision_reads_it_in_our_folder_the_published_one_or_the_archive(cifar, monkeypatch, tmp_path):
    theirs = CIFAR10(str(tmp_path), train=True)

    def check(root):
        data = small_sets.read_cifar("cifar10", root, train=True)
        assert (data.class_names, data.targets.tolist()) == (theirs.classes, theirs.targets)
        assert data.pixels.is_contiguous()
        assert np.array_equal(data.pixels.numpy(), theirs.data)

    check(str(tmp_path))
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(cifar, cifar.name)
    for folder in ("cifar-10", "code"):
        (tmp_path / folder).mkdir()
    cifar.rename(tmp_path / "cifar-10" / cifar.name)
    monkeypatch.chdir(tmp_path / "code")
    check("data")
    assert not (tmp_path / "code" / "data").exists()
    shutil.rmtree(tmp_path / "cifar-10")
    assert "or downloaded" in wrong(small_sets.read_cifar, "cifar10", str(tmp_path), train=True)  # its md5 is another
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    check(str(tmp_path))


def test_cifar_that_is_damaged_without_a_network_is_one_line(cifar):
    path = cifar / "data_batch_2"
    path.write_bytes(path.read_bytes()[:-100] + bytes(100))
    said = wrong(small_sets.read_cifar, "cifar10", str(cifar.parent), train=True)
    assert all(word in said for word in (f"cifar10 cannot be read from {cifar} or downloaded", "--data_root", CIFAR10.url))
