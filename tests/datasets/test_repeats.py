"""Examples that are there more than once, through the command line: pixels, files and rows of features."""

import shutil

import numpy as np
import pytest
from support.own import write_features, write_photos

from datasets.examples import repeat_notes, row_digests

SAME = "examples of the test set are trained on too: the accuracy on them says nothing about new ones"


def test_what_is_equal_is_counted(tmp_path):
    rows = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    rows[3] = rows[11]
    known, test = row_digests(rows[:12]), row_digests(np.concatenate([rows[12:], rows[2:5]]))
    target = np.arange(12) % 4  # rows 3 and 11 are of one class
    assert repeat_notes(known, target, test) == [f"3 of the 11 {SAME}"]
    target[11] = 0
    twice = "training examples that are in more than one class: 1"
    assert repeat_notes(known, target, test[:1] + test[8:9]) == [f"1 of the 2 {SAME}", twice]
    assert repeat_notes(known[:11], target[:11], test[:8]) == []  # the control


def photographs(folder):
    write_photos(folder)
    (folder / "all").mkdir()
    shutil.move(folder / "photos", folder / "all" / "train")
    (folder / "all" / "test").symlink_to("train")
    return ["train_own.py", "--data_root", "all", "--backbone", "my_network:make", "--workers", "0"]


def features(folder):
    write_features(folder / "f.npz", [12, 8, 5])
    whole = np.load(folder / "f.npz")
    kept = whole["split"] == "train"
    np.savez(folder / "g.npz", features=whole["features"][kept], labels=whole["labels"][kept])
    return ["train_own.py", "--features", "g.npz", "--val_features", "g.npz"]


def pixels(folder):
    photographs(folder)
    return ["MetaSAug_CE_train.py", "--dataset", "folder", "--data_root", "all", "--epochs", "1", "--arch", "resnet8",
            "--num_meta", "1", "--threads", "1"]  # fmt: skip


@pytest.mark.parametrize(("make", "number"), [(photographs, 32), (features, 25), (pixels, 32)])
def test_a_test_set_that_is_trained_on_is_said(run, tmp_path, make, number):
    assert f"note: {number} of the {number} {SAME}" in run(*make(tmp_path), "--no-cuda").stdout
