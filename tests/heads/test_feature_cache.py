"""Cached features: the rows are those of the images, and a file that is not to be trusted is made anew."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.image_lists import ALONE, CPU, first, noise_sets
from support.refusals import wrong

from harness.process_group import Group
from heads import cached_rows
from heads.cached_rows import UnfinishedRows, is_whole
from heads.drawn_sets import Sets
from heads.feature_cache import FeatureCache, cached_features
from heads.feature_tables import CachedFeatures
from heads.features import LiveFeatures
from heads.preparation import preparation_of

A = 12


class Backbone:
    """A small stand-in: the means of four patches in three colours; counts the images it is given."""

    def __init__(self, factor=1.0):
        self.images, self.factor = 0, factor

    def __call__(self, images):
        self.images += len(images)
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1) * self.factor


class Maker:
    """Opens cached sets as a new run would, with everything that they depend on to be varied."""

    def __init__(self, folder, sets):
        self.folder, self.sets = folder, sets
        self.features = {"batch_size": 3, "test_batch_size": 2, "workers": 0, "seed": 1}
        self.features["prepared"] = preparation_of("ImageNet_LT")
        self.weights, self.backbone = "0123abc", Backbone()

    def live(self, group=ALONE):
        return LiveFeatures(self.sets, extract=self.backbone, group=group, **self.features)

    def cache(self, group=ALONE):
        return FeatureCache(self.folder, self.live(group), self.weights, group, A)

    def open(self, name="train", view=0):
        """Return the rows, and how many images the backbone saw for them."""
        before = self.backbone.images
        return np.array(self.cache().open(name, view)), self.backbone.images - before

    def key(self, name="train", view=0):
        """What the files of a set are named after."""
        facts = json.dumps(self.cache().facts(name, view), sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    def path(self, i=3):
        """The file of a training image."""
        return self.sets.train.root / self.sets.train.paths[i]

    def clear(self):
        for path in self.folder.iterdir():
            path.unlink()

    def files(self):
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []

    def only(self, ending):
        """The one file with this ending."""
        (path,) = self.folder.glob(f"*{ending}")
        return path


@pytest.fixture
def maker(tmp_path):
    return Maker(tmp_path / "new" / "cache", noise_sets(tmp_path / "images"))


# Rows


@pytest.mark.parametrize(("name", "count"), [("train", 7), ("meta", 5), ("test", 5)])
def test_rows_are_the_live_features_in_fp16(maker, capsys, name, count):
    for view in (0, 1):
        rows, computed = maker.open(name, view)
        expected = torch.cat([features for features, _ in maker.live().in_order(name, view)])
        assert (rows.shape, rows.dtype, computed) == ((count, A), np.float16, count)
        assert np.array_equal(rows, expected.half().numpy())
        capsys.readouterr()
        again, computed = maker.open(name, view)
        assert (np.array_equal(again, rows), computed) == (True, 0)
        assert str(maker.folder / f"{name}_{view}_") in capsys.readouterr().out  # where they are read from is said
        opened = maker.cache().open(name, view)
        assert isinstance(opened, np.memmap)  # what is read when needed and cannot be written
        with pytest.raises(ValueError, match="read-only"):
            opened[0, 0] = 1
    assert len(maker.files()) == 4  # two rows, two jsons, nothing else


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


@pytest.mark.parametrize("count", [2, 5])
def test_processes_write_their_shares_of_one_file(maker, count):
    maker.sets = replace(maker.sets, test=maker.sets.test.subset(np.arange(count)))
    expected = torch.cat([features for features, _ in maker.live().test()]).half().numpy()
    board, gate = [None] * 3, threading.Barrier(3, timeout=600)
    groups = [Thread(rank, 3, CPU, None, board, gate) for rank in range(3)]
    for computed in (count, 0):
        maker.backbone.images = 0
        with ThreadPoolExecutor(3) as pool:
            every = list(pool.map(lambda group: np.array(maker.cache(group).open("test", 0)), groups))
        assert all(np.array_equal(rows, expected) for rows in every)
        assert maker.backbone.images == computed
        assert len(maker.files()) == 2
    assert maker.open("test")[1] == 0  # one process finds what three have made


# What is made anew


def restate(key, value):
    """Have a json say something else of one thing, or nothing where the value is `...`."""

    def change(path):
        stated = json.loads(path.read_text())
        changed = {name: each for name, each in {**stated, key: value}.items() if each is not ...}
        assert changed != stated
        path.write_text(json.dumps(changed))

    return change


def rewritten(change):
    """Have a file hold what `change` makes of its bytes."""
    return lambda path: path.write_bytes(change(path.read_bytes()))


OTHER_FACTS = [("rows", None), ("rows", 8), ("crc32", 5), ("crc32", ...), ("weights", "x"), ("images", "x"), ("seed", 9),
               ("format", 0), ("transform", ...)]  # fmt: skip
HARM = {"gone": Path.unlink, "cut": rewritten(lambda raw: raw[:-1]), "double": rewritten(lambda raw: raw * 2)}
DAMAGE = {
    **{f"{name} {kind}": (kind, change) for kind in (".json", ".f16") for name, change in HARM.items()},
    **{f"json {new!r}": (".json", rewritten(lambda _, new=new: new)) for new in (b"", b"\xff\xfe\x00", b"[]", b"5")},
    **{f"{key} {value}": (".json", restate(key, value)) for key, value in OTHER_FACTS},
    "no rows": (".f16", rewritten(lambda _: b"")),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_set_is_made_anew(maker, what):
    (rows, _), files, (kind, change) = maker.open(), maker.files(), DAMAGE[what]
    change(maker.only(kind))
    again, computed = maker.open()
    assert (np.array_equal(again, rows), computed, maker.files()) == (True, 7, files)
    assert maker.open()[1] == 0


def test_no_bit_can_be_flipped_unnoticed(maker):
    maker.open()
    facts, path = maker.cache().facts("train", 0), maker.only(".f16")
    assert is_whole(path, facts)
    for file in (path, maker.only(".json")):
        raw = file.read_bytes()
        for place in range(len(raw)):
            changed = bytearray(raw)
            changed[place] ^= 1 << place % 8
            file.write_bytes(changed)
            assert not is_whole(path, facts)
        file.write_bytes(raw)
    assert is_whole(path, facts)


@pytest.mark.parametrize("own", [True, False])
def test_the_parts_of_a_killed_run_are_not_taken_for_rows(maker, own):
    rows, _ = maker.open()
    part = maker.only(".f16").with_suffix(f".part{os.getpid() if own else 1}")  # process numbers come again
    maker.clear()
    part.write_bytes(bytes(1000))
    again, computed = maker.open()
    assert (np.array_equal(again, rows), computed) == (True, 7)
    assert maker.open()[1] == 0


def run_until(maker, images, event, name="train"):
    """Have a run compute features until the backbone has seen so many images: `event` comes before every further batch."""

    def extract(batch):
        if maker.backbone.images >= images:
            event()
        return Backbone.__call__(maker.backbone, batch)

    live = maker.live()
    live.extract = extract
    return FeatureCache(maker.folder, live, maker.weights, ALONE, A).open(name, 0)


def stop():
    raise KeyboardInterrupt


@pytest.fixture
def unfinished(maker):
    """The rows of a set, and its files as a run leaves them that was stopped after two batches."""
    rows, _ = maker.open()
    maker.clear()
    maker.backbone.images = 0
    with pytest.raises(KeyboardInterrupt):
        run_until(maker, 4, stop)
    assert [name.partition(".")[2] for name in maker.files()] == ["part", "part.crc32"]
    return rows


@pytest.mark.parametrize("world", [1, 3])
def test_a_run_that_is_stopped_keeps_its_rows_for_the_next(maker, capsys, world):
    expected, _ = maker.open("test")  # nothing of it is drawn at random: threads would draw from one generator
    maker.clear()
    maker.backbone.images = 0
    with pytest.raises(KeyboardInterrupt):
        run_until(maker, 2, stop, "test")
    board, gate = [None] * world, threading.Barrier(world, timeout=600)
    groups = [Thread(rank, world, CPU, None, board, gate) for rank in range(world)]
    maker.backbone.images = 0
    with ThreadPoolExecutor(world) as pool:
        every = list(pool.map(lambda group: np.array(maker.cache(group).open("test", 0)), groups))
    assert all(np.array_equal(rows, expected) for rows in every)
    assert "2 of 5 were computed by a run before" in capsys.readouterr().out
    assert (maker.backbone.images, len(maker.files())) == (3, 2)


def test_a_run_stopped_before_its_first_row_leaves_nothing(maker):
    with pytest.raises(KeyboardInterrupt):
        run_until(maker, 0, stop)
    assert (maker.files(), maker.open()[1]) == ([], 7)


@pytest.mark.parametrize("ending", [".part", ".part.crc32"])
def test_no_row_counts_that_was_not_written_as_it_was_computed(maker, unfinished, ending):
    """Wherever a byte is another than was written: so it is with a power cut, which may keep any of them from the disk."""
    files = {path: path.read_bytes() for path in maker.folder.iterdir()}
    path = maker.only(ending)
    for place in range(0, len(files[path]), 5):
        maker.clear()
        for each, raw in files.items():
            each.write_bytes(raw)
        changed = bytearray(files[path])
        changed[place] ^= 255
        path.write_bytes(changed)
        rows, computed = maker.open()
        assert np.array_equal(rows, unfinished)
        row = place // (2 * A) if ending == ".part" else (place - 32) // 4  # after the 32 bytes that say whose rows they are
        assert computed == (7 if row < 0 else 5 if row < 4 else 3)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1]), Path.touch])
@pytest.mark.parametrize("ending", [".part", ".part.crc32"])
def test_parts_that_do_not_belong_together_are_made_anew(maker, unfinished, ending, damage):
    damage(maker.only(ending))
    rows, computed = maker.open()
    assert (np.array_equal(rows, unfinished), computed, len(maker.files())) == (True, 3 if damage is Path.touch else 7, 2)


def test_the_part_of_another_set_is_not_used(maker, unfinished):
    (part, crcs), rows = sorted(maker.folder.iterdir()), unfinished
    maker.weights = "0123abd"
    path = maker.folder / f"train_0_{maker.key()}.part"
    part.rename(path)
    crcs.rename(f"{path}.crc32")
    again, computed = maker.open()
    assert (np.array_equal(again, rows), computed) == (True, 7)


def test_a_kill_while_rows_get_their_name_costs_none_of_them(maker, monkeypatch):
    def killed(path, *args, **_):
        if not str(path).endswith("crc32.tmp"):
            raise KeyboardInterrupt
        plain(path, *args)

    for place, name in ((os, "replace"), (Path, "write_text"), (UnfinishedRows, "publish"), (UnfinishedRows, "remove")):
        plain = getattr(place, name)
        with monkeypatch.context() as patch:
            patch.setattr(place, name, killed)
            with pytest.raises(KeyboardInterrupt):
                maker.open()
        assert maker.open()[1] == 0
        maker.clear()


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
    "the paths": other_list(lambda images: replace(images, paths=images.paths[::-1])),
    "the labels": other_list(lambda images: replace(images, targets=images.targets[::-1].copy())),
    "the transform": lambda maker: maker.features.update(prepared=preparation_of("iNaturalist18")),
    "what EXIF says counts": lambda maker: maker.features.update(prepared=preparation_of("custom")),
    "the seed": lambda maker: maker.features.update(seed=2),
    "the weights": lambda maker: setattr(maker, "weights", "0123abd"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_set_that_depends_on_something_else_is_made_anew(maker, what):
    maker.open()
    CHANGES[what](maker)
    maker.backbone.factor = 2  # so that old rows would be seen
    rows, computed = maker.open()
    expected = torch.cat([features for features, _ in maker.live().in_order("train", 0)])
    assert (np.array_equal(rows, expected.half().numpy()), computed) == (True, len(maker.sets.train))
    assert maker.open()[1] == 0


def test_what_rows_do_not_depend_on_does_not_make_them_anew(maker):
    maker.open()
    maker.open("test")
    maker.features.update(batch_size=5, test_batch_size=4, workers=1)
    assert [maker.open(name)[1] for name in ("train", "test")] == [0, 0]
    maker.sets = replace(maker.sets, meta=maker.sets.test)
    assert maker.open()[1] == 0
    assert [maker.open(*what)[1] for what in (("train", 1), ("meta", 0))] == [7, 5]  # another view, another set
    assert maker.open()[1] == 0  # and the first is still there


# Mistakes


def test_features_not_finite_in_fp16_and_images_missing_or_damaged_are_named(maker):
    for factor in (1e6, -1e6, float("nan")):
        maker.backbone.factor = factor
        assert "not finite in fp16" in wrong(maker.open)
        assert maker.files() == []
    maker.backbone.factor = 1.0
    raw = maker.path(6).read_bytes()
    stat = maker.path(6).stat()
    for spoil in (lambda path: path.write_bytes(raw[:100]), lambda path: path.write_bytes(bytes(len(raw))), Path.unlink):
        spoil(maker.path(6))
        if maker.path(6).exists():
            os.utime(maker.path(6), ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert str(maker.path(6)) in wrong(maker.open)
    maker.path(6).write_bytes(raw)
    os.utime(maker.path(6), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert maker.open()[1] == 1  # the others were kept


FULL = OSError(errno.ENOSPC, "No space left on device")


def full(*_, **__):
    raise FULL


@pytest.mark.parametrize(
    ("place", "name", "words", "left"),
    [(os, "posix_fallocate", "--cache_dir", 7), (Path, "write_bytes", ".part.crc32 cannot be written", 7),
     (Path, "write_text", ".json cannot be written", 0)],
)  # fmt: skip
def test_a_full_disk_is_named_and_only_rows_are_left(maker, monkeypatch, place, name, words, left):
    maker.open("meta")
    files = maker.files()
    with monkeypatch.context() as patch:
        patch.setattr(place, name, full)
        said = wrong(maker.open)
    assert all(word in said for word in (words, "No space left on device", str(maker.folder)))
    assert (maker.files() == files) == bool(left)
    assert (maker.open()[1], len(maker.files())) == (left, 4)


def test_a_disk_that_fills_where_room_cannot_be_reserved_is_named_and_rows_are_kept(maker, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    with monkeypatch.context() as patch:
        said = wrong(run_until, maker, 4, lambda: patch.setattr(cached_rows, "open", full, raising=False))
    assert all(word in said for word in (".part cannot be written (No space left on device)", str(maker.folder)))
    assert maker.open()[1] == 3


def test_a_folder_that_vanishes_is_named_at_the_next_batch(maker):
    said = wrong(run_until, maker, 2, lambda: shutil.rmtree(maker.folder, ignore_errors=True))
    assert all(word in said for word in (".part cannot be written (No such file or directory)", str(maker.folder)))
    assert maker.backbone.images == 4


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another(path):
    """Another process that has the lock file `path`, as long as this lasts."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", HOLD, path], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout.readline() == "held\n"
        yield
        process.stdin.close()


