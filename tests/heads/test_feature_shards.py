"""Cached features: the rows are those of the images; what is there is not computed again, and nothing is taken for it."""

import errno
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.image_lists import ALONE, CPU, first, noise_sets
from support.refusals import wrong

from harness.process_group import Group
from heads import feature_shards
from heads.batches import Batches, LiveViews, drawn_images
from heads.feature_shards import FeatureCache
from heads.preparation import preparation_of

A = 12


class Backbone:
    """A small stand-in: the means of four patches in three colours; counts the images it is given."""

    def __init__(self):
        self.images, self.factor, self.before = 0, 1.0, lambda: None

    def __call__(self, images):
        self.before()
        self.images += len(images)
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1) * self.factor


class Maker:
    """Opens cached sets as a new run would, with everything that they depend on to be varied."""

    def __init__(self, folder, sets):
        self.folder, self.sets, self.backbone, self.prepared = folder, sets, Backbone(), preparation_of("ImageNet_LT")
        self.weights, self.seed, self.batch_size, self.workers = "0123abc", 1, 2, 0

    def images(self):
        return drawn_images(self.sets, self.prepared, self.seed)

    def cache(self, group=ALONE):
        return FeatureCache(self.folder, self.backbone, self.weights, A, group, self.batch_size, self.workers)

    def rows(self, name="train", view=0, group=ALONE):
        return self.cache(group).open(name, self.images()[name], view)

    def open(self, name="train", view=0):
        """Return the rows, and how many images the backbone saw for them."""
        before = self.backbone.images
        return self.rows(name, view), self.backbone.images - before

    def expected(self, name="train", view=0):
        images = self.images()[name]
        return Backbone()(torch.stack([images[i, view][0] for i in range(len(images))])).half().numpy()

    def path(self, i=3):
        """The file of a training image."""
        return self.sets.train.root / self.sets.train.paths[i]

    def files(self, pattern="*/*.f16"):
        return sorted(self.folder.glob(pattern))


@pytest.fixture
def maker(tmp_path, monkeypatch):
    """Shards have three rows, so that the training set has three shards, of 3, 3 and 1 row."""
    monkeypatch.setattr(feature_shards, "SHARD_ROWS", 3)
    return Maker(tmp_path / "new" / "cache", noise_sets(tmp_path / "images"))


# Rows


@pytest.mark.parametrize(("name", "shards"), [("train", [3, 3, 1]), ("meta", [3, 2]), ("test", [3, 2])])
def test_rows_are_the_live_features_in_fp16(maker, capsys, name, shards):
    for view in (0, 1):
        found = maker.rows(name, view)
        assert [path.stat().st_size / 2 / A for path in maker.files(f"{name}_{view}_*/*.f16")] == shards
        assert found.dtype == np.float16
        assert np.array_equal(found, maker.expected(name, view))
        assert "images/s, kept in" in capsys.readouterr().out
        rows, computed = maker.open(name, view)
        assert (np.array_equal(rows, maker.expected(name, view)), computed) == (True, 0)
        assert f"read from {maker.folder}/{name}_{view}_" in capsys.readouterr().out
    assert len(maker.files("*/*")) == 2 * (len(shards) + 1)  # and nothing else but what the folder is of
    assert json.loads(maker.files("*/about.json")[0].read_text())["weights"] == "0123abc"


@dataclass(frozen=True)
class Thread(Group):
    """One of several threads in the place of processes, which tell one another what they have on a common board."""

    board: list = None
    gate: threading.Barrier = None

    def all_gather_object(self, value):
        self.board[self.rank] = value
        self.gate.wait()
        values = list(self.board)
        self.gate.wait()
        return values

    def broadcast_object(self, value):
        return self.all_gather_object(value)[0]


def as_threads(world, work):
    """What `work` makes of each of several groups, or the mistake or exit that it ends in."""
    board, gate = [None] * world, threading.Barrier(world, timeout=600)

    def one(rank):
        try:
            return work(Thread(rank, world, CPU, board=board, gate=gate))
        except (Exception, SystemExit) as error:
            return error

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(one, range(world)))


@pytest.mark.parametrize("count", [1, 4, 5])
def test_processes_share_the_shards_out(maker, count):
    maker.sets = replace(maker.sets, test=maker.sets.test.subset(np.arange(count)))  # of which nothing is drawn at random
    for computed in (count, 0):
        maker.backbone.images = 0
        every = as_threads(3, lambda group: maker.rows("test", 0, group))
        assert all(np.array_equal(rows, maker.expected("test")) for rows in every)
        assert maker.backbone.images == computed
    assert maker.open("test")[1] == 0  # one process finds what three have made


def test_a_folder_that_is_not_shared_is_named_before_features_are_computed(maker, tmp_path):
    maker.backbone.before = lambda: pytest.fail("too late")

    def work(group):
        own = Maker(tmp_path / f"cache{group.rank}", maker.sets)
        own.backbone = maker.backbone
        return own.rows("test", 0, group)

    said, left = as_threads(2, work)
    assert "cache1" in str(said)
    assert "is not there: --cache_dir must be a folder that all processes share" in str(said)
    assert left.status == 2


# What is computed again


HARM = [lambda raw: raw[:-1], lambda raw: raw * 2, None]  # None: the file is removed


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_shard_is_computed_again_and_no_other(maker, capsys, harm):
    rows, _ = maker.open()
    path = maker.files()[1]
    path.write_bytes(harm(path.read_bytes())) if harm else path.unlink()
    again, computed = maker.open()
    assert (np.array_equal(again, rows), computed) == (True, 3)
    assert "4 of 7 were computed before" in capsys.readouterr().out
    assert maker.open()[1] == 0


