"""Pixels of any size to logits: what the test transform does with PIL, as a graph, in PyTorch, ONNX and TorchScript."""

import json
import math

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn import functional as F

from harness.errors import UserError
from heads.preparation import Preparation, transforms
from inference.exports import TRACED, export
from inference.photographs import FromPhotographs

FORMS = ["onnx", "torchscript"]
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}
NAMES = ["Häher", "owl", "two words", "x"]
SIZES = [(1, 1, 1), (3, 50, 20), (1, 29, 30), (2, 300, 211)]  # numbers, heights and widths of images


def noise(height, width, kind="levels", seed=0):
    """Pixels (H, W, 3): all levels, only the outermost two, or a smooth picture as of a camera."""
    generator = np.random.default_rng(seed)
    if kind == "smooth":
        coarse = Image.fromarray(generator.integers(0, 256, (5, 4, 3), dtype=np.uint8))
        return np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))
    pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return pixels if kind == "levels" else np.uint8(255) * (pixels > 127)


def slow(pixels, prepared):
    """The test transform (3, crop, crop), the resize in two calls: as of Pillow 13 one call may do the columns first."""
    image, mode = Image.fromarray(pixels), FILTERS[prepared.interpolation]
    width, height = (int(prepared.resize_size * side / min(image.size)) for side in image.size)
    image = image.resize((width, image.height), mode).resize((width, height), mode)
    return transforms(prepared, train=False)(image)


def batch(*images):
    return torch.from_numpy(np.stack(images))


def prepared_pixels(pixels, prepared):
    return FromPhotographs(nn.Identity(), prepared)(batch(pixels))[0]


def levels_apart(one, other):
    """The largest difference in levels, and the share of numbers that differ."""
    apart = (255 * (one - other)).abs().round()
    return float(apart.max()), float((apart > 0).double().mean())


@settings(max_examples=60)
@given(
    sides=st.tuples(*[st.one_of(st.integers(1, 12), st.integers(1, 700))] * 2),
    short=st.integers(1, 300),
    crop=st.integers(1, 300),
    interpolation=st.sampled_from(sorted(FILTERS)),
    kind=st.sampled_from(["levels", "extremes", "smooth"]),
    seed=st.integers(0, 9),
)
@example(sides=(384, 768), short=256, crop=224, interpolation="bilinear", kind="levels", seed=0)  # halves all over
@example(sides=(41, 30), short=30, crop=33, interpolation="bicubic", kind="levels", seed=0)  # filled up, then cut off
@example(sides=(1, 1), short=1, crop=4, interpolation="bicubic", kind="levels", seed=0)
@example(sides=(700, 1), short=30, crop=9, interpolation="bicubic", kind="extremes", seed=0)
def test_the_pixels_are_those_of_pillow(sides, short, crop, interpolation, kind, seed):
    short = min(short, max(1, math.isqrt(500_000 * min(sides) // max(sides))))  # Pillow makes the whole of thin images
    prepared = Preparation(crop, short, interpolation=interpolation, **PLAIN)
    pixels = noise(*sides, kind, seed)
    most, share = levels_apart(prepared_pixels(pixels, prepared), slow(pixels, prepared))
    assert most <= 1
    assert share <= 1e-3


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("sides", "kind"), [((300, 400), "levels"), ((333, 270), "extremes"), ((601, 207), "smooth")])
def test_the_transform_is_that_of_the_backbone(interpolation, sides, kind):
    """All of it, one call; levels of smooth pictures differ by one at most where Pillow 13 does the columns first."""
    pixels = noise(*sides, kind)
    prepared = Preparation(224, 256, interpolation=interpolation)
    whole = transforms(prepared, train=False)(Image.fromarray(pixels))
    one_level = 1 / 255 / min(prepared.std)
    difference = float((prepared_pixels(pixels, prepared) - whole).abs().max())
    assert difference <= (1.01 * one_level if kind == "smooth" else 1e-6)


def test_a_resize_that_skips_pixels_is_seen():
    """The control of both tests above."""
    pixels = noise(300, 400)
    image = batch(pixels).permute(0, 3, 1, 2).float()
    for interpolation in FILTERS:
        wrong = F.interpolate(image, (256, 341), mode=interpolation)[0, :, 16:240, 58:282].round().clamp(0, 255) / 255
        wanted = slow(pixels, Preparation(224, 256, interpolation=interpolation, **PLAIN))
        most, share = levels_apart(wrong, wanted)
        assert most > 9
        assert share > 0.5


def test_images_of_a_batch_do_not_meet():
    images = [noise(40, 63, seed=seed) for seed in range(3)]
    model = FromPhotographs(nn.Flatten(), Preparation(20, 24), torch.arange(1200.0))
    together = model(batch(*images))
    for image, found in zip(images, together, strict=True):
        assert torch.equal(model(batch(image))[0], found)
        wanted = slow(image, Preparation(20, 24)).flatten() - torch.arange(1200)
        assert float((found - wanted).abs().max()) < 1e-4


def small_network():
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 5, stride=3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*body, nn.Linear(8, len(NAMES)))
    network[1].running_mean.uniform_(-1, 1)
    return network.eval()


PREPARED = Preparation(33, 30, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), "bicubic")
COMPARED = [batch(noise(*size)) for size in ((31, 64), (90, 77))]


