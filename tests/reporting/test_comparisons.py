"""Differences of groups with their intervals, against loops over seeds and over resamples that are drawn otherwise."""

import math
import random
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from support.made_runs import guesses, made_group, made_run

from harness.metrics import PER_CLASS_MEAN, SHOTS, shot_of
from reporting.comparisons import (
    FEWEST_IMAGES,
    Gap,
    figure_of_run,
    gap,
    image_weights,
)
from reporting.rankings import better_than_all, means_table, ranked

KEYS = ("acc1", PER_CLASS_MEAN, *SHOTS)
COUNTS = (500, 300, 60, 30, 10, 5)  # two classes of each shot group
accuracies = st.floats(0, 100).map(lambda value: round(value, 2))
by_seed = st.dictionaries(st.integers(0, 20), accuracies, min_size=1)


@given(by_seed, by_seed)
def test_over_common_seeds_the_interval_is_that_of_students_t(first, second):
    differences = [first[seed] - second[seed] for seed in first if seed in second]
    found = gap(made_group(first), made_group(second), "acc1")
    if len(differences) < 2:
        assert found is None
        return
    mean, error = statistics.fmean(differences), stats.sem(differences)
    assert (found.method, found.number) == ("seeds", len(differences))
    assert found.mean == pytest.approx(mean, abs=1e-9)
    if max(differences) - min(differences) < 1e-9:
        assert (found.low, found.high) == (found.mean, found.mean)
        assert not found.beyond_chance
    else:
        low, high = stats.t.interval(0.95, len(differences) - 1, loc=mean, scale=error)
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6, abs=1e-9)
        if min(abs(low), abs(high)) > 1e-6:
            assert found.beyond_chance == (low > 0 or high < 0)


def test_a_difference_that_is_the_same_at_every_seed_is_never_beyond_chance():
    """Also where rounding makes the differences of one number of images look different."""
    first, second = {1: 100 * 7 / 9, 2: 100 * 2 / 9}, {1: 100 * 6 / 9, 2: 100 * 1 / 9}
    assert len({first[seed] - second[seed] for seed in first}) == 2
    found = gap(made_group(first), made_group(second), "acc1")
    assert found.low == found.mean == found.high
    assert (found.same_at_every_seed, found.beyond_chance) == (True, False)
    other = gap(made_group({1: 60.0, 2: 60.1}), made_group({1: 50.0, 2: 50.0}), "acc1")
    assert (other.same_at_every_seed, other.beyond_chance) == (False, True)


def test_seeds_that_make_no_difference_leave_the_word_to_the_images():
    target = np.repeat(np.arange(6), 50)
    right, some = target.copy(), np.where(np.arange(300) % 5 == 0, (target + 1) % 6, target)
    first, second = ([made_run(str(s), s, COUNTS, tested=(target, guess)) for s in (1, 2)] for guess in (right, some))
    found = gap(first, second, "acc1")
    assert (found.method, found.number, found.beyond_chance) == ("images", 300, True)
    assert gap(first, first, "acc1") == Gap(0.0, 0.0, 0.0, "seeds", 2)


def test_seeds_that_are_not_known_or_have_no_figure_are_in_no_pair():
    first = [*made_group({1: 50.0, 2: 51.0}), made_run("x", None, figures={"acc1": 90.0})]
    second = [*made_group({1: 50.5, 2: 52.0}), made_run("y", None, figures={"acc1": 10.0})]
    assert gap(first, second, "acc1").number == 2
    assert gap(made_group({1: None, 2: 3.0, 3: 4.0}, "few"), made_group({1: 1.0, 2: 2.0, 3: 4.0}, "few"), "few").number == 2
    assert gap(made_group({1: None, 2: 3.0}, "few"), made_group({1: 1.0, 2: 2.0}, "few"), "few") is None


