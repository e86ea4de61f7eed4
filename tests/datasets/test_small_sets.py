"""Folders of images in any form, digits, and CIFAR's own files through torchvision."""

import hashlib
import json
import shutil
import tarfile
from itertools import product
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from support.data import make_cifar
from support.places import ROOT
from support.refusals import wrong
from torchvision.datasets import CIFAR10

from datasets import archives, small_sets
from datasets.pictures import ON_WHITE


@pytest.fixture
def tree(tmp_path):
    for split in ("train", "test"):
        for name in ("b", "a"):
            for i in range(3):
                path = tmp_path / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40, 24), (200, 100, 50)).save(path)
    return tmp_path


def test_a_folder_is_read_as_classes_of_small_images(tree):
    (tree / "train" / "a" / "notes.txt").touch()
    data, notes = small_sets.read_images("folder", str(tree), train=True)
    assert data.class_names == ["a", "b"]
    assert data.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.pixels.shape == (6, 32, 32, 3)
    assert data.pixels[0, 5, 5].tolist() == [200, 100, 50]
    shrunk = f"{tree / 'train'}: 6 images of 40 x 24 pixels were shrunk to 32 x 32"
    assert notes == [f"{tree / 'train'}: files left out: 1 .txt file", shrunk]


def test_an_image_of_the_right_size_is_left_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert np.array_equal(small_sets.read_image(tmp_path / "x.png").pixels, pixels)


def test_what_was_done_to_images_is_said(tmp_path):
    assert small_sets.changes([(32, 32), (1, 8)], [frozenset()]) == []
    told = small_sets.changes([(40, 24), (32, 32), (500, 300)], 2 * [frozenset({ON_WHITE})])
    assert told == [
        "2 images are transparent somewhere: they were laid on white",
        "2 images of 40 x 24 to 500 x 300 pixels were shrunk to 32 x 32",
    ]


@pytest.mark.parametrize(
    ("sizes", "before"),
    [
        ([(300, 200), (90, 128), (64, 400), (32, 32), (20, 30)], "90"),  # those that were not shrunk do not count
        ([(64, 70), (64, 64), (32, 32)], "64"),
        ([(100, 63), (1000, 800), (63, 65)], None),
        ([(32, 32)], None),
    ],
)
def test_training_on_photographs_is_told_the_way_for_them_once(run, tmp_path, sizes, before):
    """By both scripts, and by none that uses their network; test images, large in all cases, play no part."""
    shutil.copy(ROOT / "tests" / "support" / "tiny_networks.py", tmp_path)
    for split, name in product(("train", "test"), ("cat", "dog")):
        (tmp_path / "my photos" / split / name).mkdir(parents=True)
        for i, size in enumerate(2 * sizes if split == "train" else [(500, 400)]):
            Image.new("RGB", size, (9 * i, 99, 0)).save(tmp_path / "my photos" / split / name / f"{i}.png")
    data, more = ["--data_root", "my photos"], ["--arch", "tiny_networks:logits", "--no-cuda"]
    short = ["--dataset", "folder", *data, *more, "--num_meta", "1", "--epochs", "1", "--threads", "1"]
    outs = [run(f"MetaSAug_{loss}_train.py", *short, "--save_name", loss).stdout for loss in ("CE", "LDAM")]
    for out in outs:
        assert "were shrunk to 32 x 32" in out
        assert [line for line in out.splitlines() if "train_own" in line] == [
            f"note: my photos/train: images lose detail at 32 x 32 (their median short side was {before} pixels); "
            "to train on photographs at full size, through a pretrained network: "
            "python3 train_own.py --data_root 'my photos/train' --val_fraction 0.2"
        ] * (before is not None)
    network = ["--checkpoint_path", "checkpoint/ours/0/CE_ckpt.pth.tar", *more]
    for command in (["MetaSAug_test.py", *data], ["predict.py", "my photos"]):
        used = run(*command, *network)
        assert "train_own" not in used.stdout + used.stderr


def test_a_test_folder_may_lack_classes_but_not_have_new_ones(tree):
    shutil.rmtree(tree / "test" / "a")
    data, _ = small_sets.read_images("folder", str(tree), train=False, class_names=["a", "b"])
    assert data.targets.tolist() == [1, 1, 1]
    (tree / "test" / "b").rename(tree / "test" / "c")
    said = wrong(small_sets.read_images, "folder", str(tree), train=False, class_names=["a", "b"])
    assert "test/c: no such class in the training set, which has a, b" in said


def test_missing_folders_and_single_classes_are_refused(tree):
    assert "cannot be read (No such file or directory)" in wrong(small_sets.read_folder, tree / "no", None)
    shutil.rmtree(tree / "train" / "b")
    assert "holds one class folder" in wrong(small_sets.read_folder, tree / "train", None)


