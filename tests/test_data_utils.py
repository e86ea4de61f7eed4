"""Subsets, whole-batch augmentation and the endless meta stream."""

import random

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

import data_utils
from data_utils import augment, crops_and_flips, epoch_batches, meta_batches, normalize, plain_batches
from datasets.small_sets import image_set


def images(count, classes=3, flip=True, seed=0):
    g = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=g)
    return image_set(pixels.numpy(), np.arange(count) % classes, [str(c) for c in range(classes)], flip=flip)


def slow_augment(image, top, left, flip):
    """One image (32, 32, 3) through padding, crop and flip of PyTorch and torchvision."""
    x = image.permute(2, 0, 1).float().unsqueeze(0)
    x = F.pad(x, (4, 4, 4, 4), mode="reflect")[0]
    x = tv.crop(x, top, left, 32, 32)
    return (tv.horizontal_flip(x) if flip else x).permute(1, 2, 0).to(torch.uint8)


@given(st.integers(0, 8), st.integers(0, 8), st.booleans(), st.integers(0, 2**16))
@settings(max_examples=50)
def test_augment_equals_pad_crop_and_flip_of_each_image(top, left, flip, seed):
    data = images(5, seed=seed)
    index = torch.tensor([3, 1, 3])
    draws = torch.tensor([[top, 0, 8], [left, 8, 4], [flip, 1, 0]])
    ours = augment(data.pixels, index, draws)
    for n in range(3):
        expected = slow_augment(data.pixels[index[n]], *draws[:, n].tolist())
        assert torch.equal(ours[n], expected)


def test_normalize_equals_torchvision():
    data = images(7)
    pixels = data.pixels
    expected = tv.normalize(pixels.permute(0, 3, 1, 2).float() / 255, list(data_utils.MEAN), list(data_utils.STD))
    ours = normalize(pixels)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(torch.cat([x for x, _ in plain_batches(data, 3)]), ours)  # in order


def test_each_image_has_its_own_crop_and_flip_over_the_whole_range():
    draws = crops_and_flips(4000, data_utils.seeded(0, 1))
    for offsets in draws[:2]:
        assert sorted(offsets.unique().tolist()) == list(range(9))
        assert torch.bincount(offsets).float().std() < 60
    assert 0.45 < draws[2].float().mean() < 0.55
    assert abs(np.corrcoef(draws[0], draws[1])[0, 1]) < 0.06
    assert not crops_and_flips(100, data_utils.seeded(0, 1), flip=False)[2].any()


def test_an_epoch_holds_every_image_once_and_follows_seed_and_epoch_alone():
    data = images(25)

    def epoch(seed, number):
        batches = list(epoch_batches(data, 10, seed, number))
        return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])

    first = epoch(7, 3)
    torch.manual_seed(2)
    np.random.seed(5)  # noqa: NPY002
    again = epoch(7, 3)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert torch.equal(first[1].sort().values, data.target.sort().values)
    assert [len(y) for _, y in epoch_batches(data, 10, 7, 3)] == [10, 10, 5]
    for other in (epoch(8, 3), epoch(7, 4)):
        assert not torch.equal(first[0], other[0])


def test_the_meta_stream_goes_through_the_set_again_and_again():
    data = images(30, classes=30)

    def labels(seed):
        stream = meta_batches(data, 20, seed)
        return torch.cat([next(stream)[1] for _ in range(6)])  # 120: four passes

    passes = [labels(1)[i : i + 30].tolist() for i in range(0, 120, 30)]
    assert all(sorted(p) == list(range(30)) for p in passes)
    assert passes[0] != passes[1]
    assert torch.equal(labels(1), labels(1))
    assert not torch.equal(labels(2), labels(1))
    assert sorted(next(meta_batches(data, 100, seed=0))[1].tolist()) == list(range(30))  # larger than the set
    trained = torch.cat([y for _, y in epoch_batches(data, 30, 1, 0)])
    assert trained.tolist() != passes[0]  # from a generator of its own


def test_no_image_is_in_two_sets_and_the_meta_set_is_balanced():
    """Digits: about 125 images a class, of which the long tail leaves most of the rare classes' out."""

    def all_different(data):
        sets = [{bytes(p.numpy()) for p in part.pixels} for part in data.parts.values()]
        assert sum(map(len, sets)) == len(set().union(*sets))
        assert np.bincount(data.train.targets).tolist() == data.cls_num_list
        return sets

    def build(num_heldout):
        return data_utils.build_dataset("digits", 10, 0.05, num_heldout=num_heldout)

    whole, data = map(build, (0, 30))
    assert all_different(data)[1:3] == all_different(whole)[1:]
    assert np.bincount(whole.meta.targets).tolist() == [10] * 10
    assert np.bincount(data.heldout.targets)[5:].tolist() == [30] * 5  # enough were left out
    for seed in (1, 2):  # what is drawn does not depend on the global random state, and leaves it alone
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        assert build(30).digests() == data.digests() != whole.digests()
        assert random.random() == random.Random(seed).random()
    assert np.bincount(build(-1).heldout.targets)[9] > 30  # 200 a class are wished for, or all that are there
