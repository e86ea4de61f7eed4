"""ONNX files for use without this code: their logits are those of the network by the definition."""

import json
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from support.classifiers import COUNTS, FILES, MORE, NAMES, TRANSFORMED, pixels_of, slow_logits
from support.refusals import refusal
from support.tiny_networks import Pair
from torch import nn

from inference.exports import export
from inference.trained import FromPixels

SHARES = {"train": COUNTS, "shares.csv": [2, 0, 6]}  # by --prior; Bayes' rule from equal frequencies


def loaded(path):
    """A function from inputs to logits in float64, and the metadata."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    facts = session.get_modelmeta().custom_metadata_map
    return lambda inputs: torch.from_numpy(session.run(None, {given.name: inputs})[0]).double(), facts


def noise(*size):
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("which", "prior"),
    [
        ("small.pth.tar", ""),
        ("own.pth.tar", "shares.csv"),
        ("none.pth.tar", ""),
        ("unit.pth.tar", "train"),
        ("sqrt.pth.tar", ""),
        pytest.param("slim.pth.tar", "train", marks=pytest.mark.slow),
        pytest.param("released.pth.tar", "", marks=pytest.mark.slow),
    ],
)
def test_a_file_gives_the_logits_of_the_definition(run_in, folder, which, prior):
    path = folder / which.replace(".pth.tar", ".onnx")
    path.write_text("precious")
    (folder / "shares.csv").write_text('Häher,2\nowl,0\n"two, words",6\n', encoding="utf-8")
    flags = f"{MORE.get(which, '')} --no-cuda --export onnx {prior and f'--prior {prior}'}"
    out = run_in(f"predict.py --checkpoint_path {which} {flags}", cwd=folder).stdout
    assert out.startswith(f"wrote {path.name}: logits of made-up inputs within ")
    assert out.endswith("of PyTorch's" + (f"; what --prior {prior} adds is in them\n" if prior else "\n"))
    assert path.with_name(path.name + ".previous").read_text() == "precious"
    logits, facts = loaded(path)
    assert json.loads(facts["class_names"]) == (["class 0", "class 1", "class 2"] if which == "released.pth.tar" else NAMES)
    if which == "own.pth.tar":
        prepared = json.loads(facts["preparation"])
        assert [prepared[key] for key in ("image_size", "resize_size", "interpolation")] == [32, 36, "bilinear"]
        assert prepared.keys() == {"image_size", "resize_size", "interpolation", "mean", "std"}
    if which in TRANSFORMED:
        inputs = [np.random.default_rng(k).normal(0, 9, (k, 7)).astype(np.float32) for k in (1, 2, 40)]
        head = torch.load(folder / which, weights_only=True)["state_dict"]
        wanted = [TRANSFORMED[which](torch.from_numpy(rows)) @ head["fc.weight"].T + head["fc.bias"] for rows in inputs]
    else:
        pixels = [pixels_of(which, folder / file) for file in FILES]
        pixels += [noise(1, 1), noise(29, 40)] if which == "own.pth.tar" else []
        inputs = [np.stack([image] * k) for k, image in enumerate(pixels, 1)]
        wanted = [slow_logits(which, batch[0]).expand(len(batch), 3) for batch in inputs]
    assert float((wanted[0][0] - wanted[1][0]).abs().max()) > 1e-2  # the control
    shares = torch.tensor(SHARES[prior] if prior else [1, 1, 1]).double()
    for given, expected in zip(inputs, wanted, strict=True):
        torch.testing.assert_close(logits(given), expected + (3 * shares / shares.sum()).log(), atol=2e-4, rtol=2e-5)


class Odd(nn.Module):
    """Answers that are no numbers."""

    def forward(self, pixels):
        return (pixels.float().mean((1, 2)) - 999).log()


class Choosing(nn.Module):
    """What an exporter cannot follow."""

    def forward(self, images):
        means = images.float().mean((1, 2))
        return means if means.sum() > 0 else -means


class Noisy(nn.Module):
    """Answers that are others every time."""

    def forward(self, pixels):
        return pixels.float().mean((1, 2)) + torch.rand(3)


@pytest.mark.parametrize("make", [Noisy, Odd])
def test_a_file_with_other_logits_or_none_is_not_kept(tmp_path, make):
    with pytest.raises(RuntimeError, match="other logits"):
        export(make().eval(), tmp_path / "x", {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("package", "model", "words"),
    [
        ("onnxruntime", FromPixels(Pair(10)), "needs the package onnxruntime: pip install onnx onnxscript onnxruntime"),
        pytest.param("none", Choosing(), "PyTorch cannot turn this network into ONNX (", marks=pytest.mark.slow),
    ],
)
def test_what_cannot_be_made_is_said_in_one_line(tmp_path, monkeypatch, capfd, package, model, words):
    monkeypatch.setitem(sys.modules, package, None)
    with refusal(words):
        export(model.eval(), tmp_path / "x", {})
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
