"""The figures of results/meta_study.md are those of the CSVs beside it."""

import csv
import math
import re
import statistics

import pytest
from support.places import ROOT

from reporting.comparisons import paired, spread

FIGURES = ("acc1", "many", "medium", "few", "macro_f1", "ece")
CONSTANTS = ("row", "lr", "stage2_lr", "lam", "meta_lr", "step_size", "virtual", "balance", "meta_images")
TEXT = (ROOT / "results" / "meta_study.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"^### CIFAR-(\d+)-LT, ratio (\d+), (\w+), (networks|linear)(.*?)(?=^##)", TEXT, re.M | re.S)


def rows_of(name):
    with open(ROOT / "results" / name, newline="") as file:
        return list(csv.DictReader(file))


def tables_of(text):
    """The rows of each table below its heading."""
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]] for table in tables]


def figure(line, key):
    return float(line[key] or "nan")


def groups_of(classes, ratio, loss, part):
    """The runs of a section that differ in their seed only."""
    found = {}
    for line in rows_of("meta_study.csv"):
        cell = {"dataset": f"cifar{classes}", "imb_factor": f"{1 / int(ratio):g}"}
        cell["part"] = "cifar" if part == "networks" else "features"
        if cell.items() <= line.items() and (line["loss"] == loss or line["row"] == "plain"):
            found.setdefault(tuple(line[key] for key in CONSTANTS), []).append(line)
    return list(found.values())


def shown(group, plain):
    """The cells of a group's row, after name and constants."""

    def mean(lines, key):
        return statistics.mean([float(line[key]) for line in lines if line[key]] or [math.nan])

    time, share = mean(group, "step_seconds") / mean(plain, "step_seconds"), 100 * mean(group, "share")
    figures = [spread([figure(line, key) for line in group]) for key in FIGURES]
    return [str(len(group)), *figures, f"{time:.2f}".replace("nan", "-"), f"{share:.1f} %".replace("nan %", "-")]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: "-".join(section[:4]))
def test_the_tables_are_those_of_the_runs(section):
    groups, (results, gaps) = groups_of(*section[:4]), tables_of(section[4])
    plain = next(group for group in groups if group[0]["row"] == "plain")
    cells = [shown(group, plain) for group in groups]
    assert {*map(tuple, cells)} == {tuple(found) for _, _, *found in results}  # none is left out
    own = {name: groups[cells.index(found)] for name, _, *found in results}
    accuracy = {name: {line["seed"]: figure(line, "acc1") for line in group} for name, group in own.items()}
    for name, *found in gaps:
        joined = "meta images trained on: " if section[3] != "networks" and name.startswith("meta images") else ""
        references = [f"{joined}{reference}" for reference in ("re-weighting", "ISDA")]
        wanted = ["" if name == other else str(paired(accuracy[name], accuracy[other])) for other in references]
        assert found == wanted, name


def test_each_choice_is_the_best_of_its_candidates_on_held_out_images():
    tried = {}
    for line in rows_of("meta_study_choices.csv"):
        tried.setdefault(tuple(line[key] for key in ("part", "dataset", "imb_factor", "row")), []).append(line)
    best = [max(candidates, key=lambda line: figure(line, "heldout_acc1")) for candidates in tried.values()]
    assert [line["chosen"] for candidates in tried.values() for line in candidates if line["chosen"]] == ["yes"] * len(best)
    assert all(line["chosen"] for line in best)
    cells = [[line["dataset"], f"{1 / figure(line, 'imb_factor'):g}", line["part"], line["row"], line["lam"],
              f"{100 * figure(line, 'share'):.1f} %", f"{figure(line, 'heldout_acc1'):.2f}"]
             for line in best if line["share"]]  # fmt: skip
    assert tables_of(TEXT[TEXT.index("### The augmentation beside the logits") :])[0] == cells
