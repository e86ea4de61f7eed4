"""Runs that are killed or stopped anywhere, and go on to the same bytes."""

import json
import shutil
from functools import reduce
from operator import getitem
from signal import SIGINT, SIGKILL, SIGTERM

import torch
from support.ranks import together
from support.runs import differences, saved_state, with_leaf

from harness.checkpoint import save_checkpoint

CACHED = "--cache_features 2 --cache_dir cache --batch_size 2 --lr 0.01 --meta_lr 1e8 --epochs 2"


def log_of(folder, name):
    return [json.loads(line) for line in (folder / f"{name}_metrics.jsonl").read_text().splitlines()]


def different(ours, theirs, name="a"):
    """The places in which the files of two runs differ."""
    pairs = [[saved_state(folder, kind, name) for folder in (ours, theirs)] for kind in ("ckpt", "last", "resume")]
    pairs += [[log_of(folder, name) for folder in (ours, theirs)]]
    return [place for pair in pairs for place in differences(*pair)]


def test_a_run_stopped_in_each_epoch_ends_with_the_same_bytes(photos, small_training, whole, run, chance, tmp_path):
    folder, done = tmp_path / "checkpoint" / "ours" / "0", 0
    command = f"{small_training} --workdir {tmp_path} --resume auto"
    for epoch, number in enumerate((SIGKILL, SIGTERM, SIGKILL, SIGINT)):
        step = 4 * epoch + chance.randint(1 if epoch else 2, 4)
        minutes = 0 if number == SIGKILL else 60
        stop = {"STOP_AT": str(step - done), "STOP_BY": str(int(number)), "status": 128 + number}
        said = run(f"{command} --save_every {minutes}", cwd=photos, **stop).stderr
        inner = saved_state(folder)["resume"]
        done = 4 * inner["record"]["epoch"] + inner["meter"]["steps"]
        if number == SIGKILL:
            assert done == step - 1  # saved after every step, and before this one
        else:
            assert done == step  # which was brought to its end, and then saved
            where = f"in epoch {epoch} after step {step - 4 * epoch}"
            told = f"stopped by {number.name} {where}; to resume, give the same command with --resume auto"
            assert said.endswith(f": {told}\n")
            assert said.count("\n") == 1
    assert f"going on in epoch 3 after step {done - 12}" in run(command, cwd=photos).stdout
    assert different(folder, whole) == []
    other = saved_state(folder)
    other["state_dict"]["inner.linear.bias"].view(torch.uint8)[0] ^= 1  # the control: one bit
    assert differences(other, saved_state(whole)) == ["/state_dict/inner.linear.bias"]


def test_every_part_of_the_state_is_needed(photos, small_training, whole, run, tmp_path):
    """Amid an epoch of stage 2: with any part left as it was after the first step, something else comes out."""
    folders = [tmp_path / step / "checkpoint/ours/0" for step in ("1", "14")]
    for step in ("1", "14"):
        run(f"{small_training} --workdir {tmp_path}/{step}", cwd=photos, status=143, STOP_AT=step, STOP_BY="15")
    first, middle = map(saved_state, folders)
    kept = shutil.copytree(folders[1], tmp_path / "kept")
    inner = ("estimator", "meter", "meta_taken", "record/epoch", "random/torch", "random/numpy", "random/python")
    for part in ("epoch", "state_dict", "optimizer", *(f"resume/{name}" for name in inner)):
        shutil.rmtree(folders[1])
        shutil.copytree(kept, folders[1])
        place = part.split("/")
        save_checkpoint(with_leaf(middle, place, reduce(getitem, place, first)), folders[1] / "a_resume.pth.tar")
        run(f"{small_training} --workdir {tmp_path}/14 --resume auto", cwd=photos)
        ours, expected = (saved_state(folder, "last")["state_dict"] for folder in (folders[1], whole))
        assert bool(differences(ours, expected)) == (part != "epoch"), part  # which the record says too


def test_two_processes_killed_and_stopped_end_with_the_same_bytes(large_training, start, chance, tmp_path):
    """Two epochs of three steps, from cached features."""
    name = "MetaSAug_custom"
    cut, whole = (tmp_path / part / "checkpoint/ours/custom" for part in ("cut", "whole"))

    def two(flags, at=0, by=SIGKILL):
        stop = {"STOP_AT": str(at), "STOP_BY": str(int(by))}
        (first, *said), (second, *_) = together(start, 2, f"{large_training} {CACHED} {flags}", **stop)
        return [first, second], "".join(said)

    assert two("--workdir whole")[0] == [0, 0]
    resumed, step = "--workdir cut --resume auto", chance.randint(2, 3)
    assert two(f"{resumed} --save_every 0", at=step)[0] == [137, 137]
    assert saved_state(cut, name=name)["resume"]["meter"]["steps"] == step - 1
    statuses, said = two(resumed, at=chance.randint(1, 3) + 4 - step, by=SIGTERM)
    assert statuses == [143, 143]
    assert "stopped by SIGTERM in epoch 1" in said
    statuses, said = two(resumed)
    assert statuses == [0, 0]
    assert "going on in epoch 1" in said
    assert different(cut, whole, name) == []
    assert "note: in 3 of 3 steps the learned covariance of some class had a negative trace" in said
    assert [line["negative_traces"] for line in log_of(cut, name)] == [0, 3]
