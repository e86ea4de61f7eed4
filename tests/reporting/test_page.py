"""The page of a report without a browser: that it asks for nothing, and what it says of its runs."""

import re

import numpy as np
import pytest
from support.made_runs import made_run
from support.pages import Parsed

from reporting import charts
from reporting import page as pages
from reporting.groups import grouped, long_tails
from reporting.page import Page, render
from reporting.sections import sections
from reporting.tables import images_table
from reporting.verdict import compare

CLASSES = "Accuracy of each class, %"


def page_of(runs):
    """The page of runs without its pictures, which take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "picture", lambda *_: "")
        patch.setattr(pages, "runtime", lambda: "")
        sets = [compare(title, groups) for title, groups in long_tails(runs).items()]
        return Parsed(render(Page("Report", "Made today.", [(one, sections(one)) for one in sets], [])))


def values_of(chart, layer=None):
    """The values of a chart, or of one of its layers."""
    part = chart.spec if layer is None else chart.spec["layer"][layer]
    return chart.spec["datasets"][part["data"]["name"]]


def by_seed(name, accuracies, **flags):
    """Runs of one group, whose figures are all the same number at each seed."""
    return [made_run(f"{name}{seed}", seed, figures={"acc1": acc, "many": acc, "medium": acc, "few": acc}, **flags)
            for seed, acc in accuracies.items()]  # fmt: skip


@pytest.mark.parametrize(
    ("high", "beyond"), [({1: 60.0, 2: 61.2, 3: 59.4}, 4), ({1: 40.0, 2: 80.0, 3: 50.0}, 0), ({1: 90.0}, 0)]
)
def test_bold_is_only_what_is_significantly_better_than_all(high, beyond):
    runs = [*by_seed("low", {1: 50.0, 2: 51.0, 3: 49.5}, stage2="none"), *by_seed("high", high, stage2="isda")]
    bold = [text for _, text in page_of(runs).all("b") if re.match(r"\d", text)]
    assert bold == ["60.20 ± 0.92"] * beyond


def many(groups, classes=3):
    """A run of each group, with (k / classes) ** (g + 1) of class k right in group g; many classes have some without any."""
    shares = [[None if k % 10 == 0 and classes > 100 else 100 * (k / classes) ** (g + 1) for k in range(classes)]
              for g in range(groups)]  # fmt: skip
    return [made_run(f"g{g}", 1, [classes - k for k in range(classes)],
                     {"acc1": float(np.mean([x for x in own if x is not None])), "per_class": own}, lr=g + 0.1)
            for g, own in enumerate(shares)]  # fmt: skip


def test_of_many_classes_a_table_has_the_200_that_changed_most():
    runs = many(2, 1000)
    page = page_of(runs)
    rows = page.tables()[CLASSES][1:]
    assert any(text.startswith("The table has 200 of 1,000 classes") for _, text in page.all("p"))
    first, second = (run.summary.last.per_class for run in runs)
    gaps = {k: abs(a - b) for k, (a, b) in enumerate(zip(first, second, strict=True)) if a is not None}
    assert {int(row[0]) for row in rows} == {*sorted(gaps, key=lambda k: -gaps[k])[:200]}
    assert [int(row[1]) for row in rows] == sorted((int(row[1]) for row in rows), reverse=True)


def test_charts_draw_six_groups_and_offer_24():
    page = page_of([*many(30), made_run("plain", 1, (3, 2, 1), {"acc1": 1.0}, stage2="none")])
    boxes = [attrs for attrs, _ in page.all("input", type="checkbox")]
    assert [attrs["value"] for attrs in boxes] == ["g0", "plain", *(f"g{k}" for k in range(1, 23))]
    assert [attrs["value"] for attrs in boxes if "checked" in attrs] == ["g0", "plain", "g1", "g2", "g3", "g4"]
    for spec in page.data()[:2]:
        assert len({value["group"] for value in spec["datasets"]["rows"]}) == 24


@pytest.mark.parametrize(("classes", "points"), [(3, 3), (20, 20), (1000, 20)])
def test_classes_are_points_that_no_line_joins(classes, points):
    runs = many(1, classes)  # in the order of their images
    chart, accuracies = charts.by_class(grouped(runs)), runs[0].per_class
    assert chart.spec["mark"]["type"] == "point"
    for place, part in zip(values_of(chart), np.array_split(np.arange(classes), points), strict=True):
        assert place["value"] == pytest.approx(np.nanmean(accuracies[part]), abs=1e-3)


def test_calibration_is_shown_where_a_bin_has_images_enough():
    run = made_run(tested=([0] * 45, [0] * 30 + [1] * 15))
    run.tested.confidence[:] = [0.9] * 40 + [0.3] * 5
    for runs, images in (([run], 40), ([run, run], 80)):  # of all runs of a group
        (row,) = charts.calibration_table(images_table({"a": runs})).to_dict("records")
        assert (row["images"], row["right"], row["confidence"]) == (images, 75.0, pytest.approx(90, abs=1e-4))
    assert charts.reliability({"a": [made_run(tested=([0] * 10, [0] * 10))]}) == []


def test_curves_are_means_over_runs_and_one_epoch_is_a_point():
    logs = [[{"epoch": e, "train_loss": 2.0 * e * seed} for e in range(2)] for seed in (1, 3)]
    groups = {"a": [made_run(str(s), s, log=log, figures={"acc1": 5.0}) for s, log in enumerate(logs)],
              "b": [made_run("b", 1, log=logs[0][:1], figures={"acc1": 5.0})]}  # fmt: skip
    (chart,) = charts.curves(groups, [1])
    assert [(value["group"], value["epoch"], value["value"]) for value in values_of(chart, 0)] == [
        ("a", 0, 0.0), ("b", 0, 0.0), ("a", 1, 4.0),
    ]  # fmt: skip
    assert "strokeDash" in chart.spec["layer"][0]["encoding"]  # groups are told apart without colours
    assert values_of(chart, 1) == [{"epoch": 1}]


def test_the_confusion_matrix_has_shares_of_the_images_of_a_class():
    target, predicted = np.repeat(np.arange(3), 4), [2, 2, 0, 0, 1, 0, 1, 1, 2, 2, 2, 2]
    cells = values_of(*charts.confusion("a", [made_run(tested=(target, predicted))]))
    shares = {(cell["target"], cell["predicted"]): cell["share"] for cell in cells}
    assert shares == {(0, 0): 50.0, (0, 2): 50.0, (1, 0): 25.0, (1, 1): 75.0, (2, 2): 100.0}
    assert charts.confusion("a", [made_run(counts=[9] * 31, tested=([0], [1]))]) == []
