"""Runs that are killed or stopped anywhere, and go on to the same bytes."""

import copy
import fcntl
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_imagenet_cli import crt_checkpoint, write_image
from torch import nn

import keeper as keeping
import options
import resume
import training
from checkpoint import load_checkpoint, packed, previous, save_checkpoint
from checkpoint import read_file as load_file
from errors import Stopped, UserError
from loss import MetaSAugLDAM
from runlog import Meter

FLAGS = ["--dataset", "digits", "--imb_factor", "0.1", "--arch", "resnet8", "--batch-size", "64", "--no-cuda"]
TRAIN = [*FLAGS, "--threads", "1", "--epochs", "4", "--meta_start", "2", "--lam", "0.5", "--save_name", "a",
         "--select_on", "heldout"]  # fmt: skip
TRAIN += ["--save_every", "0", "-p", "1"]


def leaves(value, path=""):
    """Everything inside a checkpoint, by where it stands."""
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, inner in pairs for k, v in leaves(inner, f"{path}/{key}").items()}
    return {path: value}


def same(ours, theirs):
    """The places that differ in a byte or that only one of two checkpoints has, but for clocks and flags that may differ."""
    ours, theirs = leaves(ours), leaves(theirs)

    def equal(a, b):
        return a.numpy().tobytes() == b.numpy().tobytes() if isinstance(a, torch.Tensor) else repr(a) == repr(b)

    def is_free(place):
        return place.endswith("/seconds") or (place.startswith("/flags/") and place.split("/")[-1] in options.FREE_FLAGS)

    differ = {k for k in ours.keys() & theirs.keys() if not equal(ours[k], theirs[k])} | (ours.keys() ^ theirs.keys())
    return sorted(place for place in differ if not is_free(place))


def checkpoints(folder, name="a"):
    return {kind: load_checkpoint(folder / f"{name}_{kind}.pth.tar") for kind in ("ckpt", "last", "resume")}


