"""The transforms of the published code, with torchvision's older ones as it has them, and those of one's own images."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as older

from heads.preparation import preparation_of, transforms

IMAGENET, INATURALIST = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.466, 0.471, 0.380), (0.195, 0.194, 0.192))
SETS = {"ImageNet_LT": IMAGENET, "iNaturalist17": INATURALIST, "iNaturalist18": INATURALIST, "custom": IMAGENET}


def published(dataset, train):
    first = [older.Resize(256), older.CenterCrop(224)]
    if train:
        jitter = [older.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0)]
        first = [older.RandomResizedCrop(224), older.RandomHorizontalFlip(), *jitter * (SETS[dataset] == IMAGENET)]
    return older.Compose([*first, older.ToTensor(), older.Normalize(*SETS[dataset])])


def drawn(transform, image, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transform(image)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("dataset", SETS)
def test_images_are_those_of_the_published_transforms_draw_by_draw(dataset, train):
    ours, theirs = transforms(preparation_of(dataset), train), published(dataset, train)
    for seed, size in enumerate([(300, 400), (500, 260), (40, 30)] * 4):
        image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))
        made = drawn(ours, image, seed)
        assert (made.shape, made.dtype) == ((3, 224, 224), torch.float32)
        torch.testing.assert_close(made, drawn(theirs, image, seed))