@given(st.data())
def test_weights_of_images_give_a_runs_own_figures(data):
    size = data.draw(st.integers(1, 6))
    counts = data.draw(st.lists(st.sampled_from([5, 19, 20, 100, 101, 400]), min_size=size, max_size=size))
    target = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=40))
    predicted = data.draw(st.lists(st.integers(0, size - 1), min_size=len(target), max_size=len(target)))
    run = made_run(counts=counts, tested=(target, predicted))
    for key in KEYS:
        weights, value = image_weights(run.tested.target, counts, key), figure_of_run(run, key)
        if math.isnan(value):
            assert not weights.any()
        else:
            assert 100 * weights[run.tested.target == run.tested.predicted].sum() == pytest.approx(value, abs=1e-9)
            assert weights.sum() == pytest.approx(1)


def two_groups(seed=0, images=240, runs=2):
    """Two groups of one uneven test set, all runs of one seed, the first some points better."""
    draw = np.random.default_rng(seed)
    target = np.sort(draw.integers(0, 6, images))
    groups = []
    for number, accuracy in enumerate((0.75, 0.6)):
        own = [guesses(target, accuracy, draw, 6) for _ in range(runs)]
        groups.append([made_run(f"{number}{k}", 1, COUNTS, tested=(target, guess)) for k, guess in enumerate(own)])
    return groups


def slow_bootstrap(first, second, key, alike=True):
    """Means and percentiles of resamples drawn one by one; not `alike`, the two groups have resamples of their own."""
    target = first[0].tested.target.tolist()
    classes = [k for k in range(6) if key in ("acc1", PER_CLASS_MEAN) or shot_of(COUNTS[k]) == key]
    images = {k: target.count(k) for k in classes}

    def value(runs, places):
        total = 0.0
        for run in runs:
            for i in places:
                if target[i] in classes and run.tested.predicted[i] == target[i]:
                    total += 1 / len(target) if key == "acc1" else 1 / (images[target[i]] * len(classes))
        return 100 * total / len(runs)

    draw, found = random.Random(7), []
    for _ in range(400):
        places = draw.choices(range(len(target)), k=len(target))
        others = places if alike else draw.choices(range(len(target)), k=len(target))
        found.append(value(first, places) - value(second, others))
    everything = range(len(target))
    return value(first, everything) - value(second, everything), statistics.stdev(found)


@pytest.mark.parametrize("key", ["acc1", PER_CLASS_MEAN, "few"])
def test_over_images_the_interval_is_that_of_a_bootstrap(key):
    """Of 2,000 differences, nearly normal with deviation s, a percentile has the error 0.06 s; s of 400 has 0.035 s.

    So an end of the interval is within 0.3 s of mean ± 1.96 s, at four times both errors and for what is not normal.
    """
    first, second = two_groups()
    mean, deviation = slow_bootstrap(first, second, key)
    found = gap(first, second, key)
    assert found.method == "images"
    assert found.mean == pytest.approx(mean, abs=1e-9)
    assert (found.low, found.high) == pytest.approx((mean - 1.96 * deviation, mean + 1.96 * deviation), abs=0.3 * deviation)


def test_resamples_are_common_to_both_groups():
    """The control: with resamples of their own, two groups that make nearly the same errors would differ by chance."""
    draw = np.random.default_rng(1)
    target = np.sort(draw.integers(0, 6, 240))
    guess = guesses(target, 0.6, draw, 6)
    near = guess.copy()
    near[::40] = target[::40]
    first, second = ([made_run(name, 1, COUNTS, tested=(target, own))] for name, own in (("a", near), ("b", guess)))
    found = gap(first, second, "acc1")
    (_, alike), (_, apart) = (slow_bootstrap(first, second, "acc1", together) for together in (True, False))
    assert found.high - found.low == pytest.approx(2 * 1.96 * alike, rel=0.3)
    assert apart > 2 * alike
    assert gap(first, [made_run("c", 1, COUNTS, tested=(target, near))], "acc1") == Gap(0.0, 0.0, 0.0, "images", 240)