@pytest.fixture
def start(environment, tmp_path):
    """Start a command that prints as it goes, in its own process group."""
    started = []

    def call(*command, **variables):
        words = [sys.executable, *map(str, command)]
        env = {**environment, "PYTHONUNBUFFERED": "1", **variables}
        process = subprocess.Popen(words, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   start_new_session=True)  # fmt: skip
        started.append(process)
        return process

    yield call
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def after_line(process, number, pattern):
    """Read what a process prints until the line that is the `number`-th one with `pattern`; return the lines."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        number -= bool(re.search(pattern, line))
        if number == 0:
            return lines
    raise AssertionError("".join(lines) + process.stderr.read())


@pytest.fixture(scope="module")
def whole(tmp_path_factory, environment):
    """The run that nothing stops: its folder, and how many steps it prints."""
    folder = tmp_path_factory.mktemp("whole")
    out = subprocess.run([sys.executable, ROOT / "MetaSAug_LDAM_train.py", *TRAIN], cwd=folder, env=environment, check=True,
                         capture_output=True, text=True).stdout  # fmt: skip
    return folder / "checkpoint" / "ours" / "0", len(re.findall(r"\[\d+/\d+\]", out))


def test_a_run_killed_at_four_random_steps_ends_with_the_same_bytes(whole, start, run, tmp_path):
    folder, steps = whole
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)  # shown when the test fails
    per_epoch, done = steps // 4, 0
    generator = random.Random(seed)
    for epoch in range(4):
        mark = max(done + 1, epoch * per_epoch + generator.randint(1, per_epoch - 2))
        process = start(ROOT / "MetaSAug_LDAM_train.py", *TRAIN, "--resume", "auto")
        after_line(process, mark - done, r"\[\d+/\d+\]")
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        state = load_checkpoint(tmp_path / "checkpoint/ours/0/a_resume.pth.tar")["resume"]
        done = state["record"]["epoch"] * per_epoch + state["meter"]["steps"]
        assert done >= mark - 1  # saved after every step: at most the last one is lost
    out = run("MetaSAug_LDAM_train.py", *TRAIN, "--resume", "auto").stdout
    assert re.search(rf"going on in epoch {done // per_epoch} after step {done % per_epoch}", out)
    ours, theirs = checkpoints(tmp_path / "checkpoint/ours/0"), checkpoints(folder)
    for kind, state in ours.items():
        assert same(state, theirs[kind]) == [], kind
    ours["last"]["state_dict"]["linear.bias"].view(torch.uint8)[0] ^= 1  # the control: one bit
    assert same(ours["last"], theirs["last"]) == ["/state_dict/linear.bias"]
    lines = [json.loads(x) for x in (tmp_path / "checkpoint/ours/0/a_metrics.jsonl").read_text().splitlines()]
    expected = [json.loads(x) for x in (folder / "a_metrics.jsonl").read_text().splitlines()]
    for line in lines + expected:
        del line["seconds"]
    assert lines == expected


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_go_on(whole, start, run, tmp_path, number, status):
    seldom = [*TRAIN, "--save_every", "60"]
    process = start(ROOT / "MetaSAug_LDAM_train.py", *seldom)
    after_line(process, whole[1] - 3, r"\[\d+/\d+\]")  # in stage 2
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == status
    (line,) = err.strip().splitlines()
    assert re.search(rf"stopped by {number.name} in epoch 3 after step \d+; to go on, give the same command with", line)
    run("MetaSAug_LDAM_train.py", *seldom, "--resume", "auto")
    for kind, state in checkpoints(tmp_path / "checkpoint/ours/0").items():
        assert same(state, checkpoints(whole[0])[kind]) == [], kind


def test_best_last_and_since_come_out_of_the_state(whole, run, tmp_path):
    """No epoch is left that could bring them, and the state holds others than the run had."""
    folder = shutil.copytree(whole[0], tmp_path / "checkpoint" / "ours" / "0")
    before = json.loads((folder / "a_summary.json").read_text())
    kept = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    out = run("MetaSAug_LDAM_train.py", *TRAIN, "--resume", "auto").stdout
    assert out.splitlines()[-1].endswith("a is finished: see checkpoint/ours/0/a_summary.json")
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == kept
    (folder / "a_summary.json").unlink()
    run("MetaSAug_LDAM_train.py", *TRAIN, "--resume", "auto")
    again = json.loads((folder / "a_summary.json").read_text())
    assert (again["best"], again["last"]) == (before["best"], before["last"])
    state = load_checkpoint(folder / "a_resume.pth.tar")
    record = state["resume"]["record"]
    changed = {"best": {**record["best"], "epoch": 1, "acc1": 99.0}, "last": {**record["last"], "acc1": 12.0}}
    del state["checksum"]
    state["resume"]["record"] = {**record, **changed}
    save_checkpoint(state, folder / "a_resume.pth.tar")
    (folder / "a_summary.json").unlink()
    out = run("MetaSAug_LDAM_train.py", *TRAIN, "--resume", "auto").stdout
    after = json.loads((folder / "a_summary.json").read_text())
    assert (after["best"]["epoch"], after["best"]["acc1"], after["last"]["acc1"]) == (1, 99, 12)
    assert "best epoch 1: accuracy 99.00" in out

    given = [*TRAIN, "--workdir", str(tmp_path), "--save_name", "b", "--stage1", str(folder / "a_stage1.pth.tar")]
    first = training.Run(options.parse_training("", given), "LDAM", folder)
    first.keeper.save()
    again = training.Run(options.parse_training("", [*given, "--resume", "auto"]), "LDAM", folder)
    assert again.record.since == first.record.since == 2


def interrupted_copy(whole, folder):
    """Copy a run up to its last save: without a summary it does not count as finished."""
    return shutil.copytree(whole[0], folder, ignore=shutil.ignore_patterns("*_summary.json"))


def test_a_damaged_state_is_replaced_by_the_one_before_it(whole, run, tmp_path):
    folder = interrupted_copy(whole, tmp_path / "checkpoint" / "ours" / "0")
    path = folder / "a_resume.pth.tar"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    out = run("MetaSAug_LDAM_train.py", *TRAIN, "--resume", "auto").stdout
    assert "a_resume.pth.tar is damaged (its checksum differs)" in out
    assert "going on from" in out
    assert same(checkpoints(folder)["resume"], checkpoints(whole[0])["resume"]) == []


@pytest.mark.parametrize(
    ("part", "value"),
    [("binding/--lr", torch.ones(2)), ("record/best", 3), ("record/best", {}), ("record/seconds", "1"),
     ("record/epoch", "1"), ("meter/steps", "2"), ("meter/loss", torch.ones(3)), ("meta_taken", None), ("random", {}),
     ("estimator", [])],
)  # fmt: skip
def test_a_state_with_something_else_inside_is_refused(whole, tmp_path, part, value):
    folder = interrupted_copy(whole, tmp_path / "copy")
    state = load_checkpoint(folder / "a_resume.pth.tar")
    *outer, key = part.split("/")
    inner = state["resume"]
    for name in outer:
        inner = inner[name]
    inner[key] = value
    save_checkpoint(state, folder / "a_resume.pth.tar")
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(UserError, match="--resume") as refused:
        training.Run(options.parse_training("", [*TRAIN, "--resume", "auto"]), "LDAM", folder)
    assert "\n" not in str(refused.value)
    assert {path.name for path in folder.iterdir()} == before


def test_an_optimizer_of_another_shape_is_refused(whole, tmp_path):
    state = load_checkpoint(whole[0] / "a_stage1.pth.tar")
    state["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(1)
    for optimizer in (state["optimizer"], 3, {}):
        save_checkpoint({**state, "optimizer": optimizer}, tmp_path / "x.pth.tar")
        with pytest.raises(UserError, match="holds no state of this optimizer"):
            training.Run(options.parse_training("", [*TRAIN, "--stage1", str(tmp_path / "x.pth.tar")]), "LDAM", tmp_path)


def test_a_run_that_has_grown_can_be_stopped_and_grown_again(whole, tmp_path):
    def run_of(folder, epochs, *more):
        given = [*FLAGS, "--threads", "1", "--save_name", "a", "--epochs", epochs, *more]
        folder.mkdir(exist_ok=True)
        return training.Run(options.parse_training("", [str(w) for w in given]), "LDAM", folder)

    first = run_of(tmp_path / "a", 5)
    assert first.flags.meta_start == 4
    first.epoch, first.meter = 2, Meter()
    first.keeper.save()
    for epochs in (10, 10, 20):  # the default of these would be 8, 8 and 16
        run = run_of(tmp_path / "a", epochs, "--resume", "auto")
        assert (run.first_epoch, run.flags.meta_start) == (2, 4)
        run.keeper.save()
    with pytest.raises(UserError, match="--epochs 20, this run has 10"):
        run_of(tmp_path / "a", 10, "--resume", "auto")
    for other in ("3", "16"):  # the second is the default of 20 epochs, but asked for
        with pytest.raises(UserError, match=f"--meta_start 4, this run has {other}"):
            run_of(tmp_path / "a", 20, "--resume", "auto", "--meta_start", other)


def test_a_good_file_before_a_damaged_one_is_never_replaced_by_it(whole, tmp_path):
    folder = interrupted_copy(whole, tmp_path / "copy")
    path = folder / "a_resume.pth.tar"
    path.write_bytes(path.read_bytes()[:-9])
    good, bad = previous(path).read_bytes(), path.read_bytes()
    run = training.Run(options.parse_training("", [*TRAIN, "--resume", "auto"]), "LDAM", folder)
    assert path.with_name("a_resume.pth.tar.damaged").read_bytes() == bad
    run.keeper.save()
    assert previous(path).read_bytes() == good
    assert load_checkpoint(path)["resume"]["record"]["epoch"] == run.first_epoch


def test_another_folder_goes_on_with_copies_and_epochs_may_grow(whole, run, refused, tmp_path):
    source = whole[0] / "a_resume.pth.tar"
    before = {p.name: p.read_bytes() for p in whole[0].glob("*.tar*")}
    longer = [*TRAIN, "--epochs", "5", "--resume", source, "--save_name", "b"]
    out = run("MetaSAug_LDAM_train.py", *longer).stdout
    assert "going on in epoch 4 after step 0" in out
    assert "stage 2, MetaSAug: epochs 4 to 4" in out
    folder = tmp_path / "checkpoint" / "ours" / "0"
    assert len((folder / "b_metrics.jsonl").read_text().splitlines()) == 5
    assert checkpoints(folder, "b")["ckpt"]["epoch"] > 0  # copied, if the best epoch was before
    assert {p.name: p.read_bytes() for p in whole[0].glob("*.tar*")} == before
    for words, changed in (
        ("--lr 0.1, this run has 0.2", ["--lr", "0.2"]),
        ("--seed 42, this run has 1", ["--seed", "1"]),
        ("--lam 0.5, this run has 0.25", ["--lam", "0.25"]),
        ("data", ["--imb_factor", "0.2"]),
        ("--epochs 4, this run has 3", ["--epochs", "3"]),
        ("--meta_start 2, this run has 1", ["--meta_start", "1"]),
        ("--select_on heldout, this run has test", ["--select_on", "test"]),
        ("--num_heldout None, this run has 3", ["--num_heldout", "3"]),
    ):
        flags = options.parse_training("", [str(w) for w in [*TRAIN, "--resume", source, "--workdir", tmp_path, *changed]])
        with pytest.raises(UserError, match=re.escape(words) if words != "data" else "imb_factor 0.1, this run has 0.2"):
            training.Run(flags, "LDAM", tmp_path)
    with pytest.raises(UserError, match="loss LDAM, this run has CE"):
        training.Run(options.parse_training("", [*TRAIN, "--resume", str(source)]), "CE", tmp_path)
    assert "is not there" in refused("MetaSAug_LDAM_train.py", *TRAIN, "--resume", "no.pth.tar")
    assert "holds no run" in refused("MetaSAug_LDAM_train.py", *TRAIN, "--resume", whole[0] / "a_last.pth.tar")
    renamed = shutil.copy(source, tmp_path / "mine.pth.tar")
    assert "is not named <save_name>_resume.pth.tar" in refused("MetaSAug_LDAM_train.py", *TRAIN, "--resume", renamed)


class Dropping(nn.Module):
    """A network that draws from torch's global generator."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.head = model, "inner.linear"

    def forward(self, x):
        features, logits = self.inner(x)
        return features, nn.functional.dropout(logits, 0.1, self.training)


