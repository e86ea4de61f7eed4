"""A trained network in use: names for image files, ONNX and TorchScript with the logits of PyTorch."""

import json
import os
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from support.tiny_networks import Pair

from data_utils import MEAN, STD
from harness.errors import UserError
from inference.exports import ENDINGS, export
from inference.trained import FromPixels, restored
from resnet import make_model

FORMS = ["onnx", "torchscript"]
NAMES = [f"sign {k}" for k in range(10)]


@pytest.fixture
def state():
    """A network whose batch norm has statistics of its own, as training leaves it."""
    model = make_model("resnet8", 10, seed=3)
    generator = torch.Generator().manual_seed(0)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    for name in weights:
        if "running" in name:
            weights[name] += torch.rand(weights[name].shape, generator=generator)
    return {"state_dict": weights, "arch": "resnet8", "dataset": "digits", "imb_factor": 0.1, "class_names": NAMES}


@pytest.fixture
def checkpoint(state, tmp_path):
    path = tmp_path / "a_ckpt.pth.tar"
    torch.save(state, path)
    return path


def slow_logits(state, pixels):
    """Normalise in numpy, pixel by pixel as the definition says, and run the network in float64."""
    images = (np.asarray(pixels, dtype=np.float64) / 255 - np.array(MEAN)) / np.array(STD)
    model = make_model("resnet8", 10).double().eval()
    model.load_state_dict({k: v.double() for k, v in state["state_dict"].items()})
    with torch.no_grad():
        return model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))[1]


def random_pixels(count):
    return torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def close(found, wanted):
    return float((torch.as_tensor(found).double() - wanted).abs().max() / wanted.abs().max()) < 1e-5


def test_pixels_to_logits(state, checkpoint):
    pixels = random_pixels(5)
    model = FromPixels(restored(state, checkpoint))
    with torch.no_grad():
        assert close(model(pixels), slow_logits(state, pixels))
        assert not close(model(pixels), slow_logits(state, pixels.flip(3)))  # the control: BGR


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:`torch.jit.load`:FutureWarning")
def test_exports_through_the_command_line(run, state, checkpoint, form):
    out = run("MetaSAug_test.py", "--checkpoint_path", checkpoint, "--export", form, "--no-cuda").stdout
    path = checkpoint.with_name("a_ckpt" + ENDINGS[form])
    assert out.splitlines()[-1].startswith(f"wrote {path}: logits of 64 test images within ")
    pixels, names = random_pixels(7), {"class_names": ""}
    if form == "onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found = session.run(None, {"pixels": pixels.numpy()})[0]
        names = session.get_modelmeta().custom_metadata_map
    else:
        found = torch.jit.load(path, _extra_files=names)(pixels).detach()
    assert close(found, slow_logits(state, pixels))
    assert json.loads(names["class_names"]) == NAMES


def test_a_network_that_does_not_come_out_the_same_is_not_written(state, checkpoint, tmp_path):
    model = FromPixels(restored(state, checkpoint)).train()  # the logits hang together with the other images of the batch
    before = set(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="other logits"):
        export(model, "torchscript", tmp_path / "x.pt", NAMES, random_pixels(6))
    assert set(tmp_path.iterdir()) == before


def test_what_was_there_is_kept(tmp_path):
    path = tmp_path / "x.pt"
    path.write_text("precious")
    export(FromPixels(Pair(10).eval()), "torchscript", path, NAMES, random_pixels(2))
    assert (tmp_path / "x.pt.previous").read_text() == "precious"


@pytest.mark.parametrize(("form", "name"), [("onnx", "gone/x"), ("torchscript", "gone/x"), ("torchscript", "folder")])
def test_a_place_that_cannot_be_written_is_named(tmp_path, form, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f"{name} cannot be written"):
        export(FromPixels(Pair(10).eval()), form, tmp_path / name, NAMES, random_pixels(2))
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_onnx_names_the_package_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="needs the package onnxruntime: pip install onnx onnxscript onnxruntime"):
        export(FromPixels(Pair(10).eval()), "onnx", tmp_path / "x.onnx", NAMES, random_pixels(3))


def test_predictions_of_image_files(run, state, checkpoint, tmp_path):
    pixels = random_pixels(3).numpy()
    files = [tmp_path / f"{k}.png" for k in range(3)]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file)
    files.append(files[0])  # named twice, told twice
    pixels = np.concatenate([pixels, pixels[:1]])
    out = run("predict.py", "--checkpoint_path", checkpoint, "--top", "2", "--no-cuda", *files).stdout
    wanted = slow_logits(state, pixels).softmax(dim=1)
    lines = [line.split("\t") for line in out.splitlines()]
    assert [line[0] for line in lines] == [str(file) for file in files]
    for line, found in zip(lines, wanted, strict=True):
        best = found.argsort(descending=True)[:2]
        assert [word.rpartition(" ")[0] for word in line[1:]] == [NAMES[k] for k in best]
        for word, k in zip(line[1:], best, strict=True):
            assert float(word.rpartition(" ")[2]) == pytest.approx(100 * float(found[k]), abs=0.006)


