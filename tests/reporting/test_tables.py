"""The tables beside the page: for other programs, spreadsheets and papers."""

import csv
import re

import numpy as np
import pandas as pd
import pytest
from support.made_runs import made_group, made_run
from support.places import ROOT

from reporting.comparisons import gap, paired, spread
from reporting.tables import (
    PUBLISHED,
    classes_table,
    latex_table,
    markdown,
    means_table,
    published_table,
    runs_table,
    write_csv,
)
from reporting.verdict import compare, points

GROUPS = {"a": made_group({1: 50.0, 2: 52.0}), "b": made_group({1: 60.0, 2: 61.0}), "c": made_group({3: 20.0})}
SETS = [compare("one", GROUPS), compare("other", {"d": made_group({1: 1.0})})]


def test_means_have_differences_from_the_highest_with_their_intervals():
    found = means_table(SETS).set_index(["data set", "group"])
    assert [*found.index] == [("one", "b"), ("one", "a"), ("one", "c"), ("other", "d")]
    assert [*found["n"], *found["seeds"]] == [2, 2, 1, 1, "1 2", "1 2", "3", "1"]
    own = found.loc[("one", "a")]
    turned = gap(GROUPS["a"], GROUPS["b"], "acc1")
    figures = [51.0, np.std([50, 52], ddof=1), turned.mean, *turned.interval()]
    assert own[["acc1_mean", "acc1_std", "difference", "low", "high"]].tolist() == pytest.approx(figures)
    assert own[["ranked_by", "best", "method", "number"]].tolist() == ["acc1", "b", "seeds", 2]
    assert found["difference"].isna().tolist() == [True, False, True, True]
    assert found["acc1_std"].isna().tolist() == [False, False, True, True]


def test_runs_have_every_figure_unrounded_with_their_flags():
    found = runs_table(SETS)
    assert len(found) == 12
    (one,) = found[(found["run"] == "s1") & (found["group"] == "a") & (found["which"] == "last")].to_dict("records")
    wanted = {"data set": "one", "epoch": 199, "stage": 2, "acc1": 50.0, "seed": 1, "stage2": "metasaug", "lam": 0.75}
    assert wanted.items() <= one.items()
    assert runs_table([compare("", {"a": [made_run(figures={"acc1": 5.0}, meta_start=300)]})])["stage"].tolist() == [1, 1]


def test_classes_without_test_images_have_no_accuracy():
    run = made_run(tested=([0, 0, 1], [0, 1, 1]), class_names=["x", "y", "z"])
    found = classes_table([compare("set", {"a": [run]})])
    assert found["training images"].tolist() == [500, 60, 8]
    assert found.fillna(-1)["accuracy"].tolist() == [50.0, 100.0, -1]


def test_no_text_in_a_table_is_a_formula_of_a_spreadsheet(tmp_path):
    texts = ["=1+1", "+1-a", "-2-b", "@sum", "\t=1", "plain", "x\udcff"]
    write_csv(pd.DataFrame({"text": texts, "number": [-0.5] * 7}), tmp_path / "a.csv")
    rows = list(csv.reader((tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()))
    assert rows[1:] == [[text, "-0.5"] for text in (*(f"'{text}" for text in texts[:5]), "plain", r"x\udcff")]


def test_figures_in_words_and_tables_of_a_terminal():
    assert markdown(pd.DataFrame({"a": ["xyz", "y"], "é": ["1", "22"]})) == [
        "| a   | é  |", "| --- | -- |", "| xyz | 1  |", "| y   | 22 |",
    ]  # fmt: skip
    assert [spread(values) for values in ([1.0, 2.0, float("nan")], [1.5], [])] == ["1.50 ± 0.71", "1.50", "-"]
    assert [points(value, "+") for value in (0.0, -1e-14, 1.5, -1.5)] == ["0.00", "0.00", "+1.50", "−1.50"]
    assert str(paired({"1": 2.0, "2": 4.0}, {"1": 1.0, "2": 1.0})) == "+2.00 ± 12.71 (2)"
    assert [str(paired({"1": 2.0}, other)) for other in ({"1": 3.5}, {})] == ["-1.50 (1)", "-"]


CHANGES = {
    "epochs": 199, "arch": "resnet20", "stage2": "isda", "imb_factor": 0.03, "lr": 1.0, "nesterov": False,
    "stage2_lr": 3.0, "meta_update": "relative", "virtual": "head", "meta_images": "train", "select_on": "heldout",
}  # fmt: skip


def test_the_published_table_takes_runs_at_the_published_settings_only():
    runs = [made_run(f"s{seed}", seed, figures={"acc1": acc1}) for seed, acc1 in ((1, 80.0), (2, 82.0), (3, 81.5))]
    (row,) = published_table([compare("the set", {"x": runs})]).to_dict("records")
    assert [*row.values()] == ["LDAM, x", "the set", "19.34", "18.83 ± 1.04", "-0.51"]
    for change in CHANGES.items():
        other = made_run(figures={"acc1": 50.0}, **dict([change]))
        assert published_table([compare("the set", {"x": [other]})]).empty, change


def test_the_published_errors_are_those_of_the_readme():
    readme = (ROOT / "README.md").read_text()
    cells = list(csv.DictReader(PUBLISHED.read_text(encoding="utf-8").splitlines()))
    assert len(cells) == 20
    for loss in ("LDAM", "CE"):
        for dataset, title in (("cifar10", "CIFAR-10-LT"), ("cifar100", "CIFAR-100-LT")):
            own = [cell["error"] for cell in cells if (cell["loss"], cell["dataset"]) == (loss, dataset)]
            assert f"| {loss} | {title} | {' | '.join(own)} |" in readme


def test_the_table_of_a_paper_has_a_row_for_each_method_and_a_column_for_each_ratio():
    sets = []
    for factor, values in ((0.01, (60.0, 61.0, 60.5)), (0.1, (70.0, 71.0, 75.0)), (None, (80.0,))):
        own = {"MetaSAug_$x": made_group(dict(enumerate(values)), "acc1", imb_factor=factor),
               "λ & 50%": made_group({0: 50.0, 1: 50.5, 2: 51.0}, "acc1", imb_factor=factor)}  # fmt: skip
        sets.append(compare(f"at {factor}", own if factor != 0.1 else {"MetaSAug_$x": own["MetaSAug_$x"]}))
    table = latex_table(sets, "accuracy")
    rows = [re.split(r"(?<!\\) & ", line.removesuffix(r" \\")) for line in table.splitlines() if line.endswith(r"\\")]
    assert rows[0][2:] == ["10", "100", "natural"]
    assert rows[2:] == [
        ["CIFAR-10-LT", r"MetaSAug\_\$x", r"$72.0_{\pm 2.6}$", r"$\mathbf{60.5}_{\pm 0.5}$", "$80.0$"],
        ["", r"λ \& 50\%", "--", r"$50.5_{\pm 0.5}$", r"$50.5_{\pm 0.5}$"],
    ]
    assert "over 1 to 3\n% seeds" in table
    assert "$28.0_{" in latex_table(sets, "error")
