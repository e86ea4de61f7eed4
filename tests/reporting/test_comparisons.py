"""Differences of groups with their intervals over images, against resamples drawn one by one; of seeds: test_verdict.py."""

import math
import random
import statistics

import numpy as np
import pytest
from scipy import stats
from support.made_runs import guesses, made_group, made_run

from harness.metrics import PER_CLASS_MEAN, SHOTS, shot_of
from reporting.comparisons import FEWEST_IMAGES, Gap, gap

COUNTS = (500, 300, 60, 30, 10, 5)  # two classes of each shot group


def test_differences_of_rounding_and_seeds_without_a_figure_count_for_nothing():
    first, second = {1: 100 * 7 / 9, 2: 100 * 2 / 9}, {1: 100 * 6 / 9, 2: 100 * 1 / 9}
    assert len({first[seed] - second[seed] for seed in first}) == 2  # of the same numbers of images
    found = gap(made_group(first), made_group(second), "acc1")
    assert (found.same_at_every_seed, found.significant()) == (True, False)
    unknown = [made_run("x", None, figures={"acc1": 90.0})]
    assert gap(made_group(first) + unknown, made_group(second) + unknown, "acc1") == found
    assert gap(made_group({1: None, 2: 3.0}, "few"), made_group({1: 1.0, 2: 2.0}, "few"), "few") is None


def test_seeds_that_make_no_difference_leave_the_word_to_the_images():
    target = np.repeat(np.arange(6), 50)
    some = np.where(np.arange(300) % 5 == 0, (target + 1) % 6, target)
    first, second = ([made_run(str(s), s, COUNTS, tested=(target, guess)) for s in (1, 2)] for guess in (target, some))
    found = gap(first, second, "acc1")
    assert (found.unit, found.number, found.significant()) == ("test images", 300, True)
    assert gap(first, first, "acc1") == Gap(0.0, 0.0, 2, "seeds")


def two_groups():
    """Two groups of one uneven test set, all runs of one seed, the first some points better."""
    draw = np.random.default_rng(0)
    target = np.sort(draw.integers(0, 6, 240))
    return [
        [made_run(f"{accuracy}{k}", 1, COUNTS, tested=(target, guesses(target, accuracy, draw, 6))) for k in range(2)]
        for accuracy in (0.75, 0.6)
    ]


def slow_bootstrap(first, second, key):
    """The mean, and the deviation over resamples of the images that are drawn one by one, the same for both groups."""
    target = first[0].tested.target.tolist()
    classes = [k for k in range(6) if key in ("acc1", PER_CLASS_MEAN) or shot_of(COUNTS[k]) == key]
    images = {k: target.count(k) for k in classes}
    places = [i for i in range(len(target)) if target[i] in classes]

    def value(runs, drawn):
        right = [target[i] for run in runs for i in drawn if run.tested.predicted[i] == target[i]]
        shares = [1 / len(target) if key == "acc1" else 1 / (images[k] * len(classes)) for k in right]
        return 100 * sum(shares) / len(runs)

    draw, found = random.Random(7), []
    for _ in range(400):
        drawn = draw.choices(places, k=len(places))
        found.append(value(first, drawn) - value(second, drawn))
    return value(first, places) - value(second, places), statistics.stdev(found)


@pytest.mark.parametrize("key", ["acc1", PER_CLASS_MEAN, *SHOTS])
def test_over_images_the_interval_is_that_of_a_bootstrap(key):
    """The deviation of 400 resamples has an error of 3.5 %, and t is nearly normal: 15 % is four times that."""
    first, second = two_groups()
    mean, deviation = slow_bootstrap(first, second, key)
    found = gap(first, second, key)
    assert found.unit == "test images"
    assert found.mean == pytest.approx(mean, abs=1e-9)
    assert found.half() == pytest.approx(1.96 * deviation, rel=0.15)


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
    target = np.repeat(np.arange(6), 40)
    poor, good = (target, np.roll(target, 20)), (target, target)
    one = [made_run("a1", 1, COUNTS, tested=poor), made_run("a2", 2, COUNTS, tested=good)]
    other = [made_run("b1", 1, COUNTS, tested=poor)]
    assert gap(one, other, "acc1").mean == 0
    assert gap(one[1:], other, "acc1") is None
    one[1].summary.flags["seed"] = 1
    assert gap(one, other, "acc1").significant()


@pytest.mark.parametrize(("mean", "error", "number", "alpha"), [(0.6, 0.7, 3, 0.05), (1.0, 1.7, 4, 0.05 / 3)])
def test_as_many_more_seeds_as_are_named_would_decide(mean, error, number, alpha):
    """If the mean and the deviation stay; one seed fewer would not, nor would more images than are asked for."""
    total = number + Gap(mean, error, number, "seeds").more_needed(alpha)

    def low(seeds):
        return mean - stats.t.ppf(1 - alpha / 2, seeds - 1) * error * math.sqrt(number / seeds)

    assert low(total) > 0 >= low(total - 1)
    assert Gap(1.0, 1.0, 100, "test images").more_needed() == pytest.approx(290, abs=4)  # (1.97 · 1)² · 100 in all
    assert Gap(0.001, 4.6, 100, "test images").more_needed() is Gap(0.001, 4.6, 3, "seeds").more_needed() is None