class Noisy(MetaSAugLDAM):
    """A criterion that draws from the global generators of numpy and Python."""

    def forward(self, *args):
        return super().forward(*args) * (1 + 0.1 * np.random.rand() + 0.1 * random.random())  # noqa: NPY002


class CutError(Exception):
    pass


def train(folder, monkeypatch, stop_after=None, resumed=None, leave_out=()):
    """Four epochs of a run that draws from every generator; return its state at the end or after `stop_after` steps.

    `resumed` is a state to go on from, `leave_out` the parts of it that stay as they are in a new run.
    """
    flags = options.parse_training("", [*TRAIN, "--save_every", "60", *(["--resume", "auto"] if resumed else [])])
    if resumed:
        save_checkpoint(resumed, folder / "a_resume.pth.tar")
    plain_restore = resume.restore

    def restore(state, optimizer, estimator, device):
        kept = copy.deepcopy((optimizer.state_dict(), estimator.state_dict())), resume.random_states()
        meter, meta_taken, epoch = plain_restore(state, optimizer, estimator, device)
        if "optimizer" in leave_out:
            optimizer.load_state_dict(kept[0][0])
        if "estimator" in leave_out:
            estimator.load_state_dict(kept[0][1])
        mixed = {k: kept[1][k] if k in leave_out else v for k, v in resume.random_states().items()}
        resume.set_random_states(mixed)
        return (
            Meter() if "meter" in leave_out else meter,
            0 if "meta_taken" in leave_out else meta_taken,
            epoch - 1 if "epoch" in leave_out else epoch,
        )

    monkeypatch.setattr(training, "restore", restore)
    if "weights" in leave_out:
        monkeypatch.setattr(training, "load_weights", lambda *_: None)
    monkeypatch.setattr(training, "seed_everything", lambda _: None if resumed else resume.seed_everything(42))
    run = training.Run(flags, "LDAM", folder)
    run.model = Dropping(run.model)
    run.passes = training.make_passes(run.model)
    monkeypatch.setattr(type(run), "state", lambda self, epoch: {
        "epoch": epoch + 1, "state_dict": self.model.inner.state_dict(), "optimizer": self.optimizer.state_dict(),
    })  # fmt: skip
    steps = iter(range(1, 10**6))
    plain_after = run.keeper.after_step

    def after_step():
        plain_after()
        if next(steps) == stop_after:
            raise CutError

    monkeypatch.setattr(run.keeper, "after_step", after_step)
    criterion = Noisy(run.cls_num_list)
    try:
        for epoch in run.stage1_epochs:
            run.cross_entropy_epoch(epoch)
        for epoch in run.stage2_epochs:
            run.stage2_epoch(epoch, criterion)
    except CutError:
        pass
    return copy.deepcopy(run.resume_state())


