"""Lists of the large sets: every form that is read, every mistake that is named, and the script that fetches them."""

import json
import os
import shutil
import subprocess
import sys
from http.client import IncompleteRead

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.image_lists import read_sets
from support.refusals import wrong

from data import prepare_lists
from datasets.image_lists import read_inaturalist17, read_list, read_tree
from harness.errors import UserError

SCRIPT = "ImageNet_iNat/data/prepare_lists.py"


def attempt(call, *args):
    """What a call returns; None if it ends in one line. Any other error fails the test."""
    try:
        return call(*args)
    except UserError as error:
        said = str(error)
    assert len(said.splitlines()) == 1
    return None


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def listing(counts, prefix="x"):
    """A list of classes of these sizes, the classes mixed."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    return "".join(f"{prefix}/{i}.jpg {label}\n" for i, label in enumerate(labels))


def official(entries):
    """An official json of (file name, label), the annotations in another order than the images."""
    images = [{"id": 100 + i, "file_name": name, "width": 5} for i, (name, _) in enumerate(entries)]
    annotations = [{"id": i, "image_id": 100 + i, "category_id": label} for i, (_, label) in enumerate(entries)]
    return form(images, annotations[::-1])


def form(images, annotations):
    return json.dumps({"images": images, "annotations": annotations})


def official_counts(counts, prefix="x"):
    return official([(path, int(label)) for path, label in map(str.split, listing(counts, prefix).splitlines())])


def check_meta(meta, source, num_meta):
    """Against the published draw: one shuffle a class, in the order of the classes, of one generator seeded 6."""
    generator, drawn, classes = np.random.RandomState(6), [], len(source.class_names)
    for k in range(classes):
        places = [i for i, target in enumerate(source.targets) if target == k]
        generator.shuffle(places)
        drawn += places[:num_meta]
    assert meta.paths == [source.paths[i] for i in sorted(drawn)]
    assert np.bincount(meta.targets).tolist() == [num_meta] * classes


# Lists


def test_a_list_may_hold_spaces_tabs_both_line_ends_and_blank_lines_at_its_end(tmp_path):
    text = "\ufeffa/1 b.jpg 0\r\n a b\t 2\nx/../é\u2028.png 1\n./in.jpg -0\n\n \r\n"
    file = write(tmp_path / "l.txt", text)
    data = read_list(file, tmp_path, 4)
    assert data.paths == ["a/1 b.jpg", " a b", "é\u2028.png", "in.jpg"]
    assert (data.targets.tolist(), data.targets.dtype) == ([0, 2, 1, 0], np.int64)
    assert (data.root, data.class_names, data.source) == (tmp_path, ["0", "1", "2", "3"], str(file))
    part = data.subset(np.array([2, 0]))
    assert (len(data), len(part), part.paths, part.targets.tolist()) == (4, 2, [data.paths[2], data.paths[0]], [1, 0])
    # without a number of classes the largest label decides
    assert read_list(write(file, "a 4\nb 0\n"), tmp_path, None).class_names == list("01234")
    assert "line 2: label 48210393; labels count from 0" in wrong(read_list, write(file, "a 4\nb 48210393"), tmp_path, None)


FORM = "a list has one image a line, 'relative/path label'"
BAD_LINES = {
    FORM: ["a.jpg", "", "a.jpg,1", "a.jpg x1", "a.jpg 1.0", "a.jpg 1_0", "a.jpg ١", "a.jpg " + "9" * 30],
    "labels count from 0 and lie in [0, 3)": ["a.jpg 3", "a.jpg -1"],
}


@pytest.mark.parametrize(("line", "words"), [(line, words) for words, lines in BAD_LINES.items() for line in lines])
def test_bad_lines_are_named(tmp_path, line, words):
    file = write(tmp_path / "l.txt", f"good.jpg 0\n{line}\ngood.jpg 1\n")
    said = wrong(read_list, file, tmp_path / "images", 3)
    assert said.startswith(f"{file} line 2: ")
    assert words in said
    write(file, f"good.jpg 0\n{line}\n" + f"{line}\n" * 22 + "good.jpg 1\n")
    several = wrong(read_list, file, tmp_path / "images", 3)
    assert "3: " in several
    assert " and 3 more; " in several


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, " is not there: do this"), (b"", f" line 1: ''; {FORM}"), (b"\xff 1", " cannot be read as text")],
)
def test_a_list_that_cannot_be_read_is_named(tmp_path, content, words):
    file = tmp_path / "l.txt" if content is None else write(tmp_path / "l.txt", content)
    assert f"{file}{words}" in wrong(read_list, file, tmp_path, 3, "do this")
    assert "cannot be read as text" in wrong(read_list, tmp_path, tmp_path, 3)


pieces = ["..", "/", "a", " ", "\n", "\r", "\t", "\0", "\x85", "\u2028", "0", "1", "7", "-", ".", "\\", "é 1\n", " 2\n"]
pieced = st.lists(st.sampled_from(pieces), max_size=30).map("".join)


@settings(max_examples=50)
@given(st.one_of(st.binary(), st.one_of(st.text(), pieced).map(str.encode)))
def test_any_text_is_a_good_list_or_one_line(tmp_path_factory, content):
    file = write(tmp_path_factory.getbasetemp() / "any.txt", content)
    data = attempt(read_list, file, file.parent / "root", 5)
    if data is None:
        return
    assert len(data) == len(data.targets) > 0
    assert set(data.targets) <= set(range(5))


# Official jsons


def test_a_json_is_matched_by_image_id_else_by_order(tmp_path):
    file = tmp_path / "a.json"
    for content, paths, targets in (
        (official([("b/2.jpg", 2), ("a 1.jpg", 0), ("c.jpg", 1)]), ["b/2.jpg", "a 1.jpg", "c.jpg"], [2, 0, 1]),
        (form([{"file_name": "a"}, {"file_name": "b"}], [{"category_id": 2}, {"category_id": 1}]), ["a", "b"], [2, 1]),
    ):
        data = read_inaturalist17(write(file, content), tmp_path, 3)
        assert (data.paths, data.targets.tolist()) == (paths, targets)
        assert (data.root, data.class_names, data.source) == (tmp_path, ["0", "1", "2"], str(file))


A = {"id": 1, "file_name": "a"}
OF_A = {"image_id": 1, "category_id": 0}
NO_JSON, NONE = "is not an official JSON with annotations, or is damaged", "an image has no file_name, or no annotation with"
B = {"id": 2, "file_name": "b"}
BAD_JSONS = [
    *((text, NO_JSON) for text in ("{", "[" * 100_000, "[]", '{"images": []}', form([], []), form([{"id": 1}], [OF_A]))),
    (form([A, 7], [OF_A]), NO_JSON), (form([{"file_name": "a"}], [OF_A]), NO_JSON), (form([A], [{"image_id": 1}]), NO_JSON),
    (form([A], [OF_A, OF_A]), NONE), (form([A, A], [OF_A, OF_A | {"image_id": 2}]), NONE),
    *((form([A], [OF_A | {"category_id": label}]), NONE) for label in (True, 1.5, "1", None)),
    (form([A, B], [OF_A]), NO_JSON), (form([A, B], [OF_A, {"category_id": 0}]), NO_JSON),
    (form([A], [OF_A | {"image_id": 5}]), NO_JSON),
    (form([A | {"file_name": 7}], [OF_A]), NONE), (form([A | {"file_name": "\ud800"}], [OF_A]), NO_JSON),
    (form([A], [OF_A | {"category_id": 3}]), "image 1: label 3; labels count from 0 and lie in [0, 3)"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "words"), BAD_JSONS)
def test_a_bad_json_is_named(tmp_path, content, words):
    file = write(tmp_path / "train2017.json", content)
    said = wrong(read_inaturalist17, file, tmp_path / "images", 3)
    assert all(word in said for word in (str(file), words))


value = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.just([1]))
rows = st.lists(st.dictionaries(st.sampled_from(["id", "file_name", "image_id", "category_id"]), value), max_size=3)


@given(st.one_of(value, st.dictionaries(st.sampled_from(["images", "annotations"]), st.one_of(value, rows))))
def test_any_json_is_a_good_list_or_one_line(tmp_path_factory, content):
    file = write(tmp_path_factory.getbasetemp() / "any.json", json.dumps(content))
    data = attempt(read_inaturalist17, file, file.parent, 3)
    assert data is None or len(data) > 0


# Published sets


def published(folder, dataset, **counts):
    for part, sizes in counts.items():
        write(folder / f"{dataset}_{part}.txt", listing(sizes, part))
    return folder


def test_imagenet_and_inaturalist18_draw_their_meta_images_from_the_val_list(tmp_path):
    lists = published(tmp_path, "ImageNet_LT", train=[30, 7, 2], val=[20, 20, 20], test=[5, 6, 7])
    sets = read_sets("ImageNet_LT", "images", 10, num_classes=3, lists=lists)
    assert (sets.cls_num_list, len(sets.train), len(sets.test), sets.notes) == ([30, 7, 2], 39, 18, [])
    check_meta(sets.meta, read_list(lists / "ImageNet_LT_val.txt", "images", 3), 10)
    published(lists, "iNaturalist18", train=[30, 7, 1], val=[3, 3, 3])
    sets = read_sets("iNaturalist18", "images", 2, lists=lists)
    assert (sets.cls_num_list, len(sets.test)) == ([30, 7, 1], 9)
    check_meta(sets.meta, sets.test, 2)  # the val list is also the test set
    assert sets.notes == ["the meta images are also test images, as published"]


def test_inaturalist17_draws_from_the_training_set_and_leaves_them_there(tmp_path):
    lists, root = tmp_path / "lists", tmp_path / "images"
    write(lists / "train2017.json", official_counts([20, 7, 5], "t"))
    write(root / "val2017.json", official_counts([2, 2, 2], "v"))
    sets = read_sets("iNaturalist17", root, 5, lists=lists)
    assert (sets.cls_num_list, len(sets.train), len(sets.test)) == ([20, 7, 5], 32, 6)
    check_meta(sets.meta, sets.train, 5)
    assert sets.notes == ["the meta images are also training images, as published"]
    write(root / "train2017.json", "not this one, as there is one in the lists")
    assert read_sets("iNaturalist17", root, 5, lists=lists).cls_num_list == [20, 7, 5]
    published(lists, "iNaturalist17", train=[9, 9, 9], val=[1, 1, 1])
    assert read_sets("iNaturalist17", root, 5, lists=lists).cls_num_list == [9, 9, 9]


@pytest.mark.parametrize("dataset", ["ImageNet_LT", "iNaturalist18"])
def test_the_training_list_says_how_many_classes_a_published_set_has(tmp_path, dataset):
    lists = published(tmp_path, dataset, train=[9, 7, 3, 1, 1], val=[2] * 5, test=[1] * 5)
    for num_classes in (None, 5):
        sets = read_sets(dataset, "images", 2, num_classes=num_classes, lists=lists)
        assert (sets.cls_num_list, len(sets.test.class_names)) == ([9, 7, 3, 1, 1], 5)
    said = wrong(read_sets, dataset, "images", 2, num_classes=1000, lists=lists)
    assert f"--num_classes 1000 contradicts {lists}/{dataset}_train.txt, which has 5 classes" in said
    write(lists / f"{dataset}_val.txt", "a 5\n")  # the other lists must be of the same part
    said = wrong(read_sets, dataset, "images", 2, lists=lists)
    assert f"{dataset}_val.txt line 1: label 5; labels count from 0 and lie in [0, 5)" in said


def test_missing_lists_say_where_they_were_looked_for_and_how_to_get_them(tmp_path):
    for dataset in ("ImageNet_LT", "iNaturalist18"):
        said = wrong(read_sets, dataset, tmp_path, 2, lists=tmp_path)
        assert f"{tmp_path}/{dataset}_train.txt is not there" in said
        assert f"python3 data/prepare_lists.py {dataset} inside ImageNet_iNat" in said
    said = wrong(read_sets, "iNaturalist17", tmp_path / "b", 2, lists=tmp_path / "a")
    assert f"{tmp_path}/a/iNaturalist17_train.txt is not there" in said
    assert f"or put train2017.json into {tmp_path}/b" in said


def test_classes_that_are_too_small_are_named(tmp_path):
    lists = published(tmp_path, "iNaturalist18", train=[30, 0, 1], val=[3, 2, 3])
    for num_meta, words in (
        (3, f"class 1 has 2 images in {lists}/iNaturalist18_val.txt, fewer than --num_meta 3: lower it"),
        (2, f"no training image in {lists}/iNaturalist18_train.txt for these classes: 1 (1)"),
    ):
        assert words in wrong(read_sets, "iNaturalist18", "images", num_meta, lists=lists)


# One's own lists and folders


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The current folder, with lists of three classes."""
    monkeypatch.chdir(tmp_path)
    for part, sizes in {"train": [30, 12, 11], "val": [4, 4, 4], "meta": [2, 2, 2]}.items():
        write(tmp_path / f"{part}.txt", listing(sizes, part))
    return tmp_path


