"""The tables of results/meta_study.md are those of its CSVs."""

from itertools import chain

from support.places import ROOT

from reporting.study_results import CHOICE_COLUMNS, CHOICES_FILE, CHOSEN, RUN_COLUMNS, RUNS_FILE, cell_of, read_lines
from reporting.study_tables import table_lines, with_tables

RESULTS = ROOT / "results"


def lines():
    return read_lines(RESULTS / RUNS_FILE, RUN_COLUMNS), read_lines(RESULTS / CHOICES_FILE, CHOICE_COLUMNS)


def test_the_tables_are_made_of_the_csvs():
    text = (RESULTS / "meta_study.md").read_text(encoding="utf-8")
    assert with_tables(text, table_lines(*lines()), "meta_study.md") == text


def test_another_figure_makes_other_tables():
    """No run is left out of the tables, which are those of each cell by itself, one after the other."""
    runs, choices = lines()
    cells = [[run for run in runs if cell_of(run) == cell] for cell in dict.fromkeys(map(cell_of, runs))]
    tables, shares = [table_lines(own, choices) for own in cells], table_lines([], choices)
    assert [*chain(*(own[: -len(shares)] for own in tables)), *shares] == table_lines(runs, choices)
    for own, table in zip(cells, tables, strict=True):
        for number, run in enumerate(own):
            changed = [*own[:number], {**run, "acc1": repr(float(run["acc1"]) / 2 + 1)}, *own[number + 1 :]]
            assert table_lines(changed, choices) != table, run


def test_each_choice_is_the_best_of_its_candidates_on_held_out_images():
    _, choices = lines()
    of = {}
    for line in choices:
        of.setdefault((line["part"], line["dataset"], line["imb_factor"], line["row"]), []).append(line)
    for candidates in of.values():
        (chosen,) = (line for line in candidates if line["chosen"] == CHOSEN)
        assert float(chosen["heldout_acc1"]) == max(float(line["heldout_acc1"]) for line in candidates)
