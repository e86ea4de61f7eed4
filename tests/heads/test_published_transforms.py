"""The transforms of the published code, and those of one's own images."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as older

from heads.preparation import preparation_of, transforms

STATISTICS = {
    "ImageNet_LT": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "iNaturalist17": ((0.466, 0.471, 0.380), (0.195, 0.194, 0.192)),
    "iNaturalist18": ((0.466, 0.471, 0.380), (0.195, 0.194, 0.192)),
}


def levels(image, dataset):
    """Undo the normalisation: values from 0 to 255."""
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in STATISTICS[dataset])
    return 255 * (image * std + mean)


def drawn(image, dataset, count):
    """Several draws of the training transform, in levels."""
    transform = transforms(preparation_of(dataset), train=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [levels(transform(image), dataset) for _ in range(count)]


@pytest.mark.parametrize("dataset", STATISTICS)
def test_a_single_colour_is_normalised_with_the_published_mean_and_std(dataset):
    colour = (200, 100, 30)
    mean, std = STATISTICS[dataset]
    expected = torch.tensor([(c / 255 - m) / s for c, m, s in zip(colour, mean, std, strict=True)]).view(3, 1, 1)
    image = Image.new("RGB", (90, 70), colour)
    for train in (False, True):
        made = transforms(preparation_of(dataset), train)(image)
        assert (made.shape, made.dtype) == ((3, 224, 224), torch.float32)
        if not train or dataset != "ImageNet_LT":  # without jitter a single colour stays what it is
            torch.testing.assert_close(made, expected.expand(3, 224, 224))
        own = transforms(preparation_of("custom"), train)
        assert repr(own) == repr(transforms(preparation_of("ImageNet_LT"), train))  # one's own are as ImageNet's


@pytest.mark.parametrize("size", [(300, 400), (500, 260), (40, 30)])
def test_the_test_transform_is_resize_256_and_the_middle_224(size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    normalize = older.Normalize(*STATISTICS["ImageNet_LT"])
    expected = older.Compose([older.Resize(256), older.CenterCrop(224), older.ToTensor(), normalize])(image)
    torch.testing.assert_close(transforms(preparation_of("ImageNet_LT"), train=False)(image), expected)


def test_jitter_is_in_brightness_contrast_and_saturation_but_not_in_hue():
    image = Image.new("RGB", (8, 8), (100, 80, 60))
    seen = torch.stack([draw[:, 0, 0] for draw in drawn(image, "ImageNet_LT", 80)])  # (80, 3)
    grey = seen @ torch.tensor([0.299, 0.587, 0.114]) / float(torch.tensor([29.9, 46.96, 6.84]).sum())
    assert 0.57 < float(grey.min()) < 0.7  # brightness 0.6 to 1.4; the other two leave the grey of a single colour alone
    assert 1.3 < float(grey.max()) < 1.43
    spread = (seen[:, 0] - seen[:, 2]) / 40 / grey  # contrast times saturation
    assert 0.33 < float(spread.min()) < 0.55
    assert 1.5 < float(spread.max()) < 2.05
    hue = (seen[:, 1] - seen[:, 2]) / (seen[:, 0] - seen[:, 2])
    assert float((hue - 0.5).abs().max()) < 0.15  # rounding; a hue jitter of 0.05 would be more
    black_and_white = Image.fromarray(np.tile(np.uint8([[[80] * 3], [[120] * 3]]), (4, 8, 1)))
    contrast = [float((draw.max() - draw.min()) / draw.mean()) for draw in drawn(black_and_white, "ImageNet_LT", 30)]
    assert 0.57 < min(contrast) / 0.4 < 0.8 < 1.2 < max(contrast) / 0.4 < 1.5


def test_crops_have_the_published_sizes_and_half_of_them_are_mirrored():
    x, y = np.meshgrid(np.arange(200), np.arange(200))
    draws = drawn(Image.fromarray(np.stack([x, y, 0 * x], axis=2).astype(np.uint8)), "iNaturalist18", 100)
    wide = torch.tensor([float(draw[0, 112, 168] - draw[0, 112, 56]) * 2 for draw in draws])  # in pixels, below 0 mirrored
    high = torch.tensor([float(draw[1, 168, 112] - draw[1, 56, 112]) * 2 for draw in draws])
    area, ratio = wide.abs() * high / 200**2, wide.abs() / high
    assert 0.06 < float(area.min()) < 0.2 < 0.8 < float(area.max()) < 1.05
    assert 0.7 < float(ratio.min()) < 0.8 < 1.25 < float(ratio.max()) < 1.42
    assert 30 < int((wide < 0).sum()) < 70
    middle = torch.stack([draw[:2, 112, 112] for draw in draws])
    assert float(middle.std(dim=0).min()) > 10  # not only crops of the middle
    crops = [repr(transforms(preparation_of(dataset), train=True).transforms[:2]) for dataset in STATISTICS]
    assert len(set(crops)) == 1  # those of the other sets are the same
