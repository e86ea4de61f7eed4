"""Stdout and stderr that cannot be written, and Ctrl-C while libraries load: a line, its status, and nothing lost."""

import fcntl
import os
import re
import select
import shlex
import shutil
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from support.data import write_image
from support.finished_runs import write_run
from support.places import ROOT
from support.runs import differences, saved_state

from harness.checkpoint import save_checkpoint
from resnet import build_model

LDAM, CE, TEST, REPORT = "MetaSAug_LDAM_train.py", "MetaSAug_CE_train.py", "MetaSAug_test.py", "report.py"
PREDICT = "predict.py"
HEAD, HEAD_TEST, LISTS = "ImageNet_iNat/train.py", "ImageNet_iNat/test.py", "ImageNet_iNat/data/prepare_lists.py"
TALKING = """
from tiny_networks import Pair

class Talking(Pair):
    def forward(self, x):
        print("a step", flush=True)
        return super().forward(x)
"""
PATIENCE = 120  # seconds


@pytest.fixture
def shell(run, tmp_path):
    """Run a script with redirections of a shell; return what it said and its exit status."""

    def call(redirections, command, before="", **variables):
        line = f'{{ {before} "$PYTHON" {ROOT}/{command}; echo $? >{tmp_path}/status; }} {redirections}'
        result = run("sh", "-c", line, **variables)
        return result.stdout, result.stderr, int((tmp_path / "status").read_text())

    return call


@pytest.fixture
def inputs(tmp_path):
    """A checkpoint, an image and a finished run; the words of each command that prints something of them."""
    state = {"epoch": 1, "arch": "resnet8", "dataset": "digits", "imb_factor": 0.1}
    save_checkpoint({**state, "state_dict": build_model("resnet8", 10).state_dict()}, tmp_path / "x.pth.tar")
    write_image(tmp_path / "x.png", 0)
    write_run(tmp_path / "runs", "a", log=False)
    checkpoint = "--no-cuda --checkpoint_path x.pth.tar"
    return {TEST: checkpoint, PREDICT: f"{checkpoint} x.png", REPORT: "runs"}


@pytest.mark.parametrize("script", [CE, TEST, PREDICT, REPORT, HEAD, HEAD_TEST, LISTS, "scripts/sweep.py"])
def test_a_full_disk_behind_stdout_is_said(shell, inputs, script):
    _, err, status = shell(">/dev/full", f"{script} {inputs.get(script, '--help')}")
    told = "error: stdout cannot be written (No space left on device)"
    assert (err, status) == (f"{Path(script).name}: {told}\n", 2)


@pytest.mark.usefixtures("inputs")
def test_a_reader_that_is_gone_ends_a_command_quietly(shell):
    assert shell("| true", f"{REPORT} runs", before="trap '' PIPE;") == ("", "", 141)


@pytest.mark.parametrize("lines", [10, 13])  # in the middle of the first epoch, at the end of it
def test_a_training_that_nobody_reads_goes_on_to_the_same_bytes(small_training, photos, whole, shell, run, tmp_path, lines):
    command = f"{small_training} --workdir {tmp_path}"
    _, *told = shell(f"| head -n {lines}", command, cwd=photos)
    go_on = "to resume, give the same command with --resume auto"
    assert told == [f"{LDAM}: the reader of its output has exited; {go_on}\n", 141]
    folder = tmp_path / "checkpoint/ours/0"
    assert saved_state(folder)["epoch"] + saved_state(folder)["resume"]["meter"]["steps"] > 0
    run(f"{command} --resume auto", cwd=photos)
    for name in ("last", "ckpt", "resume"):
        assert differences(saved_state(folder, name), saved_state(whole, name)) == []


def test_what_a_network_that_prints_had_moved_is_not_saved(shell, tmp_path):
    """A step that is cut short by its own printing is none to go on from."""
    (tmp_path / "talking.py").write_text(TALKING)
    shutil.copy(ROOT / "tests/support/tiny_networks.py", tmp_path)
    flags = "--dataset digits --arch talking:Talking --no-cuda --epochs 1 --batch-size 50"
    out, *told = shell("| head -n 9", f"{CE} {flags}")
    assert told == ["", 141]
    assert out.endswith("a step\n")
    assert not list(tmp_path.rglob("*_resume.pth.tar"))


def test_a_mistake_that_cannot_be_said_keeps_its_status(shell):
    assert shell("2>/dev/full", f"{LISTS} iNaturalist17", fresh=True) == ("", "", 2)


def on_its_terminal():
    """Make the terminal that of this process, whose hangup it is told."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_training_whose_terminal_goes_away_is_saved(environment, tmp_path):
    """It is told by SIGHUP, as by SIGTERM."""
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (24, 100))
    flags = shlex.split("--dataset digits --arch resnet8 --no-cuda --threads 1 --meta_start 1000000 --epochs 100000")
    process = subprocess.Popen([sys.executable, ROOT / CE, *flags], cwd=tmp_path, env=environment, stdin=slave, stdout=slave,
                               stderr=slave, preexec_fn=on_its_terminal)  # fmt: skip
    os.close(slave)
    seen = b""
    while not re.search(rb" [1-9]\d*/\d+ \[", seen) and select.select([master], [], [], PATIENCE)[0]:  # the bar
        seen += os.read(master, 4096)
    os.close(master)
    assert process.wait(PATIENCE) == 129
    saved = saved_state(tmp_path / "checkpoint/ours/0", name="name")
    assert saved["epoch"] + saved["resume"]["meter"]["steps"] > 0


@pytest.mark.parametrize(
    ("script", "module"),
    [(LDAM, "torch"), (LDAM, "data_utils"), (CE, "torch"), (TEST, "torch"), (PREDICT, "numpy"),
     (REPORT, "harness.errors"), (HEAD, "torch"), (HEAD_TEST, "torch"), (LISTS, "harness.flag_parser"),
     ("scripts/sweep.py", "tqdm")],
)  # fmt: skip
def test_ctrl_c_while_libraries_load_ends_in_a_line(run, script, module):
    result = run(f"{script} --nothing", fresh=True, status=130, FAULT=f"import {module} 1 SIGINT")
    assert (result.stdout, result.stderr) == ("", f"{Path(script).name}: stopped\n")


def test_ctrl_c_that_is_ignored_stays_so_while_libraries_load(shell):
    fault = "import harness.flag_parser 1 SIGINT"
    out, *told = shell("", f"{LISTS} --help", fresh=True, before="trap '' INT;", FAULT=fault)
    assert (out[:6], *told) == ("usage:", "", 0)


@pytest.mark.parametrize(
    ("script", "place"),
    [(TEST, "x.pth.tar"), (PREDICT, "x.png"), (REPORT, "a_summary.json"), (REPORT, "report.html.*.tmp")],
)
def test_ctrl_c_amid_the_work_of_a_command_ends_in_a_line(inputs, run, tmp_path, script, place):
    assert run(f"{script} {inputs[script]}", FAULT=f"open {place} 1 SIGINT", status=130).stderr == f"{script}: stopped\n"
    assert not list(tmp_path.rglob("*.tmp"))
