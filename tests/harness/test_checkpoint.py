"""Saving and strict loading, and what is said of files that are no good."""

import io
import os
import pickle
import random
import signal
import zipfile
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runs import small_run, take_step

from harness import checkpoint
from harness.errors import UserError
from harness.files import previous
from harness.resume import find_state
from harness.weights import fit_weights
from resnet import build_model


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of a network whose statistics are not those of a new one."""
    path, model = tmp_path / "x_ckpt.pth.tar", build_model("resnet8", 4)
    for m in model.modules():
        if hasattr(m, "running_var"):
            torch.nn.init.uniform_(m.running_var, 0.5, 2)
            torch.nn.init.normal_(m.running_mean)
    checkpoint.save_checkpoint({"epoch": 1, "state_dict": model.state_dict(), "best_acc1": 1.0, "optimizer": {}}, path)
    return path, model


def refit(path, classes=4):
    """A new network with the weights of a file."""
    other = build_model("resnet8", classes)
    fit_weights(other, checkpoint.load_checkpoint(path)["state_dict"], path, "linear")
    return other


def test_what_is_saved_is_loaded_by_us_and_by_any_reader_of_the_form(saved):
    path, model = saved
    for theirs in (refit(path).state_dict(), torch.load(path, weights_only=True)["state_dict"]):
        assert all(torch.equal(theirs[name], value) for name, value in model.state_dict().items())
    assert list(path.parent.iterdir()) == [path]
    assert zipfile.ZipFile(path).testzip() is None
    assert zipfile.ZipFile(path).comment.startswith(b"sha256:")


def test_a_failed_save_leaves_the_old_file(saved):
    path, _ = saved
    before = path.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        checkpoint.save_checkpoint({"state_dict": lambda: None}, path)
    assert path.read_bytes() == before


def test_files_of_the_old_format_are_read(saved):
    """The released files come from PyTorch before 1.6; weights were saved as tensors that want gradients."""
    path, model = saved
    state = OrderedDict((k, v.clone().requires_grad_()) for k, v in model.state_dict().items())
    torch.save({"epoch": 9, "state_dict": state, "best_acc1": torch.tensor(3.0), "optimizer": {}}, path,
               _use_new_zipfile_serialization=False)  # fmt: skip
    x = torch.randn(2, 3, 32, 32)
    for a, b in zip(model.eval()(x), refit(path).eval()(x), strict=True):
        assert torch.equal(a, b)


def damaged_copies(raw):
    """The file cut at every 5 %, and with one bit flipped, 300 times, at the ends too."""
    yield from (raw[: len(raw) * share // 100] for share in range(0, 100, 5))
    generator = random.Random(0)
    places = [generator.randrange(8 * len(raw)) for _ in range(200)]
    places += [8 * len(raw) - 1 - generator.randrange(8 * 100) for _ in range(60)]  # the checksum and its mark
    places += [generator.randrange(8 * 500) for _ in range(40)]
    for place in places:
        flipped = bytearray(raw)
        flipped[place // 8] ^= 1 << place % 8
        yield bytes(flipped)


def test_every_cut_and_every_flipped_bit_is_refused_or_replaced_by_the_file_before(tmp_path):
    path = tmp_path / "a_resume.pth.tar"
    with small_run(tmp_path, cut=True) as run:
        next(run.epochs)
        for _ in range(2):
            take_step(run)
            run.save()
    raw = path.read_bytes()
    tried = 0
    for content in damaged_copies(raw):
        tried += 1
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"is damaged|is no file of tensors"):
            checkpoint.load_checkpoint(path)
        state, source = find_state("auto", path)
        assert (state["resume"]["meter"]["steps"], source) == (1, previous(path))
    assert tried == 320
    path.write_bytes(raw)
    assert find_state("auto", path)[0]["resume"]["meter"]["steps"] == 2
    silent = [c for c in damaged_copies(raw) if is_loaded_by_torch(c)]
    assert silent  # the control: torch.load itself reads some of them


def is_loaded_by_torch(content):
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception:
        return False
    return True


def test_a_kill_amid_saves_leaves_a_file_that_loads(tmp_path):
    """Twelve processes save again and again, and are killed at a random moment after some saves."""
    generator = random.Random(0)
    weights = {"a": torch.arange(100_000.0)}
    for turn in range(12):
        path = tmp_path / f"{turn}.pth.tar"
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                for epoch in range(10**6):
                    checkpoint.save_checkpoint({"epoch": epoch, "state_dict": weights}, path)
                    os.write(theirs, b"x")
            finally:
                os._exit(1)
        os.close(theirs)
        saved = 0
        for _ in range(generator.randrange(1, 8)):
            saved += len(os.read(ours, 1))
        for _ in range(generator.randrange(30_000)):  # somewhere in the next save
            pass
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while part := os.read(ours, 100):
            saved += len(part)
        os.close(ours)
        state = checkpoint.load_checkpoint(path)
        assert saved - 1 <= state["epoch"] <= saved
        assert torch.equal(state["state_dict"]["a"], weights["a"])


@given(content=st.binary(max_size=300), prefix=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"PK\x05\x06" + bytes(18)]))
@settings(max_examples=200)
def test_any_bytes_are_a_checkpoint_or_one_line(tmp_path_factory, prefix, content):
    path = tmp_path_factory.getbasetemp() / "any.pth.tar"
    path.write_bytes(prefix + content)
    with pytest.raises(UserError) as refused:
        checkpoint.load_checkpoint(path)
    assert "\n" not in str(refused.value)


class Hostile:
    def __reduce__(self):
        return print, ("code of a stranger ran",)


@pytest.mark.parametrize("content", [[1, 2], {"weights": 1}, {"state_dict": 3}, {"state_dict": {"a": 1}}, {}, Hostile()])
def test_other_contents_are_refused_and_run_no_code(tmp_path, content, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = tmp_path / "x.pth.tar"
    torch.save(content, path)
    with pytest.raises(UserError, match="holds no weights of a network"):
        checkpoint.load_checkpoint(path)
    assert capsys.readouterr().out == ""


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint"):
        checkpoint.load_checkpoint(tmp_path / "none")
    for content in (b"hello", b"something else", bytes(range(256)) * 20, pickle.dumps([1, 2])):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(UserError, match="is no file of tensors and plain values"):
            checkpoint.load_checkpoint(tmp_path / "other")


def test_another_class_count_is_named(saved):
    with pytest.raises(UserError, match=r"trained on 4 classes, the data set has 7"):
        refit(saved[0], classes=7)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights: weights.pop("bn1.bias"), r"missing bn1\.bias, unexpected none"),
        (lambda weights: weights.update({"bn1.bias2": torch.zeros(1)}), r"missing none, unexpected bn1\.bias2"),
        (lambda weights: weights.update({"bn1.bias": torch.zeros(5)}), r"bn1\.bias is \(5,\), the one here is \(16,\)"),
        (lambda weights: weights.update({f"x{k}": torch.zeros(1) for k in range(9)}), "x7 and 1 more"),
    ],
)
def test_names_and_shapes_that_do_not_fit_are_named(saved, change, words):
    path, model = saved
    weights = dict(model.state_dict())
    change(weights)
    with pytest.raises(UserError, match=words):
        fit_weights(build_model("resnet8", 4), weights, path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("epoch", "3"), ("flags", [1]), ("arch", 7), ("dataset", ["digits"]), ("class_names", "ab"), ("cls_num_list", [3, "4"]),
     ("cls_num_list", [0, 2]), ("imb_factor", "0.1"), ("imb_factor", 0), ("imb_factor", 1.5)],
)  # fmt: skip
def test_a_whole_file_with_something_else_inside_is_refused(saved, key, value):
    path, model = saved
    good = {"epoch": 3, "state_dict": model.state_dict(), "flags": {}, "arch": "resnet8", "dataset": "digits",
            "class_names": ["a"], "cls_num_list": [3], "imb_factor": None}  # fmt: skip
    checkpoint.save_checkpoint(good, path)
    assert checkpoint.load_checkpoint(path)["epoch"] == 3
    checkpoint.save_checkpoint({**good, key: value}, path)
    with pytest.raises(UserError, match=f"cannot be used: its .*{key}"):
        checkpoint.load_checkpoint(path)