def test_a_released_checkpoint_has_no_names_and_any_image_will_do(run, state, tmp_path):
    path = tmp_path / "released.pth.tar"
    torch.save({"state_dict": state["state_dict"], "epoch": 200}, path)
    Image.new("L", (300, 77), 128).save(tmp_path / "grey.jpg")
    flags = ["--checkpoint_path", path, "--no-cuda", "--arch", "resnet8", tmp_path / "grey.jpg"]
    words = run("predict.py", *flags).stdout.strip().split("\t")
    assert len(words) == 6
    assert all(word.startswith("class ") for word in words[1:])


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_predicted(run, checkpoint, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no image")
    result = run("predict.py", "--checkpoint_path", checkpoint, "bad.png", "good.png", "gone.png", status=1)
    assert result.stdout.startswith("good.png\tsign ")
    assert len(result.stdout.splitlines()) == 1
    bad, gone, last = result.stderr.splitlines()
    assert bad.startswith("bad.png (8 bytes) cannot be read as an image")
    assert gone.startswith("gone.png is missing")
    assert last == "predict.py: error: 2 of 3 images cannot be read, see above"
    result = run("predict.py", "--checkpoint_path", checkpoint, "good.png", "gone.png", status=1)
    assert result.stdout.startswith("good.png\tsign ")
    (line,) = result.stderr.splitlines()
    assert line.startswith("predict.py: error: gone.png is missing")
    for none in (["gone.png"], ["bad.png", "gone.png"]):  # nothing was done
        assert run("predict.py", "--checkpoint_path", checkpoint, *none, status=2).stdout == ""


def test_a_folder_that_cannot_be_looked_into_is_named(refused, checkpoint, tmp_path, nest):
    nest(tmp_path, 200 * "d", 25)
    line = refused("predict.py", "--checkpoint_path", checkpoint, 200 * "d")
    assert "cannot be read (File name too long): make it readable, or move it away" in line


def test_folders_are_read_in_depth_and_what_is_left_out_is_said(run, refused, checkpoint, tmp_path):
    for name, size in (("a.png", (32, 32)), ("deep/b.jpg", (50, 40)), ("deep/\x1b[31m.png", (32, 32))):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA" if name == "a.png" else "RGB", size).save(tmp_path / "photos" / name)
    for name in ("notes.txt", "deep/IMG_1.HEIC"):
        (tmp_path / "photos" / name).touch()
    result = run("predict.py", "--checkpoint_path", checkpoint, "--no-cuda", "photos")
    named = [line.split("\t")[0] for line in result.stdout.splitlines()]
    assert named == ["photos/a.png", "photos/deep/\\x1b[31m.png", "photos/deep/b.jpg"]
    left_out = "1 in a format that cannot be read here (.heic: convert to JPEG or PNG), 1 not an image"
    assert result.stderr.splitlines() == [
        f"note: photos: files left out: {left_out}",
        "note: photos: in a format that cannot be read here: deep/IMG_1.HEIC",
        "note: 1 image is transparent somewhere: it was laid on white",
        "note: 1 image of 50 x 40 pixels was shrunk to 32 x 32",
    ]
    os.mkfifo(tmp_path / "photos" / "pipe.png")
    for name in ("photos/pipe.png", "photos/deep/IMG_1.HEIC"):
        (tmp_path / "photos" / "deep" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
        words = "is HEIC, which cannot be read here: convert it" if name.endswith("HEIC") else "is a pipe, socket or device"
        assert f"{name} {words}" in refused("predict.py", "--checkpoint_path", checkpoint, name)
    (tmp_path / "empty").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "empty" / name).touch()
    assert "empty holds no image in a format that can be read" in refused(
        "predict.py", "--checkpoint_path", checkpoint, "empty"
    )


def test_mistakes(refused, checkpoint, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "good.png")
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}}, tmp_path / "headless.pth.tar")
    torch.save({"state_dict": {"linear.weight": torch.zeros(())}}, tmp_path / "scalar.pth.tar")
    for flags, words in (
        (["--checkpoint_path", checkpoint, "--top", "0"], "--top 0 makes no sense"),
        (["--checkpoint_path", "headless.pth.tar"], "headless.pth.tar does not tell its class count"),
        (["--checkpoint_path", "scalar.pth.tar"], "scalar.pth.tar does not tell its class count"),
    ):
        assert words in refused("predict.py", *flags, "good.png")
