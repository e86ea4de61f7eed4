"""Cached features: the rows are those of the images; what is there is not computed again, and nothing is taken for it."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.image_lists import ALONE, noise_sets
from support.refusals import wrong

from heads import feature_shards
from heads.batches import drawn_images
from heads.feature_shards import FeatureCache
from heads.preparation import preparation_of

A = 12


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
        rows, computed = self.cache().open(name, images, view), self.seen
        expected = self.extract(torch.stack([images[i, view][0] for i in range(len(images))])).half()
        assert torch.equal(torch.from_numpy(rows), expected)
        return computed

    def files(self, pattern="*/*.f16"):
        return sorted(self.folder.glob(pattern))


@pytest.fixture
def maker(tmp_path, monkeypatch):
    """Shards have three rows, so that the training set has three shards, of 3, 3 and 1 row."""
    monkeypatch.setattr(feature_shards, "SHARD_ROWS", 3)
    return Maker(tmp_path / "new" / "cache", noise_sets(tmp_path / "images"))


@pytest.mark.parametrize(("name", "shards"), [("train", [3, 3, 1]), ("test", [3, 2])])
def test_rows_are_the_live_features_in_fp16(maker, capsys, name, shards):
    for view in (0, 1):
        assert maker.open(name, view) == sum(shards)
        assert [path.stat().st_size / 2 / A for path in maker.files(f"{name}_{view}_*/*.f16")] == shards
        assert "images/s, kept in" in capsys.readouterr().out
        assert maker.open(name, view) == 0
        assert f"read from {maker.folder}/{name}_{view}_" in capsys.readouterr().out
    assert len(maker.files("*/*")) == 2 * (len(shards) + 1)  # and nothing else but what the folder is of
    assert json.loads(maker.files("*/about.json")[0].read_text())["weights"] == "0123abc"


@pytest.mark.parametrize("harm", [lambda raw: raw[:-1], lambda raw: raw * 2, None])  # None: the file is removed
def test_a_damaged_shard_is_computed_again_and_no_other(maker, capsys, harm):
    maker.open()
    path = maker.files()[1]
    path.write_bytes(harm(path.read_bytes())) if harm else path.unlink()
    assert maker.open() == 3
    assert "4 of 7 were computed before" in capsys.readouterr().out


def touch(maker, extra, later):
    path = maker.sets.train.root / maker.sets.train.paths[3]
    before = path.stat()
    path.write_bytes(path.read_bytes() + extra)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + later))


def changed_list(maker, rows):
    maker.sets = replace(maker.sets, train=maker.sets.train.subset(np.array(rows)))


CHANGES = {
    "an image's time": lambda maker: touch(maker, b"", 1),
    "an image's size": lambda maker: touch(maker, b"x", 0),
    "the order of the list": lambda maker: changed_list(maker, [1, 0, 2, 3, 4, 5, 6]),
    "an image less": lambda maker: changed_list(maker, range(6)),
    "the transform": lambda maker: vars(maker).update(prepared=preparation_of("iNaturalist18")),
    "what EXIF says counts": lambda maker: vars(maker).update(prepared=preparation_of("custom")),
    "the seed": lambda maker: vars(maker).update(seed=2),
    "the weights": lambda maker: vars(maker).update(weights="0123abd"),
}
NO_CHANGES = {
    "batches": lambda maker: vars(maker).update(sizes=(5, 1)),
    "another set": lambda maker: vars(maker).update(sets=replace(maker.sets, meta=maker.sets.test)),
    "other views and sets": lambda maker: [maker.open(*what) for what in (("train", 1), ("meta", 0), ("test", 0))],
}


@pytest.mark.parametrize("what", [*CHANGES, *NO_CHANGES])
def test_what_a_set_depends_on_makes_it_anew_and_nothing_else(maker, what):
    maker.open()
    {**CHANGES, **NO_CHANGES}[what](maker)
    assert maker.open() == (len(maker.sets.train) if what in CHANGES else 0)


@pytest.mark.parametrize("factor", [1e6, -1e6, float("nan")])
def test_features_that_are_not_finite_in_fp16_are_not_kept(maker, factor):
    maker.factor = factor
    assert "not finite in fp16" in wrong(maker.open)
    assert maker.files() == []
