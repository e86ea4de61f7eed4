"""Choosing, pairing and tables of the study of meta-learning, against slow references."""

import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from harness.errors import UserError
from reporting.comparisons import Difference, paired
from reporting.study_results import CHOICE_COLUMNS, RUN_COLUMNS, merge_results, merged, read_lines, write_lines
from reporting.study_tables import BEGIN, END, choose, table_lines, with_tables

accuracies = st.floats(0, 100).map(lambda value: round(value, 3))
seeds = st.integers(1, 30).map(str)


def line(**columns):
    return {**dict.fromkeys(RUN_COLUMNS, ""), "part": "cifar", "dataset": "cifar10", "imb_factor": "0.01", "loss": "LDAM",
            **columns}  # fmt: skip


def run(row, seed, accuracy, **columns):
    figures = dict.fromkeys(("many", "medium", "few", "macro_f1", "ece"), "50.0")
    return line(row=row, seed=str(seed), acc1=str(accuracy), **{"stage2_lr": "1", **figures, **columns})


def choice(row, chosen="yes", heldout="40.0", **columns):
    whole = line(row=row, seed="1", heldout_acc1=heldout, chosen=chosen, **{"stage2_lr": "1", **columns})
    return {key: whole[key] for key in CHOICE_COLUMNS}


@given(st.lists(accuracies, min_size=1))
def test_the_first_of_the_best_on_held_out_images_is_chosen(values):
    candidates = [line(heldout_acc1=repr(value), lr=str(number)) for number, value in enumerate(values)]
    best = choose(candidates)
    for number, value in enumerate(values):
        assert value < float(best["heldout_acc1"]) or (value == float(best["heldout_acc1"]) and number >= int(best["lr"]))
    assert best in candidates


def test_figures_are_compared_as_numbers():
    assert choose([line(heldout_acc1="9.5"), line(heldout_acc1="10.25")])["heldout_acc1"] == "10.25"


@given(st.dictionaries(seeds, accuracies), st.dictionaries(seeds, accuracies))
def test_differences_are_paired_over_the_seeds_that_both_have(values, reference):
    gaps = [value - reference[seed] for seed, value in values.items() if seed in reference]
    found = paired(values, reference)
    assert found.n == len(gaps)
    if gaps:
        mean = sum(gaps) / len(gaps)
        assert found.mean == pytest.approx(mean)
    if len(gaps) > 1:
        variance = sum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1)
        expected = t.ppf(0.975, len(gaps) - 1) * math.sqrt(variance / len(gaps))
        assert found.half == pytest.approx(expected, rel=1e-9, abs=1e-9)
    else:
        assert math.isnan(found.half)


def test_a_common_swing_of_the_seeds_is_no_part_of_the_interval():
    """Unpaired, the interval would be as wide as the seeds' spread."""
    reference = {"1": 20.0, "2": 30.0, "3": 25.0}
    found = paired({seed: value + 1 for seed, value in reference.items()}, reference)
    assert str(found) == "+1.00 ± 0.00 (3)"
    shuffled = dict(zip(reference, [31.0, 26.0, 21.0], strict=True))
    assert paired(shuffled, reference).half > 10


def test_differences_in_words():
    assert [str(Difference(0, math.nan, math.nan)), str(Difference(1, -0.5, math.nan))] == ["-", "-0.50 (1)"]


def cells_of(lines, heading):
    """The cells of the rows of the tables whose first cell begins with `heading`, by the first."""
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in lines if row.startswith("|")]
    begins = [number for number, row in enumerate(rows) if row[0].startswith(heading)]
    return [
        {row[0]: row[1:] for row in itertools.takewhile(lambda row: row[0] not in ("stage 2", "set") and not
                                                        row[0].startswith("accuracy"), rows[number + 2 :])}
        for number in begins
    ]  # fmt: skip


def a_study():
    runs = [run("plain", seed, 40 + seed, loss="CE", step_seconds="0.1") for seed in (1, 2, 3)]
    for seed in (1, 2, 3):
        runs.append(run("reweight", seed, 50 + seed, step_seconds="0.11"))
        runs.append(run("reweight", seed, 52 + seed**2, stage2_lr="3"))
        runs.append(run("isda", seed, 51 + seed, lam="0.75", share="0.125"))
    runs += [run("relative_head", seed, 56 - seed, stage2_lr="3", step_size="0.2", virtual="head") for seed in (1, 2)]
    runs += [run("relative_all", 1, 57, stage2_lr="3", step_size="0.2", virtual="all", step_seconds="0.35")]
    choices = [choice("reweight", "", "39.0"), choice("reweight", stage2_lr="3"), choice("isda", lam="0.75", share="0.125")]
    choices += [choice("relative_head", stage2_lr="3", step_size="0.2", virtual="head")]
    return runs, choices


