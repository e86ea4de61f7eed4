"""Folders of images in any form, digits, and CIFAR's own files through torchvision."""

import hashlib
import tarfile
from urllib.error import URLError

import numpy as np
import pytest
import torch
from conftest import make_cifar
from PIL import Image
from torchvision import datasets

import archives
import image_sets
from errors import UserError


def picture(path, colour=(200, 100, 50), size=(40, 24), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path, **options)


@pytest.fixture
def tree(tmp_path):
    for split in ("train", "test"):
        for name in ("b", "a"):
            for i in range(3):
                picture(tmp_path / split / name / f"{i}.png")
    return tmp_path


def test_folder_reads_classes_in_alphabetical_order(tree):
    data, notes = image_sets.read_folder(tree / "train")
    assert data.class_names == ["a", "b"]
    assert data.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.pixels.shape == (6, 32, 32, 3)
    assert data.pixels[0, 5, 5].tolist() == [200, 100, 50]
    assert notes == []


@pytest.mark.parametrize(
    ("name", "mode", "size"),
    [
        ("x.jpg", "RGB", (500, 300)),
        ("x.JPEG", "L", (32, 32)),
        ("x.png", "RGBA", (8, 8)),
        ("x.png", "P", (33, 31)),
        ("x.png", "1", (64, 64)),
        ("x.webp", "RGB", (40, 40)),
        ("x.gif", "P", (40, 40)),
        ("x.bmp", "RGB", (1, 1)),
        ("x.tiff", "CMYK", (40, 40)),
        ("x with spaces é.png", "LA", (40, 40)),
    ],
)
def test_folder_reads_any_size_and_format(tree, name, mode, size):
    picture(tree / "train" / "a" / name, size=size, mode=mode)
    data, _ = image_sets.read_folder(tree / "train")
    assert data.pixels.shape == (7, 32, 32, 3)


def test_sixteen_bit_greys_are_scaled_not_cut(tmp_path):
    grey = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "x.png")
    ours = image_sets.read_image(tmp_path / "x.png")
    assert np.abs(ours[..., 0].astype(float) - grey / 257).max() <= 1
    assert (ours[..., 0] == ours[..., 2]).all()


@pytest.mark.parametrize(("mode", "top"), [("I", 255), ("I", 65535), ("I", 10**6), ("F", 1.0), ("F", 255.0)])
def test_greys_of_32_bits_keep_their_range(tmp_path, mode, top):
    values = np.linspace(0, top, 32 * 32).reshape(32, 32)
    Image.fromarray(values.astype(np.int32 if mode == "I" else np.float32)).save(tmp_path / "x.tiff")
    ours = image_sets.read_image(tmp_path / "x.tiff")[..., 0].astype(float)
    assert np.abs(ours - values / top * 255).max() <= 2


def test_images_without_an_ending_are_read(tree):
    (tree / "train" / "a" / "0.png").rename(tree / "train" / "a" / "picture")
    (tree / "train" / "a" / "README").write_text("no picture")
    data, notes = image_sets.read_folder(tree / "train")
    assert len(data.targets) == 6
    assert "1 files are not images" in notes[0]


def test_images_stand_upright(tmp_path):
    image = Image.new("RGB", (32, 32))
    image.paste((255, 255, 255), (0, 0, 32, 16))  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    image.save(tmp_path / "x.jpg", exif=exif, quality=95)
    ours = image_sets.read_image(tmp_path / "x.jpg")
    assert ours[-4:].mean() > 200 > 50 > ours[:4].mean()


def test_other_files_are_passed_over_and_counted(tree):
    (tree / "train" / "a" / "notes.txt").write_text("x")
    (tree / "train" / "a" / "plan.pdf").write_text("Pillow writes this form, it does not read it")
    (tree / "train" / "a" / ".hidden.png").write_text("x")
    (tree / "train" / ".git").mkdir()
    data, notes = image_sets.read_folder(tree / "train")
    assert len(data.targets) == 6
    assert notes == [f"{tree / 'train'}: 3 files are not images and were passed over"]


def test_a_test_folder_may_lack_classes_but_not_have_new_ones(tree):
    for path in (tree / "test" / "a").iterdir():
        path.unlink()
    (tree / "test" / "a").rmdir()
    data, _ = image_sets.read_folder(tree / "test", ["a", "b"])
    assert data.targets.tolist() == [1, 1, 1]
    picture(tree / "test" / "c" / "0.png")
    with pytest.raises(UserError, match=r"test/c is a class that the training set does not have"):
        image_sets.read_folder(tree / "test", ["a", "b"])


