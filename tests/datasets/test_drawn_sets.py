"""Images held out to choose on, and training and meta images in one list: for any lists, also such that share files."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.image_lists import class_folders, read_sets
from support.refusals import wrong

from datasets.drawing import held_out, split_meta
from datasets.examples import united, with_meta
from datasets.image_lists import image_list

CLASSES = 3


def numbers(images):
    """The files of a list, by number."""
    return [int(Path(path).stem) for path in images.paths]


@st.composite
def lists(draw):
    """Four lists of some of 40 files, each with its label, that may share files and name some twice."""
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    label, sizes = generator.integers(0, CLASSES, 40), draw(st.tuples(*[st.integers(0, 60)] * 4))
    files, names = [generator.integers(0, 40, size) for size in sizes], [str(k) for k in range(CLASSES)]
    return [image_list(Path("all"), [f"./inner//{k}.png" for k in own], label[own], names, "a list") for own in files]


@given(lists(), st.integers(1, 6))
def test_held_out_images_are_in_no_other_set_and_the_rest_is_trained_on(made, num_heldout):
    train, source, meta, test = made
    heldout, left, spare = held_out(train, source, [meta, test], num_heldout)
    own, theirs = numbers(train), numbers(heldout)
    assert len(set(theirs)) == len(theirs)  # each file once
    assert not set(theirs) & {*numbers(meta), *numbers(test), *numbers(left)}
    assert numbers(left) == [k for k in own if k not in theirs]
    assert spare == sum(k not in own for k in theirs)
    label = {k: int(y) for part in made for k, y in zip(numbers(part), part.targets, strict=True)}
    assert [label[k] for k in theirs] == heldout.targets.tolist()
    used = {*numbers(meta), *numbers(test)}
    for c in range(CLASSES):
        free = {k for k in own if label[k] == c and k not in used}
        others = {k for k in numbers(source) if label[k] == c and k not in used and k not in own}
        taken = [k for k in theirs if label[k] == c]
        wanted = min(num_heldout, len(others))
        assert sum(k in others for k in taken) == wanted  # spare ones first, then up to a fifth
        assert sum(k in free for k in taken) == min(num_heldout - wanted, len(free) // 5)


@given(st.lists(st.integers(1, 70), min_size=1, max_size=5), st.integers(0, 12))
def test_a_share_of_a_class_bounds_its_meta_images(counts, num_meta):
    targets = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    meta, left = split_meta(targets, num_meta, len(counts), share=5)
    assert np.bincount(targets[meta], minlength=len(counts)).tolist() == [min(num_meta, max(n // 5, 1)) for n in counts]
    assert {*meta} | {*left} == {*range(len(targets))}
    assert {*meta} <= {*split_meta(targets, num_meta, len(counts))[0]}


def test_held_out_images_are_drawn_not_cut():
    whole = image_list(Path(), map(str, range(99)), [0] * 99, ["x"], "a list")
    for train in (whole.subset(np.arange(50)), whole):
        spare = np.setdiff1d(whole.items, train.items)
        kept, _, _ = held_out(train, whole, [], 9)
        assert {*kept.items} != {*(spare if len(spare) else whole.items)[:9]}


@given(lists())
def test_training_and_meta_images_in_one_list_are_each_once(made):
    train, meta, *_ = made
    joined = with_meta(train, meta)
    before, found = numbers(train), numbers(meta)
    new = [k for i, k in enumerate(found) if k not in before and k not in found[:i]]
    assert numbers(joined) == before + new  # the training list stays what it is
    assert joined.targets.tolist()[: len(before)] == train.targets.tolist()
    assert joined.targets.tolist()[len(before) :] == [meta.targets[found.index(k)] for k in new]


def write_lists(folder, dataset, **rows):
    folder.mkdir(exist_ok=True)
    for part, counts in rows.items():
        lines = [f"{part}/{k}_{i}.jpg {k}\n" for k, count in enumerate(counts) for i in range(count)]
        (folder / f"{dataset}_{part}.txt").write_text("".join(lines))
    return folder


def of_classes(images):
    return [Counter(images.targets.tolist())[k] for k in range(len(images.class_names))]


@pytest.mark.parametrize(
    ("dataset", "counts", "spare", "inside"),
    [("ImageNet_LT", [2, 2, 2], 5, 0), ("iNaturalist18", [2, 2, 1], 0, 0), ("iNaturalist17", [2, 2, 1], 0, 6)],
)
def test_the_published_sets(dataset, counts, spare, inside, tmp_path):
    """ImageNet_LT's val list has images that serve nothing else; those of iNaturalist are tested on, or trained on."""
    folder = write_lists(tmp_path, dataset, train=(30, 12, 9), val=(5, 4, 3), test=(2, 2, 2))
    before = read_sets(dataset, tmp_path, 2, lists=folder)
    lists = before.lists
    sets = lists.sets(2, num_heldout=2, join_meta=True)
    assert of_classes(sets.heldout) == counts
    assert sum(path.startswith("val") for path in sets.heldout.paths) == spare
    assert sets.meta.digest() == before.meta.digest()
    assert sum(sets.cls_num_list) + len(sets.heldout) == 51 + spare
    assert len(set(sets.meta.paths) & set(sets.train.paths)) == inside
    assert sum(sets.stage2_counts) == len(sets.joined) == len(sets.train) + 6 - inside
    assert [*sets.parts] == [*before.parts, "heldout"]
    assert before.stage2_counts == before.cls_num_list
    assert before.facts().keys() == {"class_names", "train_digest", "cls_num_list"}
    assert f"held out {len(sets.heldout)}" in sets.about()[0]
    assert any(line.startswith("note: 5 of the 6 held-out images come from") for line in sets.about()) == bool(spare)