OWN = {"train_list": "train.txt", "val_list": "val.txt"}


def test_own_lists_give_their_meta_images_out_of_the_training_list_or_one_of_their_own(own):
    sets = read_sets("custom", "images", 10, **OWN)
    whole = read_list(own / "train.txt", "images", 3)
    check_meta(sets.meta, whole, 10)
    assert (sets.cls_num_list, len(sets.test), str(sets.train.root), sets.notes) == ([20, 2, 1], 12, "images", [])
    assert sorted(sets.train.paths + sets.meta.paths) == sorted(whole.paths)
    assert sets.train.paths == [path for path in whole.paths if path in set(sets.train.paths)]
    sets = read_sets("custom", "images", 10, num_classes=3, **OWN, meta_list="meta.txt")
    assert (sets.cls_num_list, len(sets.meta)) == ([30, 12, 11], 6)
    sets = read_sets("custom", "images", 11, num_classes=3, **OWN)
    assert (sets.cls_num_list, np.bincount(sets.meta.targets).tolist()) == ([19, 1, 11], [11] * 3)
    both = "classes of no more than --num_meta 11 images have them in both the training and the meta set: 2 (11)"
    assert sets.notes == [both]


WRONG_FLAGS = [
    *(({f"{part}_list": f"{part}.txt"}, ["--train_list and --val_list need each other"]) for part in ("train", "meta")),
    *((OWN | {key: "x.txt"}, [f"x.txt is not there: check --{key}"]) for key in ("train_list", "val_list", "meta_list")),
    (OWN | {"num_classes": 2}, ["train.txt line ", "label 2", "lie in [0, 2)"]),
    (OWN | {"num_classes": 4, "meta_list": "meta.txt"}, ["no training image in train.txt for these classes: 3 (3)"]),
    (OWN | {"num_classes": 4}, ["no training image in train.txt for these classes: 3 (3)"]),
    (OWN | {"num_meta": 30}, ["--num_meta 30 would take every training image (the largest class has 30): lower it"]),
    (OWN | {"train_list": "from_1.txt"}, ["from_1.txt: its labels run from 1 to 3, but labels count from 0: subtract 1"]),
    (OWN | {"train_list": "from_1.txt", "num_classes": 3}, ["from_1.txt: its labels run from 1 to 3"]),
    (OWN | {"train_list": "from_1.txt", "num_classes": 4}, ["from_1.txt: its labels run from 1 to 3"]),
    *((OWN | {f"{part}_list": "from_1.txt"}, ["from_1.txt: its labels run from 1 to 3"]) for part in ("val", "meta")),
    (OWN | {"train_list": "one.txt", "num_meta": 1}, ["one.txt holds one class"]),
    (OWN | {"train_list": "one_1.txt", "num_meta": 1}, ["one_1.txt holds one class"]),
    (OWN | {"num_meta": 0}, ["--num_meta 0"]), (OWN | {"num_classes": 1}, ["--num_classes 1"]),
    (OWN | {"train_list": "one.txt", "val_list": "one.txt", "num_meta": 1}, ["one.txt holds one class"]),
    (OWN | {"val_list": "large.txt"}, ["large.txt line 1: label 3; "]),
    (OWN | {"dataset": "ImageNet_LT"}, ["--train_list", "not for ImageNet_LT"]),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "words"), WRONG_FLAGS)
