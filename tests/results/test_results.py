"""What results/ says of the study, against the figures of its runs."""

import csv
import re

from support.places import ROOT

from reporting.comparisons import spread

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


def test_the_tables_of_the_study_are_the_means_of_its_runs():
    runs, tables, shown = runs_of_the_study(), tables_of("results/ablation_short.md"), []
    assert [heading[0].split("-LT")[0] for heading, _ in tables] == [*["CIFAR-100", "CIFAR-10"] * 2, *["CIFAR-100"] * 2]
    for heading, rows in tables:
        for name, *cells in rows:
            shown.append(described(heading[0], name))
            own = [run for run in runs if shown[-1].items() <= run.items()]
            if heading[0].endswith("one seed"):
                own = [run for run in own if run["seed"] == "1"]
            else:
                assert sorted(run["seed"] for run in own) == ["1", "2", "3"], (heading[0], name)
            assert cells == [spread([float(run[COLUMNS[column]]) for run in own]) for column in heading[1:]], name
    assert [run["run"] for run in runs if not any(wanted.items() <= run.items() for wanted in shown)] == []  # none left out


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
