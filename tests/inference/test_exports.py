"""Files for use without this code, ONNX and TorchScript: their logits are those of the network by the definition."""

import json
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from support.classifiers import COUNTS, FILES, MORE, NAMES, TRANSFORMED, pixels_of, slow_logits
from support.own import network
from support.refusals import refusal
from support.tiny_networks import Pair
from torch import nn

from heads.preparation import Preparation
from inference.exports import ENDINGS, LARGE, export
from inference.photographs import FromPhotographs
from inference.trained import FromPixels
from resnet import make_model

SHARES = {"train": COUNTS, "shares.csv": [2, 0, 6]}  # by --prior; Bayes' rule from equal frequencies
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.load`:FutureWarning")


def loaded(path):
    """A function from inputs to logits in float64, and the metadata."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        [given] = session.get_inputs()
        facts = session.get_modelmeta().custom_metadata_map
        return lambda inputs: torch.from_numpy(session.run(None, {given.name: inputs})[0]).double(), facts
    facts = {"class_names": "", "preparation": ""}
    model = torch.jit.load(path, _extra_files=facts)
    return lambda inputs: model(torch.from_numpy(inputs)).detach().double(), facts


def noise(*size):
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("which", "form", "prior"),
    [
        ("small.pth.tar", "onnx", ""),
        ("own.pth.tar", "torchscript", ""),
        ("own.pth.tar", "onnx", "shares.csv"),
        ("slim.pth.tar", "torchscript", "train"),
        ("released.pth.tar", "torchscript", ""),
        ("none.pth.tar", "torchscript", "train"),
        ("unit.pth.tar", "onnx", "train"),
        ("sqrt.pth.tar", "onnx", ""),
        pytest.param("slim.pth.tar", "onnx", "", marks=pytest.mark.slow),
    ],
)
def test_a_file_gives_the_logits_of_the_definition(run_in, folder, which, form, prior):
    path = folder / which.replace(".pth.tar", ENDINGS[form])
    (folder / "shares.csv").write_text('Häher,2\nowl,0\n"two, words",6\n', encoding="utf-8")
    flags = f"{MORE.get(which, '')} --no-cuda --export {form} {prior and f'--prior {prior}'}"
    out = run_in(f"predict.py --checkpoint_path {which} {flags}", cwd=folder).stdout
    assert out.startswith(f"wrote {path.name}: logits of made-up inputs within ")
    assert out.endswith("of PyTorch's" + (f"; what --prior {prior} adds is in them\n" if prior else "\n"))
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


def test_that_of_a_tested_network_is_adjusted_too(run, tmp_path):
    model, counts = make_model("resnet8", 10, seed=3).eval(), [*range(20, 10, -1)]
    state = {"arch": "resnet8", "dataset": "digits", "imb_factor": 0.1, "cls_num_list": counts}
    torch.save({"state_dict": model.state_dict(), **state}, tmp_path / "a_ckpt.pth.tar")
    out = run("MetaSAug_test.py --checkpoint_path a_ckpt.pth.tar --export onnx --no-cuda --logit_adjust 2").stdout
    assert out.splitlines()[-1].startswith("wrote a_ckpt.onnx: logits of made-up inputs within ")
    logits, facts = loaded(tmp_path / "a_ckpt.onnx")
    assert json.loads(facts["class_names"]) == [*map(str, range(10))]
    pixels = torch.randint(0, 256, (7, 32, 32, 3), dtype=torch.uint8)
    wanted = FromPixels(model)(pixels) - 2 * torch.tensor(counts).div(sum(counts)).log()
    torch.testing.assert_close(logits(pixels.numpy()), wanted.double(), atol=1e-4, rtol=0)


class Fixed(FromPhotographs):
    """For one size only."""

    def weights(self, images, along, across):
        return super().weights(torch.empty([int(side) for side in images.shape]), along, across)


class Odd(nn.Module):
    """Answers that are no numbers, of some images."""

    def forward(self, pixels):
        return pixels.float().mean((1, 2)) / (len(pixels) - 1)


class Choosing(nn.Module):
    """What an exporter cannot follow."""

    def forward(self, images):
        means = images.float().mean((1, 2))
        return means if means.sum() > 0 else -means


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (lambda: nn.Sequential(Fixed(Preparation(32, 36)), network(3)), LARGE),
        (Odd, LARGE),
        (Odd, LARGE[::-1]),
    ],
)
def test_a_file_with_other_logits_or_none_is_not_kept(tmp_path, make, shapes):
    with pytest.raises(RuntimeError, match="other logits"):
        export(make(), "torchscript", tmp_path / "x", {}, shapes)
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
        export(model.eval(), "onnx", tmp_path / "x", {})
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