def test_what_is_left_unfinished_is_removed_after_a_day_but_what_is_of_use_or_locked(maker, unfinished):
    own = maker.only(".part").stem
    hours_old = {f"{own}.part1": 25, f"{own}.part-host-1f": 25, f"{own}.part2": 1, f"{own}.part": 25,
                 f"{own}.part.crc32": 25, "train_0_other.part": 25, "train_0_other.part.crc32": 25, "train_0_new.part": 1,
                 "train_0_locked.part": 25, "train_0_odd.part": 25}  # fmt: skip
    (maker.folder / "train_0_odd.lock").mkdir()
    for name, hours in hours_old.items():
        path = maker.folder / name
        path.touch()
        os.utime(path, (time.time() - 3600 * hours,) * 2)
    with held_by_another(maker.folder / "train_0_locked.lock"):
        rows, computed = maker.open()
        left = [f"train_0_{name}" for name in ("locked.lock", "locked.part", "new.part", "odd.lock", "odd.part")]
        assert maker.files() == sorted([*left, f"{own}.f16", f"{own}.json", f"{own}.part2"])
    assert (np.array_equal(rows, unfinished), computed) == (True, 3)


def test_what_is_left_unfinished_is_removed_at_once_where_the_disk_has_no_room(maker, monkeypatch):
    maker.folder.mkdir(parents=True)
    for name in ("train_0_other.part", "train_0_locked.part"):
        (maker.folder / name).touch()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with held_by_another(maker.folder / "train_0_locked.lock"):
        maker.open()
        assert {"train_0_locked.part", "train_0_other.part"} & {*maker.files()} == {"train_0_locked.part"}