def test_flags_that_do_not_fit_are_named(own, flags, words):
    write(own / "one.txt", "a 0\nb 0\nc 0")
    write(own / "one_1.txt", "a 1\nb 1")
    write(own / "large.txt", "a 3")
    write(own / "from_1.txt", "a 1\nb 2\nc 3")
    said = wrong(read_sets, **{"dataset": "custom", "root": "images", "num_meta": 10} | flags)
    assert all(word in said for word in words)


@pytest.fixture
def tree(tmp_path):
    """Folders of two classes; no file is opened, so none holds an image."""
    for part, count in (("train", 4), ("val", 1)):
        for name in ("b é", "a"):
            for i in range(count):
                write(tmp_path / part / name / f"{i}.JPEG", "")
    return tmp_path


def test_folders_give_their_meta_images_out_of_the_training_folder(tree):
    write(tree / "train" / "a" / "deep" / "0.png", "")
    write(tree / "train" / "a" / "notes.txt", "")
    data = read_tree(tree / "train", None)
    names = [f"{i}.JPEG" for i in range(4)]
    assert data.paths == [f"a/{name}" for name in [*names, "deep/0.png"]] + [f"b é/{name}" for name in names]
    assert (data.targets.tolist(), data.class_names) == ([0] * 5 + [1] * 4, ["a", "b é"])
    sets = read_sets("custom", tree, 3)
    check_meta(sets.meta, read_tree(tree / "train", None, tree), 3)
    assert (sets.cls_num_list, len(sets.test), sets.train.root) == ([2, 1], 2, tree)
    assert sets.notes == [f"{tree}/train: files left out: 1 .txt", f"{tree}/train: 9 images of 2 classes, a, b é",
                          f"{tree}/val: 2 images of 2 classes, a, b é"]  # fmt: skip