def test_folders_and_small_classes(tmp_path):
    """Of folders train and meta the joined list holds both; a class that is whole in both sets comes once."""
    class_folders(tmp_path / "three", (11, 6, 2), meta=2)
    sets = read_sets("custom", tmp_path / "three", 2).lists.sets(2, -1, join_meta=True)
    assert (sets.cls_num_list, of_classes(sets.heldout), sets.stage2_counts) == ([9, 5, 2], [2, 1, 0], [11, 7, 4])
    assert all((sets.joined.root / path).is_file() for path in sets.joined.paths)
    assert len(set(sets.joined.paths)) == 22
    class_folders(tmp_path / "two", (11, 6, 2), meta=0)
    sets = read_sets("custom", tmp_path / "two", 2).lists.sets(2, join_meta=True)
    assert (sets.cls_num_list, sets.stage2_counts) == ([9, 4, 2], [11, 6, 2])
    told = "no class has an image to hold out: add images, lower --num_meta, or leave --select_on heldout out"
    class_folders(tmp_path / "few", (4, 3), meta=1)
    assert wrong(read_sets("custom", tmp_path / "few", 2).lists.sets, 2, -1) == told


def test_meta_images_that_stay_are_a_fifth_of_a_class_at_most(tmp_path):
    class_folders(tmp_path, (16, 6, 2), meta=0)
    lists = replace(read_sets("custom", tmp_path, 2).lists, draw="share")
    sets = lists.sets(2, join_meta=True)
    assert (sets.cls_num_list, of_classes(sets.meta), sets.joined) == ([16, 6, 2], [2, 1, 1], None)
    assert {*sets.meta.paths} <= {*sets.train.paths}
    held = lists.sets(2, num_heldout=3)
    assert (held.cls_num_list, held.meta.paths) == ([14, 5, 2], sets.meta.paths)
    assert not {*held.heldout.paths} & {*held.meta.paths, *held.train.paths}
    none = lists.sets(0)
    assert (none.cls_num_list, len(none.meta)) == ([16, 6, 2], 0)
    assert replace(lists, draw="take out").sets(2).cls_num_list == [14, 4, 2]  # the control


@given(st.lists(st.lists(st.sampled_from(["a", "bb", "c", "dd/e"]), max_size=5), min_size=1, max_size=3), st.randoms())
def test_all_images_of_some_lists_are_the_same_list_however_they_are_shared_out(lists, random):
    labels = [np.array([len(name) for name in names], dtype=np.int64) for names in lists]
    parts = [image_list(Path("root"), names, own, ["x"], "a list") for names, own in zip(lists, labels, strict=True)]
    whole = united(parts)
    files = {file: label for part in parts for file, label in zip(part.paths, part.targets.tolist(), strict=True)}
    assert dict(zip(whole.paths, whole.targets.tolist(), strict=True)) == files
    assert whole.paths == sorted(files)
    random.shuffle(parts)
    assert united(parts).paths == whole.paths
