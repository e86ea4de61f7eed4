"""What flags say of images, and that images are prepared as timm and the published code prepare them."""

import shlex
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from support.refusals import wrong
from torchvision import transforms as older

from heads.own_flags import parse_own
from heads.preparation import Preparation, as_said, of_config, preparation_of, transforms
from inference.photographs import FromPhotographs

SIZES = [(400, 300), (301, 517), (90, 64), (256, 256)]


def photo(size, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


# 224 of 256; 224 of 235.8; 518, all of it; 384 of both sides, and a part of them; bilinear; other statistics.
@pytest.mark.parametrize(
    "name",
    ["resnet50.tv_in1k", "vit_base_patch16_clip_224", "vit_small_patch14_dinov2", "convnext_tiny.in12k_ft_in1k_384",
     "dm_nfnet_f0", "tf_mobilenetv3_small_075", "vit_base_patch16_siglip_224"],
)  # fmt: skip
def test_images_are_prepared_as_by_timms_own_transform(name):
    """And by what an export does to them."""
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    prepared, theirs = of_config(config), timm.data.create_transform(**config, is_training=False)
    for size in SIZES:
        image, export = photo(size), FromPhotographs(prepared)
        ours, exported = transforms(prepared, train=False)(image), export(torch.from_numpy(np.array(image))[None])[0]
        torch.testing.assert_close(ours, theirs(image), rtol=0, atol=1e-6 / min(prepared.std))
        # Pillow changes rows or columns first, whichever is quicker; an export does the rows first: up to two levels
        torch.testing.assert_close(exported, ours, rtol=0, atol=2.01 / 255 / min(prepared.std))


def test_training_images_have_the_networks_size_and_interpolation():
    said = repr(transforms(Preparation(image_size=96, resize_size=128, interpolation="bicubic"), train=True))
    assert "size=(96, 96)" in said
    assert "bicubic" in said.lower()


def test_flags_take_the_place_of_what_the_network_has_and_the_short_side_grows_with_the_crop():
    usual, half, none = Preparation(224, 256, interpolation="bicubic"), (0.5, 0.5, 0.5), (0.0, 0.0, 0.0)
    assert as_said(usual, {}) == usual
    for size, resized in ((64, 73), (224, 256), (336, 384)):  # of 256 / 224, rounded down
        assert as_said(usual, {"image_size": size}) == replace(usual, image_size=size, resize_size=resized)
    said = as_said(usual, {"image_size": 40, "resize_size": 49, "mean": none, "std": half})
    assert said == Preparation(40, 49, none, half, "bicubic")


def said_by(flag):
    return as_said(Preparation(), parse_own(shlex.split(f"--data_root x {flag}")).images)


@pytest.mark.parametrize(
    "flag", ["--image_size 7", "--image_size 4097", "--resize_size 223", "--resize_size 4097", "--mean 0.5,1.1,0.5",
             "--std 0.5,0.5,0.0009", "--std 0.5,0.5,1.1"]
)  # fmt: skip
def test_what_pixels_from_0_to_1_do_not_have_is_refused(flag):
    assert wrong(said_by, flag).startswith(f"{flag} is not valid: it must be ")
    for allowed in ("--image_size 8", "--mean 0,0.5,1", "--std 0.001,0.5,1"):  # the control
        said_by(allowed)


# The transforms of the published code, with torchvision's older ones as it has them, and those of one's own images


SETS = dict.fromkeys(("ImageNet_LT", "custom"), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
SETS |= dict.fromkeys(("iNaturalist17", "iNaturalist18"), ((0.466, 0.471, 0.380), (0.195, 0.194, 0.192)))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("dataset", SETS)
def test_images_are_those_of_the_published_transforms_draw_by_draw(dataset, train):
    first = [older.Resize(256), older.CenterCrop(224)]
    if train:
        jitter = [older.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0)] * (not dataset.startswith("iNat"))
        first = [older.RandomResizedCrop(224), older.RandomHorizontalFlip(), *jitter]
    theirs = older.Compose([*first, older.ToTensor(), older.Normalize(*SETS[dataset])])
    for seed, size in enumerate([(300, 400), (500, 260), (40, 30)] * 4):
        image, made = photo(size, seed), []
        for transform in (transforms(preparation_of(dataset), train), theirs):
            torch.manual_seed(seed)
            made.append(transform(image))
        torch.testing.assert_close(*made)
    assert preparation_of(dataset).upright == (dataset == "custom")  # one's own images are turned as their EXIF says
