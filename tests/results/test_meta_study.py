"""The tables of results/meta_study.md are those of its CSVs."""

from support.places import ROOT

from reporting.study_results import CHOICE_COLUMNS, CHOICES_FILE, CHOSEN, RUN_COLUMNS, RUNS_FILE, read_lines
from reporting.study_tables import table_lines, with_tables

RESULTS = ROOT / "results"


def lines():
    return read_lines(RESULTS / RUNS_FILE, RUN_COLUMNS), read_lines(RESULTS / CHOICES_FILE, CHOICE_COLUMNS)


def test_the_tables_are_made_of_the_csvs():
    text = (RESULTS / "meta_study.md").read_text(encoding="utf-8")
    assert with_tables(text, table_lines(*lines()), "meta_study.md") == text


def test_another_figure_makes_other_tables():
    runs, choices = lines()
    for number, run in enumerate(runs):
        changed = [*runs[:number], {**run, "acc1": repr(float(run["acc1"]) / 2 + 1)}, *runs[number + 1 :]]
        assert table_lines(changed, choices) != table_lines(runs, choices), run  # no run is left out of the tables


def test_each_choice_is_the_best_of_its_candidates_on_held_out_images():
    _, choices = lines()
    of = {}
    for line in choices:
        of.setdefault((line["part"], line["dataset"], line["imb_factor"], line["row"]), []).append(line)
    for candidates in of.values():
        (chosen,) = (line for line in candidates if line["chosen"] == CHOSEN)
        assert float(chosen["heldout_acc1"]) == max(float(line["heldout_acc1"]) for line in candidates)
