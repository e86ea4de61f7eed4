"""The folder of a run that is taken away or fills up during the run: a line that names the file, and nothing lost."""

import os
import re

import pytest
from support.runs import differences, files_of, saved_state

from harness.checkpoint import load_checkpoint


@pytest.fixture
def command(small_training, tmp_path):
    """A training whose files go to a new folder."""
    return f"{small_training} --workdir {tmp_path}"


@pytest.mark.parametrize(
    ("fault", "words"),
    [  # what is opened or renamed the how manieth time, the error, and the file that the line names
        ("open a_metrics.jsonl 2 ENOSPC", "a_metrics.jsonl cannot be written (No space left on device); it is unchanged"),
        ("open a_last.pth.tar.tmp 3 EROFS", "a_last.pth.tar cannot be written (Read-only file system); it is unchanged"),
        ("open a_last_predictions.npz.tmp 3 ENOSPC", "a_last_predictions.npz cannot be written (No space left on device)"),
        ("os.rename a_resume.pth.tar.tmp 2 EROFS", "a_resume.pth.tar cannot be written (Read-only file system)"),
        ("open a_summary.json.tmp 1 ENOSPC", "a_summary.json cannot be written (No space left on device)"),
    ],
)
def test_a_disk_that_fills_up_is_said_and_files_stay(command, photos, refused, tmp_path, fault, words):
    assert words in refused(command, cwd=photos, FAULT=fault)
    folder = tmp_path / "checkpoint/ours/0"
    assert len([load_checkpoint(path) for path in folder.glob("*.pth.tar*")]) >= 3
    assert not [path for path in folder.iterdir() if path.name.endswith((".tmp", ".tmp2", ".lock"))]


def test_a_run_whose_disk_was_full_goes_on_to_the_same_bytes(command, photos, whole, refused, run, tmp_path):
    """The line of the log was written, the checkpoint of the same epoch was not."""
    refused(command, cwd=photos, FAULT="open a_last.pth.tar.tmp 3 ENOSPC")
    run(f"{command} --resume auto", cwd=photos)
    folders = tmp_path / "checkpoint/ours/0", whole
    assert differences(*(saved_state(folder, "last") for folder in folders)) == []
    logs = [(folder / "a_metrics.jsonl").read_text() for folder in folders]
    ours, theirs = (re.sub(r'"seconds": [\d.]+', "", log) for log in logs)
    assert ours == theirs


@pytest.mark.parametrize(("then", "reason"), [("true", "No such file or directory"), ("touch", "Not a directory")])
def test_a_folder_that_is_taken_away_ends_the_run(command, photos, refused, tmp_path, then, reason):
    """At the end of the first epoch."""
    folder = tmp_path / "checkpoint/ours/0"
    fault = f"open a_resume.pth.tar.tmp 1 rm -r {folder}; {then} {folder}"
    assert f"{folder}/a_resume.pth.tar cannot be written ({reason})" in refused(command, cwd=photos, FAULT=fault)


def test_the_longest_name_is_that_of_files_that_can_be_written(command, photos, run, tmp_path):
    longest = f"{command} --save_name {'n' * 230} --epochs 2 --meta_start 1"
    run(longest, cwd=photos, STOP_AT="5", STOP_BY="15", status=143)
    run(f"{longest} --resume auto", cwd=photos)
    assert max(len(name) for name in os.listdir(tmp_path / "checkpoint/ours/0")) > 250


def test_a_folder_whose_name_is_no_text_is_refused(command, photos, refused, tmp_path):
    line = refused(command, "--workdir", os.fsdecode(os.fsencode(tmp_path) + b"/\xff"), cwd=photos)
    assert re.search(r"\\udcff/checkpoint.*its name is no text", line)


def test_ctrl_c_before_the_first_epoch_leaves_nothing_behind(command, photos, run, tmp_path):
    """In the middle of the reading of images."""
    result = run(command, cwd=photos, FAULT="open 3.png 2 SIGINT", status=130)
    assert result.stderr == "MetaSAug_LDAM_train.py: stopped\n"
    assert files_of(tmp_path) == {}