@pytest.mark.parametrize("content", [b"", b"no image at all", None])
def test_an_image_that_cannot_be_read_is_named(tree, content):
    path = tree / "train" / "a" / "bad.png"
    if content is None:  # cut in the middle
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
        content = path.read_bytes()[:5000]
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.png .*cannot be read as an image"):
        image_sets.read_folder(tree / "train")


def test_an_absurdly_large_image_is_refused(tree, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    picture(tree / "train" / "a" / "0.png", size=(40, 30))  # large, Pillow warns
    image_sets.read_folder(tree / "train")
    picture(tree / "train" / "a" / "0.png", size=(60, 60))  # more than twice the limit
    with pytest.raises(UserError, match=r"0\.png is absurdly large"):
        image_sets.read_folder(tree / "train")


def test_missing_folders_and_single_classes_are_refused(tmp_path):
    with pytest.raises(UserError, match="is not there"):
        image_sets.read_folder(tmp_path / "train")
    (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match="1 class folders"):
        image_sets.read_folder(tmp_path / "train")
    (tmp_path / "train" / "b").mkdir()
    with pytest.raises(UserError, match="no image"):
        image_sets.read_folder(tmp_path / "train")


def test_digits_are_the_scans_in_a_fixed_stratified_split():
    train, _ = image_sets.read_images("digits", "", train=True)
    test, _ = image_sets.read_images("digits", "", train=False)
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
    sums = make_cifar(tmp_path, "cifar10", per_class=10, test_per_class=3)
    reader = datasets.CIFAR10
    for key in ("train_list", "test_list"):
        monkeypatch.setattr(reader, key, [[name, sums[name]] for name, _ in getattr(reader, key)])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": sums["batches.meta"]})
    monkeypatch.setattr(reader, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    return tmp_path


def test_cifar_is_read_as_torchvision_reads_it(cifar):
    data = image_sets.read_cifar("cifar10", str(cifar), train=True)
    theirs = datasets.CIFAR10(str(cifar), train=True)
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
    assert len(image_sets.read_cifar("cifar10", "data", train=False).targets) == 30
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
    with pytest.raises(UserError, match=r"data_batch_2 is (missing|damaged)"):
        image_sets.read_cifar("cifar10", str(cifar), train=True)
    assert sorted((p, p.stat().st_size) for p in cifar.rglob("*")) == before


def test_a_good_archive_is_unpacked_and_a_damaged_one_is_named(cifar, monkeypatch):
    archive = cifar / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(cifar / "cifar-10-batches-py", "cifar-10-batches-py")
    (cifar / "cifar-10-batches-py").rename(cifar / "elsewhere")
    with pytest.raises(UserError, match=r"cifar-10-python\.tar\.gz is damaged"):
        image_sets.read_cifar("cifar10", str(cifar), train=True)
    right = {archive.name: hashlib.sha256(archive.read_bytes()).hexdigest()}
    monkeypatch.setattr(image_sets, "SHA256", right)
    assert len(image_sets.read_cifar("cifar10", str(cifar), train=True).targets) == 100


def test_an_archive_cannot_write_outside_its_folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    archive = folder / "x.tar"
    (tmp_path / "file").write_text("content")
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "file", "../outside")
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    with pytest.raises(UserError, match="was not unpacked"):
        archives.unpack(archive, sha256, folder)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["data", "file", "x.tar"]
    with tarfile.open(archive) as tar:  # the control
        tar.extractall(folder, filter="fully_trusted")
    assert (tmp_path / "outside").exists()


def test_a_download_that_fails_leaves_no_folder(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fail)
    with pytest.raises(UserError):
        image_sets.read_cifar("cifar10", str(tmp_path / "slip"), train=True)
    assert not (tmp_path / "slip").exists()


def test_missing_cifar_without_a_network_says_where_it_looked(tmp_path, cifar):
    with pytest.raises(UserError) as error:
        image_sets.read_cifar("cifar10", str(tmp_path / "nothing"), train=True)
    for word in ("cifar-10-batches-py", "../cifar-10", "--data_root", "downloading it failed", "cifar-10-python.tar.gz"):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="mnist"):
        image_sets.read_images("mnist", "", train=True)
