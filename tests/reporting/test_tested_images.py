"""The test images of finished runs: found again, the right ones, or none and why."""

import base64
import json
import shutil
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from support.data import make_cifar
from support.made_runs import outcome_run
from support.own import FLAGS, write_photos

import reporting.tested_images
from data_utils import build_dataset
from datasets.image_lists import ImageList, read_list, read_tree, write_list
from datasets.small_sets import read_digits, read_images
from reporting.finished_runs import read_runs
from reporting.tested_images import LONGER_SIDE, thumbnails

NAMES = ["Bär ä", "b <i>", "c\u202e"]  # the last turns what follows it around
ODD = ["a b.png", "$x$.png", "é|.png", "<b>.png"]


def opened(picture):
    """The pixels of a thumbnail, and the format that its address says."""
    head, _, content = picture.uri.partition(",")
    with Image.open(BytesIO(base64.b64decode(content))) as image:
        assert (image.size, head) == ((picture.width, picture.height), f"data:image/{image.format.lower()};base64")
        assert not image.getexif()
        return np.asarray(image.convert("RGB")), image.format


def noise(seed, size=(32, 32)):
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def write_folder(root):
    """Class folders train and test of small images of noise, with odd names."""
    for part, counts in (("train", (6, 5, 4)), ("test", (4, 3, 2))):
        for k, (name, count) in enumerate(zip(NAMES, counts, strict=True)):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                file = root / part / name / f"{i}{ODD[i % 4]}"
                Image.fromarray(noise(100 * k + i + 1000 * (part == "test"))).save(file)


def folder_run(work, **more):
    """A run on the folder `work / "my"`, which began in `work` with --data_root my."""
    flags = {"dataset": "folder", "data_root": "my", "workdir": ".", "idx": "0", "num_meta": 2, "imb_factor": 0.5, **more}
    data = build_dataset("folder", 2, 0.5, str(work / "my"), skip_bad=flags.get("skip_bad", False))
    target = data.test.targets.numpy()
    return outcome_run(target, (target + 1) % 3, folder=work / "checkpoint" / "ours" / "0", flags=flags, data=data.digest(),
                       class_names=NAMES)  # fmt: skip


@pytest.fixture
def work(tmp_path):
    write_folder(tmp_path / "my")
    return tmp_path


def listed_run(images, root, **more):
    """A run on lists of which `images` are those tested on."""
    target, names = images.targets, images.class_names
    flags = {"dataset": "own", "data_root": str(root), "workdir": ".", "idx": "own", **more}
    return outcome_run(target, (target + 1) % len(names), flags=flags, classes=len(names), class_names=names,
                       **{"test list": images.digest(), "test images": images.content})  # fmt: skip


