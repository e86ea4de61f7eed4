"""Which files of a folder are images, class by class, and which folders are splits."""

import os
import unicodedata
from types import SimpleNamespace

import pytest
from PIL import Image
from support.refusals import wrong

from datasets.folders import read_layout
from datasets.image_lists import read_tree
from datasets.pictures import decode


def class_folders(folder, class_names, advice):
    found = read_tree(folder, class_names, None, advice)
    return SimpleNamespace(paths=found.paths, labels=found.targets.tolist(), notes=[*found.notes],
                           class_names=found.class_names)  # fmt: skip


def put(root, *places):
    """Write images at these places, in those that are folders one called 0.png."""
    for place in places:
        path = root / place if place.endswith((".png", ".jpg")) else root / place / "0.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 24), (200, 100, 50)).save(path)


@pytest.fixture
def tree(tmp_path):
    put(tmp_path, *(f"{name}/{i}.png" for name in "ba" for i in (2, 0, 1)))
    return tmp_path


SIX = [f"{name}/{i}.png" for name in "ab" for i in range(3)]


def test_files_come_class_by_class_from_any_depth_in_alphabetical_order(tree):
    put(tree, "a/deep/er/x.jpg")
    (tree / "c").mkdir()
    found = class_folders(tree, None, "")
    assert (found.paths, found.labels) == ([*SIX[:3], "a/deep/er/x.jpg", *SIX[3:]], [0] * 4 + [1] * 3)
    assert found.class_names == ["a", "b"]
    notes = ["7 images of 2 classes, a, b", "folders without an image, which are no classes: c"]
    assert found.notes == [f"{tree}: {note}" for note in notes]
    put(tree, "a b", "a!")  # a blank sorts before a slash
    assert class_folders(tree, None, "").class_names == ["a", "a b", "a!", "b"]
    assert class_folders(tree, None, "").labels == [0] * 4 + [1, 2] + [3] * 3


def test_classes_that_are_known_may_be_missing_but_there_may_be_no_new_ones(tree):
    assert class_folders(tree, ["0", "b", "a"], "").labels == [2] * 3 + [1] * 3
    said = wrong(class_folders, tree, ["0", "b"], "")
    assert said.startswith(f"{tree} has classes that the training set does not have: 'a'; name them as there (0, b)")


@pytest.mark.parametrize("own", [" Café ", "CAFÉ", unicodedata.normalize("NFD", "café")])
def test_names_that_are_easily_mistaken_are_one_class(tmp_path, own):
    put(tmp_path, own)
    assert class_folders(tmp_path, ["bar", "café"], "").labels == [1]
    assert "does not have" in wrong(class_folders, tmp_path, ["bar", "café ", "Café"], "")  # where classes differ by that
    put(tmp_path, "café")
    assert class_folders(tmp_path, ["bar", "café"], "").labels == [1, 1]


def test_folders_of_systems_and_our_own_are_no_classes_wherever_they_lie(tree):
    put(tree, "checkpoint", "checkpoint/ours", "feature_cache", "__MACOSX", "a/@eaDir", "$RECYCLE.BIN", "report")
    (tree / "report" / "report.html").touch()
    (tree / "b" / "loop").symlink_to(tree / "b")
    found = class_folders(tree, None, "")
    assert found.paths == SIX
    assert "7 folders of the system or of this program, or links to a folder above" in found.notes[0]
    put(tree, "c/checkpoint", "c/report")  # the control: classes of these names
    assert class_folders(tree / "c", None, "").class_names == ["checkpoint", "report"]


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
        notes = [f"{tmp_path}/test has no class folders to say what is on its images: it is not used"]
    assert [*found.notes] == notes


def test_two_folders_for_one_split_are_refused(tmp_path):
    put(tmp_path, "train/cat", "val/cat", "valid/cat")
    assert "holds val and valid, which both mean val: move one away" in wrong(read_layout, tmp_path)


def test_what_is_left_out_is_counted_by_kind_and_never_opened(tree, monkeypatch):
    """A pipe that is opened is waited for without end, and a look at a million files takes long."""
    for name in ("notes.txt", "more.txt", ".hidden.png", "README", "plan.pdf"):
        (tree / "a" / name).write_text("x")
    put(tree, "a/deep/.git/x.png", "beside.png")
    (tree / "b" / "gone.png").symlink_to(tree / "nowhere.png")
    (tree / "b" / "null.jpg").symlink_to(os.devnull)
    os.mkfifo(tree / "a" / "p.png")
    with monkeypatch.context() as patch:
        patch.setattr("PIL.Image.open", None)
        patch.setattr("builtins.open", None)
        found = class_folders(tree, None, "")
    assert found.paths == SIX
    assert sorted(found.notes[0].removeprefix(f"{tree}: files left out: ").split(", ")) == [
        "1 .jpg", "1 .pdf", "1 hidden", "1 images in no class folder", "1 without an ending", "2 .png", "2 .txt",
    ]  # fmt: skip
    for path in (tree / "a/p.png", os.devnull, tree / "a"):
        assert f"{path} is not an image file" in wrong(decode, path, True)


def test_links_are_followed(tree, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    put(elsewhere, "deep/x.png")
    (tree / "a" / "more").symlink_to(elsewhere)
    (tree / "c").symlink_to(elsewhere / "deep")
    found = class_folders(tree, None, "")
    assert found.paths == [*SIX[:3], "a/more/deep/x.png", *SIX[3:], "c/x.png"]
    assert found.notes == [f"{tree}: 8 images of 3 classes, a, b, c"]


def test_what_cannot_be_read_or_holds_no_image_is_named_with_advice(tree, nest):
    said = wrong(class_folders, tree / "no", None, "put it there")
    assert said == f"{tree}/no cannot be read (No such file or directory): put it there"
    (tree / "empty" / "a").mkdir(parents=True)
    said = wrong(class_folders, tree / "empty", None, "put it there")
    assert said == f"{tree}/empty holds no class folder with an image that can be read: put it there"
    nest(tree / "a", 200 * "d", 25)
    assert "cannot be read (File name too long): advice" in wrong(class_folders, tree, None, "advice")
