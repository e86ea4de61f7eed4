"""Stdout and stderr that cannot be written, and Ctrl-C while libraries load: a line, its status, and nothing lost."""

import fcntl
import os
import re
import select
import shutil
import subprocess
import sys
import termios

import pytest
from support.data import write_image
from support.finished_runs import write_run
from support.places import ROOT
from support.runs import differences, saved_state

from harness.checkpoint import save_checkpoint
from resnet import build_model

LDAM, CE, TEST, REPORT = "MetaSAug_LDAM_train.py", "MetaSAug_CE_train.py", "MetaSAug_test.py", "report.py"
HEAD, HEAD_TEST, LISTS = "ImageNet_iNat/train.py", "ImageNet_iNat/test.py", "ImageNet_iNat/data/prepare_lists.py"
COMMANDS = [LDAM, CE, TEST, "predict.py", REPORT, HEAD, HEAD_TEST, LISTS, "scripts/sweep.py"]
TALKING = """
from tiny_networks import Pair

class Talking(Pair):
    def forward(self, x):
        print("a step", flush=True)
        return super().forward(x)
"""
DIGITS = ["--dataset", "digits", "--arch", "resnet8", "--no-cuda", "--threads", "1", "--meta_start", "1000000"]
PATIENCE = 120  # seconds
GO_ON = "to resume, give the same command with --resume auto"


@pytest.fixture
def shell(run, tmp_path):
    """Run a script with redirections of a shell; return what it said on stderr and its exit status."""

    def call(redirections, script, *words, fresh=False, before="", **variables):
        line = f'{{ {before} "$PYTHON" {ROOT / script} "$@"; echo $? >{tmp_path}/status; }} {redirections}'
        result = run("sh", "-c", line, "sh", *words, fresh=fresh, **variables)
        return result, int((tmp_path / "status").read_text())

    return call


@pytest.fixture
def inputs(tmp_path):
    """A checkpoint, an image and a finished run; the words of each command that prints something of them."""
    state = {"epoch": 1, "arch": "resnet8", "dataset": "digits", "imb_factor": 0.1}
    save_checkpoint({**state, "state_dict": build_model("resnet8", 10).state_dict()}, tmp_path / "x.pth.tar")
    write_image(tmp_path / "x.png", 0)
    write_run(tmp_path / "runs", "a", log=False)
    checkpoint = ["--no-cuda", "--checkpoint_path", "x.pth.tar"]
    return {TEST: checkpoint, "predict.py": [*checkpoint, "x.png"], REPORT: ["runs"]}


@pytest.mark.parametrize("script", COMMANDS)
def test_a_full_disk_behind_stdout_is_said(shell, inputs, script):
    result, status = shell(">/dev/full", script, *inputs.get(script, ["--help"]))
    name = script.split("/")[-1]
    assert (result.stderr, status) == (f"{name}: error: stdout cannot be written (No space left on device)\n", 2)


def test_a_reader_that_is_gone_ends_a_command_quietly(shell, inputs):
    result, status = shell("| true", REPORT, *inputs[REPORT], before="trap '' PIPE;")
    assert (result.stderr, status) == ("", 141)


@pytest.mark.parametrize("lines", [10, 13])  # in the middle of the first epoch, at the end of it
def test_a_training_that_nobody_reads_goes_on_to_the_same_bytes(small_training, photos, whole, shell, run, tmp_path, lines):
    words = [LDAM, *small_training, "--workdir", tmp_path]
    result, status = shell(f"| head -n {lines}", *words, cwd=photos)
    assert (result.stderr, status) == (f"{LDAM}: the reader of its output has exited; {GO_ON}\n", 141)
    folder = tmp_path / "checkpoint/ours/0"
    assert saved_state(folder)["epoch"] + saved_state(folder)["resume"]["meter"]["steps"] > 0
    assert "going on in epoch" in run(*words, "--resume", "auto", cwd=photos).stdout
    for name in ("last", "ckpt", "resume"):
        assert differences(saved_state(folder, name), saved_state(whole, name)) == []


