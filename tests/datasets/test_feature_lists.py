"""Rows of files of features as lists: the sets that are drawn from them, and the features that belong to each row."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.refusals import wrong

from datasets.drawing import drawn_for_tests
from datasets.examples import class_counts
from datasets.feature_files import FeatureTable
from datasets.feature_lists import all_rows, feature_lists

WIDTH = 3


def table(path, targets, class_names=None, split=None, kind=np.float32, width=WIDTH):
    """A table whose features say which file and row they are of."""
    features = np.arange(len(targets) * width).reshape(-1, width) % 1000 + (ord(Path(path).stem[0]) - 97) / 4
    words = None if split is None else np.array(split)
    digest = f"digest of {Path(path).name}"
    return FeatureTable(Path(path), features.astype(kind), np.array(targets), class_names, words, None, digest)


def numbers(part):
    return part.items.tolist()


# Lists


def test_a_file_for_each_set(tmp_path):
    train, val = table(tmp_path / "a.npz", [0, 1, 0, 2, 1, 0]), table(tmp_path / "b.npz", [2, 0, 1, 1])
    lists = feature_lists(train, val, None, None, 0)
    assert (lists.draw, lists.source is lists.train, lists.notes) == ("take out", True, [])
    for part, own in ((lists.train, train), (lists.test, val)):
        assert part.features().tolist() == own.features.tolist()
        assert (part.source, part.class_names) == (str(own.path), ["0", "1", "2"])
        assert part.targets.tolist() == own.targets.tolist()
    meta = table(tmp_path / "c.npz", [0, 1, 2], split=["meta"] * 3)
    lists = feature_lists(train, val, meta, None, 0)
    assert (lists.draw, lists.source.source, lists.source.targets.tolist()) == ("whole", str(meta.path), [0, 1, 2])
    assert lists.sets(1).meta.targets.tolist() == [0, 1, 2]
    # a split that agrees changes nothing
    agreeing = replace(train, split=np.array(["train"] * 6)), replace(val, split=np.array(["val", "test"] * 2))
    again = feature_lists(*agreeing, meta, None, 0)
    assert [part.digest() for part in again.parts] == [part.digest() for part in lists.parts]


def test_one_file_with_a_split():
    words, targets = ["val", "train", "meta", "train", "val", "train"], [0, 1, 1, 0, 1, 1]
    lists = feature_lists(table("a.npz", targets, ["x", "y"], words), None, None, None, 0)
    assert [numbers(part) for part in lists.parts] == [[1, 3, 5], [2], [0, 4]]
    assert [part.targets.tolist() for part in lists.parts] == [[1, 0, 1], [1], [0, 1]]
    assert (lists.draw, lists.test.class_names, lists.val) == ("whole", ["x", "y"], None)
    test_words = [word.replace("val", "test") for word in words]
    tested = feature_lists(table("a.npz", targets, split=test_words), None, None, None, 0)
    assert [numbers(part) for part in tested.parts] == [numbers(part) for part in lists.parts]
    both = feature_lists(table("a.npz", targets, split=[*words[:4], "test", "train"]), None, None, None, 0)
    assert [numbers(part) for part in both.parts] == [[1, 3, 5], [2], [4], [0]]  # the last to choose on
    no_meta = ["val", "train", "train", "train", "val", "train"]
    lists = feature_lists(table("a.npz", targets, split=no_meta), None, None, None, 0)
    assert (lists.draw, numbers(lists.source), lists.source is lists.train) == ("take out", [1, 2, 3, 5], True)
    own = table("b.npz", [1, 0])
    lists = feature_lists(table("a.npz", targets, split=["val", "train"] * 3), None, own, None, 0)
    assert (lists.draw, lists.source.source) == ("whole", "b.npz")


def test_a_share_is_drawn():
    """As the images of a folder of classes are."""
    targets = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [20, 10, 4, 1]))
    for meta, draw in ((None, "take out"), (table("m.npz", [3, 2, 1, 0]), "whole")):
        lists = feature_lists(table("a.npz", targets), None, meta, 0.3, 7)
        assert numbers(lists.test) == drawn_for_tests(targets, 4, 0.3, 7).tolist()
        assert sorted(numbers(lists.test) + numbers(lists.train)) == list(range(35))
        assert (class_counts(lists.test), lists.draw) == ([6, 3, 1, 0], draw)
        assert lists.notes == ["classes of one image, which is trained on and never tested: 3"]


# Classes of several files


def test_classes_are_matched_by_name():
    train = table("a.npz", [0, 1, 2, 0], ["cat", "dog", "cow"])
    val = table("b.npz", [0, 1, 1], ["cow", "cat", "a class without rows"])
    lists = feature_lists(train, val, table("m.npz", [0, 2, 1], ["cat", "dog", "cow"]), None, 0)
    assert (lists.test.targets.tolist(), lists.test.class_names) == ([2, 0, 0], ["cat", "dog", "cow"])
    assert lists.source.targets.tolist() == [0, 2, 1]
    plainly = table("b.npz", [0, 1, 2], [" Cat", "ＤＯＧ", "cow"])  # case, blanks and forms of letters aside
    assert feature_lists(train, plainly, None, None, 0).test.targets.tolist() == [0, 1, 2]
    other = table("b.npz", [0, 1, 0, 2], ["cat", "bat", "owl"])
    said = wrong(feature_lists, train, other, None, None, 0)
    assert said.startswith("b.npz has classes that the training set does not have: 'bat', 'owl'; name them as there")
    twice = table("b.npz", [0, 1], ["Cat", "cat"])
    assert feature_lists(train, twice, None, None, 0).test.targets.tolist() == [0, 0]
    two_cats = table("a.npz", [0, 1], ["Cat", "cat"])
    assert feature_lists(two_cats, twice, None, None, 0).test.targets.tolist() == [0, 1]
    by_number = table("n.npz", [1, 0, 1])  # which may count the classes in any order
    for one, two in ((train, by_number), (by_number, train)):
        assert "has classes that the training set does not have" in wrong(feature_lists, one, two, None, None, 0)


def good():
    return {"train": table("a.npz", [0, 1, 2, 0, 1, 2]), "val": table("b.npz", [0, 1, 2]), "meta": None,
            "val_fraction": None, "val_seed": 0}  # fmt: skip


SPLIT = ["train", "train", "train", "val", "meta", "val"]
WRONG = {
    "a.npz has no array split that says which rows are for tests: add it": {"val": None},
    "a.npz has no array split that says": {"val": None, "meta": table("m.npz", [0, 1, 2])},
    "--val_fraction is for one file without a split, but b.npz is given": {"val_fraction": 0.5},
    "--val_fraction is for one file without a split, but a.npz has an array split": {
        "train": table("a.npz", [0, 1, 2, 0, 1, 2], split=SPLIT),
        "val": None,
        "val_fraction": 0.5,
    },
    "--val_fraction 1.0 is not valid": {"val": None, "val_fraction": 1.0},
    "--val_seed -1 is not valid": {"val": None, "val_fraction": 0.5, "val_seed": -1},
    "b.npz has 4 features a row, a.npz has 3": {"val": table("b.npz", [0, 1], width=4)},
    "m.npz has 2 features a row, a.npz has 3": {"meta": table("m.npz", [0, 1], width=2)},
    "b.npz has classes that the training set does not have: '4'; name them as": {"val": table("b.npz", [0, 4])},
    "b.npz: its labels run from 1 to 3, but labels count from 0": {"val": table("b.npz", [1, 3])},
    "a.npz holds one class; at least two are needed": {"train": table("a.npz", [0, 0])},
    "a.npz: its array split calls some rows other than train: give one file": {
        "train": table("a.npz", [0, 1, 2, 0, 1, 2], split=SPLIT)
    },
    "b.npz: its array split calls some rows other than val": {
        "val": table("b.npz", [0, 1], split=["test", "train"])
    },
    "m.npz: its array split calls some rows other than meta": {
        "meta": table("m.npz", [0, 1], split=["val", "meta"])
    },
    "its array split calls no row train, or none val": {"train": table("a.npz", [0, 1], split=["train"] * 2), "val": None},
    "split calls no row train": {"train": table("a.npz", [0, 1], split=["meta", "val"]), "val": None},
    "a.npz calls 1 rows meta, but m.npz is given": {
        "train": table("a.npz", [0, 1, 2, 0, 1, 2], split=SPLIT),
        "val": None,
        "meta": table("m.npz", [0, 1]),
    },
}


@pytest.mark.parametrize("words", WRONG)
def test_what_does_not_fit_is_said(words):
    feature_lists(**good())  # the control
    assert words in wrong(feature_lists, **{**good(), **WRONG[words]})


def test_a_training_class_without_rows_is_named_where_sets_are_drawn():
    lists = feature_lists(table("a.npz", [0, 2, 0, 2], list("xyz")), table("b.npz", [0, 1], ["x", "z"]), None, None, 0)
    assert "no training image in a.npz for these classes: 1 (y)" in wrong(lists.sets, 1)


# Features of rows


def test_all_rows_of_one_table_are_not_copied():
    train = table("a.npz", [0, 1, 1, 0], split=["train", "val", "train", "train"])
    rows = all_rows(train, None, None)[0]
    assert np.shares_memory(rows.features(), train.features)
    assert rows.subset(np.array([0, 1, 3, 2])).features().tolist() == train.features[[0, 1, 3, 2]].tolist()


@pytest.mark.parametrize("case", ["files", "split", "drawn"])
def test_sets_of_rows_are_drawn_as_those_of_images(case):
    """Meta, held-out and joined rows have the features of their rows, and no test row is among the others."""
    targets = np.random.default_rng(0).permutation(np.arange(43) % 3)
    train, val, meta = (table(f"{name}.npz", targets, kind=kind) for name, kind in zip("abc", "fef", strict=True))
    split = np.array(["train", "train", "val", "meta"])[np.arange(43) % 4]
    lists = {
        "files": lambda: feature_lists(train, val, meta, None, 0),
        "split": lambda: feature_lists(replace(train, split=split), None, None, None, 0),
        "drawn": lambda: feature_lists(train, None, None, 0.3, 5),
    }[case]()
    used = [train, val, meta] if case == "files" else [train]
    every = [row for one in used for row in one.features.tolist()]
    sets = lists.sets(2, 2, join_meta=True)
    for part in (*sets.parts.values(), sets.joined):
        assert part.features().tolist() == [every[row] for row in numbers(part)]
        assert part.content == f"{len(part)} rows of features ({', '.join(one.digest for one in used)})"
    together = [set(numbers(part)) for part in sets.parts.values()]
    assert sum(map(len, together)) == len(set().union(*together))
    assert class_counts(sets.train) == sets.cls_num_list
    assert len(sets.joined) == len(sets.train) + len(sets.meta)
