"""What is drawn from lists for what: for any lists, also such that share files; and the sets that come of it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.refusals import wrong

from datasets.drawing import drawn_for_tests, held_out, split_meta
from datasets.drawn_sets import Lists
from datasets.examples import class_counts, united, with_others
from datasets.image_lists import image_list

CLASSES = 3


def listed(numbers):
    """A list of files called by numbers, each of the class that the number gives."""
    files = [f"./inner//{k:02}.png" for k in numbers]
    return image_list(Path("all"), files, [k % CLASSES for k in numbers], list("012"), "a list")


def numbers(images):
    found = [int(Path(path).stem) for path in images.paths]
    assert images.targets.tolist() == [k % CLASSES for k in found]
    return found


lists = st.tuples(*4 * [st.lists(st.integers(0, 39), max_size=60).map(listed)])  # that may name a file twice


@given(lists, st.integers(1, 6))
def test_held_out_images_are_in_no_other_set_and_the_rest_is_trained_on(made, num_heldout):
    heldout, left = held_out(*made[:2], made[2:], num_heldout)
    own, source, theirs = (numbers(part) for part in (*made[:2], heldout))
    used = {k for part in made[2:] for k in numbers(part)}
    assert len(theirs) == len({*theirs} - used)  # each file once
    assert numbers(left) == [k for k in own if k not in theirs]
    for c in range(CLASSES):
        free, others = ({k for k in part if k % CLASSES == c} - used for part in (own, {*source} - {*own}))
        wanted = min(num_heldout, len(others))
        assert len(others & {*theirs}) == wanted  # spare ones first, then up to a fifth
        assert len(free & {*theirs}) == min(num_heldout - wanted, len(free) // 5)


@given(lists)
def test_lists_are_joined_with_each_file_once(made):
    train, meta = map(numbers, made[:2])
    assert numbers(with_others(*made[:2])) == [*train, *dict.fromkeys(k for k in meta if k not in train)]
    for parts in (made, made[::-1]):
        assert numbers(united(parts)) == sorted({k for part in made for k in numbers(part)})


@given(st.lists(st.integers(1, 70), min_size=1, max_size=5), st.integers(0, 12), st.floats(0.01, 0.99), st.integers(0, 9))
def test_each_class_gives_its_share_and_keeps_an_image(counts, num_meta, val_fraction, seed):
    classes = len(counts)
    targets = np.random.default_rng(seed).permutation(np.repeat(np.arange(classes), counts))
    meta, left = split_meta(targets, num_meta, classes, share=5)
    assert np.bincount(targets[meta], minlength=classes).tolist() == [min(num_meta, max(n // 5, 1)) for n in counts]
    assert {*meta} | {*left} == {*range(len(targets))}
    test = drawn_for_tests(targets, classes, val_fraction, seed)
    assert test.tolist() == sorted({*test})
    shares = [min(max(round(val_fraction * n), 1), n - 1) for n in counts]  # at least one, and not all
    assert np.bincount(targets[test], minlength=classes).tolist() == shares


def test_images_are_drawn_and_not_cut():
    whole = of_counts([99])
    for train, rest in ((whole.subset(np.arange(50)), whole.items[50:]), (whole, whole.items)):
        assert {*held_out(train, whole, [], 9)[0].items} != {*rest[:9]}
    assert len({tuple(drawn_for_tests(whole.targets, 1, 0.2, seed)) for seed in range(5)}) == 5


def of_counts(counts, first=0):
    return listed([CLASSES * (first + i) + k for k, count in enumerate(counts) for i in range(count)])


BOTH = "classes with no more than --num_meta {} images, all of which are meta images as well: {}"
SETS = [  # how meta images are drawn, from how many images, num_meta and more: trained on, held out, notes
    ("take out", [50, 31, 20], [10], [40, 21, 10], None, []),
    ("take out", [50, 10, 1], [10], [40, 10, 1], None, [BOTH.format(10, "1 (10), 2 (1)")]),
    ("take out", [1, 1, 1], [1], [1, 1, 1], None, [BOTH.format(1, "0 (1), 1 (1), 2 (1)")]),
    ("take out", [9, 2, 1], [10], [9, 2, 1], None, [BOTH.format(10, "0 (9), 1 (2), 2 (1)")]),
    ("take out", [110, 15, 40], [10, 0, False, 0.1], [100, 5, 10], None, []),
    ("whole", [11, 6, 2], [2, -1, True], [11, 7, 4], [2, 1, 0], []),
    ("share", [16, 6, 2], [2, 3, True], [14, 5, 2], [2, 1, 0], []),
    ("share", [16, 6, 2], [0], [16, 6, 2], None, []),
]  # fmt: skip


@pytest.mark.parametrize(("draw", "counts", "more", "trained", "heldout", "notes"), SETS)
def test_sets_that_are_drawn(draw, counts, more, trained, heldout, notes):
    train, share = of_counts(counts), 5 if draw == "share" else 1
    source = of_counts([2, 2, 2], 200) if draw == "whole" else train
    sets = Lists(train, source, of_counts([4, 4, 4], 300), draw, []).sets(*more)
    assert (sets.stage2_counts, sets.heldout and class_counts(sets.heldout), sets.notes) == (trained, heldout, notes)
    assert class_counts(sets.meta) == [min(more[0], max(n // share, 1)) for n in class_counts(source)]
    assert sets.cls_num_list == class_counts(sets.train)
    assert len({*numbers(sets.trained)}) == len(sets.trained)
    assert draw != "share" or {*numbers(sets.meta)} <= {*numbers(sets.train)}


def test_images_to_choose_on_are_trained_on_unless_they_are_kept():
    train, val = of_counts([9, 9, 9]), of_counts([2, 2, 2], 100)
    lists = Lists(train, train, val, "take out", [], val)
    assert lists.sets(1, 5).heldout is val
    told = "the 6 images of a list are trained on too: --select_on heldout keeps them to choose the best epoch"
    assert lists.sets(1).notes == [told]
    assert numbers(lists.sets(1).train)[24:] == numbers(val)


REFUSED = [
    ([50, 0, 50], [10], "no training image in a list for these classes: 1 (1)"),
    ([50, 50, 50], [10, 0, False, 0.001], "--imb_factor 0.001 leaves class 2 without images"),
    ([4, 3, 3], [1, -1], "no class has an image to hold out: add images, lower --num_meta"),
]


@pytest.mark.parametrize(("counts", "more", "words"), REFUSED)
def test_classes_that_are_too_small_are_named(counts, more, words):
    train = of_counts(counts)
    assert words in wrong(Lists(train, train, train, "take out", []).sets, *more)