PARTS = ["weights", "optimizer", "estimator", "meter", "meta_taken", "epoch", "torch", "numpy", "python"]


@pytest.mark.filterwarnings("default")
def test_every_part_of_the_state_is_needed(monkeypatch, tmp_path):
    """Interrupted amid an epoch of stage 2: with all restored nothing differs, with any part left out something does."""
    folders = iter(tmp_path / str(i) for i in range(100))

    def once(**kwargs):
        with monkeypatch.context() as patch:
            folder = next(folders)
            folder.mkdir()
            return train(folder, patch, **kwargs)

    expected = once()
    steps = expected["resume"]["meta_taken"]
    middle = once(stop_after=2 * steps - 3)
    assert middle["resume"]["meter"]["steps"] > 0
    assert middle["resume"]["record"]["epoch"] == 3
    assert same(once(resumed=middle), expected) == []
    for part in PARTS:
        assert same(once(resumed=middle, leave_out=[part])["state_dict"], expected["state_dict"]), part


def test_a_lock_keeps_a_second_run_out(start, refused, tmp_path):
    process = start(ROOT / "MetaSAug_CE_train.py", *TRAIN)
    after_line(process, 1, r"\[\d+/\d+\]")
    before = set((tmp_path / "checkpoint").rglob("*"))
    line = refused("MetaSAug_CE_train.py", *TRAIN)
    assert f"a.lock is held by process {process.pid} on " in line
    assert before <= set((tmp_path / "checkpoint").rglob("*"))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    with keeping.only_run(tmp_path / "checkpoint/ours/0/a.lock"):  # it died, so it holds nothing
        pass
    assert not (tmp_path / "checkpoint/ours/0/a.lock").exists()


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
    with keeping.only_run(path):
        assert len(opened) == 2
        assert opened[1] == path.stat().st_ino != opened[0]


