"""How far a work is: lines where nobody looks, a bar on a terminal."""

import io
import re

import pytest

from harness.progress import Meter, progress


def shown(seconds, file, **more):
    """What is shown of batches that take so many seconds each."""
    clock = [0.0]

    def batches():
        for each in seconds:
            clock[0] += each
            yield each

    assert list(progress(batches(), len(seconds), "work", file=file, now=lambda: clock[0], **more)) == seconds
    return file.getvalue()


TRAINED = Meter()
TRAINED.count, TRAINED.sums = 4, {"loss": 2.0, "correct": 3.0}


@pytest.mark.parametrize(
    ("seconds", "meter", "lines"),
    [
        ([1] * 28, None, []),
        ([1] * 61, None, ["work  [30/61]  left 0:31", "work  [60/61]  left 0:01"]),
        ([200, 1, 1, 1], None, ["work  [1/4]  left 10:00"]),
        ([], None, []),
        ([1, 1, 1, 37, 1], TRAINED, ["work  [3/5]  Loss 0.5000  Acc@1 75.00  left 0:02",
                                     "work  [4/5]  Loss 0.5000  Acc@1 75.00  left 0:10"]),
    ],
)
def test_long_work_has_a_line_each_half_minute_and_a_training_every_so_many_steps(seconds, meter, lines):
    assert shown(seconds, io.StringIO(), meter=meter, print_freq=3).splitlines() == lines
    assert shown(seconds, io.StringIO(), shown=False) == ""


def lines_with(words, text):
    return [line for line in text.splitlines() if re.fullmatch(rf"{re.escape(words)}  \[\d+/\d+\]  left [\d:]+", line)]


def test_reading_and_testing_show_progress_beside_the_results(photos, small_training, whole, run, tmp_path):
    """With a clock so fast that every batch takes half a minute."""
    flags = f"--epochs 1 --meta_start 0 --test-batch-size 4 --workdir {tmp_path}"
    trained = run(f"{small_training} {flags}", cwd=photos, CLOCK="1e7")
    assert len(lines_with("epoch 0/1 test", trained.stdout)) == 3 + 1  # nine test images, three held out
    for split, count in (("train", 36), ("test", 9)):
        assert len(lines_with(f"reading {photos / split}", trained.stderr)) == count
    own = f"--arch drawing:Drawing --no-cuda --checkpoint_path {whole}/a_ckpt.pth.tar"
    for words, command in (
        ("testing", f"MetaSAug_test.py --test-batch-size 4 --data_root {photos}"),
        ("batches of 32 images", f"predict.py {photos}/test"),
    ):
        slow, quick = (run(f"{command} {own}", cwd=photos, CLOCK=speed) for speed in ("1", "1e7"))
        assert slow.stdout == quick.stdout
        assert lines_with(words, quick.stderr)
        assert lines_with(words, slow.stderr) == []


@pytest.mark.parametrize(
    ("more", "found"),
    [("--cache_features 1", ["features of the train set, view 0", "epoch 0/1 test"]), ("", ["checking images"])],
)
def test_features_checks_and_tests_of_large_images_show_progress(large_training, run, more, found):
    out = run(f"{large_training} --epochs 1 --test_batch_size 2 {more}", CLOCK="1e7").stdout
    assert all(lines_with(words, out) for words in found)