def test_digits_are_the_scans_in_a_fixed_stratified_split():
    train, _ = small_sets.read_images("digits", "", train=True)
    test, _ = small_sets.read_images("digits", "", train=False)
    assert (len(train.targets), len(test.targets)) == (1257, 540)
    assert torch.bincount(train.targets).min() >= 121
    assert torch.bincount(test.targets).min() >= 52
    assert not train.flip
    # 8x8 pixels of 0..16 became 32x32 of 0..255, grey.
    assert train.pixels.max() == 255
    assert torch.equal(train.pixels[..., 0], train.pixels[..., 2])
    digest = hashlib.sha256(train.targets.numpy().tobytes()).hexdigest()
    assert digest[:16] == "7ccd324319b54677"


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Small files of CIFAR-10's form in tmp_path, with torchvision expecting their md5 sums."""
    sums = json.loads(make_cifar(tmp_path, "cifar10", per_class=10, test_per_class=3))
    reader = CIFAR10
    for key in ("train_list", "test_list"):
        monkeypatch.setattr(reader, key, [[name, sums[name]] for name, _ in getattr(reader, key)])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": sums["batches.meta"]})
    monkeypatch.setattr(reader, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    return tmp_path


def test_cifar_is_read_as_torchvision_reads_it(cifar):
    data = small_sets.read_cifar("cifar10", str(cifar), train=True)
    theirs = CIFAR10(str(cifar), train=True)
    assert data.class_names == theirs.classes
    assert data.pixels.shape == (100, 32, 32, 3)
    assert data.pixels.is_contiguous()
    for i in range(3):
        image, label = theirs[i]
        assert np.array_equal(data.pixels[i].numpy(), np.asarray(image))
        assert data.targets[i] == label


def test_cifar_is_found_in_the_published_folder(cifar, tmp_path, monkeypatch):
    (tmp_path / "cifar-10").mkdir()
    (cifar / "cifar-10-batches-py").rename(tmp_path / "cifar-10" / "cifar-10-batches-py")
    (tmp_path / "code").mkdir()
    monkeypatch.chdir(tmp_path / "code")
    assert len(small_sets.read_cifar("cifar10", "data", train=False).targets) == 30
    assert not (tmp_path / "code" / "data").exists()


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_damaged_cifar_files_are_named_and_kept(cifar, damage):
    path = cifar / "cifar-10-batches-py" / "data_batch_2"
    raw = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(raw[: len(raw) // 2])
    else:
        raw[-100] ^= 1
        path.write_bytes(raw)
    before = sorted((p, p.stat().st_size) for p in cifar.rglob("*"))
    said = wrong(small_sets.read_cifar, "cifar10", str(cifar), train=True)
    assert f"{path} is {'missing' if damage == 'gone' else 'damaged'}" in said
    assert sorted((p, p.stat().st_size) for p in cifar.rglob("*")) == before


def test_a_good_archive_is_unpacked_and_a_damaged_one_is_named(cifar, monkeypatch):
    archive = cifar / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(cifar / "cifar-10-batches-py", "cifar-10-batches-py")
    (cifar / "cifar-10-batches-py").rename(cifar / "elsewhere")
    assert "cifar-10-python.tar.gz is damaged" in wrong(small_sets.read_cifar, "cifar10", str(cifar), train=True)
    right = {archive.name: hashlib.sha256(archive.read_bytes()).hexdigest()}
    monkeypatch.setattr(small_sets, "SHA256", right)
    assert len(small_sets.read_cifar("cifar10", str(cifar), train=True).targets) == 100


def test_an_archive_cannot_write_outside_its_folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    archive = folder / "x.tar"
    (tmp_path / "file").write_text("content")
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "file", "../outside")
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert "was not unpacked" in wrong(archives.unpack, archive, sha256, folder)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["data", "file", "x.tar"]
    with tarfile.open(archive) as tar:  # the control
        tar.extractall(folder, filter="fully_trusted")
    assert (tmp_path / "outside").exists()


def test_a_download_that_fails_leaves_no_folder(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fail)
    wrong(small_sets.read_cifar, "cifar10", str(tmp_path / "slip"), train=True)
    assert not (tmp_path / "slip").exists()


def test_missing_cifar_without_a_network_says_where_it_looked(tmp_path, cifar):
    said = wrong(small_sets.read_cifar, "cifar10", str(tmp_path / "nothing"), train=True)
    for word in ("cifar-10-batches-py", "../cifar-10", "--data_root", "downloading it failed", "cifar-10-python.tar.gz"):
        assert word in said


def test_unknown_names_are_refused():
    assert "mnist" in wrong(small_sets.read_images, "mnist", "", train=True)
