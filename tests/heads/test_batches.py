"""Batches of live features and of rows: what they hold and depend on, shares of processes, images that are no good."""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from support.image_lists import ALONE, CPU, first, listed, noise_sets, save_noise
from support.refusals import wrong

from datasets.drawn_sets import Sets
from harness.process_group import Group
from heads.batches import Batches, ListedImages, LiveViews, RowViews, drawn_images
from heads.preparation import preparation_of

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than a small machine has cores
COUNTS = {"train": 7, "meta": 5, "test": 5}
IMAGENET = preparation_of("ImageNet_LT")


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


def live(sets, group=ALONE, batch_size=3, workers=0, seed=1):
    """Batches of images whose features are their pixels."""
    images = drawn_images(sets, IMAGENET, seed)
    views = {name: LiveViews(part, lambda pixels: pixels, workers) for name, part in images.items()}
    return Batches(views, group, batch_size, 2, seed)


def coded(group=ALONE, batch_size=3, seed=1):
    """Batches of rows that say which of three views and which row they are; the targets are the rows, as in `noise_sets`."""
    views = {
        name: RowViews([np.array([[100 * k + i] * 4 for i in range(count)], np.float16) for k in range(3)],
                       torch.arange(count))
        for name, count in COUNTS.items()
    }  # fmt: skip
    return Batches(views, group, batch_size, 2, seed)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return noise_sets(tmp_path_factory.mktemp("noise"))


@pytest.fixture(params=["live", "rows"])
def made(request, sets):
    """What makes batches: of images as they are loaded, or of rows."""
    return (lambda **more: live(sets, **more)) if request.param == "live" else coded


def same(a, b):
    """Whether two lists of batches are the same, bit for bit."""
    return len(a) == len(b) and all(torch.equal(x, y) and torch.equal(s, t) for (x, s), (y, t) in zip(a, b, strict=True))


# Of both kinds


@pytest.mark.parametrize(("name", "sizes"), [("train", [3, 3, 1]), ("meta", [3, 3, 3])])
def test_every_row_comes_once_a_pass_in_another_order_and_from_another_view(made, name, sizes):
    batches = first(made().drawn(name), 15)
    assert [len(target) for _, target in batches] == sizes * 5
    rows, labels = map(torch.cat, zip(*batches, strict=True))
    orders = [tuple(order.tolist()) for order in labels.split(COUNTS[name])]
    assert len({*orders}) == len(orders)
    for i in range(COUNTS[name]):
        assert all(order.count(i) == 1 for order in orders)
        assert len(rows[labels == i].flatten(1).unique(dim=0)) > 1


@pytest.mark.parametrize("name", ["train", "meta"])
def test_batches_depend_on_the_seed_and_go_on_behind_those_taken(made, name):
    state = torch.get_rng_state()
    a, b, again = (first(made(seed=seed).drawn(name), 6) for seed in (1, 2, 1))
    assert same(a, again)
    assert same(a[4:], first(made().drawn(name, 4), 2))
    for ours, theirs in zip(zip(*a, strict=True), zip(*b, strict=True), strict=True):
        assert not torch.equal(torch.cat(ours), torch.cat(theirs))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("world", [2, 3, 6])
def test_processes_have_together_what_one_has(made, world):
    for name, count in (("train", 6), ("meta", 4)):
        whole = first(made().drawn(name), count)
        shares = [first(made(group=group).drawn(name), count) for group in parts(world)]
        if len(shares[0][0][0]) < 3:  # of rows each has the whole batch
            shares = [[(torch.cat([rows for rows, _ in found]), found[0][1]) for found in zip(*shares, strict=True)]]
        assert all(same(share, whole) for share in shares)
    tested = [batch for group in parts(world) for batch in made(group=group).test()]
    assert {len(target) for _, target in tested} <= {0, 1, 2}
    for found, expected in zip(zip(*tested, strict=True), zip(*made().test(), strict=True), strict=True):
        assert torch.equal(torch.cat(found), torch.cat(expected))


# Of images


def test_an_image_is_cropped_as_seed_epoch_and_number_say_whatever_the_batch(sets):
    images = drawn_images(sets, IMAGENET, 1)["train"]
    for size, count in ((7, 2), (2, 8)):
        for number, (crops, labels) in enumerate(first(live(sets, batch_size=size).drawn("train"), count)):
            for crop, i in zip(crops, labels.tolist(), strict=True):
                assert torch.equal(crop, images[i, 2 * number // count][0])


def test_the_same_file_listed_twice_and_another_seed_or_set_give_other_crops_but_in_tests(sets):
    twice = sets.train.subset(np.array([2, 2]))
    crops = {"train": [], "meta": [], "test": []}
    for seed, name in product((1, 2), crops):
        images = drawn_images(Sets(twice, twice, twice, [2], []), IMAGENET, seed)[name]
        crops[name] += [images[i, number][0].flatten() for i, number in ((0, 0), (1, 0), (1, 1))]
    assert len(torch.stack(crops["train"] + crops["meta"]).unique(dim=0)) == 12
    assert len(torch.stack(crops["test"]).unique(dim=0)) == 1


def test_workers_change_nothing(sets):
    seen = [[*first(features.drawn("train"), 5), *first(features.drawn("meta"), 3), *features.test()]
            for features in (live(sets, workers=workers) for workers in (0, 2))]  # fmt: skip
    assert same(*seen)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("content", "words"), [(b"xxxx", "(4 bytes) cannot be read as an image"), (None, "is missing")])
def test_an_image_that_cannot_be_read_is_named(tmp_path, content, words, workers):
    images = save_noise(tmp_path, [f"a é {i}.png" for i in range(3)])
    bad = tmp_path / images.paths[2]
    bad.write_bytes(content) if content else bad.unlink()
    stream = live(Sets(images, images, images, [1] * 3, []), workers=workers).test()
    assert next(stream)[1].tolist() == [0, 1]
    assert wrong(next, stream).startswith(f"{bad} {words}")


def test_images_are_turned_upright_where_they_are_to_be(tmp_path):
    image, exif = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)), Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    image.save(tmp_path / "tagged.png", exif=exif)
    image.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "turned.png")
    for upright in (True, False):
        images = ListedImages(listed(tmp_path, ["tagged.png", "turned.png"]), replace(IMAGENET, upright=upright))
        assert torch.equal(images[0, 0][0], images[1, 0][0]) == upright


# Of rows


def test_each_row_of_a_batch_comes_from_a_view_drawn_at_random():
    rows, target = map(torch.cat, zip(*first(coded().drawn("train"), 90), strict=True))
    assert torch.equal(rows[:, 0] % 100, target.float())
    views = rows[:, 0].long() // 100
    assert (views[::7] != views[1::7]).any()  # within a batch
    assert (views.bincount() / len(views) - 1 / 3).abs().max() < 0.1
