"""Batches of features: the published transforms, what a batch depends on, shares of processes, images that are no good."""

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from support.image_lists import ALONE, CPU, first, listed, noise_sets, save_noise
from support.refusals import wrong
from torchvision import transforms as older

from data_utils import seeded
from harness.process_group import Group
from heads.drawn_sets import Sets
from heads.features import ListedImages, LiveFeatures, extractor, in_order, plain_images
from heads.preparation import preparation_of, transforms

STATISTICS = {
    "ImageNet_LT": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "iNaturalist17": ((0.466, 0.471, 0.380), (0.195, 0.194, 0.192)),
    "iNaturalist18": ((0.466, 0.471, 0.380), (0.195, 0.194, 0.192)),
}
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than a small machine has cores


@dataclass(frozen=True)
class Part(Group):
    """One of several processes that keeps its own share where the others' would be gathered."""

    def all_gather(self, rows, sizes=None):
        assert (len(sizes), sizes[self.rank]) == (self.world_size, len(rows))
        return rows

    def all_gather_object(self, value):
        return [value] * self.world_size


def parts(world):
    return [Part(rank, world, CPU) for rank in range(world)]


def pixels(images):
    """A stand-in for the backbone whose features are the pixels."""
    return images


def live(sets, dataset="ImageNet_LT", extract=pixels, group=ALONE, batch_size=3, test_batch_size=2, workers=0, seed=1):
    return LiveFeatures(sets, preparation_of(dataset), extract, group, batch_size, test_batch_size, workers, seed)


def same(a, b):
    """Whether two lists of batches are the same, bit for bit."""
    return len(a) == len(b) and all(torch.equal(x, y) and torch.equal(s, t) for (x, s), (y, t) in zip(a, b, strict=True))


def by_image(batches):
    """Features by label."""
    return {int(label): row for features, target in batches for row, label in zip(features, target, strict=True)}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return noise_sets(tmp_path_factory.mktemp("noise"))


# Transforms


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