def write_photographs(folder, count=3):
    """One photograph a class, halves of two colours, taken with the camera on its side: 200 x 120 as it is stored."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    for k in range(count):
        (folder / str(k)).mkdir(parents=True)
        pixels = np.zeros((120, 200, 3), np.uint8)
        pixels[:, :100, 0], pixels[:, 100:, 2] = 250 - k, 250 - k
        Image.fromarray(pixels).save(folder / str(k) / "é $x$.jpg", exif=exif, quality=95)


def test_images_of_a_folder_wherever_the_report_is_made(work, monkeypatch, tmp_path_factory):
    run, expected = folder_run(work), read_images("folder", str(work / "my"), train=False)[0]
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    found = thumbnails(run, [8, 0, 4, 4])
    assert (sorted(found.pictures), found.reasons) == ([0, 4, 8], [])
    for index, picture in found.pictures.items():
        pixels, kind = opened(picture)
        assert kind == "PNG"
        assert np.array_equal(pixels, expected.pixels[index].numpy())
    assert [found.pictures[i].name for i in (0, 8)] == ["Bär ä/0a b.png", "c\\u202e/1$x$.png"]
    moved = replace(run, path=tmp_path_factory.mktemp("moved") / "a_summary.json")  # it does not tell where it was begun
    assert thumbnails(moved, [0]) == ({}, ["the test images of a are not below my any more"])
    monkeypatch.chdir(work)
    assert thumbnails(moved, [0]).pictures == {0: found.pictures[0]}


def test_no_image_where_labels_or_images_are_others(work):
    """The controls: labels shifted by one; an image exchanged with another of its class; images without a digest."""
    run = folder_run(work)
    assert list(thumbnails(run, [0]).pictures) == [0]
    shifted = replace(run, tested=run.tested._replace(target=np.roll(run.tested.target, 1)))
    assert thumbnails(shifted, [0]) == ({}, ["the test images of a have other labels now, or another order"])
    assert thumbnails(replace(run, tested=None), [0]) == ({}, ["a has no predictions of its test images"])
    silent = replace(run, summary={**run.summary, "data": None})
    assert "no digest of its images" in thumbnails(silent, [0]).reasons[0]
    first, second = sorted((work / "my" / "test" / NAMES[0]).iterdir())[:2]
    pixels = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(pixels)
    assert thumbnails(run, [0]) == ({}, [f"the images below {work / 'my'} are not those of a any more"])
    shutil.rmtree(work / "my")
    assert thumbnails(run, [0]) == ({}, ["the test images of a are not below my any more"])


def test_bad_images_that_were_left_out_shift_the_others(work):
    bad = sorted((work / "my" / "test" / NAMES[0]).iterdir())[0]
    bad.write_bytes(b"x")
    run = folder_run(work, skip_bad=True)
    found = thumbnails(run, [0])
    with Image.open(sorted((work / "my" / "test" / NAMES[0]).iterdir())[1]) as image:
        assert np.array_equal(opened(found.pictures[0])[0], np.asarray(image))
    assert found.pictures[0].name == "test image 0"  # which file it is is not known
    refusing = replace(run, summary={**run.summary, "flags": {**run.summary["flags"], "skip_bad": False}})
    assert f"{bad} (1 bytes) cannot be read" in thumbnails(refusing, [0]).reasons[0]


def test_a_folder_too_large_to_be_compared_is_not_read(work, monkeypatch):
    run = folder_run(work)
    monkeypatch.setattr(reporting.tested_images, "MOST_BYTES", 1000)
    monkeypatch.setattr(reporting.tested_images, "build_dataset", None)
    assert "too many to tell" in thumbnails(run, [0]).reasons[0]


def test_digits():
    digits = read_digits(train=False)
    target = digits.targets.numpy()
    run = outcome_run(target, target, flags={"dataset": "digits", "data_root": "data"})
    found = thumbnails(run, [7, 539])
    assert [np.array_equal(opened(p)[0], digits.pixels[i].numpy()) for i, p in found.pictures.items()] == [True, True]
    assert (found.pictures[7].name, found.reasons) == ("test image 7", [])
    assert thumbnails(replace(run, tested=run.tested._replace(target=run.tested.target[1:])), [7]).pictures == {}


def test_cifar_is_read_where_it_is_and_never_fetched(tmp_path, monkeypatch):
    from torchvision import datasets

    reader = datasets.CIFAR10
    sums = json.loads(make_cifar(tmp_path / "data", "cifar10", per_class=5, test_per_class=2))
    for key in ("train_list", "test_list"):
        monkeypatch.setattr(reader, key, [[name, sums[name]] for name, _ in getattr(reader, key)])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": sums["batches.meta"]})
    monkeypatch.setattr("datasets.small_sets.fetch", None)
    monkeypatch.chdir(tmp_path)
    data = reader("data", train=False)
    run = outcome_run(data.targets, data.targets, flags={"dataset": "cifar10", "data_root": "data"}, classes=10)
    assert np.array_equal(opened(thumbnails(run, [3]).pictures[3])[0], data.data[3])
    batch = tmp_path / "data" / "cifar-10-batches-py" / "test_batch"
    batch.write_bytes(batch.read_bytes()[:-1])
    assert "is damaged or was changed" in thumbnails(run, [3]).reasons[0]
    shutil.rmtree(tmp_path / "data")
    assert thumbnails(run, [3]) == ({}, ["the test images of a are not below data any more"])


def test_photographs_are_shrunk_and_as_upright_as_in_training(tmp_path):
    write_photographs(tmp_path / "my" / "val")
    write_photographs(tmp_path / "my" / "train")
    run = listed_run(read_tree(tmp_path / "my" / "val", None), tmp_path / "my")
    (picture,) = thumbnails(run, [1]).pictures.values()
    pixels, kind = opened(picture)
    assert (kind, picture.name) == ("JPEG", "1/é $x$.jpg")
    assert (picture.height, picture.width) == (LONGER_SIDE, round(LONGER_SIDE * 120 / 200))
    assert (pixels[:40, :, 0].min() > 200, pixels[-40:, :, 2].min() > 200) == (True, True)  # red above, blue below
    flags = {"dataset": "own", "data_root": str(tmp_path / "my" / "val"), "val_list": str(tmp_path / "x.txt")}
    write_list(tmp_path / "x.txt", read_tree(tmp_path / "my" / "val", None))
    listed = replace(run, summary={**run.summary, "flags": flags})
    assert thumbnails(listed, [1]).pictures == {1: picture}


def test_train_own_tests_on_the_folder_test_beside_val_and_train_on_val(tmp_path):
    for part in ("train", "val", "test"):
        write_photographs(tmp_path / part)
        Image.fromarray(noise(1)).save(tmp_path / part / "0" / f"{part}.png")
    for part, dataset in (("test", "own"), ("test", "custom")):
        found = thumbnails(listed_run(read_tree(tmp_path / part, None), tmp_path, dataset=dataset), [0])
        assert found.pictures[0].name == f"0/{part}.png"


def test_photographs_of_the_published_sets_are_as_they_are_stored(tmp_path, monkeypatch):
    write_photographs(tmp_path / "my")
    images = read_tree(tmp_path / "my", None)
    monkeypatch.setattr(reporting.tested_images, "read_test", lambda *_: images)
    (picture,) = thumbnails(listed_run(images, tmp_path / "my", dataset="ImageNet_LT"), [1]).pictures.values()
    assert (picture.width, picture.height) == (LONGER_SIDE, round(LONGER_SIDE * 120 / 200))


def test_one_file_that_is_lost_meanwhile_is_a_reason_and_its_run_is_read_once(tmp_path, monkeypatch):
    write_photographs(tmp_path / "my" / "val")
    run, known = listed_run(read_tree(tmp_path / "my" / "val", None), tmp_path / "my"), {}
    assert sorted(thumbnails(run, [0], known).pictures) == [0]
    lost = tmp_path / "my" / "val" / "1" / "é $x$.jpg"
    lost.write_bytes(b"x")
    monkeypatch.setattr(reporting.tested_images, "tested_list", None)  # it is not made again
    found = thumbnails(replace(run, name="b"), [0, 1, 2], known)
    assert (sorted(found.pictures), len(found.reasons)) == ([0, 2], 1)
    assert f"{lost} (1 bytes) cannot be read" in found.reasons[0]
    monkeypatch.undo()
    assert "are not those that a was tested on" in thumbnails(run, [0]).reasons[0]  # afresh: it has another content


def test_images_under_other_names_are_not_taken_for_the_same(tmp_path):
    write_photographs(tmp_path / "val")
    run = listed_run(read_tree(tmp_path / "val", None), tmp_path)
    assert list(thumbnails(run, [0]).pictures) == [0]
    (tmp_path / "val" / "1" / "é $x$.jpg").rename(tmp_path / "val" / "1" / "z.jpg")
    assert thumbnails(run, [0]).reasons == [f"the images below {tmp_path} are not those that a was tested on"]


def test_a_strangers_summary_shows_no_file_whose_content_it_does_not_know(tmp_path):
    """A list beside the summary may name any file; only with a digest of its content is it one of the run's."""
    secret = tmp_path / "private" / "x.png"
    secret.parent.mkdir()
    Image.fromarray(noise(1)).save(secret)
    images = ImageList(tmp_path / "private", ["x.png", "x.png"], np.array([0, 1]), ["0", "1"], "a list")
    write_list(tmp_path / "a_val.txt", images)
    own = listed_run(images, tmp_path / "private", val_fraction=0.5)
    own = replace(own, path=tmp_path / "a_summary.json")
    assert list(thumbnails(own, [0]).pictures) == [0]  # with the digest of its content
    for content in (None, "2 files of 1 bytes (0)"):
        guessed = replace(own, summary={**own.summary, "test images": content})
        assert thumbnails(guessed, [0]).pictures == {}
    (tmp_path / "a_val.txt").write_text(f"../{tmp_path.name}/private/x.png 0\n/etc/x.png 1\n")
    assert "lies outside" in thumbnails(own, [0]).reasons[0]


