"""Charts against slow references: what they hold of any number of groups, seeds, classes and epochs, and their texts."""

import json
import math
import re
import statistics
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.made_runs import made_group, made_run

from reporting import charts
from reporting.chart_parts import bin_edges, binned, class_order
from reporting.reliability import bins_of

NUMBERS = (3, 10, 100, 1000, 8142)  # of classes


def values_of(chart, layer=None):
    """The data of a chart, or of one of its layers."""
    return (chart.spec if layer is None else chart.spec["layer"][layer])["data"]["values"]


def by_group(values, *keys):
    """Tuples of these keys of the data, by group."""
    found = {}
    for value in values:
        found.setdefault(value["group"], []).append(tuple(value.get(key) for key in keys))
    return found


def close(value):
    return pytest.approx(value, rel=1e-4, abs=1e-9)


def slow_bins(values, counts):
    """Places and means of neighbouring classes: each class's place by counting, each bin by looking at every class."""
    size = len(counts)
    place = {k: sum((counts[j], -j) > (counts[k], -k) for j in range(size)) for k in range(size)}
    found = []
    for i in range(40):
        begin, end = round(i * size / 40), round((i + 1) * size / 40)
        inside = [k for k in range(size) if begin <= place[k] < end]
        there = [values[k] for k in inside if not math.isnan(values[k])]
        mean = sum(there) / len(there) if there else math.nan
        found.append((statistics.mean(place[k] + 1 for k in inside), mean))
    return found


def test_accuracy_of_shot_groups_is_mean_and_deviation_over_seeds():
    figures = {"a": [(80.0, 90.0, 70.0, 10.0), (82.0, 91.0, 71.0, 13.0)], "b": [(50.0, 60.0, None, 1.0)]}
    groups = {
        name: [made_run(f"{name}{k}", k, figures=dict(zip(("acc1", "many", "medium", "few"), own, strict=True)))
               for k, own in enumerate(runs)]
        for name, runs in figures.items()
    }  # fmt: skip
    chart = charts.shots(groups)
    found = by_group(values_of(chart), "figure", "mean", "low", "high")
    expected = []
    for place, word in enumerate(("overall", "many-shot", "medium-shot", "few-shot")):
        own = [run[place] for run in figures["a"]]
        mean, deviation = sum(own) / 2, math.sqrt(sum((x - sum(own) / 2) ** 2 for x in own))
        expected.append((word, close(mean), close(mean - deviation), close(mean + deviation)))
    assert found["a"] == expected
    assert found["b"] == [("overall", 50.0, None, None), ("many-shot", 60.0, None, None), ("few-shot", 1.0, None, None)]
    assert chart.spec["encoding"]["y"]["sort"] == ["overall", "many-shot", "medium-shot", "few-shot"]
    assert chart.text == (
        "overall: a 81.00, b 50.00; many-shot: a 90.50, b 60.00; medium-shot: a 70.50; few-shot: a 11.50, b 1.00."
    )


def test_bars_of_a_deviation_end_at_what_an_accuracy_can_be():
    figures = values_of(charts.shots({"a": made_group({1: 0.0, 2: 8.0}, "few") + made_group({3: 1.0}, "few")}))
    (few,) = [value for value in figures if value["figure"] == "few-shot"]
    assert (few["low"], few["high"] < 100) == (0, True)
    assert charts.shots({"a": [made_run(figures={"acc1": None, "per_class": [None] * 3})]}) is None


@given(st.data())
def test_classes_are_in_order_of_their_training_images(data):
    counts = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=20))
    order = class_order(counts)
    assert sorted(order) == list(range(len(counts)))
    assert all((-counts[a], a) < (-counts[b], b) for a, b in pairwise(order))


@pytest.mark.parametrize("size", [201, 239, 1000])
def test_of_many_classes_there_are_means_of_neighbours(size):
    rng = np.random.default_rng(size)
    counts = rng.integers(0, 50, size).tolist()
    values = np.where(rng.random(size) < 0.3, math.nan, rng.random(size) * 100)
    values[class_order(counts)[:3]] = math.nan
    found = binned(values.tolist(), class_order(counts))
    expected = slow_bins(values.tolist(), counts)
    assert len(found) == 40
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    edges = bin_edges(size)
    assert edges[0][1] == 0
    assert all(a[2] == b[1] for a, b in pairwise(edges))
    assert edges[-1][2] == size


