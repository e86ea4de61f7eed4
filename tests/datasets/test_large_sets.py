"""What is trained, drawn and tested on: of published lists, of one's own lists and of folders; and flags that do not fit."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.image_lists import read_sets, write
from support.refusals import wrong

from datasets import large_sets
from datasets.examples import class_counts
from datasets.image_lists import read_list
from datasets.large_sets import read_lists
from harness.errors import UserError

SIZES = {"train": [30, 12, 9], "val": [14, 12, 11], "test": [2, 2, 2], "meta": [2, 2, 2]}
OWN = {"train_list": "train.txt", "val_list": "val.txt"}


def listing(counts, prefix):
    """A list of classes of these sizes, the classes mixed."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    return "".join(f"{prefix}/{i}.jpg {label}\n" for i, label in enumerate(labels))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with lists of three classes and folders of two; no file is opened, so none holds an image."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(large_sets, "LISTS", Path())
    texts = {f"{which}{part}": listing(sizes, part) for part, sizes in SIZES.items()
             for which in ("", "ImageNet_LT_", "iNaturalist18_", "iNaturalist17_")}  # fmt: skip
    texts |= {"from_1": "a 1\nb 2\nc 3", "one": "a 0\nb 0\nc 0", "one_1": "a 1\nb 1", "large": "a 3"}
    texts |= {"bad/ImageNet_LT_train": "a 0\nb 1", "bad/ImageNet_LT_val": "a 5"}
    texts |= {"bad/iNaturalist18_train": listing([9, 0, 1], "t"), "bad/iNaturalist18_val": listing([3, 2, 3], "v")}
    for name, text in texts.items():
        write(tmp_path / f"{name}.txt", text)
    for i in range(4):
        for place in (f"photos/train/a/{i}", f"photos/train/b é/{i}", "photos/val/a/0", "photos/val/b é/0", "bare/train/a/0",
                      "bare/train/b/0"):  # fmt: skip
            write(tmp_path / f"{place}.JPEG")
    return tmp_path


ALL_META = "classes of no more than --num_meta {} images, which are all meta images and stay where they were too: {}"
SETS = [
    ("ImageNet_LT", 10, "val", [30, 12, 9], []),
    ("iNaturalist18", 2, "val", [30, 12, 9], ["the meta images are also test images, as published"]),
    ("iNaturalist18", 11, "val", [30, 12, 9],
     ["the meta images are also test images, as published", ALL_META.format(11, "2 (11)")]),
    ("iNaturalist17", 5, "train", [30, 12, 9], ["the meta images are also training images, as published"]),
    ("custom", 9, "train", [21, 3, 9],
     [ALL_META.format(9, "2 (9)")]),
]  # fmt: skip


@pytest.mark.parametrize(("dataset", "num_meta", "source", "counts", "notes"), SETS)
def test_meta_images_are_those_of_the_published_draw(here, dataset, num_meta, source, counts, notes):
    """One shuffle a class, in the order of the classes, of one generator seeded 6."""
    sets = read_sets(dataset, "images", num_meta, **(OWN if dataset == "custom" else {}))
    test = "test" if dataset == "ImageNet_LT" else "val"
    assert (sets.cls_num_list, sets.notes, class_counts(sets.test)) == (counts, notes, SIZES[test])
    whole, generator, drawn = read_list(Path(sets.lists.source.source), Path("images"), 3), np.random.RandomState(6), []
    assert whole.source == f"{'' if dataset == 'custom' else f'{dataset}_'}{source}.txt"
    for k in range(3):
        places = np.flatnonzero(whole.targets == k)
        generator.shuffle(places)
        drawn += places[:num_meta].tolist()
    assert sets.meta.paths == [whole.paths[i] for i in sorted(drawn)]


def test_meta_images_of_a_list_of_their_own_are_taken_whole(here):
    sets = read_sets("custom", "images", 10, **OWN, meta_list="meta.txt")
    assert (sets.cls_num_list, class_counts(sets.meta), sets.train.root) == ([30, 12, 9], [2, 2, 2], Path("images"))


