"""Which files of a folder are images, class by class, and which folders are splits."""

import os
import unicodedata

import pytest
from support.image_lists import write
from support.refusals import wrong

from datasets.folders import read_layout
from datasets.image_lists import read_tree
from datasets.pictures import decode


def put(root, *places):
    """Write files at these places, in those without an ending one called 0.png; none is opened, so none holds an image."""
    for place in places:
        write(root / place if "." in place else root / place / "0.png")


@pytest.fixture
def tree(tmp_path):
    put(tmp_path, *(f"{name}/{i}.png" for name in "ba" for i in (2, 0, 1)))
    return tmp_path


SIX = [f"{name}/{i}.png" for name in "ab" for i in range(3)]


def test_files_come_class_by_class_from_any_depth_in_alphabetical_order(tree, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    put(elsewhere, "y.png")
    put(tree, "a/deep/er/x.jpg", "a b", "a!")  # a blank sorts before a slash
    (tree / "c").mkdir()
    (tree / "b" / "more").symlink_to(elsewhere)
    found = read_tree(tree, None)
    assert found.paths == [*SIX[:3], "a/deep/er/x.jpg", "a b/0.png", "a!/0.png", *SIX[3:], "b/more/y.png"]
    assert (found.targets.tolist(), found.class_names) == ([0] * 4 + [1, 2] + [3] * 4, ["a", "a b", "a!", "b"])
    notes = ["10 images of 4 classes, a, a b, a!, b", "folders without an image, which are no classes: c"]
    assert [*found.notes] == [f"{tree}: {note}" for note in notes]


@pytest.mark.parametrize(
    ("own", "known", "wanted"),
    [
        (["a", "b"], ["0", "b", "a"], [2, 1]),  # some may be missing
        *(([name, "café"], ["bar", "café"], [1, 1]) for name in (" Café ", "CAFÉ", unicodedata.normalize("NFD", "café"))),
        (["Café", "café "], ["bar", "café ", "Café"], [2, 1]),  # where classes differ by that
        ([" café"], ["bar", "café ", "Café"], "' café'; rename them to match (bar, café , Café)"),
    ],
)
def test_classes_are_matched_by_name(tmp_path, own, known, wanted):
    put(tmp_path, *own)
    if isinstance(wanted, str):
        said = wrong(read_tree, tmp_path, known)
        assert said.startswith(f"{tmp_path} has classes that the training set does not have: {wanted}")
    else:
        assert sorted(read_tree(tmp_path, known).targets) == sorted(wanted)


def test_folders_of_systems_and_our_own_are_no_classes_wherever_they_lie(tree):
    put(tree, "checkpoint", "checkpoint/ours", "feature_cache", "__MACOSX", "a/@eaDir", "$RECYCLE.BIN/0.png",
        "report/report.html")
    (tree / "b" / "loop").symlink_to(tree / "b")
    found = read_tree(tree, None)
    assert found.paths == SIX
    put(tree, "c/checkpoint", "c/report")  # the control: classes of these names
    assert read_tree(tree / "c", None).class_names == ["checkpoint", "report"]


BARE = "test has no class folders to say what is on its images: it is not used"
LAYOUTS = [  # folders; which are for training, to choose on, for tests and the meta set
    ("cat dog", ["", None, None, None]),
    ("train/cat test/cat", ["train", None, "test", None]),
    ("TRAINING/cat valid/cat Testing/cat meta/cat", ["TRAINING", "valid", "Testing", "meta"]),
    ("train/cat validation/cat docs", ["train", "validation", None, None, "folders that are no splits, and not used: docs"]),
    ("train/old car bus", ["", None, None, None]),  # a class among others
    ("train/cat test/0.png", ["train", None, None, None, BARE]),
    ("train/cat test/0.png val/cat", ["train", "val", None, None, BARE]),
    ("Val/cat", ["train", "Val", None, None]),  # for tests alone
    ("val/cat car", ["", None, None, None]),
]


@pytest.mark.parametrize(("places", "wanted"), LAYOUTS)
def test_splits_are_known_by_their_names_where_they_hold_classes(tmp_path, places, wanted):
    put(tmp_path, *places.split())
    *found, notes = read_layout(tmp_path)
    assert found == [None if place is None else tmp_path / place for place in wanted[:4]]
    assert [note.removeprefix(f"{tmp_path}").lstrip("/: ") for note in notes] == wanted[4:]


def test_two_folders_for_one_split_are_refused(tmp_path):
    put(tmp_path, "train/cat", "val/cat", "valid/cat")
    assert "holds val and valid, which both mean val: move one away" in wrong(read_layout, tmp_path)


def test_what_is_left_out_is_counted_by_kind_and_never_opened(tree, monkeypatch):
    """A pipe that is opened is waited for without end, and a look at a million files takes long."""
    put(tree, "a/notes.txt", "a/more.txt", "a/.hidden.png", "a/plan.pdf", "a/deep/.git/x.png", "beside.png")
    (tree / "a/README").touch()
    (tree / "b/gone.png").symlink_to(tree / "nowhere.png")
    (tree / "b/null.jpg").symlink_to(os.devnull)
    os.mkfifo(tree / "a/p.png")
    with monkeypatch.context() as patch:
        patch.setattr("PIL.Image.open", None)
        patch.setattr("builtins.open", None)
        found = read_tree(tree, None)
    assert found.paths == SIX
    assert sorted(found.notes[0].removeprefix(f"{tree}: files left out: ").split(", ")) == [
        "1 .jpg", "1 .pdf", "1 hidden", "1 images in no class folder", "1 without an ending", "2 .png", "2 .txt",
    ]  # fmt: skip
    for path in (tree / "a/p.png", os.devnull, tree / "a"):
        assert f"{path} is not an image file" in wrong(decode, path, True)


def test_what_cannot_be_read_or_holds_no_image_is_named_with_advice(tree, nest):
    (tree / "empty" / "a").mkdir(parents=True)
    nest(tree / "a", 200 * "d", 25)
    for name, words in (
        ("no", "/no cannot be read (No such file or directory): do this"),
        ("empty", "/empty holds no class folder with an image that can be read: do this"),
        (".", "cannot be read (File name too long): do this"),
    ):
        assert words in wrong(read_tree, tree / name, None, advice="do this")
