"""Rows of files of features as lists: the sets that are drawn from them, and the features that belong to each row."""

from pathlib import Path

import numpy as np
import pytest
from support.refusals import wrong

from datasets.drawing import drawn_for_tests
from datasets.examples import united
from datasets.feature_files import FeatureTable
from datasets.feature_lists import feature_lists

WORDS = {"t": "train", "v": "val", "e": "test", "m": "meta"}


def table(name, targets, class_names=None, split=None, width=3):
    """A table whose features say which file and row they are of; `split` has the first letters, - for a file without."""
    features = np.arange(len(targets) * width, dtype=np.float32).reshape(-1, width) + ord(name) / 4
    words = np.array([WORDS[letter] for letter in split]) if split and "-" not in split else None
    labels = None if None in targets else np.array(targets)
    names = class_names or [str(k) for k in range(0 if labels is None else labels.max() + 1)]
    return FeatureTable(Path(f"{name}.npz"), features, labels, names, words, None, f"digest of {name}")


LISTS = [  # the array split of the files train, val and meta; what each row serves: training, meta, tests or choosing
    ("------", "----", None, "tttttteeee"),
    ("------", "----", "--", "tttttteeeemm"),
    ("tttttt", "veve", "mm", "tttttteeeemm"),  # a split that agrees changes nothing
    ("vtmtvt", None, None, "etmtet"),
    ("etmtet", None, None, "etmtet"),
    ("vtmtet", None, None, "ctmtet"),
    ("vtttvt", None, None, "etttet"),
    ("vvtttv", None, "--", "eetttemm"),
    ("vmtttv", None, "mm", "emtttemm"),
]


@pytest.mark.parametrize(("train", "val", "meta", "wanted"), LISTS)
def test_rows_serve_what_their_file_or_its_split_says(train, val, meta, wanted):
    splits = zip("abc", (train, val, meta), strict=True)
    tables = [split and table(name, np.arange(len(split)) % 2, ["x", "y"], split) for name, split in splits]
    lists = feature_lists(*tables, None, 0)
    served = {row: letter for letter, part in zip("mtec", (lists.source, lists.train, lists.test, lists.val), strict=True)
              if part is not None for row in part.items.tolist()}  # fmt: skip
    assert "".join(served[row] for row in range(len(wanted))) == wanted
    assert lists.draw == ("whole" if "m" in wanted else "take out")
    every = np.concatenate([one.features for one in tables if one])
    digests = ", ".join(one.digest for one in tables if one)
    parts = lists.parts.values()
    for part in (*parts, united(parts)):
        rows = part.items
        assert np.array_equal(part.features(), every[rows])
        assert np.array_equal(part.targets, rows % 2)
        assert (part.content, part.class_names) == (f"{len(rows)} rows of features ({digests})", ["x", "y"])


def test_a_share_is_drawn_as_of_a_folder_of_classes_and_no_row_is_copied_for_all():
    targets = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [20, 10, 4, 1]))
    lists = feature_lists(table("a", targets), None, table("m", [3, 2, 1, 0]), 0.3, 7).split()
    assert lists.test.items.tolist() == drawn_for_tests(targets, 4, 0.3, 7).tolist()
    assert (lists.draw, lists.source.items.tolist()) == ("whole", [*range(35, 39)])
    assert lists.notes == ["classes of one image, which is trained on and never tested: 3"]
    assert np.shares_memory(united(lists.parts.values()).features(), lists.train.matrix)


def test_classes_are_matched_by_name():
    val, meta = (table(name, [0, 1, 1], ["cow", "ｃａｔ ", "a class without rows"]) for name in "bm")
    lists = feature_lists(table("a", [0, 1, 2], ["cat", "dog", "cow"]), val, meta, None, 0)
    assert lists.test.targets.tolist() == lists.source.targets.tolist() == [2, 0, 0]


SIX, SPLIT = [0, 1, 2, 0, 1, 2], table("a", [0, 1, 2, 0, 1, 2], split="tttvmv")
ALONE, STRANGE = {"val": None}, "b.npz has classes that the training set does not have"
WRONG = [
    (ALONE, "a.npz has no array split that says which rows are for tests: add it"),
    ({"val_fraction": 0.5}, "--val_fraction is for one file without a split, but b.npz is given"),
    (ALONE | {"train": SPLIT, "val_fraction": 0.5}, "is for one file without a split, but a.npz has an array split"),
    ({"val": table("b", [0, 1], width=4)}, "b.npz has 4 features a row, a.npz has 3"),
    ({"val": table("b", [0, 4])}, f"{STRANGE}: '4'; rename them to match (0, 1, 2)"),
    ({"val": table("b", [1, 0], ["cat", "1"])}, f"{STRANGE}: 'cat'; rename them to match"),
    ({"val": table("b", [1, 3])}, f"{STRANGE}: '3'; rename them to match (0, 1, 2)"),
    *(({file: table("b", [None])}, "b.npz: its array labels is not there: write it") for file in ("train", "val", "meta")),
    ({"train": table("a", [0, 0])}, "a.npz holds one class; at least two are needed"),
    ({"train": SPLIT}, "a.npz: its array split has values other than train: give one file"),
    ({"meta": table("m", [0, 1], split="vm")}, "m.npz: its array split has values other than meta"),
    *((ALONE | {"train": table("a", [0, 1], split=split)}, "split calls no row train, or none") for split in ("tt", "mv")),
]


@pytest.mark.parametrize(("change", "words"), WRONG)
def test_what_does_not_fit_is_said(change, words):
    good = {"train": table("a", SIX), "val": table("b", [0, 1, 2]), "meta": None, "val_fraction": None, "val_seed": 0}
    feature_lists(**good)  # the control
    assert words in wrong(feature_lists, **{**good, **change})
