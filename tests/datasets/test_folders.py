"""Which files of a folder are images, class by class, and which folders are splits."""

import os
import unicodedata

import pytest
from PIL import Image
from support.refusals import wrong

from datasets import pictures
from datasets.folders import class_folders, read_layout
from datasets.pictures import decode


def picture(path, colour=(200, 100, 50), size=(40, 24), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path, **options)


@pytest.fixture
def tree(tmp_path):
    for name in ("b", "a"):
        for i in (2, 0, 1):
            picture(tmp_path / name / f"{i}.png")
    return tmp_path


def test_files_come_class_by_class_from_any_depth_in_alphabetical_order(tree):
    picture(tree / "a" / "deep" / "er" / "x.jpg")
    (tree / "c").mkdir()
    (tree / "file").touch()
    found = class_folders(tree, None, "")
    assert found.paths == ["a/0.png", "a/1.png", "a/2.png", "a/deep/er/x.jpg", "b/0.png", "b/1.png", "b/2.png"]
    assert found.labels == [0] * 4 + [1] * 3
    assert found.class_names == ["a", "b"]
    assert found.notes(tree) == [f"{tree}: folders without an image, which are no classes: c"]


def test_classes_that_are_known_may_be_missing_but_there_may_be_no_new_ones(tree):
    assert class_folders(tree, ["0", "b", "a"], "").labels == [2] * 3 + [1] * 3
    said = wrong(class_folders, tree, ["0", "c"], "")
    assert said == (f"{tree}/a, {tree}/b: no such classes in the training set, which has 0, c: rename or move away")


@pytest.mark.parametrize("own", [" Café ", "CAFÉ", unicodedata.normalize("NFD", "café")])
def test_names_that_are_easily_mistaken_are_one_class(tmp_path, own):
    picture(tmp_path / own / "0.png")
    assert class_folders(tmp_path, ["bar", "café"], "").labels == [1]
    assert "no such class in the training set" in wrong(class_folders, tmp_path, ["café", "CAFE\u0301", "bar"], "") or (
        own in ("café", "CAFE\u0301")  # the control: where two classes differ in such things alone, names are as they are
    )
    picture(tmp_path / "café" / "0.png")
    assert "one class of the training set: join them" in wrong(class_folders, tmp_path, ["bar", "café"], "")


def test_folders_of_systems_and_our_own_are_no_classes_wherever_they_lie(tree):
    ours = [("checkpoint", "ours/x.png"), ("feature_cache", "x.png"), ("report", "report.html")]
    for name, inside in (*ours, ("__MACOSX", "x.png"), ("a/@eaDir", "x.png"), ("$RECYCLE.BIN", "x.png")):
        picture(tree / name / "y.png")
        picture(tree / name / "z.png") if inside == "x.png" else (tree / name / inside).mkdir(parents=True)
    found = class_folders(tree, None, "")
    assert (found.class_names, len(found.paths)) == (["a", "b"], 6)
    assert found.notes(tree) == [f"{tree}: files left out: 6 folders of the system or of this program"]
    for name in ("checkpoint", "report"):  # the control: classes of these names
        picture(tree / "c" / name / "0.png")
    assert class_folders(tree / "c", None, "").class_names == ["checkpoint", "report"]


def put(root, *places):
    for place in places:
        picture(root / place / "0.png") if not place.endswith(".png") else picture(root / place)


LAYOUTS = [  # folders, the splits' places: train, val, test, meta
    (["cat", "dog"], ("", None, None, None)),
    (["train/cat", "test/cat"], ("train", None, "test", None)),
    (["Training/cat", "Testing/cat"], ("Training", None, "Testing", None)),
    (["TRAIN/cat", "valid/cat", "Test/cat", "meta/cat"], ("TRAIN", "valid", "Test", "meta")),
    (["train/cat", "validation/cat", "docs"], ("train", "validation", None, None)),
    (["train", "car", "bus"], ("", None, None, None)),  # a class among others
    (["train/old", "car", "bus"], ("", None, None, None)),
    (["train", "test"], ("", None, None, None)),
    (["train/cat", "test/0.png"], ("train", None, None, None)),  # without labels
    (["train/cat", "test/0.png", "val/cat"], ("train", "val", None, None)),
    (["train/cat"], ("train", None, None, None)),
    (["Val/cat"], ("train", "Val", None, None)),  # for tests alone
    (["val/cat", "car"], ("", None, None, None)),
]


@pytest.mark.parametrize(("places", "wanted"), LAYOUTS)
def test_splits_are_known_by_their_names_where_they_hold_classes(tmp_path, places, wanted):
    put(tmp_path, *places)
    found = read_layout(tmp_path)
    assert found[:4] == tuple(None if place is None else tmp_path / place for place in wanted)
    notes = [f"{tmp_path}: folders that are no splits, and not used: docs"] if "docs" in places else []
    if "test/0.png" in places:
        notes = [f"{tmp_path}/test has no class folders, so that nothing says what is on its images: it is not used "
                 "(name them by predict.py)"]  # fmt: skip
    assert [*found.notes] == notes


