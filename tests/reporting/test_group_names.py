"""What a report calls its groups of runs: words of a file, what their save names have in common, or flags."""

import json

import pytest
from support.finished_runs import write_run
from support.refusals import wrong

from reporting.finished_runs import grouped
from reporting.found_runs import find_runs
from reporting.group_names import read_group_names, stem, words_for, write_group_names
from reporting.run_facts import RunFacts

LONG = {"meta_update": "relative", "lr": 0.003, "lam": 8.0}


def groups(folder):
    return {name: [run.name for run in runs] for name, runs in grouped(find_runs([folder]).runs).items()}


def write_two(folder, first="isda", second="relative", **more):
    for seed in (1, 2):
        write_run(folder, f"{first}_seed{seed}", seed, stage2="isda", **more)
        write_run(folder, f"{second}_seed{seed}", seed, **LONG, **more)


def test_groups_are_called_by_what_their_save_names_share_where_flags_would_be_long(tmp_path):
    write_two(tmp_path)
    assert groups(tmp_path) == {"isda": ["isda_seed1", "isda_seed2"], "relative": ["relative_seed1", "relative_seed2"]}
    assert grouped(find_runs([tmp_path]).runs)["relative"][0].flags["lam"] == 8.0


@pytest.mark.parametrize(
    "names",
    [("i1", "isda2", "r1", "r2"),  # runs of a group that share no stem
     ("x1", "x2", "x_seed1", "x_s2"),  # groups that have the same
     tuple(f"{way * 20}{seed}" for way in ("isda", "rel") for seed in (1, 2)),  # longer than the flags
     ("good2", "good1", "r1", "r2")],  # numbers that are not the seeds
)  # fmt: skip
def test_save_names_that_tell_less_than_flags_are_not_taken(tmp_path, names):
    for name, seed, more in zip(names, (1, 2, 1, 2), ({"stage2": "isda"}, {"stage2": "isda"}, LONG, LONG), strict=True):
        write_run(tmp_path, name, seed, **more)
    (relative,) = (name for name, runs in groups(tmp_path).items() if names[2] in runs)
    assert relative == "metasaug lam 8.0 lr 0.003"


def test_flags_that_tell_in_a_word_or_two_stay_the_names(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path, f"a{seed}", seed)
        write_run(tmp_path, f"b{seed}", seed, lam=0.25)
    assert list(groups(tmp_path)) == ["lam 0.75", "lam 0.25"]


@pytest.mark.parametrize(
    ("name", "seed", "expected"),
    [("isda_seed3", 3, "isda"), ("isda_3", 3, "isda"), ("isda3", 3, "isda"), ("isda-s3", 3, "isda"),
     ("seed3_isda", 3, "isda"), ("x1_seed1", 1, "x1"), ("lam0.1", 1, "lam0.1"), ("lam0.1_seed1", 1, "lam0.1"),
     ("a13", 3, "a13"), ("a31", 3, "a31"),
     ("plus1", 1, "plus"), ("isda", 3, "isda"), ("isda_3", None, "isda_3"), ("two/isda_seed3", 3, "two/isda")],
)  # fmt: skip
def test_a_stem_is_the_name_without_the_seed(name, seed, expected):
    assert stem(RunFacts(name, {"flags": {"seed": seed}}, [])) == expected


def test_words_of_the_folder_come_first_and_no_two_groups_have_the_same(tmp_path):
    write_two(tmp_path)
    write_run(tmp_path, "plain_seed1", 1, stage2="none")
    write_group_names(tmp_path, {"isda_seed*": "ISDA | $x$", "*": "the rest"})
    assert groups(tmp_path) == {
        "ISDA | $x$": ["isda_seed1", "isda_seed2"], "the rest": ["plain_seed1"],
        "the rest (relative_seed1)": ["relative_seed1", "relative_seed2"],
    }  # fmt: skip
    write_group_names(tmp_path, {"*": "other"})  # what is there stays
    assert read_group_names(tmp_path)["*"] == "the rest"
    (tmp_path / "group_names.json").write_text(json.dumps({"relative_seed1": "one of two", "isda_*": "ISDA"}))
    assert list(groups(tmp_path)) == ["ISDA", "plain", "relative"]


def test_runs_of_one_seed_have_words_too(tmp_path):
    for name, stage2 in (("a", "isda"), ("b", "none")):
        write_run(tmp_path, name, stage2=stage2)
    (tmp_path / "group_names.json").write_text('{"a": "ISDA"}')
    assert list(groups(tmp_path)) == ["ISDA", "b"]
    assert words_for("x", {}) == ""


@pytest.mark.parametrize("content", ["[]", "{", '{"a": 1}', '{"a": null}'])
def test_words_that_cannot_be_read_are_left_out_and_the_runs_are_shown(run, tmp_path, content):
    write_two(tmp_path / "runs")
    (tmp_path / "runs" / "group_names.json").write_text(content)
    said = wrong(read_group_names, tmp_path / "runs")
    assert "group_names.json" in said
    assert "train anew" not in said
    assert said.endswith(': correct it, it is to be as {"isda_seed*": "ISDA"}')
    found = find_runs([tmp_path / "runs"])
    assert (len(found.runs), [left.name for left in found.left_out]) == (4, ["group_names.json"])
    if content == "[]":
        assert "note: left out group_names.json: runs/group_names.json cannot be used" in run("report.py", "runs").stdout


def test_a_pattern_that_fits_no_run_of_its_folder_is_named(tmp_path):
    write_two(tmp_path / "runs")
    path = tmp_path / "runs" / "group_names.json"
    path.write_text(json.dumps({"isda*": "ISDA", "isda_seed1": "hidden by the first", "x*": "nothing"}))
    for paths in ([tmp_path], [tmp_path / "runs"], [tmp_path / "runs", tmp_path / "runs" / "isda_seed1_summary.json"]):
        (left,) = find_runs(paths).left_out
        assert (left.name, left.path, left.reason) == ("group_names.json", path, 'its pattern "x*" fits no run here')
    assert find_runs([tmp_path / "runs" / "isda_seed1_summary.json"]).left_out == []  # others of the folder may fit
    path.write_text('{"relative*": "relative"}')
    assert find_runs([tmp_path]).left_out == []