def stop(*_, **__):
    raise KeyboardInterrupt


def test_what_a_kill_amid_writing_leaves_is_not_taken_for_rows(maker, monkeypatch):
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, stop)
            patch.setattr(Path, "unlink", stop)  # as it would be after a kill, the file that was being written stays
            with pytest.raises(KeyboardInterrupt):
                maker.open()
        assert maker.files() == []
    rows, computed = maker.open()
    assert (np.array_equal(rows, maker.expected()), computed) == (True, 7)
    assert len(maker.files("*/*.tmp")) == 2


def test_what_another_run_makes_meanwhile_is_not_computed(maker):
    other = Maker(maker.folder, maker.sets)

    def once():
        maker.backbone.before = lambda: None
        other.rows()

    maker.backbone.before = once
    rows, computed = maker.open()
    assert (np.array_equal(rows, maker.expected()), other.backbone.images) == (True, 7)
    assert computed <= 3  # the shard that was begun


def touch(maker, extra, later):
    before = maker.path().stat()
    maker.path().write_bytes(maker.path().read_bytes() + extra)
    os.utime(maker.path(), ns=(before.st_atime_ns, before.st_mtime_ns + later))


def other_list(change):
    return lambda maker: setattr(maker, "sets", replace(maker.sets, train=change(maker.sets.train)))


CHANGES = {
    "an image's time": lambda maker: touch(maker, b"", 1),
    "an image's size": lambda maker: touch(maker, b"x", 0),
    "the order of the list": other_list(lambda images: images.subset(np.array([1, 0, 2, 3, 4, 5, 6]))),
    "an image less": other_list(lambda images: images.subset(np.arange(6))),
    "the paths": other_list(lambda images: replace(images, items=images.items[::-1])),
    "the transform": lambda maker: setattr(maker, "prepared", preparation_of("iNaturalist18")),
    "what EXIF says counts": lambda maker: setattr(maker, "prepared", preparation_of("custom")),
    "the seed": lambda maker: setattr(maker, "seed", 2),
    "the weights": lambda maker: setattr(maker, "weights", "0123abd"),
}
NO_CHANGES = {
    "the labels": other_list(lambda images: replace(images, targets=images.targets[::-1].copy())),
    "batches": lambda maker: vars(maker).update(batch_size=5, workers=1),
    "another set": lambda maker: setattr(maker, "sets", replace(maker.sets, meta=maker.sets.test)),
    "other views and sets": lambda maker: [maker.open(*what) for what in (("train", 1), ("meta", 0), ("test", 0))],
}


@pytest.mark.parametrize("what", [*CHANGES, *NO_CHANGES])
def test_what_a_set_depends_on_makes_it_anew_and_nothing_else(maker, what):
    maker.open()
    {**CHANGES, **NO_CHANGES}[what](maker)
    rows, computed = maker.open()
    assert np.array_equal(rows, maker.expected())
    assert computed == (len(maker.sets.train) if what in CHANGES else 0)


# Mistakes


def test_features_not_finite_in_fp16_and_images_missing_or_damaged_are_named(maker):
    for factor in (1e6, -1e6, float("nan")):
        maker.backbone.factor = factor
        assert "not finite in fp16" in wrong(maker.open)
        assert maker.files() == []
    maker.backbone.factor = 1.0
    maker.rows()
    raw, stat = maker.path(6).read_bytes(), maker.path(6).stat()
    maker.files()[2].unlink()
    for content in (raw[:100], bytes(len(raw))):
        maker.path(6).write_bytes(content)
        os.utime(maker.path(6), ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert str(maker.path(6)) in wrong(maker.open)
    maker.path(6).unlink()
    assert str(maker.path(6)) in wrong(maker.open)


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_and_a_folder_that_vanishes_or_cannot_be_made_are_named(maker, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert "cannot be written (No space left on device): free disk space or choose another folder" in wrong(maker.open)
    assert maker.files("*/*") == []
    maker.backbone.before = lambda: shutil.rmtree(maker.folder, ignore_errors=True)
    assert "cannot be written (No such file or directory)" in wrong(maker.open)
    maker.folder.write_text("a file in its place")
    assert f"{maker.folder}/train_0_" in wrong(maker.open)


# Batches


def test_cached_training_is_live_training_in_fp16(maker):
    live = Batches({name: LiveViews(part, maker.backbone, 0) for name, part in maker.images().items()}, ALONE, 3, 2, 1)
    cached = Batches(maker.cache().views(maker.images(), 1), ALONE, 3, 2, 1)
    for name, count, crops in (("train", 7, 3), ("meta", 7, 1), ("test", 3, 3)):  # one view has the crops of the first pass
        ours, theirs = (first(getattr(features, name)(), count) for features in (cached, live))
        assert [target.tolist() for _, target in ours] == [target.tolist() for _, target in theirs]
        for (features, _), (expected, _) in zip(ours[:crops], theirs[:crops], strict=True):
            assert torch.equal(features, expected.half().float())
    more = maker.cache().views(maker.images(), 2)
    assert {name: len(part.views) for name, part in more.items()} == {"train": 2, "meta": 2, "test": 1}
    assert all(np.array_equal(rows, maker.expected("meta", k)) for k, rows in enumerate(more["meta"].views))