def test_the_training_list_of_inaturalist17_is_looked_for_as_text_and_then_as_json(here):
    (here / "iNaturalist17_train.txt").unlink()
    said = wrong(read_sets, "iNaturalist17", "images", 3)
    assert "iNaturalist17_train.txt is not there" in said
    assert "or put train2017.json into images" in said
    for place, number in (("images", 10), (".", 9)):  # the second comes first
        content = {"images": [{"id": i, "file_name": f"{i}"} for i in range(number)],
                   "annotations": [{"image_id": i, "category_id": i % 3} for i in range(number)]}  # fmt: skip
        write(here / place / "train2017.json", json.dumps(content))
        assert sum(read_sets("iNaturalist17", "images", 3).cls_num_list) == number


def rows(given, cases):
    return [(given | flags, words) for flags, words in cases]


WRONG = [
    *rows({}, [
        ({"meta_list": "meta.txt"}, "--train_list and --val_list need each other"),
        ({"dataset": "ImageNet_LT", "val_fraction": 0.5}, "--val_fraction are not for ImageNet_LT"),
    ]),
    *rows(OWN, [
        *(({key: "x.txt"}, f"x.txt is not there: check --{key}") for key in ("val_list", "meta_list")),
        *(({f"{part}_list": "from_1.txt"}, "from_1.txt: its labels run from 1 to 3, but labels count from 0: subtract 1")
          for part in ("train", "val", "meta")),
        *(({"train_list": f"{name}.txt", "num_meta": 1}, f"{name}.txt holds one class") for name in ("one", "one_1")),
        ({"val_list": "large.txt"}, "large.txt line 1: label 3; "),
        ({"dataset": "ImageNet_LT"}, "--val_fraction are not for ImageNet_LT"),
    ]),
    *rows({"num_meta": 1}, [
        ({"root": "bare"}, "bare has no folder val or test of class folders: give a --data_root"),
    ]),
    *rows({"dataset": "iNaturalist18", "lists": "bad", "num_meta": 2}, [
        ({"dataset": "ImageNet_LT"}, "ImageNet_LT_val.txt line 1: label 5; labels count from 0 and lie in [0, 2)"),
        ({"lists": "no"}, "no/iNaturalist18_train.txt is not there: run python3 data/prepare_lists.py iNaturalist18"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "words"), WRONG)
def test_flags_that_do_not_fit_are_named(here, flags, words, monkeypatch):
    monkeypatch.setattr(large_sets, "LISTS", Path(flags.get("lists", "")))
    flags = {name: value for name, value in flags.items() if name != "lists"}
    assert words in wrong(read_sets, **{"dataset": "custom", "root": "images", "num_meta": 10} | flags)


def test_folders_of_meta_and_test_images_serve_where_they_are(here):
    root, told = Path("photos"), [f"photos/{part} images of 2 classes, a, b é" for part in ("train: 8", "val: 2", "meta: 2")]
    sets = read_sets("custom", root, 3)
    assert (sets.cls_num_list, sets.train.root, sets.notes) == ([1, 1], root, told[:2])
    for name in ("meta/b é/0.png", "meta/b é/0.txt", "meta/a/0.png"):
        write(here / "photos" / name)
    lists = read_lists("custom", root)
    assert (len(lists.train), lists.source.paths, lists.draw) == (8, ["meta/a/0.png", "meta/b é/0.png"], "whole")
    assert lists.notes == [*told[:2], "photos/meta: files left out: 1 .txt", told[2]]
    write(here / "photos/test/a/0.png")
    lists = read_lists("custom", root)
    assert (lists.test.source, lists.val.source) == ("photos/test", "photos/val")


@pytest.mark.parametrize("name", ["x/a\nb.png", "x/a\rb.png", "\ufeffx/a.png", "x/a\udcff.png"])
def test_a_name_that_no_list_can_hold_is_refused(tmp_path, name):
    for place in (name, "x/c.png", "y/a.png", "y/c.png"):
        write(tmp_path / place)
    with pytest.raises(UserError, match=r"(?s)^names that a list cannot hold: .*rename the files"):
        read_lists("custom", tmp_path, val_fraction=0.5)
