"""The tables beside the page: for other programs, spreadsheets and papers."""

import csv

import pandas as pd
from support.made_runs import made_run
from support.places import ROOT

from reporting.comparisons import spread
from reporting.tables import (
    PUBLISHED,
    published_table,
    write_csv,
)
from reporting.verdict import compare, points


def test_no_text_in_a_table_is_a_formula_of_a_spreadsheet(tmp_path):
    texts = ["=1+1", "+1-a", "-2-b", "@sum", "\t=1", "plain", "x\udcff"]
    write_csv(pd.DataFrame({"text": texts, "number": [-0.5] * 7}), tmp_path / "a.csv")
    rows = list(csv.reader((tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()))
    assert rows[1:] == [[text, "-0.5"] for text in (*(f"'{text}" for text in texts[:5]), "plain", r"x\udcff")]


def test_figures_in_words():
    assert [spread(values) for values in ([1.0, 2.0, float("nan")], [1.5], [])] == ["1.50 ± 0.71", "1.50", "-"]
    assert [points(value, "+") for value in (0.0, -1e-14, 1.5, -1.5)] == ["0.00", "0.00", "+1.50", "−1.50"]


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
