"""Signals that are remembered until a step is done, and the lock on a run's files."""

import fcntl
import os
import signal
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.refusals import refusal
from support.runs import saved_state, small_run, take_step

from harness.errors import Stopped
from harness.signals_and_lock import Signals, only_run


@contextmanager
def stop(words, status):
    with pytest.raises(Stopped, match=words) as stopped:
        yield
    assert stopped.value.status == status


def test_a_signal_leaves_a_wait_for_data_at_once_and_a_step_when_it_is_done(tmp_path):
    before = signal.getsignal(signal.SIGINT)  # ignored where a shell started the tests in the background

    def slow():
        yield 1
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("the wait goes on")
        except Exception:  # a reader that handles every one, as decode says of any image that it is broken
            yield 2

    with stop("SIGTERM in epoch 0 after step 1", 143), small_run(tmp_path / "SIGTERM") as run:
        next(run.epochs)
        for _ in run.watch(slow(), "x", 5):
            take_step(run)
    for name in ("SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"):
        number = signal.Signals[name]
        with stop(f"{name} in epoch 0 after step 1", 128 + number), small_run(tmp_path / name) as run:
            next(run.epochs)
            os.kill(os.getpid(), number)  # in the middle of a step
            os.kill(os.getpid(), signal.SIGTERM)  # of a launcher, after that of the terminal
            take_step(run)
    assert signal.getsignal(signal.SIGINT) is before
    assert [saved_state(folder)["resume"]["meter"]["steps"] for folder in tmp_path.iterdir()] == [1] * 6


def test_a_signal_that_is_ignored_from_the_start_stays_so_and_loading_processes_may_die():
    """PyTorch's handler, which raises when one of these does, is taken off at the first signal."""
    handlers = {signal.SIGHUP: signal.SIG_IGN, signal.SIGCHLD: lambda *_: pytest.fail("a loading process died")}
    with ExitStack() as after:
        for number, handler in handlers.items():
            after.callback(signal.signal, number, signal.signal(number, handler))
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not signals.asked
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.asked == signal.SIGTERM
            if not (child := os.fork()):
                os._exit(1)
            os.waitpid(child, 0)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize(
    ("whole", "number", "status", "words"),
    [
        (True, signal.SIGINT, 130, "to resume, give the same command with --resume auto"),  # as a terminal does
        (False, signal.SIGKILL, 2, "error: a loading process was killed, as a system does that lacks memory"),
    ],
)
def test_a_loading_process_that_is_killed_ends_the_run_in_a_line(
    large_training, start, after_line, tmp_path, whole, number, status, words
):
    """Alone, or with the run, which then saves."""
    process = start(f"{large_training} --workers 1 --epochs 500")
    after_line(process, 1, r"\[\d/\d\]")
    run = (tmp_path / "checkpoint/ours/custom/MetaSAug_custom.lock").read_text().split()[1]
    if whole:
        os.killpg(int(run), number)
    else:
        os.kill(int(Path(f"/proc/{run}/task/{run}/children").read_text().split()[-1]), number)
    _, err = process.communicate()
    assert process.returncode == status, err
    assert words in err  # PyTorch may print lines of its own of an iterator that is half made
    assert not whole or (err.count("\n") == 1 and [*tmp_path.rglob("*_resume.pth.tar")])


def test_a_lock_keeps_a_second_run_out_until_the_first_dies(photos, small_training, start, after_line, refused, tmp_path):
    command = f"{small_training} --arch resnet8 --workdir {tmp_path} --epochs 1000000"
    process = start(command)
    after_line(process, 1, r"\[\d+/\d+\]")
    lock = tmp_path / "checkpoint/ours/0/a.lock"
    before = set(lock.parent.iterdir())
    assert f"a.lock is held by {lock.read_text()}, which writes the same files: wait or" in refused(command)
    assert before <= set(lock.parent.iterdir())
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    with only_run(lock):  # it died, so it holds nothing
        assert lock.read_text().startswith(f"process {os.getpid()} on ")
    assert not lock.exists()


def test_a_lock_that_the_run_before_takes_away_is_taken_anew(tmp_path, monkeypatch):
    """The file is unlinked between being opened and being locked: holding the old one would keep nobody out."""
    path, plain, opened = tmp_path / "a.lock", fcntl.lockf, []

    def lockf(file, flags):
        opened.append(os.fstat(file.fileno()).st_ino)
        if len(opened) == 1:
            path.rename(tmp_path / "gone")
            path.touch()
        return plain(file, flags)

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with only_run(path):
        assert len(opened) == 2
        assert opened[1] == path.stat().st_ino != opened[0]


def test_a_file_system_without_locks_is_told_and_no_obstacle(tmp_path, monkeypatch, capsys):
    def lockf(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with only_run(tmp_path / "a.lock"):
        assert "no lock on" in capsys.readouterr().out
    with refusal("a.lock cannot be written"), only_run(tmp_path / "nowhere" / "a.lock"):
        pass
