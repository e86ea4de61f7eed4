"""What the tests share: running scripts as a user does, float64, CIFAR's files made small."""

import hashlib
import importlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("no deadline", deadline=None)  # the machine may be busy
settings.load_profile("no deadline")

ROOT = Path(__file__).resolve().parent.parent
READ_AT_START = {"PYTHONWARNINGS", "OMP_NUM_THREADS"}  # variables that a forked process would read too late

# Run before a script. With CIFAR_MD5 torchvision expects the md5 sums of the files a test made, and downloads nothing.
PATCH = """
import json, os
if "CIFAR_MD5" in os.environ:
    from torchvision import datasets
    sums = json.loads(os.environ["CIFAR_MD5"])
    for reader in (datasets.CIFAR10, datasets.CIFAR100):
        reader.train_list = [[name, sums.get(name, md5)] for name, md5 in reader.train_list]
        reader.test_list = [[name, sums.get(name, md5)] for name, md5 in reader.test_list]
        reader.meta = {**reader.meta, "md5": sums.get(reader.meta["filename"], reader.meta["md5"])}
        reader.url = "http://127.0.0.1:9/" + reader.filename  # nothing listens there
"""


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """The environment of a script: our interpreter as python3, one message of CIFAR's sums, no network proxies."""
    folder = tmp_path_factory.mktemp("environment")
    (folder / "sitecustomize.py").write_text(PATCH)
    (folder / "bin").mkdir()
    shim = folder / "bin" / "python3"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    shim.chmod(0o755)
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    kept = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    return {**kept, "PATH": path, "PYTHONPATH": str(folder), "PYTHONWARNINGS": "error::FutureWarning"}


@pytest.fixture(scope="session")
def forked_python3(environment, tmp_path_factory):
    """A command that does what python3 does with a script of the project, without the wait for libraries; see zygote.py."""
    folder = tmp_path_factory.mktemp("zygote")
    shim = folder / "python3"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{ROOT}/tests/fork.py" "{folder}/socket" "$@"\n')
    shim.chmod(0o755)
    with subprocess.Popen([sys.executable, ROOT / "tests" / "zygote.py", folder / "socket"], env=environment, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout.readline() == "ready\n"
        yield str(shim)
        process.terminate()


@pytest.fixture
def run(forked_python3, environment, tmp_path):
    """Run a command in a new folder, as a user would: `run("script.py", "--flag", ...)` with python, or `run("sh", ...)`.

    A shell script gets the forked python3 where the test says PYTHON=forked_python3.
    """

    def call(*command, cwd=tmp_path, status=0, timeout=600, **variables):
        if command[0] == "sh":
            words = ["sh"]
        else:
            words = [sys.executable if variables.keys() & READ_AT_START else forked_python3, ROOT / command[0]]
        result = subprocess.run(
            [*map(str, words), *map(str, command[1:])], cwd=cwd, env={**environment, **variables}, capture_output=True,
            text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert result.returncode == status, result.stdout + result.stderr
        return result

    return call


@pytest.fixture
def main(monkeypatch, tmp_path, capsys):
    """Call a script's main in this process, on one thread, in a new folder: the same as `run` without its imports."""

    def call(script, *flags):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [script, *map(str, flags)])
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            importlib.import_module(script.removesuffix(".py")).main()
        finally:
            torch.set_num_threads(threads)
        return capsys.readouterr().out

    return call


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


def make_cifar(root, name, per_class, test_per_class):
    """Write files of CIFAR's exact form, with pixels that tell the classes apart; return md5 sums by file name."""
    classes = 10 if name == "cifar10" else 100
    generator = np.random.default_rng(0)
    prototypes = generator.integers(0, 256, (classes, 3, 8, 8))

    def part(count, key):
        labels = generator.permutation(np.repeat(np.arange(classes), count))
        coarse = prototypes[labels].repeat(4, axis=2).repeat(4, axis=3)
        pixels = np.clip(coarse + generator.normal(0, 30, coarse.shape), 0, 255).astype(np.uint8)
        return {"data": pixels.reshape(len(labels), 3072), key: labels.tolist()}

    if name == "cifar10":
        folder, key, meta, names_key = root / "cifar-10-batches-py", "labels", "batches.meta", "label_names"
        whole = part(per_class, key)
        size = len(whole[key]) // 5
        files = {f"data_batch_{i + 1}": {k: v[i * size : (i + 1) * size] for k, v in whole.items()} for i in range(5)} | {
            "test_batch": part(test_per_class, key)
        }
    else:
        folder, key, meta, names_key = root / "cifar-100-python", "fine_labels", "meta", "fine_label_names"
        files = {"train": part(per_class, key), "test": part(test_per_class, key)}
    files[meta] = {names_key: [f"class{k:03}" for k in range(classes)]}
    folder.mkdir(parents=True)
    sums = {}
    for file, content in files.items():
        raw = pickle.dumps(content, protocol=2)
        (folder / file).write_bytes(raw)
        sums[file] = hashlib.md5(raw).hexdigest()
    return sums


@pytest.fixture(scope="session")
def cifar100_files(tmp_path_factory):
    """A folder with small files of CIFAR-100's form, 30 training and 2 test images a class, and its CIFAR_MD5."""
    root = tmp_path_factory.mktemp("cifar100")
    return root, json.dumps(make_cifar(root, "cifar100", per_class=30, test_per_class=2))
