"""One folder of classes, nothing split: test images are drawn by train.py --val_fraction."""

import csv
from collections import Counter

import pytest
from support.data import crt_checkpoint, write_image

TRAIN = (
    "ImageNet_iNat/train.py --dataset custom --data_root photos --pretrained crt.pth --no-cuda --workers 0 --lr 0.02"
    " --num_meta 1 --batch_size 4 --epochs 1"
)
COUNTS = {"b Ä": 9, "c": 4, "d": 2, "e": 1}
OURS = "checkpoint/ours/custom"


@pytest.fixture
def train(run, tmp_path):
    for k, (name, count) in enumerate(COUNTS.items()):
        for i in range(count):
            write_image(tmp_path / "photos" / name / f"{i} a.png", k)
    crt_checkpoint(tmp_path / "crt.pth", 4, tested=range(4))
    return lambda flags, status=0: run(f"{TRAIN} {flags}", status=status)


@pytest.mark.slow
def test_a_run_on_drawn_images_and_the_lists_that_it_wrote(train, run, refused, tmp_path):
    out = train("--save_name drawn --val_fraction 0.3").stdout
    assert "test 5  (5 to 1 training images a class)" in out
    assert "note: classes of one image, which is trained on and never tested: e" in out
    lists = [f"{OURS}/drawn_train.txt", f"{OURS}/drawn_val.txt"]
    assert f"wrote the lists {' and '.join(lists)}, for --train_list and --val_list" in out
    lines = [(tmp_path / file).read_text(encoding="utf-8").splitlines() for file in lists]
    labels = [Counter(int(line.rsplit(" ", 1)[1]) for line in part) for part in lines]
    assert labels == [{0: 6, 1: 3, 2: 1, 3: 1}, {0: 3, 1: 1, 2: 1}]

    test = f"ImageNet_iNat/test.py --loading_path {OURS}/drawn_last.pth.tar --data_root photos --no-cuda --workers 0"
    told = "give that of its test images by --val_list (with --val_fraction drawn_val.txt beside the checkpoint)"
    assert f"was trained from lists: {told}" in refused(test)
    for file, drawn_by_it in ((lists[1], True), (lists[0], False)):
        out = run(f"{test} --val_list {file} --out t.csv").stdout
        assert ("note: this is not the test set drawn by the run: some of these images may have" in out) != drawn_by_it
        rows = csv.DictReader((tmp_path / "t.csv").read_text(encoding="utf-8").splitlines())
        assert [row["name"] for row in rows] == list(COUNTS)


def test_an_earlier_runs_lists_are_set_aside_with_it_and_bad_images_are_not_drawn(train, tmp_path):
    train("--save_name again --val_fraction 0.3")
    before = {path.name: path.read_bytes() for path in (tmp_path / OURS).glob("again_*.txt")}
    assert len(before) == 2
    (tmp_path / "photos" / "d" / "0 a.png").write_text("no image")
    out = train("--save_name again --val_fraction 0.3 --val_seed 3 --skip_bad").stdout
    assert "1 of 16 images cannot be read and are left out" in out
    assert "note: classes of one image, which is trained on and never tested: d, e" in out
    assert "the files of an earlier run again are now in" in out
    (earlier,) = (tmp_path / OURS / "earlier").glob("*/again_last.pth.tar")
    assert {path.name: path.read_bytes() for path in earlier.parent.glob("again_*.txt")} == before
    assert (tmp_path / OURS / "again_val.txt").read_bytes() != before["again_val.txt"]
    lists = f"--train_list {OURS}/again_train.txt --val_list {OURS}/again_val.txt"
    told = "again_train.txt is a file that this run replaces: give the run another --save_name"
    assert told in train(f"--save_name again {lists}", status=2).stderr