@pytest.fixture
def no_locks(monkeypatch):
    """A file system without them."""

    def lockf(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "lockf", lockf)


def test_without_locks_two_runs_of_one_set_have_files_of_their_own(maker, monkeypatch, no_locks):
    expected, _ = maker.open()
    maker.clear()
    maker.backbone.images, seen = 0, []

    def other():
        if not seen:
            seen.append([*maker.folder.glob("*.part*")])
            monkeypatch.setattr(maker, "backbone", Backbone())
            seen.append(maker.open())
            seen.append(sorted(maker.folder.glob("*.part*")))

    assert np.array_equal(run_until(maker, 4, other), expected)
    assert np.array_equal(seen[1][0], expected)
    assert seen[1][1] == 7
    assert len(seen[0]) == 2
    assert seen[2] == sorted(seen[0])  # those of the first run alone
    assert [Path(name).suffix for name in maker.files()] == [".f16", ".json", ".lock"]


def test_a_run_without_locks_that_is_stopped_leaves_nothing(maker, no_locks):
    with pytest.raises(KeyboardInterrupt):
        run_until(maker, 4, stop)
    assert [Path(name).suffix for name in maker.files()] == [".lock"]


def test_the_disk_has_room_for_all_rows_before_the_first_is_computed_if_that_can_be_had(maker, monkeypatch):
    seen = []

    def watched(file, *args):
        seen.append((args, maker.backbone.images))
        reserve(file, *args)

    reserve = os.posix_fallocate
    monkeypatch.setattr(os, "posix_fallocate", watched)
    rows, _ = maker.open()
    assert seen == [((0, 7 * A * 2), 0)]
    maker.clear()
    monkeypatch.delattr(os, "posix_fallocate")
    assert np.array_equal(maker.open()[0], rows)  # without it the rows are the same


