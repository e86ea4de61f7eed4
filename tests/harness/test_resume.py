"""Runs that are killed or stopped anywhere, and go on to the same bytes."""

import json
import random
import shutil
from signal import SIGINT, SIGKILL, SIGTERM

import numpy as np
import torch
from support.ranks import together
from support.runs import differences, saved_state

from harness.checkpoint import packed, save_checkpoint
from harness.random_states import random_states, seed_everything, set_random_states

KINDS = ("ckpt", "last", "resume")


def log_of(folder):
    """The log of a run but for its clock."""
    lines = [json.loads(line) for line in (folder / "a_metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_a_run_stopped_in_each_epoch_ends_with_the_same_bytes(photos, small_training, whole, run, chance, tmp_path):
    folder, done = tmp_path / "checkpoint" / "ours" / "0", 0
    command = ["MetaSAug_LDAM_train.py", *small_training, "--workdir", tmp_path, "--resume", "auto"]
    for epoch, number in enumerate((SIGKILL, SIGTERM, SIGKILL, SIGINT)):
        step = 4 * epoch + chance.randint(1 if epoch else 2, 4)
        minutes = 0 if number == SIGKILL else 60
        stop = {"STOP_AT": str(step - done), "STOP_BY": str(int(number)), "status": 128 + number}
        said = run(*command, "--save_every", minutes, cwd=photos, **stop).stderr
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
    assert f"going on in epoch 3 after step {done - 12}" in run(*command, cwd=photos).stdout
    ours, theirs = ({kind: saved_state(place, kind) for kind in KINDS} for place in (folder, whole))
    assert {kind: differences(ours[kind], theirs[kind]) for kind in KINDS} == {kind: [] for kind in KINDS}
    ours["last"]["state_dict"]["inner.linear.bias"].view(torch.uint8)[0] ^= 1  # the control: one bit
    assert differences(ours["last"], theirs["last"]) == ["/state_dict/inner.linear.bias"]
    assert log_of(folder) == log_of(whole)


def test_a_run_does_not_go_on_with_a_renamed_class(photos, small_training, run, refused, tmp_path):
    for part in ("train", "test"):
        shutil.copytree(photos / part, tmp_path / part)
    own = ["--data_root", tmp_path, "--workdir", tmp_path, "--arch", "resnet8"]
    command = ["MetaSAug_LDAM_train.py", *small_training, *own]
    run(*command, status=143, STOP_AT="1", STOP_BY="15")
    for part in ("train", "test"):  # the same images in the same order
        (tmp_path / part / "class1").rename(tmp_path / part / "class1b")
    line = refused(*command, "--resume", "auto")
    assert "a_resume.pth.tar was made with class_names[1] class1, this run has class1b" in line


def with_other(state, other, part):
    """A state of which one part is that of another moment."""
    inner, theirs = state["resume"], other["resume"]
    if part in ("state_dict", "optimizer"):
        return {**state, part: other[part]}
    if part == "epoch":
        inner = {**inner, "record": {**inner["record"], "epoch": inner["record"]["epoch"] - 1}}
    elif part in ("torch", "numpy", "python"):
        inner = {**inner, "random": {**inner["random"], part: theirs["random"][part]}}
    else:
        inner = {**inner, part: theirs[part]}
    return {**state, "resume": inner}


def test_every_part_of_the_state_is_needed(photos, small_training, whole, run, tmp_path):
    """Amid an epoch of stage 2: with any part left as it was after the first step, something else comes out."""
    command = ["MetaSAug_LDAM_train.py", *small_training, "--workdir"]
    folders = {step: tmp_path / str(step) / "checkpoint" / "ours" / "0" for step in (1, 14)}
    for step in folders:
        run(*command, tmp_path / str(step), cwd=photos, status=143, STOP_AT=str(step), STOP_BY="15")
    first, middle = (saved_state(folder) for folder in folders.values())
    expected = saved_state(whole, "last")["state_dict"]
    parts = ["state_dict", "optimizer", "estimator", "meter", "meta_taken", "epoch", "torch", "numpy", "python"]
    kept = shutil.copytree(folders[14], tmp_path / "kept")
    for part in ["nothing", *parts]:
        shutil.rmtree(folders[14])
        shutil.copytree(kept, folders[14])
        save_checkpoint(middle if part == "nothing" else with_other(middle, first, part), folders[14] / "a_resume.pth.tar")
        run(*command, tmp_path / "14", "--resume", "auto", cwd=photos)
        ours = saved_state(folders[14], "last")["state_dict"]
        assert bool(differences(ours, expected)) == (part != "nothing"), part


def test_states_of_the_generators_come_back():
    def draws():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002

    seed_everything(3)
    states = random_states()
    first = draws()
    set_random_states(states)
    assert draws() == first
    assert packed({"random": states})  # plain types only


def test_two_processes_killed_and_stopped_end_with_the_same_bytes(large_training, start, run, chance, tmp_path):
    """Two epochs of three steps, from cached features."""

    def two(*flags, at=0, by=SIGKILL):
        given = [*large_training, "--cache_features", "2", "--cache_dir", "cache", "--workers", "0", "--batch_size", "2",
                 "--lr", "0.01", "--meta_lr", "1e8", "--epochs", "2", *flags]  # fmt: skip
        results = together(start, 2, "ImageNet_iNat/train.py", *given, STOP_AT=str(at), STOP_BY=str(int(by)))
        return [status for status, _, _ in results], results[0][1] + results[0][2]

    def state(name, kind="resume"):
        return saved_state(tmp_path / name / "checkpoint/ours/custom", kind, "MetaSAug_custom")

    def negative_traces(name):
        log = tmp_path / name / "checkpoint/ours/custom/MetaSAug_custom_metrics.jsonl"
        return [json.loads(line)["negative_traces"] for line in log.read_text().splitlines()]

    assert two("--workdir", "whole")[0] == [0, 0]
    cut, step = ["--workdir", "cut", "--resume", "auto"], chance.randint(2, 3)
    assert two(*cut, "--save_every", "0", at=step)[0] == [137, 137]
    assert state("cut")["resume"]["meter"]["steps"] == step - 1
    statuses, said = two(*cut, at=chance.randint(1, 3) + 4 - step, by=SIGTERM)
    assert statuses == [143, 143]
    assert "stopped by SIGTERM in epoch 1" in said
    statuses, said = two(*cut)
    assert statuses == [0, 0]
    assert "going on in epoch 1" in said
    assert {kind: differences(state("cut", kind), state("whole", kind)) for kind in KINDS} == {kind: [] for kind in KINDS}
    assert "note: in 3 of 3 steps the learned covariance of some class had a negative trace" in said
    alone = [*large_training, "--cache_features", "2", "--cache_dir", "cache", "--workers", "0", "--batch_size", "4",
             "--lr", "0.01", "--meta_lr", "1e8", "--epochs", "2", "--workdir", "alone"]  # fmt: skip
    run("ImageNet_iNat/train.py", *alone)
    assert negative_traces("cut") == negative_traces("whole") == negative_traces("alone") == [0, 3]
