"""Atomic saving, strict loading, and what is said of files that are no good."""

import pickle
from collections import OrderedDict

import pytest
import torch

import checkpoint
from errors import UserError
from resnet import build_model


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "x_ckpt.pth.tar"
    model = build_model("resnet8", 4)
    checkpoint.save_checkpoint({"epoch": 1, "state_dict": model.state_dict(), "best_acc1": 1.0, "optimizer": {}}, path)
    return path, model


def test_what_is_saved_is_loaded(saved):
    path, model = saved
    other = build_model("resnet8", 4)
    checkpoint.load_weights(other, checkpoint.load_checkpoint(path)["state_dict"], path)
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_save_leaves_the_old_file(saved):
    path, _ = saved
    before = path.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        checkpoint.save_checkpoint({"state_dict": lambda: None}, path)
    assert path.read_bytes() == before


def test_files_of_the_old_format_are_read(tmp_path):
    # The released files come from PyTorch before 1.6; weights were saved as tensors that want gradients.
    model = build_model("resnet8", 4)
    for m in model.modules():
        if hasattr(m, "running_var"):
            torch.nn.init.uniform_(m.running_var, 0.5, 2)
            torch.nn.init.normal_(m.running_mean)
    state = OrderedDict((k, v.clone().requires_grad_()) for k, v in model.state_dict().items())
    path = tmp_path / "old.pth.tar"
    torch.save({"epoch": 9, "state_dict": state, "best_acc1": torch.tensor(3.0), "optimizer": {}}, path,
               _use_new_zipfile_serialization=False)  # fmt: skip
    other = build_model("resnet8", 4)
    checkpoint.load_weights(other, checkpoint.load_checkpoint(path)["state_dict"], path)
    x = torch.randn(2, 3, 32, 32)
    for a, b in zip(model.eval()(x), other.eval()(x), strict=True):
        assert torch.equal(a, b)


def test_cuts_and_flipped_bytes_are_noticed(saved):
    path, _ = saved
    raw = path.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9, 0.999):
        path.write_bytes(raw[: int(len(raw) * share)])
        with pytest.raises(UserError, match="cut, damaged or not a checkpoint"):
            checkpoint.load_checkpoint(path)
    for place in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
        flipped = bytearray(raw)
        flipped[int(len(raw) * place)] ^= 16
        path.write_bytes(flipped)
        with pytest.raises(UserError, match="damaged"):
            checkpoint.load_checkpoint(path)


class Hostile:
    def __reduce__(self):
        return print, ("code of a stranger ran",)


@pytest.mark.parametrize("content", [[1, 2], {"weights": 1}, {"state_dict": 3}, {"state_dict": {"a": 1}}, Hostile()])
def test_other_contents_are_refused_and_run_no_code(tmp_path, content, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = tmp_path / "x.pth.tar"
    torch.save(content, path)
    with pytest.raises(UserError, match="checkpoint"):
        checkpoint.load_checkpoint(path)
    assert capsys.readouterr().out == ""


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint"):
        checkpoint.load_checkpoint(tmp_path / "none")
    for content in (b"hello", b"something else", b"", bytes(range(256)) * 20, pickle.dumps([1, 2])):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(UserError, match=r"not a checkpoint|no state_dict"):
            checkpoint.load_checkpoint(tmp_path / "other")


def test_other_architectures_and_class_counts_are_named(saved):
    path, model = saved
    with pytest.raises(UserError, match=r"resnet8, not resnet32"):
        checkpoint.load_weights(build_model("resnet32", 4), model.state_dict(), path)
    with pytest.raises(UserError, match=r"4 classes.* 7"):
        checkpoint.load_weights(build_model("resnet8", 7), model.state_dict(), path)
    with pytest.raises(UserError, match="unknown, not resnet8"):
        checkpoint.load_weights(build_model("resnet8", 4), {"fc.weight": torch.zeros(4, 2)}, path)


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_keys_and_shapes_that_do_not_fit_are_named(saved, change):
    path, model = saved
    weights = dict(model.state_dict())
    if change == "missing":
        del weights["bn1.bias"]
    elif change == "unexpected":
        weights["bn1.bias2"] = torch.zeros(1)
    else:
        weights["bn1.bias"] = torch.zeros(5)
    with pytest.raises(UserError, match=r"bn1\.bias"):
        checkpoint.load_weights(build_model("resnet8", 4), weights, path)


def test_earlier_files_are_set_aside_again_and_again(tmp_path):
    for turn in ("first", "second"):
        (tmp_path / "a").write_text(turn)
        aside = checkpoint.set_earlier_aside(tmp_path, ["a", "b"])
        assert (aside / "a").read_text() == turn
    assert sorted(p.name for p in (tmp_path / "earlier").iterdir()) == ["1", "2"]
    assert checkpoint.set_earlier_aside(tmp_path, ["a", "b"]) is None