def test_one_s_own_images_are_turned_upright_and_those_of_the_published_sets_are_not(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    for name, kept, options in (("as it is", image, {}), ("turned", image.transpose(Image.Transpose.ROTATE_270), {}),
                                ("tagged", image, {"exif": exif})):  # fmt: skip
        (tmp_path / name).mkdir()
        kept.save(tmp_path / name / "x.png", **options)
    images = {name: listed(tmp_path / name, ["x.png"]) for name in ("as it is", "turned", "tagged")}
    for dataset in ("custom", *STATISTICS):
        alike, other = ("turned", "as it is") if dataset == "custom" else ("as it is", "turned")
        seen = {
            name: [live(Sets(one, one, one, [1], []), dataset).images[part][0, 0][0] for part in ("train", "meta", "test")]
            for name, one in images.items()
        }
        plain = {name: plain_images(one, preparation_of(dataset))[0, 0][0] for name, one in images.items()}
        assert all(torch.equal(a, b) for a, b in zip(seen["tagged"], seen[alike], strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(seen["tagged"], seen[other], strict=True))
        assert torch.equal(plain["tagged"], plain[alike])


# What a batch depends on


def test_every_image_comes_once_an_epoch_in_another_order_and_with_another_crop(sets):
    batches = first(live(sets).train(), 9)
    assert [len(target) for _, target in batches] == [3, 3, 1] * 3
    epochs = [batches[i : i + 3] for i in (0, 3, 6)]
    orders = [torch.cat([target for _, target in epoch]).tolist() for epoch in epochs]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len({tuple(order) for order in [*orders, range(7)]}) == 4
    crops = [by_image(epoch) for epoch in epochs]
    assert not any(torch.equal(crops[a][i], crops[b][i]) for a, b in ((0, 1), (1, 2), (0, 2)) for i in range(7))


def test_an_image_is_cropped_as_seed_epoch_and_number_say_whatever_the_batch(sets):
    whole = live(sets, batch_size=7)
    for epoch, batch in enumerate(first(whole.train(), 2)):
        small = by_image(first(live(sets, batch_size=2).train(), 4 * epoch + 4)[4 * epoch :])
        for i, image in by_image([batch]).items():
            assert torch.equal(image, small[i])
            assert torch.equal(image, whole.images["train"][i, epoch][0])
    again = live(sets, batch_size=7).images["train"]
    assert torch.equal(again[4, 1][0], whole.images["train"][4, 1][0])


def test_the_same_file_listed_twice_and_the_same_list_for_training_and_meta_give_other_crops(sets):
    twice = sets.train.subset(np.array([2, 2]))
    images = live(Sets(twice, twice, twice, [2], [])).images
    crops = [images[name][i, 0][0] for name in ("train", "meta") for i in (0, 1)]
    assert not any(torch.equal(a, b) for i, a in enumerate(crops) for b in crops[:i])
    assert torch.equal(images["test"][0, 0][0], images["test"][1, 5][0])


def test_another_seed_gives_another_order_and_other_crops(sets):
    for name in ("train", "meta"):
        a, b, again = (first(getattr(live(sets, seed=seed), name)(), 3) for seed in (1, 2, 1))
        assert same(a, again)
        assert torch.cat([target for _, target in a]).tolist() != torch.cat([target for _, target in b]).tolist()
        crops = by_image(a), by_image(b)
        assert not any(torch.equal(crops[0][i], crops[1][i]) for i in crops[0].keys() & crops[1].keys())


def test_workers_and_the_global_random_state_change_nothing_and_are_left_alone(sets):
    seen = []
    for workers in (0, 2):
        torch.manual_seed(workers)
        random.seed(workers)
        np.random.seed(workers)  # noqa: NPY002 (the state that must not matter)
        states = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())  # noqa: NPY002
        features = live(sets, workers=workers)
        seen.append([*first(features.train(), 5), *first(features.meta(), 3), *features.test()])
        assert torch.equal(torch.get_rng_state(), states[0])
        assert (random.getstate(), repr(np.random.get_state())) == states[1:]  # noqa: NPY002
    assert same(*seen)


@pytest.mark.parametrize("world", [2, 3])
def test_the_shares_of_all_processes_put_together_are_the_batch_of_one(sets, world):
    for name, count in (("train", 6), ("meta", 4)):
        whole = first(getattr(live(sets), name)(), count)
        shares = [first(getattr(live(sets, group=group), name)(), count) for group in parts(world)]
        joined = [tuple(torch.cat(part) for part in zip(*batches, strict=True)) for batches in zip(*shares, strict=True)]
        assert same(joined, whole)
    assert [len(target) for share in shares for _, target in share[:1]] == {2: [1, 2], 3: [1, 1, 1]}[world]


def test_meta_batches_use_every_image_once_a_pass(sets):
    targets = [target for _, target in first(live(sets).meta(), 5)]
    assert [len(target) for target in targets] == [3] * 5
    passes = torch.cat(targets).view(3, 5).tolist()
    assert all(sorted(one) == list(range(5)) for one in passes)
    assert len(set(map(tuple, passes))) == 3
    large = first(live(sets, batch_size=64).meta(), 2)
    assert [sorted(target.tolist()) for _, target in large] == [list(range(5))] * 2
    crops = [by_image([batch]) for batch in large]
    assert not any(torch.equal(crops[0][i], crops[1][i]) for i in range(5))


def test_features_are_those_of_the_extractor_without_gradients(sets):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 8, stride=8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    features, target = first(live(sets, extract=extractor(network)).train(), 1)[0]
    images, same_target = first(live(sets).train(), 1)[0]
    assert torch.equal(target, same_target)
    assert not features.requires_grad
    torch.testing.assert_close(features, network(images).detach())


# A set in order


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_set_in_order_has_every_image_once(sets, world, count):
    images = plain_images(sets.test.subset(np.arange(count)), preparation_of("ImageNet_LT"))
    batches = [batch for group in parts(world) for batch in in_order(images, 0, pixels, group, 2, 0)]
    assert max(len(target) for _, target in batches) <= 2
    assert torch.cat([target for _, target in batches]).tolist() == list(range(count))
    expected = torch.stack([images[i, 0][0] for i in range(count)])
    assert torch.equal(torch.cat([features for features, _ in batches]), expected)


def test_training_and_testing_go_on_where_a_share_is_empty(sets):
    few = Sets(*(part.subset(np.arange(2)) for part in (sets.train, sets.meta, sets.test)), [1, 1], [])
    taken = []
    for group in parts(3):
        features = live(few, group=group, workers=group.rank)
        for stream in (features.train(), features.meta()):
            rows, target = first(stream, 2)[1]
            assert rows.shape == (len(target), 3, 224, 224)
            taken.append(len(target))
        taken.append(sum(len(target) for _, target in features.test()))
    assert taken == [0, 0, 0, 1, 1, 1, 1, 1, 1]


def test_the_number_chooses_the_crops_of_a_set_in_order(sets):
    features = live(sets)
    views = [by_image(features.in_order("train", number)) for number in (0, 1, 0)]
    assert list(views[0]) == list(range(7))
    assert all(torch.equal(views[0][i], views[2][i]) and not torch.equal(views[0][i], views[1][i]) for i in range(7))
    assert all(torch.equal(views[1][i], features.images["train"][i, 1][0]) for i in range(7))  # as live in epoch 1
    assert same(list(features.test()), list(features.in_order("test", 3)))


# Images that are no good


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("cut", "words"), [(True, "(200 bytes) cannot be read as an image"), (False, "is missing")])
def test_an_image_that_cannot_be_read_is_named(tmp_path, cut, words, workers):
    images = save_noise(tmp_path, [f"a é {i}.png" for i in range(3)])
    sets, bad = Sets(images, images, images, [1] * 3, []), tmp_path / images.paths[1]
    content = bad.read_bytes()
    bad.unlink()
    if cut:
        bad.write_bytes(content[:200])
    stream = live(sets, test_batch_size=1, workers=workers).test()
    assert next(stream)[1].tolist() == [0]
    said = wrong(next, stream)
    assert said.startswith(f"{bad} ")
    assert words in said
    if workers == 0:
        for endless in (live(sets).train(), live(sets).meta()):
            assert wrong(first, endless, 9).startswith(f"{bad} ")
        (tmp_path / images.paths[0]).unlink()  # of several the first is named
        assert wrong(next, live(sets).test()).startswith(str(tmp_path / images.paths[0]))


def test_no_image_is_drawn_with_the_seed_of_the_order(tmp_path):
    images = ListedImages(noise_sets(tmp_path).train, preparation_of("ImageNet_LT"), True, 5, 0)
    images.transform = lambda _: torch.rand(3)
    drawn = {tuple(images[index, 2][0].tolist()) for index in range(7)}
    assert tuple(torch.rand(3, generator=seeded(5, 0, 2)).tolist()) not in drawn
    assert len(drawn) == 7