def test_two_folders_for_one_split_are_refused(tmp_path):
    put(tmp_path, "train/cat", "val/cat", "valid/cat")
    assert "holds val and valid, which both mean val: move one away" in wrong(read_layout, tmp_path)


def test_what_is_left_out_is_counted_by_reason(tree):
    for name in ("notes.txt", ".hidden.png", "README", "deep/.git/x.png"):
        (tree / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / "a" / name).write_text("x")
    (tree / "a" / "plan.pdf").write_text("Pillow writes this form, it does not read it")
    (tree / "a" / "0.png").rename(tree / "a" / "picture")  # an image without an ending
    (tree / "b" / "3.nef").touch()
    (tree / "b" / "gone.png").symlink_to(tree / "nowhere.png")
    (tree / "b" / "loop").symlink_to(tree / "b")
    picture(tree / "beside.png")
    for name in ("list.txt", ".DS_Store"):
        (tree / name).touch()
    (tree / ".git").mkdir()
    found = class_folders(tree, None, "")
    assert (len(found.paths), sum(found.left_out.values())) == (6, 9)
    assert "a/picture" in found.paths
    assert found.notes(tree) == [
        f"{tree}: files left out: 1 .nef file, 1 .pdf file, 1 .txt file, 2 hidden, 1 in no class folder, "
        "1 link to a folder above, 1 link to nothing, 1 not an image"
    ]


def test_links_are_followed(tree, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    picture(elsewhere / "deep" / "x.png")
    (tree / "a" / "more").symlink_to(elsewhere)
    (tree / "c").symlink_to(elsewhere / "deep")
    found = class_folders(tree, None, "")
    assert found.paths == [
        *(f"a/{i}.png" for i in range(3)),
        "a/more/deep/x.png",
        *(f"b/{i}.png" for i in range(3)),
        "c/x.png",
    ]
    assert found.notes(tree) == []


def test_classes_that_are_one_folder_are_said(tree):
    (tree / "c").symlink_to(tree / "a")
    found = class_folders(tree, None, "")
    assert found.labels == [0] * 3 + [1] * 3 + [2] * 3
    assert found.notes(tree) == [f"{tree}: the classes a and c are one folder, by a link"]


def test_classes_keep_their_order_whatever_sorts_before_a_slash(tmp_path):
    for name in ("a", "a b", "a!"):
        picture(tmp_path / name / "0.png")
    found = class_folders(tmp_path, None, "")
    assert (found.paths, found.labels) == (["a/0.png", "a b/0.png", "a!/0.png"], [0, 1, 2])


def test_nothing_that_has_an_ending_is_opened(tree, monkeypatch):
    """A look at a million files takes long."""
    monkeypatch.setattr(pictures.Image, "open", None)
    monkeypatch.setattr("builtins.open", None)
    assert len(class_folders(tree, None, "").paths) == 6


def test_what_is_no_regular_file_is_counted_and_never_opened(tree):
    """A pipe that is opened is waited for without end."""
    os.mkfifo(tree / "a" / "p.png")
    os.mkfifo(tree / "a" / "no_ending")
    os.mkfifo(tree / "beside.png")
    (tree / "b" / "null.jpg").symlink_to(os.devnull)
    found = class_folders(tree, None, "")
    assert len(found.paths) == 6
    assert found.notes(tree) == [f"{tree}: files left out: 3 not regular files"]
    for path in (tree / "a/p.png", os.devnull):
        assert f"{path} is a pipe, socket or device, not an image file" in wrong(decode, path, True)
    assert f"{tree}/a is a folder, not an image file" in wrong(decode, tree / "a", True)


def test_folders_are_read_at_any_depth(tree, nest):
    """More of them than Python's functions may call one another."""
    nest(tree / "a", "d", 1050)
    picture(tree / "x.png")
    os.rename(tree / "x.png", "x.png")
    paths = class_folders(tree, None, "").paths
    assert "a/" + 1050 * "d/" + "x.png" in paths
    assert len(paths) == 7


def test_a_path_that_is_too_long_is_named_in_one_line(tree, nest):
    nest(tree / "a", 200 * "d", 25)
    assert "cannot be read (File name too long): advice" in wrong(class_folders, tree, None, "advice")
    assert "cannot be read (File name too long)" in wrong(decode, tree / ("d" * 5000), True)


def test_folders_that_are_missing_or_hold_no_image_are_named_with_advice(tmp_path):
    said = wrong(class_folders, tmp_path / "no", None, "put it there")
    assert said == f"{tmp_path}/no cannot be read (No such file or directory): put it there"
    (tmp_path / "empty" / "a").mkdir(parents=True)
    said = wrong(class_folders, tmp_path / "empty", None, "put it there")
    assert said == f"{tmp_path}/empty holds no image in a format that can be read: put it there"


def test_of_many_endings_the_most_frequent_are_counted(tree):
    for k in range(7):
        for i in range(k + 1):
            (tree / "a" / f"{i}.x{k}").touch()
    assert class_folders(tree, None, "").notes(tree) == [
        f"{tree}: files left out: 3 .x2 files, 4 .x3 files, 5 .x4 files, 6 .x5 files, 7 .x6 files, 3 other files"
    ]
