"""How far a work is: lines where nobody looks, a bar on a terminal."""

import io
import re

import pytest
from support.ranks import together

from harness.progress import Meter, progress


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self):
        return True


def shown(seconds, file, **more):
    """What is shown of batches that take so many seconds each."""
    clock = [0.0]

    def batches():
        for each in seconds:
            clock[0] += each
            yield each

    assert list(progress(batches(), len(seconds), "work", file=file, now=lambda: clock[0], **more)) == seconds
    return file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "lines"),
    [
        ([1] * 28, []),
        ([1] * 61, ["work  [30/61]  left 0:31", "work  [60/61]  left 0:01"]),
        ([20, 20, 20, 20, 1], ["work  [2/5]  left 1:00", "work  [4/5]  left 0:20"]),
        ([200, 1, 1, 1], ["work  [1/4]  left 10:00"]),
        ([], []),
    ],
)
def test_long_work_has_a_line_each_half_minute_and_short_work_has_none(seconds, lines):
    assert shown(seconds, io.StringIO()).splitlines() == lines
    assert shown(seconds, io.StringIO(), print_freq=None) == ""


def test_a_training_has_a_line_every_so_many_steps_and_when_these_are_slow():
    meter = Meter()
    meter.count, meter.sums = 4, {"loss": 2.0, "correct": 3.0}
    said = shown([1, 1, 1, 40, 1, 1, 1, 1], io.StringIO(), meter=meter, print_freq=3).splitlines()
    assert [line.split("  left")[0] for line in said] == [f"work  [{k}/8]  Loss 0.5000  Acc@1 75.00" for k in (3, 4, 6)]


def test_on_a_terminal_there_is_a_bar():
    text = shown([40] * 4, Screen())
    assert "\n" not in text
    assert re.search(r"\rwork: .*0/4", text)


def lines_with(words, text):
    return [line for line in text.splitlines() if re.fullmatch(rf"{re.escape(words)}  \[\d+/\d+\]  left [\d:]+", line)]


def test_reading_and_testing_show_progress_beside_the_results(photos, small_training, whole, run, tmp_path):
    """With a clock so fast that every batch takes half a minute."""
    flags = ["--epochs", "1", "--meta_start", "0", "--test-batch-size", "4", "--workdir", tmp_path]
    trained = run("MetaSAug_LDAM_train.py", *small_training, *flags, cwd=photos, CLOCK="1e7")
    assert len(lines_with("epoch 0/1 test", trained.stdout)) == 3 + 1  # nine test images, three held out
    for split, count in (("train", 36), ("test", 9)):
        assert len(lines_with(f"reading {photos / split}", trained.stderr)) == count
    own = ["--arch", "drawing:Drawing", "--no-cuda", "--checkpoint_path", whole / "a_ckpt.pth.tar"]
    for words, script, *more in (
        ("testing", "MetaSAug_test.py --test-batch-size 4 --data_root", photos),
        ("batches of 32 images", "predict.py", photos / "test"),
    ):
        slow, quick = (run(script, *more, *own, cwd=photos, CLOCK=speed) for speed in ("1", "1e7"))
        assert slow.stdout == quick.stdout
        assert lines_with(words, quick.stderr)
        assert lines_with(words, slow.stderr) == []


def test_features_checks_and_tests_of_large_images_show_progress(large_training, start, run, tmp_path):
    command = "ImageNet_iNat/train.py --cache_features 1 --workers 0 --epochs 1 --test_batch_size 2"
    (_, out, _), (_, other, _) = together(start, 2, command, *large_training, CLOCK="1e7")
    for words in ("checking images", "features of the train set, view 0", "epoch 0/1 test"):
        assert lines_with(words, out), words
    assert other == ""
    path = tmp_path / "checkpoint/ours/custom/MetaSAug_custom_last.pth.tar"
    tested = run("ImageNet_iNat/test.py --no-cuda --loading_path", path, *large_training[:4], CLOCK="1e7")
    assert lines_with("testing", tested.stderr)
    assert tested.stdout.startswith("Dataset: custom")