def test_tables_show_each_row_at_its_chosen_constants_and_its_n():
    runs, choices = a_study()
    lines = table_lines(runs, choices)
    (table,), (gaps,) = cells_of(lines, "stage 2"), cells_of(lines, "accuracy")
    assert next(word for word in lines if word.startswith("###")) == "### CIFAR-10-LT, ratio 100, LDAM, networks"
    squares = [53, 56, 61]
    mean, spread = statistics.mean(squares), statistics.stdev(squares)
    assert table["re-weighting"][:3] == ["rate ×3", "3", f"{mean:.2f} ± {spread:.2f}"]
    assert table["re-weighting, published rate"][:3] == ["rate ×1", "3", "52.00 ± 1.00"]
    assert table["MetaSAug, relative rule"][:3] == ["rate ×3, η 0.2", "1", "57.00"]
    assert table["MetaSAug, relative rule, virtual step of the head"][1] == "2"
    assert [table[name][-2] for name in ("plain cross-entropy", "MetaSAug, relative rule", "ISDA")] == ["1.00", "3.50", "-"]
    assert table["ISDA"][-1] == "12.5 %"
    assert gaps["re-weighting"] == ["", str(paired(dict(zip("123", squares, strict=True)), {"1": 52, "2": 53, "3": 54}))]
    assert gaps["MetaSAug, relative rule"] == ["+4.00 (1)", "+5.00 (1)"]
    assert gaps["re-weighting, published rate"][1] == "-1.00 ± 0.00 (3)"
    (shares,) = cells_of(lines, "set")
    assert shares == {"cifar10": ["100", "cifar", "isda", "0.75", "12.5 %", "40.00"]}


def test_heads_that_train_on_the_meta_images_are_compared_with_such():
    of = {"part": "features", "loss": "CE"}
    values = {"reweight": 50, "isda": 51, "relative": 53, "joined_reweight": 60, "joined_isda": 62, "joined_relative": 63}
    (gaps,) = cells_of(table_lines([run(row, 1, value, **of) for row, value in values.items()], []), "accuracy")
    assert gaps["MetaSAug, relative rule"] == ["+3.00 (1)", "+2.00 (1)"]
    assert gaps["meta images trained on: MetaSAug, relative rule"] == ["+3.00 (1)", "+1.00 (1)"]


def test_partial_studies_have_tables_too():
    assert table_lines([], []) == []
    runs, choices = a_study()
    for number in range(1, len(runs)):
        assert table_lines(runs[:number], choices[: number % 4])


def test_tables_stand_between_their_markers():
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = with_tables(text, ["| a |", ""], "x.md")
    assert once == f"before\n{BEGIN}\n\n| a |\n\n{END}\nafter\n"
    assert with_tables(once, ["| a |", ""], "x.md") == once
    for wrong in ("", BEGIN, END + BEGIN):
        with pytest.raises(UserError, match=r"x\.md has no lines"):
            with_tables(wrong, [], "x.md")


def test_cells_of_other_workplaces_stay(tmp_path):
    """Two processes with sets of their own, and two parts, write the same CSVs."""
    first, second = run("isda", 1, 50), run("isda", 1, 60, dataset="cifar100")
    merge_results(tmp_path, [first], [])
    merge_results(tmp_path, [second], [choice("isda", dataset="cifar100")])
    assert read_lines(tmp_path / "meta_study.csv", RUN_COLUMNS) == [first, second]
    newer = run("isda", 1, 51)
    merge_results(tmp_path, [newer], [])
    assert read_lines(tmp_path / "meta_study.csv", RUN_COLUMNS) == [newer, second]
    assert read_lines(tmp_path / "meta_study_choices.csv", CHOICE_COLUMNS) == [choice("isda", dataset="cifar100")]
    assert merged([first, second], []) == [first, second]
    assert {path.name for path in tmp_path.iterdir()} == {"meta_study.csv", "meta_study_choices.csv"}  # no lock is left


def test_a_csv_of_other_columns_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    assert read_lines(path, RUN_COLUMNS) == []
    write_lines(path, CHOICE_COLUMNS, [])
    with pytest.raises(UserError, match=r"x\.csv cannot be used: its first line must be"):
        read_lines(path, RUN_COLUMNS)
    for row in ("1,2", ",".join("1" * (len(RUN_COLUMNS) + 1))):
        path.write_text(",".join(RUN_COLUMNS) + f"\n{row}\n")
        with pytest.raises(UserError, match="a line has not"):
            read_lines(path, RUN_COLUMNS)
