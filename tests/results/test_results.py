"""What results/ says of the study, against the figures of its runs."""

import csv
import re
import statistics

import pytest
from support.places import ROOT

COLUMNS = {"overall": "acc1", "many": "many", "medium": "medium", "few": "few", "macro-F1": "macro_f1", "ECE": "ece"}


def runs_of_the_study():
    with open(ROOT / "results" / "ablation_short.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["which"] == "last"]


def tables_of(file):
    """Return (heading, rows) of the tables whose first heading begins with `<set>-LT, stage 2`."""
    found, rows = [], None
    for line in [*(ROOT / file).read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if rows is None:
                found.append((cells, rows := []))
            elif not set(line) <= set("|- "):
                rows.append(cells)
        else:
            rows = None
    return [(heading, rows) for heading, rows in found if "-LT, stage 2" in heading[0]]


def described(heading, name):
    """Return the columns of the CSV, as text, that a row stands for."""
    dataset = "folder " + heading.split("-LT")[0].replace("-", "").lower()
    from_epoch = re.search(r"from epoch (\d+)", heading)
    stage2 = re.search(r"none|reweight|isda|metasaug", name).group()
    wanted = {"dataset": dataset, "meta_start": from_epoch[1] if from_epoch else "24", "stage2": stage2}
    if stage2 != "none":
        wanted["loss"] = re.match(r"CE|LDAM", name).group()
    if stage2 in ("isda", "metasaug"):
        lam = re.search(r"λ ([\d.]+)", name)
        wanted["lam"] = str(float(lam[1])) if lam else "0.75"
    if stage2 == "metasaug":
        rate = re.search(r"meta_lr ([\d,.]+)", name)
        wanted["meta_lr"] = str(float(rate[1].replace(",", ""))) if rate else "0.1"
    return wanted


def spread(values):
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def wrong_cells(heading, rows, runs):
    """Return the cells that are not mean ± standard deviation of the runs that the row names."""
    wrong = []
    for name, *cells in rows:
        wanted = described(heading[0], name)
        own = [run for run in runs if wanted.items() <= run.items()]
        if heading[0].endswith("one seed"):
            own = [run for run in own if run["seed"] == "1"]
        else:
            assert sorted(run["seed"] for run in own) == ["1", "2", "3"], (heading[0], name)
        for column, cell in zip(heading[1:], cells, strict=True):
            if cell != spread([float(run[COLUMNS[column]]) for run in own]):
                wrong.append((name, column, cell))
    return wrong


def test_the_tables_of_the_study_are_the_means_of_its_runs():
    runs, tables = runs_of_the_study(), tables_of("results/ablation_short.md")
    assert [heading[0].split("-LT")[0] for heading, _ in tables] == [*["CIFAR-100", "CIFAR-10"] * 2, *["CIFAR-100"] * 2]
    for heading, rows in tables:
        assert wrong_cells(heading, rows, runs) == []
    shown = [described(heading[0], name) for heading, rows in tables for name, *_ in rows]
    assert [run["run"] for run in runs if not any(wanted.items() <= run.items() for wanted in shown)] == []  # none left out


@pytest.mark.parametrize("number", range(6))
def test_a_wrong_figure_is_seen(number):
    heading, rows = tables_of("results/ablation_short.md")[number]
    changed = [[*row[:-1], str((int(row[-1][0]) + 1) % 10) + row[-1][1:]] for row in rows]
    wrong = wrong_cells(heading, changed, runs_of_the_study())
    assert [cell[:2] for cell in wrong] == [(row[0], heading[-1]) for row in rows]


def test_a_row_without_runs_is_seen():
    heading, rows = tables_of("results/ablation_short.md")[0]
    with pytest.raises(AssertionError):
        wrong_cells(heading, [["LDAM, metasaug, meta_lr 7", *rows[0][1:]]], runs_of_the_study())


def test_the_full_length_runs_on_a_gpu_are_those_of_their_epochs():
    with open(ROOT / "results" / "full_length_gpu.csv", newline="") as file:
        epochs = [row for row in csv.DictReader(file) if row["stage"] == "2"]
    text = (ROOT / "results" / "full_length.md").read_text(encoding="utf-8")
    epoch = r"(\S+) \((\d+)\)"
    rows = re.findall(rf"^\| (\d+), (\w+), (\w+) \| [\d.]* ?\| {epoch} \| {epoch} \| (.+) \| (\S+) \|$", text, re.M)
    assert len(rows) == len({(row["imb_factor"], row["loss"], row["stage2"]) for row in epochs}) == 11
    for ratio, loss, stage2, *told in rows:
        own = [
            row for row in epochs if (row["imb_factor"], row["loss"], row["stage2"]) == (str(1 / int(ratio)), loss, stage2)
        ]
        figures = []
        for row in (max(own, key=lambda row: float(row["test_acc1"])), own[-1]):
            figures += [f"{100 - float(row['test_acc1']):.2f}", row["epoch"]]
        assert told == [*figures, ", ".join(own[-1][group] for group in ("many", "medium", "few")), own[-1]["ece"]]
