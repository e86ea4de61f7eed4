"""What flags say of images, and that images are prepared as torchvision prepares them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.refusals import wrong
from torchvision import models

from heads.transforms import ImageFlags, Preparation, as_said, transforms
from heads.whole_networks import of_torchvision

USUAL = Preparation()


@pytest.fixture
def unmade(monkeypatch):
    """Networks are not made: their preparation alone is looked at. Returns what would have made them."""
    made = []
    monkeypatch.setattr(models, "get_model", lambda *given, **named: made.append((given, named)))
    return made


def photo(size, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


# 224 of 256 and bilinear; 224 of 232; 240 of 256 and bicubic; 240 of 255; 256 of 260; 300 of 320; 384, all of it.
@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet50", "IMAGENET1K_V1"), ("resnet50", "IMAGENET1K_V2"), ("efficientnet_b1", "IMAGENET1K_V1"),
        ("efficientnet_b1", "IMAGENET1K_V2"), ("swin_v2_t", "DEFAULT"), ("efficientnet_b3", "DEFAULT"),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1"), ("vgg16", "IMAGENET1K_FEATURES"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [(400, 300), (301, 517), (90, 64), (256, 256)])
def test_images_are_prepared_as_by_the_weights_own_transform(unmade, name, weights, size):
    prepared = of_torchvision(name, weights, ImageFlags())[1]
    preset = models.get_model_weights(name)[weights].transforms()
    ours, theirs = transforms(prepared, train=False)(photo(size)), preset(photo(size))
    assert ours.shape == theirs.shape == (3, prepared.image_size, prepared.image_size)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 / min(prepared.std))  # pixels are rounded before


def test_another_interpolation_or_size_prepares_images_otherwise():
    image, ours = photo((400, 300)), transforms(USUAL, train=False)
    for change in ({"interpolation": "bicubic"}, {"resize_size": 232}, {"std": (0.2, 0.224, 0.225)}):
        theirs = transforms(replace(USUAL, **change), train=False)
        assert not torch.allclose(ours(image), theirs(image), rtol=0, atol=1e-3)


def test_training_images_have_the_networks_size_and_interpolation():
    said = repr(transforms(Preparation(image_size=96, resize_size=128, interpolation="bicubic"), train=True))
    assert "size=(96, 96)" in said
    assert "bicubic" in said.lower()


@pytest.mark.parametrize("name", sorted(models.list_models(module=models)))
def test_each_of_torchvisions_weights_has_its_own_preparation_by_name_and_by_file(unmade, name):
    if name in ("googlenet", "inception_v3"):
        return
    entries = models.get_model_weights(name)
    first = next(iter(entries)).transforms()
    for pretrained, of in [
        *((entry.name, entry) for entry in entries),
        *((f"some/folder/{entry.url.split('/')[-1]}", entry) for entry in entries),
        ("DEFAULT", entries.DEFAULT),
    ]:
        preset, prepared = of.transforms(), of_torchvision(name, pretrained, ImageFlags())[1]
        assert prepared == Preparation(
            *preset.crop_size, *preset.resize_size, tuple(preset.mean), tuple(preset.std), preset.interpolation.value
        )
        assert unmade[-1][1]["weights"] == (None if "/" in pretrained else of)
    for other in (None, "of_mine.pth", f"{entries.DEFAULT.url.split('/')[-1]}.old"):
        prepared = of_torchvision(name, other, ImageFlags())[1]
        assert (prepared.image_size, prepared.resize_size) == (first.crop_size[0], first.resize_size[0])
        assert unmade[-1][1]["weights"] is None


def test_the_published_file_of_crt_is_prepared_for_as_published(unmade):
    prepared = of_torchvision("resnet50", "ImageNet_iNat/models/resnet50_uniform_e90.pth", ImageFlags())[1]
    assert (prepared.image_size, prepared.resize_size) == (224, 256)


def test_a_vision_transformer_is_made_for_the_size_of_its_images(unmade):
    for pretrained, said, size in (
        ("vit_b_16_swag-9ac1b537.pth", None, 384), ("mine.pth", None, 224), ("mine.pth", 448, 448), (None, 384, 384),
    ):  # fmt: skip
        assert of_torchvision("vit_b_16", pretrained, ImageFlags(said))[1].image_size == size
        assert unmade[-1][1] == {"weights": None, "image_size": size}
    of_torchvision("vit_b_16", "DEFAULT", ImageFlags())
    assert "image_size" not in unmade[-1][1]  # torchvision takes the weights' own


def test_flags_take_the_place_of_what_the_network_has():
    assert as_said(USUAL, ImageFlags()) == USUAL
    half = (0.5, 0.5, 0.5)
    assert as_said(USUAL, ImageFlags(100, 110, half, half)) == replace(
        USUAL, image_size=100, resize_size=110, mean=half, std=half
    )
    assert as_said(USUAL, ImageFlags(resize_size=224)) == replace(USUAL, resize_size=224)
    assert as_said(USUAL, ImageFlags(mean=(0.0, 0.0, 0.0))).mean == (0, 0, 0)


@given(st.integers(8, 3500), st.integers(8, 500), st.floats(1, 1.16))
def test_the_short_side_grows_with_the_crop(size, crop, factor):
    usual = Preparation(crop, int(crop * factor))
    prepared = as_said(usual, ImageFlags(size))
    assert prepared.image_size == size
    assert 0 <= size * usual.resize_size / usual.image_size - prepared.resize_size < 1


@pytest.mark.parametrize("value", [0, 7, 4097, -224, 10**9])
def test_a_size_that_makes_no_sense_is_refused(value):
    assert wrong(as_said, USUAL, ImageFlags(value)) == f"--image_size {value} makes no sense: it must be from 8 to 4096"


@pytest.mark.parametrize("value", [0, 223, 4097, -256])
def test_a_short_side_below_the_crop_is_refused(value):
    told = f"--resize_size {value} makes no sense: it must be from the 224 of --image_size to 4096"
    assert wrong(as_said, USUAL, ImageFlags(resize_size=value)) == told


@pytest.mark.parametrize(("flag", "good"), [("mean", (0.0, 0.5, 1.0)), ("std", (0.001, 1 / 255, 1.0))])
@pytest.mark.parametrize("bad", [-0.1, 1.1, 116.28, float("nan"), float("inf"), -float("inf"), 1e300])
def test_a_mean_or_std_that_pixels_from_0_to_1_do_not_have_is_refused(flag, good, bad):
    assert getattr(as_said(USUAL, ImageFlags(**{flag: good})), flag) == good
    for place in range(3):
        values = tuple(bad if i == place else x for i, x in enumerate(good))
        assert wrong(as_said, USUAL, ImageFlags(**{flag: values})).startswith(f"--{flag} ")


def test_a_std_of_zero_is_refused():
    told = "--std 0,0.5,0.5 makes no sense: it must be three numbers from 0.001 to 1, of pixels that go from 0 to 1"
    assert wrong(as_said, USUAL, ImageFlags(std=(0.0, 0.5, 0.5))) == told
    assert wrong(as_said, USUAL, ImageFlags(std=(0.5, 0.5, 1e-320))).startswith("--std 0.5,0.5,")
