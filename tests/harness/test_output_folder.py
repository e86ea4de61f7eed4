"""The folder of a run that is taken away or fills up during the run: a line that names the file, and nothing lost."""

import json
import os

import pytest
from support.runs import differences, files_of, saved_state

from harness.checkpoint import load_checkpoint

LDAM = "MetaSAug_LDAM_train.py"
LONG = "n" * 230
FAULTS = [  # what is opened or renamed the how manieth time, the error, and the file that the line names
    ("open a_metrics.jsonl 2 ENOSPC", "a_metrics.jsonl cannot be written (No space left on device); it is unchanged"),
    ("open a_last.pth.tar.tmp 3 EROFS", "a_last.pth.tar cannot be written (Read-only file system); it is unchanged"),
    ("open a_last_predictions.npz.tmp 2 ENOSPC", "a_last_predictions.npz cannot be written (No space left on device)"),
    ("os.rename a_resume.pth.tar.tmp 2 EROFS", "a_resume.pth.tar cannot be written (Read-only file system)"),
    ("open a_summary.json.tmp 1 ENOSPC", "a_summary.json cannot be written (No space left on device)"),
]


@pytest.mark.parametrize(("fault", "words"), FAULTS, ids=[fault for fault, _ in FAULTS])
def test_a_disk_that_fills_up_is_said_and_files_stay(small_training, photos, refused, tmp_path, fault, words):
    assert words in refused(LDAM, *small_training, "--workdir", tmp_path, cwd=photos, FAULT=fault)
    folder = tmp_path / "checkpoint/ours/0"
    checkpoints = [load_checkpoint(path) for path in folder.glob("*.pth.tar*")]
    assert len(checkpoints) >= 3
    assert not [path for path in folder.iterdir() if path.name.endswith((".tmp", ".tmp2", ".lock"))]


def test_a_run_whose_disk_was_full_goes_on_to_the_same_bytes(small_training, photos, whole, refused, run, tmp_path):
    """The line of the log was written, the checkpoint of the same epoch was not."""
    command, folder = [LDAM, *small_training, "--workdir", tmp_path], tmp_path / "checkpoint/ours/0"
    refused(*command, cwd=photos, FAULT="open a_last.pth.tar.tmp 3 ENOSPC")
    run(*command, "--resume", "auto", cwd=photos)
    assert differences(saved_state(folder, "last"), saved_state(whole, "last")) == []
    logs = [(place / "a_metrics.jsonl").read_text().splitlines() for place in (folder, whole)]
    ours, theirs = ([json.loads(line) | {"seconds": 0} for line in log] for log in logs)
    assert ours == theirs


@pytest.mark.parametrize(
    ("effect", "words"),
    [
        ("rm -r {0}", "{0}/a_resume.pth.tar cannot be written (No such file or directory)"),
        ("rm -r {0}; touch {0}", "{0}/a_resume.pth.tar cannot be written (Not a directory)"),
    ],
)
def test_a_folder_that_is_taken_away_ends_the_run(small_training, photos, refused, tmp_path, effect, words):
    """The effect comes at the end of the first epoch."""
    folder = tmp_path / "checkpoint/ours/0"
    fault = f"open a_resume.pth.tar.tmp 1 {effect.format(folder)}"
    assert words.format(folder) in refused(LDAM, *small_training, "--workdir", tmp_path, cwd=photos, FAULT=fault)


def test_the_longest_name_is_that_of_files_that_can_be_written(small_training, photos, run, tmp_path):
    command = [LDAM, *small_training, "--save_name", LONG, "--workdir", tmp_path, "--epochs", "2", "--meta_start", "1"]
    run(*command, cwd=photos, STOP_AT="5", STOP_BY="15", status=143)
    run(*command, "--resume", "auto", cwd=photos)
    assert max(len(name) for name in os.listdir(tmp_path / "checkpoint/ours/0")) > 250


def test_a_folder_whose_name_is_no_text_is_refused(small_training, photos, refused, tmp_path):
    line = refused(LDAM, *small_training, "--workdir", os.fsdecode(os.fsencode(tmp_path) + b"/\xff"), cwd=photos)
    assert r"\udcff/checkpoint" in line
    assert "its name is no text" in line


def test_ctrl_c_before_the_first_epoch_leaves_nothing_behind(small_training, photos, run, tmp_path):
    """In the middle of the reading of images."""
    result = run(LDAM, *small_training, "--workdir", tmp_path, cwd=photos, FAULT="open 3.png 2 SIGINT", status=130)
    assert result.stderr == f"{LDAM}: stopped\n"
    assert files_of(tmp_path) == {}