def test_nothing_is_said_without_common_seeds_and_one_test_set():
    first, second = two_groups()
    target, predicted = first[0].tested.target, first[0].tested.predicted
    without = made_group({1: 50.0}, counts=COUNTS)
    other = [made_run("o", 1, COUNTS, tested=(target[::-1], predicted[::-1]))]
    for wrong in (without, [*second, *without], other):
        assert gap(first, wrong, "acc1") is None
        assert gap(wrong, first, "acc1") is None
    for images, said in ((FEWEST_IMAGES - 1, False), (FEWEST_IMAGES, True)):
        small = [[made_run(str(s), 1, COUNTS, tested=([0] * images, [s] * images))] for s in (0, 1)]
        assert (gap(*small, "acc1") is not None) is said
        assert gap(*small, "few") is None  # no image is of such a class


def test_runs_of_seeds_that_one_group_has_count_for_nothing():
    """What the seed 2 changes would be taken for what the method does; the control counts it."""
    draw = np.random.default_rng(3)
    target = np.sort(draw.integers(0, 6, 240))
    poor, good = (guesses(target, share, draw, 6) for share in (0.4, 0.9))
    one = [made_run("a1", 1, COUNTS, tested=(target, poor)), made_run("a2", 2, COUNTS, tested=(target, good))]
    other = [made_run("b1", 1, COUNTS, tested=(target, poor))]
    assert gap(one, other, "acc1") == Gap(0.0, 0.0, 0.0, "images", 240, ("1",))
    assert gap(one[1:], other, "acc1") is None
    one[1].summary["flags"]["seed"] = 1
    assert gap(one, other, "acc1").beyond_chance


def test_better_than_all_others_needs_every_one():
    clear, near, far = {1: 60.0, 2: 61.0, 3: 60.5}, {1: 50.0, 2: 50.5, 3: 51.0}, {1: 40.0, 2: 55.0, 3: 46.0}
    groups = {"near": made_group(near), "clear": made_group(clear)}
    assert better_than_all(groups, "acc1") == "clear"
    assert better_than_all({**groups, "one seed": made_group({1: 5.0})}, "acc1") is None
    assert better_than_all({**groups, "far": made_group(far)}, "acc1") is None
    assert better_than_all({"clear": groups["clear"]}, "acc1") is None
    assert better_than_all(groups, "few") is None
    swapped = {"more": made_group({1: 10.0, 2: 10.1, 3: 90.0}), "few": made_group({1: 20.0, 2: 20.2})}
    assert ranked(swapped, "acc1") == ["more", "few"]
    assert better_than_all(swapped, "acc1") is None  # by the seeds that both have it is the lower one


def test_means_for_other_programs():
    groups = {"a": made_group({1: 50.0, 2: 52.0}), "b": made_group({1: 60.0, 2: 61.0}), "c": made_group({3: 20.0})}
    heading, *rows = means_table({"set, 0.01": groups, "other": {"d": made_group({1: 1.0})}})
    cells = {row[1]: dict(zip(heading, row, strict=True)) for row in rows}
    named = [tuple(row[key] for key in ("data set", "group", "n", "seeds")) for row in cells.values()]
    assert named[:2] == [("set, 0.01", "a", "2", "1 2"), ("set, 0.01", "b", "2", "1 2")]
    assert named[2:] == [("set, 0.01", "c", "1", "3"), ("other", "d", "1", "1")]
    assert (float(cells["a"]["acc1_mean"]), float(cells["a"]["acc1_std"])) == (51.0, statistics.stdev([50, 52]))
    assert (cells["c"]["acc1_std"], cells["a"]["few_mean"]) == ("", "")
    assert {row["best"] for row in cells.values()} == {"b", "d"}
    turned = gap(groups["a"], groups["b"], "acc1")
    assert [float(cells["a"][key]) for key in ("difference", "low", "high")] == pytest.approx(
        [turned.mean, turned.low, turned.high]
    )
    assert (cells["a"]["method"], cells["a"]["number"]) == ("seeds", "2")
    assert {cells[name]["difference"] for name in "bcd"} == {""}
