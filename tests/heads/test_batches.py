"""Batches of live features and of rows: what they hold and depend on, shares of processes, images that are no good."""

import random
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from support.image_lists import ALONE, CPU, first, listed, noise_sets, save_noise
from support.refusals import wrong

from datasets.drawn_sets import Sets
from harness.process_group import Group
from heads.batches import Batches, ListedImages, LiveViews, RowViews, drawn_images, plain_images
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


def pixels(images):
    """A stand-in for the backbone whose features are the pixels."""
    return images


def live(sets, extract=pixels, group=ALONE, batch_size=3, test_batch_size=2, workers=0, seed=1):
    views = {name: LiveViews(images, extract, workers) for name, images in drawn_images(sets, IMAGENET, seed).items()}
    return Batches(views, group, batch_size, test_batch_size, seed)


def coded(views=3, group=ALONE, batch_size=3, test_batch_size=2, seed=1, **counts):
    """Batches of rows that say which view and which row they are; the targets are the rows, as those of `noise_sets`."""
    made = {
        name: RowViews([np.array([[100.0 * k + i] * 4 for i in range(count)], np.float16) for k in range(views)],
                       torch.arange(count))
        for name, count in {**COUNTS, **counts}.items()
    }  # fmt: skip
    return Batches(made, group, batch_size, test_batch_size, seed)


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


def by_image(batches):
    """Features by label."""
    return {int(label): row for features, target in batches for row, label in zip(features, target, strict=True)}


# Of both kinds


@pytest.mark.parametrize(("name", "sizes"), [("train", [3, 3, 1]), ("meta", [3, 3, 3])])
def test_every_row_comes_once_a_pass_in_another_order_and_from_another_view(made, name, sizes):
    batches = first(getattr(made(), name)(), 15)
    assert [len(target) for _, target in batches] == sizes * 5
    count = COUNTS[name]
    orders = torch.cat([target for _, target in batches]).split(count)
    assert all(sorted(order.tolist()) == list(range(count)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == len(orders)
    rows = torch.cat([features for features, _ in batches]).split(count)
    crops = [by_image([pair]) for pair in zip(rows, orders, strict=True)]
    assert all(any(not torch.equal(one[i], crops[0][i]) for one in crops[1:]) for i in range(count))
    large = first(getattr(made(batch_size=64), name)(), 2)
    assert [sorted(target.tolist()) for _, target in large] == [list(range(count))] * 2


@pytest.mark.parametrize("name", ["train", "meta"])
def test_batches_depend_on_the_seed_and_go_on_behind_those_taken(made, name):
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (the state that must not matter)
    states = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    a, b, again = (first(getattr(made(seed=seed), name)(), 6) for seed in (1, 2, 1))
    assert same(a, again)
    assert same(a[4:], first(getattr(made(), name)(4), 2))
    assert torch.cat([target for _, target in a]).tolist() != torch.cat([target for _, target in b]).tolist()
    assert any(not torch.equal(by_image(a)[i], by_image(b)[i]) for i in range(COUNTS[name]))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), repr(np.random.get_state())) == states[1:]  # noqa: NPY002


@pytest.mark.parametrize("world", [2, 3])
def test_processes_have_together_what_one_has(made, world):
    for name, count in (("train", 6), ("meta", 4)):
        whole = first(getattr(made(), name)(), count)
        shares = [first(getattr(made(group=group), name)(), count) for group in parts(world)]
        if len(shares[0][0][0]) == 3:  # of rows each has the whole batch
            assert all(same(share, whole) for share in shares)
            continue
        joined = [(torch.cat([rows for rows, _ in found]), found[0][1]) for found in zip(*shares, strict=True)]
        assert same(joined, whole)
        assert [len(share[0][0]) for share in shares] == {2: [1, 2], 3: [1, 1, 1]}[world]


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_every_test_row_comes_once_on_one_of_the_processes(made, world):
    batches = [batch for group in parts(world) for batch in made(group=group).test()]
    assert {len(target) for _, target in batches} <= {0, 1, 2}
    assert torch.cat([target for _, target in batches]).tolist() == list(range(5))
    assert torch.equal(torch.cat([features for features, _ in batches]), torch.cat([one for one, _ in made().test()]))


