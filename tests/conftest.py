"""What the tests share: running scripts as a user does, float64, CIFAR's files made small."""

import os
import random
import re
import shlex
import signal
import subprocess
import sys
import threading
from functools import partial

import pytest
import torch
from hypothesis import settings
from support.data import CIFAR_PATCH, CLOCK_PATCH, FAULT_PATCH, STOP_PATCH, make_cifar
from support.places import ROOT

torch.set_num_threads(1)  # on tensors this small, and beside other processes, threads only wait for one another
settings.register_profile("no deadline", deadline=None)  # the machine may be busy
settings.load_profile("no deadline")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell began the tests in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # scripts would leave it ignored
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup did
    signal.signal(signal.SIGHUP, lambda *_: None)  # the tests still outlive their terminal

PATIENCE = 600  # seconds until a command that hangs is a failure


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def chance():
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)  # shown when the test fails
    return random.Random(seed)


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """The environment of a script: our interpreter as python3, one thread, CIFAR's sums, no network proxies."""
    folder = tmp_path_factory.mktemp("environment")
    (folder / "sitecustomize.py").write_text(CIFAR_PATCH + STOP_PATCH + CLOCK_PATCH + FAULT_PATCH)
    (folder / "bin").mkdir()
    shim = folder / "bin" / "python3"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    shim.chmod(0o755)
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    kept = {k: v for k, v in os.environ.items() if "proxy" not in k.lower() and k != "PYTHON"}
    ours = {"PATH": path, "PYTHONPATH": str(folder), "PYTHONWARNINGS": "error::FutureWarning", "OMP_NUM_THREADS": "1"}
    return {**kept, **ours}


@pytest.fixture(scope="session")
def forked_python3(environment, tmp_path_factory):
    """A command that does what python3 does with a script of the project, without the wait for libraries.

    The server it asks ends, with all it began, when its standard input does: with this process, however that ends.
    """
    folder = tmp_path_factory.mktemp("fork")
    client, server = (ROOT / "tests" / "support" / f"fork_{side}.py" for side in ("client", "server"))
    shim = folder / "python3"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{client}" "{folder}/socket" "$@"\n')
    shim.chmod(0o755)
    with subprocess.Popen([sys.executable, server, folder / "socket"], env=environment, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout.readline() == "ready\n"
        yield str(shim)
        process.stdin.close()


def words_of(command, python):
    """The words of a command, whose first one may be a script with some of its flags, as a user types them."""
    script, *flags = shlex.split(str(command[0]))
    first = [script] if script == "sh" else [python, str(ROOT / script)]
    return [*first, *flags, *map(str, command[1:])]


@pytest.fixture(scope="session")
def run_in(forked_python3, environment):
    """What `run` does, in the folder `cwd`: for a fixture whose run serves several tests."""

    def call(*command, cwd, status=0, fresh=False, **variables):
        python = sys.executable if fresh else forked_python3
        result = subprocess.run(words_of(command, python), cwd=cwd, env={**environment, "PYTHON": python, **variables},
                                capture_output=True, text=True, timeout=PATIENCE, check=False)  # fmt: skip
        assert result.returncode == status, result.stdout + result.stderr
        return result

    return call


@pytest.fixture
def run(run_in, tmp_path):
    """Run a command in a new folder, as a user would: `run("script.py --flag", ...)`, or `run("sh", ...)`.

    A script runs in a process forked from one that has loaded the libraries; with fresh=True in a new interpreter, which
    also reads variables like PYTHONWARNINGS. So do the Python scripts that a shell script starts, by its variable PYTHON.
    The forked one has a small network in place of ResNet-50 (support/slim_resnet.py), unless told RESNET50="whole", and
    makes the pages of reports without their pictures (support/undrawn.py), unless told PICTURES="drawn".
    """
    return partial(run_in, cwd=tmp_path)


@pytest.fixture
def refused(run):
    """Run a command that must be refused: status 2, one line on stderr, no traceback. Return the line."""

    def call(*command, **kwargs):
        result = run(*command, status=2, **kwargs)
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1, result.stderr
        assert "Traceback" not in result.stderr
        return lines[0]

    return call


@pytest.fixture
def start(forked_python3, environment, tmp_path):
    """Start a script as `run` does, and do not wait: what it prints can be read, signals sent to it reach the script."""
    started = []

    def call(*command, cwd=tmp_path, fresh=False, **variables):
        words = words_of(command, sys.executable if fresh else forked_python3)
        env = {**environment, "PYTHONUNBUFFERED": "1", **variables}
        process = subprocess.Popen(words, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   start_new_session=True)  # fmt: skip
        started.append(process)
        return process

    yield call
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def after_line():
    """Read what a started process prints until the `number`-th line with `pattern`; return the lines."""

    def call(process, number, pattern):
        lines = []
        watchdog = threading.Timer(PATIENCE, os.killpg, (process.pid, signal.SIGKILL))
        watchdog.start()
        for line in process.stdout:
            lines.append(line)
            number -= bool(re.search(pattern, line))
            if number == 0:
                break
        watchdog.cancel()
        assert number == 0, "".join(lines) + process.stderr.read()
        return lines

    return call


@pytest.fixture
def nest(monkeypatch):
    """Make folders in one another and go into the last; in the end rm removes them, which Python's own ways cannot."""
    made = []

    def call(place, name, number):
        made.append(place / name)
        monkeypatch.chdir(place)
        for _ in range(number):
            os.mkdir(name)
            os.chdir(name)

    yield call
    monkeypatch.undo()
    subprocess.run(["rm", "-rf", *made], check=True)


@pytest.fixture(scope="session")
def cifar100_files(tmp_path_factory):
    """A folder with small files of CIFAR-100's form, 30 training and 2 test images a class, and its CIFAR_MD5."""
    root = tmp_path_factory.mktemp("cifar100")
    return root, make_cifar(root, "cifar100", per_class=30, test_per_class=2)