@pytest.mark.parametrize("flags", [
    {}, {"dataset": "own"}, {"dataset": "own", "data_root": 3}, {"dataset": "cifar10", "data_root": "x\0"},
    {"dataset": "folder", "data_root": "my", "num_meta": "x"}, {"dataset": "own", "data_root": "my", "val_list": True},
    {"dataset": 5, "data_root": "my"}, {"dataset": "own", "data_root": "x" * 5000}, {"dataset": "own", "data_root": "my",
    "workdir": 3}, {"dataset": "iNaturalist17", "data_root": "my"}, {"dataset": "own", "features": "x.npz"},
])  # fmt: skip
def test_odd_flags_are_a_reason_and_no_error(flags, work, monkeypatch):
    monkeypatch.chdir(work)
    more = {"data": "0", "test list": "0", "test images": "0"}
    found = thumbnails(outcome_run([0, 1], [1, 0], flags=flags, classes=3, class_names=NAMES, **more), [0])
    assert found.pictures == {}
    assert len(found.reasons) == 1
    assert found.reasons[0].isprintable()


def test_a_run_of_train_own_whose_test_images_were_drawn(run, tmp_path):
    write_photos(tmp_path)
    run("train_own.py", *FLAGS, "--epochs", 1)
    (drawn,) = read_runs([tmp_path])
    lists = read_list(drawn.path.with_name("head_val.txt"), tmp_path / "photos", 4)
    found = thumbnails(drawn, range(len(lists)))
    assert (len(found.pictures), found.reasons) == (7, [])
    assert [found.pictures[i].name for i in range(7)] == lists.paths
    with Image.open(tmp_path / "photos" / lists.paths[0]) as image:
        shown, own = np.asarray(opened(found.pictures[0])[0], dtype=float), np.asarray(image, dtype=float)
        assert np.abs(shown.mean((0, 1)) - own.mean((0, 1))).max() < 3
    drawn.path.with_name("head_val.txt").unlink()
    assert "head_val.txt is not there" in thumbnails(drawn, [0]).reasons[0]