def test_what_a_network_that_prints_had_moved_is_not_saved(shell, tmp_path):
    """A step that is cut short by its own printing is none to go on from."""
    (tmp_path / "talking.py").write_text(TALKING)
    shutil.copy(ROOT / "tests/support/tiny_networks.py", tmp_path)
    words = ["--dataset", "digits", "--arch", "talking:Talking", "--no-cuda", "--epochs", "1", "--batch-size", "50"]
    result, status = shell("| head -n 9", CE, *words)
    assert (result.stderr, status) == ("", 141)
    assert result.stdout.endswith("a step\n")
    assert not list((tmp_path / "checkpoint/ours/0").glob("*_resume.pth.tar"))


def test_a_mistake_that_cannot_be_said_keeps_its_status(shell):
    result, status = shell("2>/dev/full", LISTS, "iNaturalist17", fresh=True)
    assert (result.stdout, result.stderr, status) == ("", "", 2)


def on_its_terminal(slave):
    """Make the terminal that of this process, whose hangup it is told."""
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)


def test_a_training_whose_terminal_goes_away_is_saved(environment, tmp_path):
    """It is told by SIGHUP, as by SIGTERM."""
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (24, 100))
    process = subprocess.Popen(
        [sys.executable, ROOT / CE, *DIGITS, "--epochs", "100000"], cwd=tmp_path, env=environment, stdin=slave,
        stdout=slave, stderr=slave, preexec_fn=lambda: on_its_terminal(0),
    )  # fmt: skip
    os.close(slave)
    seen = b""
    while not re.search(rb" [1-9]\d*/\d+ \[", seen) and select.select([master], [], [], PATIENCE)[0]:  # the bar
        seen += os.read(master, 4096)
    os.close(master)
    assert process.wait(PATIENCE) == 129
    saved = saved_state(tmp_path / "checkpoint/ours/0", name="name")
    assert saved["epoch"] + saved["resume"]["meter"]["steps"] > 0


INTERRUPTED = [
    (LDAM, "torch"), (LDAM, "torch.nn"), (LDAM, "data_utils"), (CE, "torch"), (TEST, "torch"), ("predict.py", "numpy"),
    (REPORT, "harness.errors"), (HEAD, "torch"), (HEAD_TEST, "torch"), (LISTS, "harness.flag_parser"),
    ("scripts/sweep.py", "tqdm"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "module"), INTERRUPTED)
def test_ctrl_c_while_libraries_load_ends_in_a_line(run, script, module):
    result = run(script, "--nothing", fresh=True, status=130, FAULT=f"import {module} 1 SIGINT")
    assert (result.stdout, result.stderr) == ("", f"{script.split('/')[-1]}: stopped\n")


def test_ctrl_c_that_is_ignored_stays_so_while_libraries_load(shell):
    fault = "import harness.flag_parser 1 SIGINT"
    result, status = shell("", LISTS, "--help", fresh=True, before="trap '' INT;", FAULT=fault)
    assert (result.stdout[:6], result.stderr, status) == ("usage:", "", 0)


@pytest.mark.parametrize(
    ("script", "words", "fault"),
    [
        (TEST, None, "open x.pth.tar 1 SIGINT"),
        ("predict.py", None, "open x.png 1 SIGINT"),
        (REPORT, None, "open a_summary.json 1 SIGINT"),
        (REPORT, None, "open report.html.*.tmp 1 SIGINT"),
    ],
)
def test_ctrl_c_amid_the_work_of_a_command_ends_in_a_line(inputs, run, tmp_path, script, words, fault):
    result = run(script, *(words or inputs[script]), FAULT=fault, status=130)
    assert result.stderr == f"{script.split('/')[-1]}: stopped\n"
    assert not list(tmp_path.rglob("*.tmp"))