def test_a_folder_that_cannot_be_made_is_named(maker):
    maker.folder.parent.mkdir()
    maker.folder.write_text("a file in its place")
    for below in (".", "deeper"):
        maker.folder = maker.folder / below
        said = wrong(maker.open)
        assert all(word in said for word in ("--cache_dir", str(maker.folder)))
        assert maker.backbone.images == 0


# Batches


def coded(views, train=7, meta=5, test=5, group=ALONE, batch_size=3, test_batch_size=2, seed=1):
    """Cached features that say which view and which row they are; labels are 50 - row."""
    made = {
        name: [np.array([[100.0 * k + i] * A for i in range(count)], np.float16) for k in range(views)]
        for name, count in (("train", train), ("meta", meta), ("test", test))
    }
    targets = {name: 50 - torch.arange(len(rows[0])) for name, rows in made.items()}
    return CachedFeatures(made["train"], made["meta"], made["test"][0], targets, group, batch_size, test_batch_size, seed)


def read(batch):
    """The view and the row of each image of a batch, after a look at what belongs together."""
    features, target = batch
    assert (features.dtype, features.shape, target.shape) == (torch.float32, (len(target), A), (len(target),))
    assert torch.equal(features, features[:, :1].expand(-1, A))
    numbers = features[:, 0].long()
    assert torch.equal(50 - numbers % 100, target)
    return [(int(number) // 100, int(number) % 100) for number in numbers]


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize(("name", "count"), [("train", 7), ("meta", 5)])
def test_batches_hold_every_image_once_a_pass_from_views_drawn_at_random(views, name, count):
    batches = [read(batch) for batch in islice(getattr(coded(views), name)(), 90)]
    assert [len(batch) for batch in batches[:6]] == ([3, 3, 1] * 2 if name == "train" else [3] * 6)
    seen = [pair for batch in batches for pair in batch]
    passes = [seen[i : i + count] for i in range(0, len(seen), count)]
    assert all(sorted(row for _, row in one) == list(range(count)) for one in passes)
    assert len({tuple(row for _, row in one) for one in passes}) > 20
    assert {pair for one in passes for pair in one} == {(k, i) for k in range(views) for i in range(count)}
    if views > 1:
        assert any(len({view for view, _ in batch}) > 1 for batch in batches)  # each image draws its own
        shares = np.bincount([view for view, _ in seen]) / len(seen)
        assert max(abs(shares - 1 / views)) < 0.1


def test_batches_depend_on_the_seed_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for name in ("train", "meta"):
        runs = [
            [pair for batch in islice(getattr(coded(3, seed=seed, group=group), name)(), 9) for pair in read(batch)]
            for seed, group in ((1, ALONE), (1, Group(2, 3, CPU)), (2, ALONE))
        ]
        assert runs[0] == runs[1]  # on every process the whole global batch
        for part in (0, 1):  # the views are others, and so are the rows
            assert [pair[part] for pair in runs[0]] != [pair[part] for pair in runs[2]]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_test_image_comes_once_on_one_of_the_processes(world, count):
    batches = [read(batch) for rank in range(world) for batch in coded(2, test=count, group=Group(rank, world, CPU)).test()]
    assert [pair for batch in batches for pair in batch] == [(0, i) for i in range(count)]
    assert all(1 <= len(batch) <= 2 for batch in batches)


def test_cached_training_is_live_training_in_fp16(maker):
    live = maker.live()
    cached = cached_features(live, 1, maker.folder, maker.weights, A)
    for name, count, crops in (("train", 7, 3), ("meta", 7, 1), ("test", 3, 3)):  # one view has the crops of the first pass
        ours, theirs = (first(getattr(features, name)(), count) for features in (cached, live))
        assert [target.tolist() for _, target in ours] == [target.tolist() for _, target in theirs]
        for (features, _), (expected, _) in zip(ours[:crops], theirs[:crops], strict=True):
            assert torch.equal(features, expected.half().float())
    more = cached_features(live, 2, maker.folder, maker.weights, A)
    assert len(maker.files()) == 2 * 5  # two views of training and meta images, one of the test images
    for name in ("train", "meta"):
        assert all(np.array_equal(rows, maker.open(name, k)[0]) for k, rows in enumerate(more.views[name]))


def test_sets_of_one_folder_do_not_mix(maker):
    # The same images for all three: training and meta images are cropped differently, test images not at all.
    same = maker.sets.train
    maker.sets = Sets(same, same, same, [1] * 7, [])
    rows = [maker.open(name)[0] for name in ("train", "meta", "test")]
    assert not any(np.array_equal(a, b) for i, a in enumerate(rows) for b in rows[:i])
    assert all(np.array_equal(maker.open(name)[0], kept) for name, kept in zip(("train", "meta", "test"), rows, strict=True))
