"""One folder of classes, nothing split: test images are drawn by train.py --val_fraction."""

import csv
import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.data import crt_checkpoint, write_image
from support.places import ROOT
from support.runs import saved_state

from datasets.drawn_sets import drawn_for_tests
from datasets.large_sets import read_lists
from harness.errors import UserError

TRAIN, TEST = (ROOT / "ImageNet_iNat" / name for name in ("train.py", "test.py"))
COUNTS = {"b Ä": 9, "c": 4, "d": 2, "e": 1}
OURS = "checkpoint/ours/custom"


@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.floats(0.01, 0.99), st.integers(0, 9), st.randoms())
def test_each_class_gives_its_share_and_keeps_an_image(counts, val_fraction, seed, random):
    labels = [k for k, count in enumerate(counts) for _ in range(count)]
    random.shuffle(labels)
    drawn = drawn_for_tests(np.array(labels), len(counts), val_fraction, seed)
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    found = Counter(labels[i] for i in drawn)
    for k, count in enumerate(counts):
        share = round(val_fraction * count)
        assert found[k] == (0 if count == 1 else 1 if share == 0 else count - 1 if share == count else share)
    assert drawn.tolist() == drawn_for_tests(np.array(labels), len(counts), val_fraction, seed).tolist()


def test_another_seed_draws_others():
    labels = np.repeat([0, 1], 50)
    assert len({tuple(drawn_for_tests(labels, 2, 0.2, seed)) for seed in range(5)}) == 5


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_folder")
    for k, (name, count) in enumerate(COUNTS.items()):
        for i in range(count):
            write_image(folder / "photos" / name / f"{i} a.png", k)
    crt_checkpoint(folder / "crt.pth", 4, tested=range(4))
    return folder


@pytest.fixture(scope="module")
def train(run_in, root):
    def call(name, *more, status=0):
        flags = ["--dataset", "custom", "--data_root", "photos", "--pretrained", "crt.pth", "--no-cuda", "--workers", "0",
                 "--lr", "0.02", "--num_meta", "1", "--batch_size", "4", "--epochs", "1", "--save_name", name]  # fmt: skip
        return run_in(TRAIN, *flags, *more, cwd=root, status=status)

    return call


@pytest.mark.slow
def test_a_run_on_drawn_images_and_on_the_lists_that_it_wrote(train, run_in, refused, root):
    out = train("drawn", "--val_fraction", "0.3").stdout
    assert "test 5  (5 to 1 training images a class)" in out
    assert "note: classes of one image, which is trained on and never tested: e" in out
    lists = [f"{OURS}/drawn_train.txt", f"{OURS}/drawn_val.txt"]
    assert f"wrote the lists {' and '.join(lists)}, for --train_list and --val_list" in out
    lines = [(root / file).read_text(encoding="utf-8").splitlines() for file in lists]
    labels = [Counter(int(line.rsplit(" ", 1)[1]) for line in part) for part in lines]
    assert labels == [{0: 6, 1: 3, 2: 1, 3: 1}, {0: 3, 1: 1, 2: 1}]
    files = {line.rsplit(" ", 1)[0] for part in lines for line in part}
    assert files == {str(path.relative_to(root / "photos")) for path in (root / "photos").rglob("*.png")}
    train("listed", "--train_list", lists[0], "--val_list", lists[1])
    train("other", "--val_fraction", "0.3", "--val_seed", "1")
    drawn, again, other = (saved_state(root / OURS, name=name)["resume"]["binding"] for name in ("drawn", "listed", "other"))
    for part in ("train list", "meta list", "test list"):
        assert drawn[part] == again[part]
        assert part == "meta list" or drawn[part] != other[part]

    test = [TEST, "--loading_path", f"{OURS}/drawn_last.pth.tar", "--data_root", "photos", "--no-cuda", "--workers", "0"]
    told = "give that of its test images by --val_list (with --val_fraction drawn_val.txt beside the checkpoint)"
    assert f"was trained from lists: {told}" in refused(*test, cwd=root)
    run_in(*test, "--val_list", lists[1], "--out", "t.csv", cwd=root)
    rows = list(csv.DictReader((root / "t.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["name"] for row in rows] == list(COUNTS)
    other = "note: this is not the test set drawn by the run: some of these images may have been used for training"
    for name in ("drawn", "other"):
        out = run_in(*test, "--val_list", f"{OURS}/{name}_val.txt", "--out", "t.csv", cwd=root).stdout
        assert (other in out) == (name == "other")


def test_an_earlier_runs_lists_are_set_aside_with_it(train, root):
    train("again", "--val_fraction", "0.3")
    before = {path.name: path.read_bytes() for path in (root / OURS).glob("again_*.txt")}
    assert len(before) == 2
    out = train("again", "--val_fraction", "0.3", "--val_seed", "3").stdout
    assert "the files of an earlier run again are now in" in out
    (earlier,) = (root / OURS / "earlier").glob("*/again_last.pth.tar")
    assert {path.name: path.read_bytes() for path in earlier.parent.glob("again_*.txt")} == before
    assert (root / OURS / "again_val.txt").read_bytes() != before["again_val.txt"]
    lists = ["--train_list", f"{OURS}/again_train.txt", "--val_list", f"{OURS}/again_val.txt"]
    told = "again_train.txt belongs to an earlier run again, whose files are set aside: choose another --save_name"
    assert told in train("again", *lists, status=2).stderr


def test_test_images_are_drawn_from_those_that_can_be_read(train, tmp_path, root):
    for name, count in (("c", 6), ("d", 2)):
        for i in range(count):
            write_image(tmp_path / "photos" / name / f"{i}.png", len(name))
    sets = read_lists("custom", tmp_path / "photos", 1, val_fraction=0.5).sets(1)
    (bad,) = [path for path in sets.train.paths + sets.meta.paths if path.startswith("d")][:1]
    (tmp_path / "photos" / bad).write_text("no image")
    out = train("readable", "--data_root", tmp_path / "photos", "--val_fraction", "0.5", "--skip_bad", "--fresh_head").stdout
    assert "1 of 8 images cannot be read and are left out" in out
    assert "note: classes of one image, which is trained on and never tested: d" in out
    assert f"d{os.sep}" not in (root / OURS / "readable_val.txt").read_text()


@pytest.mark.parametrize("name", ["a\nb.png", "a\rb.png", "\ufeffa.png", b"a\xff.png".decode(errors="surrogateescape")])
def test_a_name_that_no_list_can_hold_is_refused(tmp_path, name):
    for label in ("\ufeffx" if name[0] == "\ufeff" else "x", "y"):
        for each in (name, "c.png"):
            write_image(tmp_path / "photos" / label / each, 1)
    with pytest.raises(UserError, match=r"(?s)^names that a list cannot hold: .*rename the files"):
        read_lists("custom", tmp_path / "photos", 1, val_fraction=0.5)


def test_a_class_may_be_called_train(tmp_path):
    for label in ("train", "car"):
        for each in "ab":
            write_image(tmp_path / "photos" / label / f"{each}.png", 1)
    assert read_lists("custom", tmp_path / "photos", 1, val_fraction=0.5).test.class_names == ["car", "train"]
    with pytest.raises(UserError, match="are not for ImageNet_LT"):
        read_lists("ImageNet_LT", tmp_path, 1, val_fraction=0.5)