@pytest.mark.parametrize("wrong", [[(1, "inf"), ("nan", 1)], [("nan", 1)], [(1, 1, "inf"), (1, 1)]])
def test_numbers_gone_wrong_stop_before_anything_is_saved(tmp_path, wrong):
    weight, meter = nn.Parameter(torch.ones(3)), Meter()
    path = tmp_path / "a_resume.pth.tar"
    keeper = keeping.Keeper(path, lambda: {"state_dict": {}, "epoch": 0}, 0, [weight])
    keeper.begin(5, meter)
    logits, target = torch.zeros(2, 3), torch.tensor([0, 1])

    def seen(loss, loss_meta, grad_norm=1.0):
        values = {"loss": loss, "loss_meta": loss_meta, "grad_norm": grad_norm}
        tensors = {name: torch.tensor(float(value)) for name, value in values.items()}
        meter.update(SimpleNamespace(logits=logits, grad_trace=None, **tensors), target)

    seen(1, 1)
    keeper.after_step()
    kept = path.read_bytes()
    for values in wrong:
        seen(*values)
    with pytest.raises(UserError, match=rf"not finite in epoch 5, step 2; the last good checkpoint is {path}"):
        keeper.after_step()
    keeper.begin(6, Meter())
    with torch.no_grad():
        weight[1] = float("nan")
    with pytest.raises(UserError, match="not finite in epoch 6, step 0"):
        keeper.save()
    assert path.read_bytes() == kept


def test_a_signal_leaves_a_wait_for_data_at_once_and_a_step_when_it_is_done(tmp_path):
    path = tmp_path / "a_resume.pth.tar"
    keeper = keeping.Keeper(path, lambda: {"state_dict": {}, "epoch": 0}, 60, [torch.ones(1)])
    keeper.begin(1, Meter())
    before = signal.getsignal(signal.SIGINT)  # ignored where a shell started the tests in the background

    def slow():
        yield 1
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the wait goes on")

    with keeper.signals:
        batches = keeper.watched(slow())
        assert next(batches) == 1
        keeper.after_step()
        with pytest.raises(Stopped) as stopped:
            next(batches)
        assert stopped.value.status == 143
        assert path.is_file()
    path.unlink()
    keeper.signals.asked = 0
    with keeper.signals:
        os.kill(os.getpid(), signal.SIGINT)  # in the middle of a step
        os.kill(os.getpid(), signal.SIGTERM)  # of a launcher, after that of the terminal
        with pytest.raises(Stopped, match="SIGINT"):
            keeper.after_step()
    assert path.is_file()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_passes_by_a_reader_that_handles_every_exception(tmp_path):
    keeper = keeping.Keeper(tmp_path / "x", lambda: {"state_dict": {}}, 60, [torch.ones(1)])

    def reading():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            yield 1
        except Exception:
            yield 2  # as decode says of any image that it is broken

    with keeper.signals, pytest.raises(Stopped):
        next(keeper.watched(reading()))


def test_states_of_the_generators_come_back():
    resume.seed_everything(3)
    states = resume.random_states()
    first = torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002
    resume.set_random_states(states)
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()) == first  # noqa: NPY002
    assert packed({"random": states})  # plain types only
    assert previous(ROOT / "x").name == "x.previous"