# Of images


def test_an_image_is_cropped_as_seed_epoch_and_number_say_whatever_the_batch(sets):
    whole, images = live(sets, batch_size=7), drawn_images(sets, IMAGENET, 1)["train"]
    for epoch, batch in enumerate(first(whole.train(), 2)):
        small = by_image(first(live(sets, batch_size=2).train(4 * epoch), 4))
        assert all(torch.equal(image, small[i]) for i, image in by_image([batch]).items())
        assert all(torch.equal(image, images[i, epoch][0]) for i, image in by_image([batch]).items())


def test_the_same_file_listed_twice_and_the_same_list_for_training_and_meta_give_other_crops(sets):
    twice = sets.train.subset(np.array([2, 2]))
    images = drawn_images(Sets(twice, twice, twice, [2], []), IMAGENET, 1)
    crops = [images[name][i, 0][0] for name in ("train", "meta") for i in (0, 1)]
    assert not any(torch.equal(a, b) for i, a in enumerate(crops) for b in crops[:i])
    assert torch.equal(images["test"][0, 0][0], images["test"][1, 5][0])


def test_workers_change_nothing(sets):
    seen = [[*first(features.train(), 5), *first(features.meta(), 3), *features.test()]
            for features in (live(sets, workers=workers) for workers in (0, 2))]  # fmt: skip
    assert same(*seen)


def test_training_goes_on_where_a_share_is_empty(sets):
    few = Sets(*(part.subset(np.arange(2)) for part in (sets.train, sets.meta, sets.test)), [1, 1], [])
    taken = []
    for group in parts(3):
        features = live(few, group=group, workers=group.rank)
        for stream in (features.train(), features.meta()):
            rows, target = first(stream, 2)[1]
            assert (rows.shape[1:], len(target)) == ((3, 224, 224), 2)
            taken.append(len(rows))
    assert taken == [0, 0, 1, 1, 1, 1]


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


def test_one_s_own_images_are_turned_upright_and_those_of_the_published_sets_are_not(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    for name, kept, options in (("as it is", image, {}), ("turned", image.transpose(Image.Transpose.ROTATE_270), {}),
                                ("tagged", image, {"exif": exif})):  # fmt: skip
        (tmp_path / name).mkdir()
        kept.save(tmp_path / name / "x.png", **options)
    images = {name: listed(tmp_path / name, ["x.png"]) for name in ("as it is", "turned", "tagged")}
    for dataset in ("custom", "ImageNet_LT", "iNaturalist17", "iNaturalist18"):
        prepared, alike, other = preparation_of(dataset), *("turned", "as it is")[:: 1 if dataset == "custom" else -1]
        seen = {
            name: [made[0, 0][0] for made in (ListedImages(one, prepared, True, 1, 0), plain_images(one, prepared))]
            for name, one in images.items()
        }
        assert all(torch.equal(a, b) for a, b in zip(seen["tagged"], seen[alike], strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(seen["tagged"], seen[other], strict=True))


# Of rows


@pytest.mark.parametrize("views", [1, 3])
def test_each_row_of_a_batch_comes_from_a_view_drawn_at_random(views):
    batches = list(islice(coded(views).train(), 90))
    assert all(torch.equal(features[:, 0] % 100, target.float()) for features, target in batches)
    of = [features[:, 0].long() // 100 for features, _ in batches]
    assert views == 1 or any(len(set(view.tolist())) > 1 for view in of)
    assert (torch.cat(of).bincount() / sum(map(len, of)) - 1 / views).abs().max() < 0.1


def test_batches_keep_the_kind_of_their_rows():
    """float32 rows are not rounded to the 16 bits that cached ones have."""
    rows = (1 + np.arange(12, dtype=np.float32).reshape(6, 2) * 1e-6) * 70000  # beyond float16
    part = RowViews([rows], torch.arange(6))
    batches = Batches({"train": part, "test": part}, ALONE, 6, 4, 0)
    features, target = next(batches.train())
    assert torch.equal(features, torch.from_numpy(rows)[target])
    assert torch.equal(torch.cat([one for one, _ in batches.test()]), torch.from_numpy(rows))
