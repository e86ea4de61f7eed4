"""What ends a command in one line, and what keeps its traceback."""

import errno
from types import SimpleNamespace

import pytest
import torch

from harness.errors import Stopped, UserError, ending
from harness.machine import workers_that_fit


@pytest.mark.parametrize(
    ("error", "words", "status"),
    [
        (UserError("x is wrong: mend it"), "error: x is wrong: mend it", 2),
        (Stopped("stopped by SIGTERM", 143), "stopped by SIGTERM", 143),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "", 141),
        (MemoryError(), "there is not enough memory: take fewer data", 2),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "--batch_size or fewer --views", 2),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "the GPU's memory is full: take a smaller --batch_size", 2),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "a loading process was killed", 2),
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_1>"), "/dev/shm is full", 2),
        (RuntimeError("value cannot be converted to type float without overflow"), "beyond what float32 holds", 2),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "a/b cannot be read or written (Permission denied)", 2),
    ],
)  # fmt: skip
def test_what_ends_a_command_in_one_line(error, words, status):
    line, found = ending(error)
    assert words in line
    assert "\n" not in line
    assert found == status


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("x"), KeyError("x")])
def test_a_fault_of_ours_keeps_its_traceback(error):
    assert ending(error) is None


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def make(classes):\n    raise SystemExit\n", "leaves.py, line 2, ended the process by sys.exit"),
        ("import torch\ndef make(classes):\n    return torch.zeros(2**45)\n", "not enough memory"),
    ],
)
def test_code_that_the_user_named_ends_in_a_line(refused, tmp_path, source, words):
    (tmp_path / "leaves.py").write_text(source)
    assert words in refused("MetaSAug_CE_train.py --dataset digits --no-cuda --arch leaves:make")


@pytest.mark.parametrize(("workers", "free", "fitting"), [(2, 5000, 2), (2, 4900, 1), (4, 1000, 0), (0, 0, 0)])
def test_loading_processes_are_as_many_as_the_shared_memory_holds(monkeypatch, capsys, tmp_path, workers, free, fitting):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    assert workers_that_fit(workers, 1000, tmp_path) == fitting
    assert ("docker run --shm-size" in capsys.readouterr().err) == (fitting < workers)