def test_folders_of_meta_and_test_images_serve_where_they_are(tree):
    (tree / "val").rename(tree / "test")
    write(tree / "meta" / "b é" / "0.png", "")
    write(tree / "meta" / "b é" / "0.txt", "")
    assert f"no meta image in {tree}/meta for these classes: 0 (a)" in wrong(read_sets, "custom", tree, 3)
    write(tree / "meta" / "a" / "0.png", "")
    sets = read_sets("custom", tree, 3, num_classes=2)
    assert (sets.cls_num_list, sets.meta.paths) == ([4, 4], ["meta/a/0.png", "meta/b é/0.png"])
    assert sets.meta.targets.tolist() == [0, 1]
    assert (sets.test.source, sets.notes[2]) == (f"{tree}/test", f"{tree}/meta: files left out: 1 .txt")
    write(tree / "val" / "a" / "0.png", "")
    sets = read_sets("custom", tree, 3)
    assert (sets.test.source, len(sets.train)) == (f"{tree}/test", 9)  # nothing is chosen on val, so it is trained on


def test_folders_that_do_not_fit_or_are_missing_or_unreadable_are_named(tree, monkeypatch):
    assert f"--num_classes 3 contradicts {tree}/train, which has 2 classes" in wrong(read_sets, "custom", tree, 1, 3)
    assert "--num_meta 4 would take every training image" in wrong(read_sets, "custom", tree, 4)
    for part in ("meta", "val"):
        write(tree / part / "c" / "0.png", "")
        said = wrong(read_sets, "custom", tree, 1)
        assert f"{tree}/{part} has classes that the training set does not have: 'c'; name them as there (a, b é)" in said
        shutil.rmtree(tree / part / "c")
    (tree / "val").rename(tree / "elsewhere")
    said = wrong(read_sets, "custom", tree, 1)
    assert said.startswith(f"{tree} has no folders train and val, or test, of class folders: give a --data_root")

    def locked(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", locked)
    assert "cannot be read (Permission denied)" in wrong(read_tree, tree / "train", None)


# The script


@pytest.fixture
def prepare(monkeypatch, capsys):
    def call(*flags):
        monkeypatch.setattr(sys, "argv", [SCRIPT, *map(str, flags)])
        prepare_lists.main()
        return capsys.readouterr().out.splitlines()

    return call


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Small lists that pass for the published ones, and git's own ids of them."""
    folder = published(tmp_path / "source" / "ImageNet_LT", "ImageNet_LT", train=[9, 9, 9], val=[3, 3, 3], test=[2, 2, 2])
    ids = {f"ImageNet_LT_{part}.txt": git_id(folder / f"ImageNet_LT_{part}.txt") for part in ("train", "val", "test")}
    monkeypatch.setitem(prepare_lists.BLOB_IDS, "ImageNet_LT", ids)
    monkeypatch.setattr(prepare_lists, "BASE", (tmp_path / "source").as_uri())
    return folder


def git_id(file):
    return subprocess.check_output(["git", "hash-object", "--no-filters", file], text=True).strip()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def test_lists_are_downloaded_checked_and_kept(tmp_path, source, prepare):
    out = tmp_path / "new" / "out"
    names = [f"ImageNet_LT_{part}.txt" for part in ("train", "val", "test")]
    assert prepare("ImageNet_LT", "--out", out) == [f"wrote {out / name}" for name in names]
    assert contents(out) == contents(source)
    (out / names[1]).unlink()
    there = "exists already and has the right content"
    said = prepare("ImageNet_LT", "--out", out)
    assert said == [f"{out / names[0]} {there}", f"{out / names[2]} {there}", f"wrote {out / names[1]}"]
    assert len(read_sets("ImageNet_LT", tmp_path, 2, lists=out).train) == 27
    write(out / names[0], "mine 0\n")
    assert f"{out / names[0]} is there, but is not the published list" in wrong(prepare, "ImageNet_LT", "--out", out)
    assert (out / names[0]).read_text() == "mine 0\n"


def test_a_download_that_fails_or_differs_leaves_nothing(tmp_path, source, prepare, monkeypatch):
    flags = ["ImageNet_LT", "--out", tmp_path / "out"]
    file = write(source / "ImageNet_LT_train.txt", "a 0\n")
    assert f"{file.name} is not the published list" in wrong(prepare, *flags)
    file.unlink()
    for base in (prepare_lists.BASE, "http://127.0.0.1:9"):  # nothing listens there
        monkeypatch.setattr(prepare_lists, "BASE", base)
        assert f"downloading {base}/ImageNet_LT/{file.name} failed" in wrong(prepare, *flags)
    for error in (TimeoutError("timed out"), IncompleteRead(b"")):
        monkeypatch.setattr(prepare_lists, "urlopen", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        assert f"({error})" in wrong(prepare, *flags)
    assert contents(tmp_path / "out") == {}


def test_what_is_in_place_stays_and_a_folder_that_cannot_be_written_is_named(tmp_path, source, prepare, monkeypatch):
    file = write(tmp_path / "out" / "ImageNet_LT_test.txt", "mine 0\n")
    assert f"{file} is there, but is not the published list" in wrong(prepare, "ImageNet_LT", "--out", file.parent)
    assert contents(file.parent) == {file.name: b"mine 0\n"}
    said = wrong(prepare, "ImageNet_LT", "--out", file / "x")
    assert f"{file}/x cannot be written (Not a directory)" in said
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert "(No space left on device)" in wrong(prepare, "ImageNet_LT", "--out", tmp_path / "full")
    assert contents(tmp_path / "full") == {}


def test_official_jsons_serve_the_reader(tmp_path):
    for part in ("train", "val"):
        write(tmp_path / "lists" / f"{part}2017.json", official_counts([5, 3, 2], part))
    assert read_sets("iNaturalist17", tmp_path, 2, lists=tmp_path / "lists").cls_num_list == [5, 3, 2]
