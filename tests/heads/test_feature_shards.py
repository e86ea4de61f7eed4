"""Cached features: the rows are those of the images; what is there is not computed again, and nothing is taken for it."""

import os
from collections import Counter
from dataclasses import replace
from hashlib import blake2b

import numpy as np
import pytest
import torch
from PIL import Image
from support.image_lists import ALONE, noise_sets
from support.refusals import wrong

from datasets.pictures import decode
from harness.errors import UserError
from heads import batches, feature_shards
from heads.batches import ListedImages, drawn_images
from heads.feature_shards import FeatureCache
from heads.preparation import preparation_of

A = 12


def shard_of(path, number):
    return int.from_bytes(blake2b(path.encode(), digest_size=4).digest(), "little") % number


class Maker:
    """Opens cached sets as a new run would, with everything that they depend on to be varied.

    The backbone is a stand-in, the means of four patches in three colours; `seen` are the images that it was given.
    """

    def __init__(self, folder, sets):
        self.folder, self.sets, self.prepared = folder, sets, preparation_of("ImageNet_LT")
        self.weights, self.seed, self.sizes = "0123abc", 1, (2, 0)
        self.seen, self.factor, self.before = 0, 1.0, lambda: None

    def extract(self, images):
        self.before()
        self.seen += len(images)
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1) * self.factor

    def images(self):
        return drawn_images(self.sets, self.prepared, self.seed)

    def cache(self):
        return FeatureCache(self.folder, self.extract, self.weights, A, ALONE, *self.sizes)

    def open(self, name="train", view=0):
        """Return how many images the backbone saw for the rows, which are checked."""
        images, self.seen = self.images()[name], 0
        [*_, rows], computed = self.cache().open({name: (images, view + 1)})[name], self.seen
        expected = self.extract(torch.stack([images[i, view][0] for i in range(len(images))])).half()
        assert torch.equal(torch.from_numpy(rows), expected)
        return computed

    def files(self, pattern="*/*.f16"):
        return sorted(self.folder.glob(pattern))

    def path(self, index):
        return self.sets.train.root / self.sets.train.paths[index]


@pytest.fixture
def maker(tmp_path, monkeypatch):
    """Shards have about three rows."""
    monkeypatch.setattr(feature_shards, "SHARD_ROWS", 3)
    return Maker(tmp_path / "new" / "cache", noise_sets(tmp_path / "images"))


@pytest.mark.parametrize(("name", "number"), [("train", 4), ("test", 2)])
def test_rows_are_the_live_features_in_fp16(maker, capsys, name, number):
    shards = Counter(shard_of(path, number) for path in getattr(maker.sets, name).paths)
    assert len(shards) > 1
    for view in (0, 1):
        assert maker.open(name, view) == shards.total()
        sizes = [path.stat().st_size / 2 / A for path in maker.files(f"{name}_{view}_*/*.f16")]
        assert sorted(sizes) == sorted(shards.values())
        assert "images/s, kept in" in capsys.readouterr().out
        assert maker.open(name, view) == 0
        assert f"read from {maker.folder}/{name}_{view}_" in capsys.readouterr().out
    assert len(maker.files("*/*")) == 2 * len(shards)  # and nothing else


@pytest.mark.parametrize("harm", [lambda raw: raw[:-1], lambda raw: raw * 2, None])  # None: the file is removed
def test_a_damaged_shard_is_computed_again_and_no_other(maker, capsys, harm):
    maker.open()
    path = maker.files()[1]
    raw = path.read_bytes()
    path.write_bytes(harm(raw)) if harm else path.unlink()
    assert maker.open() == len(raw) / 2 / A
    assert f"{7 - len(raw) // 2 // A} of 7 were computed before" in capsys.readouterr().out


def touch(maker, extra, later):
    before = maker.path(3).stat()
    maker.path(3).write_bytes(maker.path(3).read_bytes() + extra)
    os.utime(maker.path(3), ns=(before.st_atime_ns, before.st_mtime_ns + later))


def changed_list(maker, rows):
    maker.sets = replace(maker.sets, train=maker.sets.train.subset(np.array(rows)))


CHANGES = {
    "the place of images": lambda maker: changed_list(maker, [6, 0, 1, 2, 3, 4, 5]),
    "the transform": lambda maker: vars(maker).update(prepared=preparation_of("iNaturalist18")),
    "what EXIF says counts": lambda maker: vars(maker).update(prepared=preparation_of("custom")),
    "the seed": lambda maker: vars(maker).update(seed=2),
    "the weights": lambda maker: vars(maker).update(weights="0123abd"),
}
ONE_SHARD = {  # of the image 3
    "an image's time": lambda maker: touch(maker, b"", 1),
    "an image's size": lambda maker: touch(maker, b"x", 0),
}
NO_CHANGES = {
    "batches": lambda maker: vars(maker).update(sizes=(5, 1)),
    "other views and sets": lambda maker: [maker.open(*what) for what in (("train", 1), ("meta", 0), ("test", 0))],
}


@pytest.mark.parametrize("what", [*CHANGES, *ONE_SHARD, *NO_CHANGES])
def test_what_a_shard_depends_on_makes_it_anew_and_nothing_else(maker, what):
    maker.open()
    {**CHANGES, **ONE_SHARD, **NO_CHANGES}[what](maker)
    shard = [shard_of(path, 4) for path in maker.sets.train.paths]
    assert maker.open() == (7 if what in CHANGES else shard.count(shard[3]) if what in ONE_SHARD else 0)


def test_each_image_is_read_once_and_all_faults_are_listed_after_the_other_shards_are_kept(maker, monkeypatch, capsys):
    monkeypatch.setattr(feature_shards, "SHARD_ROWS", 1)
    read = []
    monkeypatch.setattr(batches, "decode", lambda path, *more, **named: read.append(path) or decode(path, *more, **named))
    Image.new("RGBA", (8, 8), (1, 2, 3, 4)).save(maker.path(0))
    maker.path(2).unlink()
    maker.path(5).write_bytes(b"x")

    def views():
        return {name: (ListedImages(getattr(maker.sets, name), maker.prepared), 1) for name in ("train", "test")}

    with pytest.raises(UserError, match=r"^2 of 12 images cannot be read, see above: .* or skip them") as error:
        maker.cache().open(views())
    missing, damaged = error.value.lines
    assert (f"{maker.path(2)} is missing" in missing, f"{maker.path(5)} (1 bytes)" in damaged) == (True, True)
    lists = [images.images for images, _ in views().values()]
    assert sorted(read) == sorted(images.root / path for images in lists for path in images.paths)
    assert capsys.readouterr().out.count("note: images with transparent parts, which were laid on white: 1\n") == 1
    shards = [shard_of(path, 8) for path in maker.sets.train.paths]
    left = [k for k in range(7) if k not in (2, 5)]
    changed_list(maker, left)
    maker.seen = 0
    maker.cache().open(views())
    assert maker.seen == sum(shards[k] in (shards[2], shards[5]) for k in left) == 1


@pytest.mark.parametrize("factor", [1e6, -1e6, float("nan")])
def test_features_that_are_not_finite_in_fp16_are_not_kept(maker, factor):
    maker.factor = factor
    assert "not finite in fp16" in wrong(maker.open)
    assert maker.files() == []