TRAIN_HEAD = ROOT / "ImageNet_iNat" / "train.py"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Folders of three classes with 9, 7 and 4 training images, their features' cache, and a checkpoint to begin with."""
    root = tmp_path_factory.mktemp("images")
    for k, count in enumerate((9, 7, 4)):
        for split, number in (("train", count), ("meta", 2), ("val", 2)):
            for i in range(number):
                write_image(root / "my" / split / f"class{k}" / f"{i}.png", 10 * k + i)
    crt_checkpoint(root / "crt.pth", 3)
    return root


def two_ranks(start, images, *flags):
    """Start both processes of a run of 3 epochs and 9 steps."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    given = ["--dataset", "custom", "--data_root", images / "my", "--pretrained", images / "crt.pth", "--no-cuda",
             "--cache_features", "2", "--cache_dir", images / "cache", "--workers", "0", "--batch_size", "4", "--lr", "0.01",
             "--epochs", "3", "-p", "1", "--save_every", "0", *flags]  # fmt: skip
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    return [start(TRAIN_HEAD, *given, RANK=rank, LOCAL_RANK=rank, **where) for rank in ("0", "1")]


def end(ranks, timeout=120):
    return [(rank.communicate(timeout=timeout), rank.returncode) for rank in ranks]


def test_two_processes_killed_twice_or_stopped_end_with_the_same_bytes(images, start, tmp_path):
    whole = end(two_ranks(start, images, "--workdir", "whole"))
    assert [status for _, status in whole] == [0, 0], whole
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)
    generator = random.Random(seed)
    done = 0
    for mark in (generator.randint(1, 3), generator.randint(4, 6)):
        ranks = two_ranks(start, images, "--workdir", "cut", "--resume", "auto")
        after_line(ranks[0], max(1, mark - done), r"\[\d/3\]")
        for rank in ranks:
            rank.kill()
        end(ranks)
        state = load_file(tmp_path / "cut/checkpoint/ours/custom/MetaSAug_custom_resume.pth.tar")["resume"]
        done = 3 * state["record"]["epoch"] + state["meter"]["steps"]
    ranks = two_ranks(start, images, "--workdir", "cut", "--resume", "auto")
    ((out, _), status), (_, other) = end(ranks)
    assert (status, other) == (0, 0)
    assert "going on in epoch" in out
    ours, theirs = ({k: load_file(tmp_path / d / f"checkpoint/ours/custom/MetaSAug_custom_{k}.pth.tar")
                     for k in ("ckpt", "last", "resume")} for d in ("cut", "whole"))  # fmt: skip
    for kind in ours:
        assert same(ours[kind], theirs[kind]) == [], kind

    ranks = two_ranks(start, images, "--workdir", "stopped", "--save_every", "60")
    after_line(ranks[0], 4, r"\[\d/3\]")
    for rank in ranks:
        rank.send_signal(signal.SIGTERM)
    results = end(ranks, 30)
    assert results[0][1] == 143
    assert results[1][1] in (143, 2)  # it may see first that the other is gone
    assert "--resume auto" in results[0][0][1]
    assert [status for _, status in end(two_ranks(start, images, "--workdir", "stopped", "--resume", "auto"))] == [0, 0]
    path = tmp_path / "stopped/checkpoint/ours/custom/MetaSAug_custom_resume.pth.tar"
    assert same(load_file(path), theirs["resume"]) == []

    ranks = end(two_ranks(start, images, "--workdir", "wrong", "--lr", "1e38"))
    assert [status for _, status in ranks] == [2, 2]
    assert "not finite in epoch 0, step" in ranks[0][0][1]
    assert not list((tmp_path / "wrong").rglob("*.pth.tar"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_loading_processes_too_saves(images, start, tmp_path, number, status):
    flags = ["--dataset", "custom", "--data_root", images / "my", "--pretrained", images / "crt.pth", "--no-cuda", "-p", "1",
             "--workers", "2", "--batch_size", "4", "--epochs", "50"]  # fmt: skip
    process = start(TRAIN_HEAD, *flags)
    after_line(process, 2, r"\[\d/5\]")
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == status, err
    assert "--resume auto" in err
    assert "Traceback" not in err
    state = load_file(tmp_path / "checkpoint/ours/custom/MetaSAug_custom_resume.pth.tar")["resume"]
    assert state["meta_taken"] >= 2