def slow_logits(images, prepared=PREPARED):
    network = small_network().double()
    with torch.no_grad():
        return torch.cat([network(slow(image, prepared)[None].double()) for image in images])


def loaded(path, form):
    """A function from pixels to logits, and the metadata."""
    if form == "onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        facts = session.get_modelmeta().custom_metadata_map
        return lambda pixels: torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0]), facts
    facts = {"class_names": "", "preparation": ""}
    return torch.jit.load(path, _extra_files=facts), facts


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:`torch.jit.load`:FutureWarning")
def test_a_file_takes_any_size_and_number(tmp_path, form):
    subtracted = torch.tensor([0.0, 1.0, -2.0, torch.inf])  # the last cannot be
    model = FromPhotographs(small_network(), PREPARED, subtracted).eval()
    assert export(model, form, tmp_path / "x", NAMES, COMPARED) < 1e-5
    logits, facts = loaded(tmp_path / "x", form)
    for number, *sides in SIZES:
        images = [noise(*sides, seed=seed) for seed in range(number)]
        found, wanted = logits(batch(*images)).detach(), slow_logits(images) - subtracted
        assert torch.equal(found[:, 3], wanted[:, 3].float())
        assert float((found - wanted)[:, :3].abs().max()) < 1e-5
        other = slow_logits(images, Preparation(33, 30, PREPARED.mean, PREPARED.std, "bilinear")) - subtracted
        assert float((found - other)[:, :3].abs().max()) > 1e-4 or sides == [1, 1]  # the control
    assert json.loads(facts["class_names"]) == NAMES
    assert json.loads(facts["preparation"]) == {
        "image_size": 33, "resize_size": 30, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": "bicubic",
    }  # fmt: skip


def test_a_file_for_one_size_only_is_refused(tmp_path):
    class Fixed(FromPhotographs):
        def weights(self, count, side, other):
            return super().weights(int(count), torch.tensor(int(side)), torch.tensor(int(other)))

    images = [batch(noise(*TRACED[1:3])), batch(noise(TRACED[1] + 4, TRACED[2]))]
    model = Fixed(small_network(), PREPARED).eval()
    with pytest.raises(RuntimeError, match="other logits"):
        export(model, "torchscript", tmp_path / "x", NAMES, images)
    assert list(tmp_path.iterdir()) == []
    export(model, "torchscript", tmp_path / "x", NAMES, images[:1])  # the control


@pytest.mark.parametrize("order", [1, -1])
def test_logits_that_are_no_numbers_are_refused(tmp_path, order):
    class Odd(nn.Module):
        def forward(self, images):
            return images.mean((2, 3)) / (images.sum() - images.sum() + (images.std() > 1))

    dark = torch.zeros(1, 40, 40, 3, dtype=torch.uint8)
    model = FromPhotographs(Odd(), Preparation(20, 24, **PLAIN)).eval()
    with pytest.raises(RuntimeError, match="other logits"):
        export(model, "torchscript", tmp_path / "x", NAMES, [COMPARED[0], dark][::order])


class Choosing(nn.Module):
    def forward(self, images):
        means = images.mean((2, 3))
        return means if means.sum() > 0 else -means


@pytest.mark.slow
def test_a_network_that_cannot_become_onnx_is_refused_in_one_line(tmp_path, capfd):
    model = FromPhotographs(Choosing(), PREPARED).eval()
    with pytest.raises(UserError, match=r"^PyTorch cannot turn this network into ONNX \(.+\): see --export torchscript$"):
        export(model, "onnx", tmp_path / "x", NAMES, COMPARED)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
