"""Folders of images in any form, digits, and CIFAR's own files through torchvision."""

import hashlib
import json
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image
from support.data import make_cifar
from support.refusals import wrong
from torchvision.datasets import CIFAR10

from datasets import small_sets


@pytest.fixture
def tree(tmp_path):
    for split in ("train", "test"):
        for name in ("b", "a"):
            for i in range(3):
                path = tmp_path / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40 + 20 * i, 24), (200, 100, 50)).save(path)
    return tmp_path


def test_a_folder_is_read_as_classes_of_small_images(tree):
    (tree / "train" / "a" / "notes.txt").touch()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tree / "train" / "a" / "9.png")  # of the right size it is left as it is
    Image.new("RGBA", (8, 40)).save(tree / "train" / "b" / "9.png")
    data = small_sets.read_images("folder", str(tree), train=True)
    assert data.class_names == ["a", "b"]
    assert data.targets.tolist() == data.target.tolist() == [0] * 4 + [1] * 4
    assert data.pixels.shape == (8, 32, 32, 3)
    assert data.pixels[0, 5, 5].tolist() == [200, 100, 50]
    assert np.array_equal(data.pixels[3], pixels)
    assert [*data.notes] == [f"{tree / 'train'}: {line}" for line in (
        "files left out: 1 .txt", "8 images of 2 classes, a, b",
        "images with transparent parts, which were laid on white: 1",
        "7 images, whose short sides have 24 pixels in the median, are shrunk to 32 x 32 (train_own.py takes photographs at "
        "full size)",
    )]  # fmt: skip


def test_a_test_folder_may_lack_classes_but_not_have_new_ones(tree):
    shutil.rmtree(tree / "test" / "a")
    test = ["folder", str(tree), False, ["a", "b"]]
    assert small_sets.read_images(*test).targets.tolist() == [1, 1, 1]
    (tree / "test" / "b").rename(tree / "test" / "c")
    assert "test has classes that the training set does not have: 'c'" in wrong(small_sets.read_images, *test)


def test_missing_folders_and_single_classes_are_refused(tree):
    assert "cannot be read (No such file or directory)" in wrong(small_sets.read_folder, tree / "no", None)
    shutil.rmtree(tree / "train" / "b")
    assert "holds one class folder" in wrong(small_sets.read_folder, tree / "train", None)


def test_digits_are_the_scans_in_a_fixed_stratified_split():
    train, test = (small_sets.read_images("digits", "", train=part) for part in (True, False))
    assert (len(train), len(test), train.flip) == (1257, 540, False)
    assert np.bincount(train.targets).min() >= 121
    assert np.bincount(test.targets).min() >= 52
    # 8x8 pixels of 0..16 became 32x32 of 0..255, grey.
    assert train.pixels.max() == 255
    assert (train.pixels[..., 0] == train.pixels[..., 2]).all()
    assert hashlib.sha256(train.targets.tobytes()).hexdigest()[:16] == "7ccd324319b54677"


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Small files of CIFAR-10's form in tmp_path, with torchvision expecting their md5 sums."""
    sums = json.loads(make_cifar(tmp_path, "cifar10", per_class=10, test_per_class=3))
    for key in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, key, [[name, sums[name]] for name, _ in getattr(CIFAR10, key)])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")  # nothing listens there
    return tmp_path


def test_cifar_is_read_as_torchvision_reads_it(cifar):
    data, theirs = small_sets.read_cifar("cifar10", str(cifar), train=True), CIFAR10(str(cifar), train=True)
    assert (data.class_names, data.targets.tolist()) == (theirs.classes, theirs.targets)
    assert data.pixels.is_contiguous()
    assert np.array_equal(data.pixels.numpy(), theirs.data)


def test_cifar_is_found_in_the_published_folder(cifar, tmp_path, monkeypatch):
    (tmp_path / "cifar-10").mkdir()
    (cifar / "cifar-10-batches-py").rename(tmp_path / "cifar-10" / "cifar-10-batches-py")
    (tmp_path / "code").mkdir()
    monkeypatch.chdir(tmp_path / "code")
    assert len(small_sets.read_cifar("cifar10", "data", train=False)) == 30
    assert not (tmp_path / "code" / "data").exists()


@pytest.mark.parametrize("damage", [lambda raw: raw[:-100] + b"x" + raw[-99:], lambda raw: raw[:9], None])
def test_cifar_that_is_damaged_or_missing_without_a_network_is_one_line(cifar, damage):
    path = cifar / "cifar-10-batches-py" / "data_batch_2"
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    said = wrong(small_sets.read_cifar, "cifar10", str(cifar), train=True)
    assert f"cifar10 cannot be read from {path.parent} or downloaded" in said
    shutil.rmtree(path.parent)
    said = wrong(small_sets.read_cifar, "cifar10", str(cifar), train=True)
    assert all(word in said for word in (str(path.parent), "--data_root", CIFAR10.url))


def test_an_archive_is_unpacked(cifar, monkeypatch):
    archive = cifar / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(cifar / "cifar-10-batches-py", "cifar-10-batches-py")
    shutil.rmtree(cifar / "cifar-10-batches-py")
    assert "or downloaded" in wrong(small_sets.read_cifar, "cifar10", str(cifar), train=True)  # its md5 is another
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert len(small_sets.read_cifar("cifar10", str(cifar), train=True)) == 100