def test_up_to_200_classes_each_has_its_own_mark():
    counts = [200 - k // 2 for k in range(200)]
    values = [float(k) for k in range(200)]
    assert binned(values, class_order(counts)) == [(k + 1, float(k)) for k in range(200)]
    assert len(binned([*values, 0.0], class_order([*counts, 1]))) == 40


def classes_of(size, seed=0):
    """Two groups of two runs on so many classes, of which some have no test images, shuffled; their accuracies (2, 2, C)."""
    rng = np.random.default_rng(seed)
    counts = rng.permutation(np.maximum(1, 500 // (1 + np.arange(size)))).tolist()
    accuracy = np.round(rng.random((2, 2, size)) * 100, 1)
    accuracy[..., rng.random(size) < 0.2] = math.nan
    accuracy[..., counts.index(max(counts))] = 50.0
    names = [f"no. {k}" for k in range(size)]
    groups = {
        name: [
            made_run(f"{name}{k}", k, counts, {"acc1": 50.0, "per_class": [None if math.isnan(x) else x for x in run]},
                     class_names=names)
            for k, run in enumerate(own.tolist())
        ]
        for name, own in zip("ab", accuracy, strict=True)
    }  # fmt: skip
    return groups, counts, names, accuracy


def test_each_class_has_its_mean_over_seeds_its_name_and_its_images():
    groups, counts, names, accuracy = classes_of(30)
    chart = charts.by_class(groups, counts, names, list(groups))
    found = by_group(values_of(chart), "class", "images", "place", "mean")
    means = accuracy.sum(axis=1) / 2  # (2, C)
    ranks = sorted(range(30), key=lambda k: (-counts[k], k))
    for name, own in zip("ab", means, strict=True):
        there = [(place, k) for place, k in enumerate(ranks) if not math.isnan(own[k])]
        assert found[name] == [(f"no. {k}", counts[k], place + 1, close(own[k])) for place, k in there]
    few = charts.by_class(*classes_of(12)[:3], ["a"])
    many = charts.by_class(*classes_of(300)[:3], ["a"])
    for one, shown in ((few, {"a", "b"}), (charts.by_class(groups, counts, names, ["a"]), {"a"}), (many, {"a", "b"})):
        assert {*by_group(values_of(one), "mean")} == shown  # of classes between these numbers, the groups compared alone
        assert one.spec["mark"]["type"] == "point"  # classes are joined by no line
    told = re.findall(r"([ab]) (\d+\.\d), (\d+\.\d), (\d+\.\d)", chart.text)
    for (name, *thirds), own in zip(told, means, strict=True):
        parts = [[own[k] for k in ranks[10 * i : 10 * i + 10] if not math.isnan(own[k])] for i in range(3)]
        assert [float(word) for word in thirds] == [pytest.approx(sum(part) / len(part), abs=0.051) for part in parts], name


def test_differences_are_of_the_means_and_their_text_counts_them():
    counts, names = [30, 20, 10, 5, 4], list("vwxyz")
    first, second = [50.0, 40.0, 1 / 3 + 1 / 3, math.nan, 7.0], [40.0, 50.0, 2 / 3 + 1e-14, 3.0, math.nan]
    chart = charts.differences(first, second, counts, names)
    found = [(value["class"], value["place"], value["gap"]) for value in values_of(chart)]
    assert found == [("v", 1, 10.0), ("w", 2, -10.0), ("x", 3, pytest.approx(0, abs=1e-9))]
    assert chart.text == "1 classes are better, 1 worse."  # rounding is no difference
    _, counts, names, accuracy = classes_of(300)
    a, b = accuracy.mean(axis=1).tolist()
    found = [(value["place"], value["gap"]) for value in values_of(charts.differences(a, b, counts, names))]
    expected = slow_bins([x - y for x, y in zip(a, b, strict=True)], counts)
    np.testing.assert_allclose(found, [pair for pair in expected if not math.isnan(pair[1])], rtol=1e-4)


def test_a_reliability_diagram_has_the_bins_of_all_runs_of_a_group():
    rng = np.random.default_rng(0)
    runs = []
    for seed in (1, 2):
        target, predicted = rng.integers(0, 3, (2, 400))
        run = made_run(f"s{seed}", seed, tested=(target, predicted))
        run.tested.confidence[:] = rng.random(400)
        runs.append(run)
    sure = np.concatenate([run.tested.confidence for run in runs]).astype(np.float64)
    right = np.concatenate([run.tested.target == run.tested.predicted for run in runs])
    expected = []
    for k in range(15):
        inside = [i for i in range(800) if k / 15 < sure[i] <= (k + 1) / 15]
        number = len(inside)
        expected.append((close(100 * sum(sure[inside]) / number), close(100 * sum(right[inside]) / number), number))
    chart = charts.reliability({"a": bins_of(runs)}, {"a": runs}, {"a": "1.00 ± 0.50"})
    for layer in (1, 2):
        assert by_group(values_of(chart, layer), "confidence", "right", "images") == {"a": expected}
    assert chart.text == "Expected calibration error in %: a 1.00 ± 0.50."
    assert charts.reliability({}, {"a": runs}, {}) is None


def log(*figures, key="train_loss", first=0):
    return [{"epoch": first + k, key: value} for k, value in enumerate(figures)]


def marks(chart):
    return [layer["mark"]["type"] for layer in chart.spec["layer"]]


def logged(name, seed, lines, **flags):
    return made_run(name, seed, figures={"acc1": 1.0}, log=lines, **flags)


def test_curves_are_means_over_the_seeds_of_an_epoch():
    groups = {
        "a": [logged("a1", 1, log(2.0, 1.0, 0.5)), logged("a2", 2, log(4.0, None, 1.5, 1.0))],
        "b": [logged("b1", 1, log(3.0, 2.0, first=1))],
        "c": [logged("c1", 1, [])],
    }
    chart = charts.curve(groups, "train_loss")
    thin, thick = chart.spec["layer"]
    assert by_group(thick["data"]["values"], "epoch", "value") == {
        "a": [(0, 3.0), (1, 1.0), (2, 1.0), (3, 1.0)], "b": [(1, 3.0), (2, 2.0)]}  # fmt: skip
    assert len(by_group(thin["data"]["values"], "run")["a"]) == 6
    assert thin["encoding"]["detail"] == {"field": "run"}
    assert chart.text == "At the end: a 1.0 in epoch 3, b 2.0 in epoch 2."
    assert charts.curve(groups, "meta_loss") is None


def test_a_run_of_one_epoch_is_a_point_beside_longer_ones_too():
    one, two = [logged("a", 1, log(2.0))], [logged("b", 1, log(2.0, 1.0))]
    for groups, points in (({"a": one}, ["a"]), ({"a": one, "b": two}, ["a"]), ({"b": two}, [])):
        chart = charts.curve(groups, "train_loss")
        found = [value["group"] for layer in chart.spec["layer"] if layer["mark"]["type"] == "point"
                 for value in layer["data"]["values"]]  # fmt: skip
        assert found == points
        axis = chart.spec["layer"][0]["encoding"]["x"]["axis"]
        assert (axis["tickMinStep"], axis["format"]) == (1, "d")  # no half epochs


def test_every_beginning_of_stage_2_is_marked_and_said():
    def begins(*starts, **more):
        runs = {f"{k}": [logged(f"{k}", 1, log(2.0, 1.0), **own)] for k, own in enumerate(starts)}
        (chart,), note = charts.curves_of(runs)
        rules = [layer["data"]["values"] for layer in chart.spec["layer"] if layer["mark"]["type"] == "rule"]
        return [value["epoch"] for values in rules for value in values], note.partition("Thick")[0]

    plain, first = {"stage2": "none", "meta_start": 7}, {"meta_start": 0}
    early, late = {"meta_start": 100}, {"meta_start": 160}
    assert begins(plain, late, late) == ([160], "The upright dashed line is the beginning of stage 2, epoch 160. ")
    several = "The upright dashed lines are where stage 2 of different groups begins: epochs 100 and 160. "
    assert begins(late, early, first) == ([100, 160], several)
    for none in (plain, first):
        assert begins(none) == ([], "")


def test_the_change_of_sigma_leaves_out_classes_that_have_none():
    changes = {"a": [1.0, math.nan, -3.0], "b": [math.nan] * 3, "c": [2.0, 2.0, 5.0]}
    chart = charts.covariance_changes(changes, {name: [] for name in "abc"}, [1, 2, 3], list("xyz"))
    assert by_group(values_of(chart), "place", "change") == {"a": [(1, -3.0), (3, 1.0)], "c": [(1, 5.0), (2, 2.0), (3, 2.0)]}
    assert chart.text == "Median over the classes: a -1 %, c 2 %."
    assert charts.covariance_changes({"b": changes["b"]}, {"b": []}, [1, 2, 3], list("xyz")) is None


def test_a_confusion_matrix_is_of_all_runs_in_per_cent_of_the_true_class():
    runs = [made_run("a", 1, tested=([0, 0, 1, 1], [0, 1, 1, 1])), made_run("b", 2, tested=([0, 0, 1, 1], [0, 0, 2, 1]))]
    chart = charts.confusion_chart(runs, list("xyz"))
    found = [(value["true"], value["taken"], value["share"]) for value in values_of(chart)]
    assert found == [(0, 0, 75.0), (0, 1, 25.0), (1, 1, 75.0), (1, 2, 25.0)]  # the third class has no test images
    assert chart.spec["encoding"]["x"]["scale"]["domain"] == [0, 1, 2]
    assert charts.confusion_chart([made_run(figures={"acc1": 1.0})], list("xyz")) is None
    large = made_run(counts=[5] * 101, tested=([0], [0]))
    assert charts.confusion_chart([large], large.class_names) is None


def axis_words(axis):
    """What an axis of classes shows at its marks."""
    expression, place = re.fullmatch(r"(.*)\[(.*?)\]", axis["labelExpr"]).groups()
    if place == "datum.value" and expression.startswith("{"):
        return [json.loads(expression)[str(place)] for place in axis["values"]]
    text, separator = json.loads(f"[{re.fullmatch(r'split[(](.*)[)]', expression)[1]}]")
    words = text.split(separator)[1:]
    return [words[place - 1] for place in axis["values"]] if place == "datum.value" else words


def test_few_classes_have_their_names_on_the_axis_and_many_their_training_images():
    for size in (12, 20, 21, 1000):
        groups, counts, names, _ = classes_of(size)
        shown = axis_words(charts.by_class(groups, counts, names, list(groups)[:1]).spec["encoding"]["x"]["axis"])
        order = sorted(range(size), key=lambda k: (-counts[k], k))
        if size <= 20:
            assert shown == [names[k] for k in order]
        else:
            assert (shown[0], shown[-1], len(shown)) == (max(counts), min(counts), 7)
    matrix = charts.confusion_chart([made_run(counts=[5] * 12, tested=([3], [4]))], [f"class {k}" for k in range(12)])
    for key in ("x", "y"):  # a number for the place stood there once, which was taken for a name
        axis = matrix.spec["encoding"][key]["axis"]
        assert axis_words(axis) == [f"class {k}" for k in range(12)]
        assert axis["labelOverlap"] is False


def test_nothing_grows_with_the_number_of_classes():
    heights = {}
    for size in NUMBERS:
        groups, counts, names, accuracy = classes_of(size)
        first, second = accuracy.mean(axis=1).tolist()
        made = [charts.shots(groups), charts.by_class(groups, counts, names, list(groups)[:1]),
                charts.differences(first, second, counts, names),
                charts.covariance_changes({"a": first, "b": second}, groups, counts, names)]  # fmt: skip
        for chart in made:
            heights.setdefault(chart.name, set()).add(chart.spec["height"])
            assert len(values_of(chart)) <= 2 * min(size, 200)
            assert size <= 200 or len(json.dumps(chart.spec)) < 8000
    assert {name: len(own) for name, own in heights.items()} == dict.fromkeys(heights, 1)
    assert all(height <= 300 for own in heights.values() for height in own)
