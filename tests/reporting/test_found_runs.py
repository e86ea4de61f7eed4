"""Which runs a report shows, and what it says of the others: damaged, unfinished, of older versions, of other classes."""

import json
import os
import re

import pytest
from support.finished_runs import write_run
from support.places import ROOT
from support.refusals import wrong
from support.runs import end_epoch, files_of, small_run, take_step

import report
from harness.record import report_command
from reporting.finished_runs import long_tails, read_runs
from reporting.found_runs import find_runs

SUMMARIES = {  # what is no summary of a run, and a word of the reason
    "a list": (b"[]", "is no summary of a run"), "cut": (b"{", "is damaged or no JSON file ("),
    "empty": (b"", "is damaged or"),
    "of another program": (b'{"a": 1}', "is no summary of a run"), "half": (b'{"best": {}}', "cannot be used"),
}  # fmt: skip


def spoil(folder, name, end, content):
    write_run(folder, name)
    path = folder / f"{name}{end}"
    path.write_bytes(path.read_bytes()[:40] if content is None else content)
    return path


@pytest.fixture
def under_way(tmp_path):
    """The folder of a run of five epochs that was killed after two of them and a step."""
    with small_run(tmp_path / "runs", "--seed", 3, cut=True) as run:
        for _ in zip(run.epochs, range(2), strict=False):
            take_step(run)
            end_epoch(run)
        take_step(run)
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("end", "content", "word"),
    [*[("_summary.json", content, word) for content, word in SUMMARIES.values()],
     ("_metrics.jsonl", None, "move it away"), ("_metrics.jsonl", b"[1]\n", "line 1"),
     ("_last_predictions.npz", None, "move it away"), ("_last_predictions.npz", b"", "move it away")],
)  # fmt: skip
def test_a_damaged_run_of_a_folder_is_left_out_whole_and_named_by_itself_it_is_an_error(tmp_path, end, content, word):
    write_run(tmp_path / "runs" / "deep", "good")
    path = spoil(tmp_path / "runs", "bad", end, content)
    found = find_runs([tmp_path / "runs"])
    assert [run.name for run in found.runs] == ["good"]
    (left,) = found.left_out
    assert (left.name, left.path) == ("bad", tmp_path / "runs" / "bad_summary.json")
    assert str(path) in left.reason
    assert word in left.reason
    assert "\n" not in left.reason
    for paths in ([left.path], [tmp_path / "runs", left.path], [left.path, tmp_path / "runs"]):
        assert wrong(find_runs, paths) == left.reason
    assert wrong(read_runs, [tmp_path / "runs"]) == left.reason  # of scripts, which want all


WRONG_FILES = {  # files that were named instead of a summary, and what is said of each
    "a_summary.json": ("{}", "is no summary of a run: name a <save_name>_summary.json, or a folder of runs"),
    "other.json": ('{"a": {"best": 1}}', "is no summary of a run: name a <save_name>_summary.json, or a folder of runs"),
    "b_metrics.jsonl": ('{"epoch": 0}\n', "is no summary of a run: name a <save_name>_summary.json, or a folder of runs"),
    "photo.png": ("PNG", r"is damaged or no JSON file \(.*\): name a <save_name>_summary.json, or a folder of runs"),
    "c_summary.json": ('{"best', r"is damaged or no JSON file \(.*\): move it away, or train anew"),
    "d_started.json": ("{}", ": this run is not finished; its report can be made when it is"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_wrong_file_that_was_named_is_told_from_a_damaged_one(refused, tmp_path, name):
    content, said = WRONG_FILES[name]
    (tmp_path / name).write_text(content)
    assert re.fullmatch(f"report.py: error: {name} ?{said}", refused("report.py", name))
    write_run(tmp_path, "d")
    if name == "d_started.json":  # as a kill between the two files leaves it: the run is finished
        assert "d_started.json is no summary of a run" in wrong(find_runs, [tmp_path / name])


def test_where_nothing_can_be_shown_the_first_reasons_are_told(refused, tmp_path):
    for k in range(5):
        spoil(tmp_path / "runs", f"run{k}", "_summary.json", b"{")
    line = refused("report.py", "runs")
    assert line.startswith("report.py: error: runs: no finished run that can be shown (run0: runs/run0_summary.json is d")
    assert line.endswith("; and 2 more)")
    assert [name for name in ("run0", "run1", "run2", "run3") if name in line] == ["run0", "run1", "run2"]
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "good", "a")
    for paths in (["empty"], ["good", "empty"]):
        assert "empty holds no finished run" in refused("report.py", *paths)
    assert not (tmp_path / "report").exists()


def test_a_report_goes_on_without_the_runs_it_cannot_show_and_names_them(run, under_way, tmp_path):
    write_run(under_way, "good")
    spoil(under_way, "bad", "_last_predictions.npz", b"x")
    out = run("report.py", "runs").stdout.splitlines()
    notes = [line for line in out if line.startswith("note: left out ")]
    assert notes[1].startswith("note: left out bad: runs/bad_last_predictions.npz cannot be read (")
    assert notes[:1] == ["note: left out a: not finished: its training goes on, or was interrupted"]
    assert out[-1].startswith("wrote report/report.html")
    assert {line.split("|")[1].strip() for line in out if "last (" in line} == {"good"}


def test_a_report_is_replaced_only_when_told(run, refused, tmp_path):
    write_run(tmp_path / "runs", "a")
    run("report.py", "runs", "--out", "out")
    before = files_of(tmp_path / "out")
    write_run(tmp_path / "runs", "a", accuracy=50.0)
    said = refused("report.py", "runs", "--out", "out")
    assert said == "report.py: error: out/report.html is there already: give --force to replace it, or another --out"
    assert files_of(tmp_path / "out") == before
    run("report.py", "runs", "--out", "out", "--force")
    assert files_of(tmp_path / "out") != before


def test_a_report_that_is_stopped_while_its_page_is_made_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    write_run(tmp_path / "runs", "a")
    monkeypatch.setattr("reporting.report_files.render", stop)
    options = report.Options(tmp_path / "out", None, True, "accuracy")
    with pytest.raises(KeyboardInterrupt):
        report.make(find_runs([tmp_path / "runs"]), options)
    assert files_of(tmp_path / "out") == {}


@pytest.mark.parametrize("name", ["runs.csv", "means.csv", "classes.csv", "table.tex", "figures/mine.svg"])
def test_files_of_the_user_with_the_names_of_a_report_are_kept(run, refused, tmp_path, name):
    write_run(tmp_path / "runs", "a", log=False)
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    before = files_of(tmp_path / "out")
    place = path.parent if name.startswith("figures") else path
    said = refused("report.py", "runs", "--out", "out", "--figures", "--latex")
    assert f"error: {place.relative_to(tmp_path)} is there already: give --force" in said
    assert files_of(tmp_path / "out") == before
    if name in ("table.tex", "figures/mine.svg"):  # which are written when asked for only
        run("report.py", "runs", "--out", "out")
        assert path.read_text() == "mine"


def test_what_a_run_says_from_its_start_is_what_its_summary_says_and_is_gone_then(under_way):
    started = json.loads((under_way / "a_started.json").read_text())
    with small_run(under_way, "--seed", 3, "--resume", "auto") as run:
        for _ in run.epochs:
            assert (under_way / "a_started.json").exists()
            end_epoch(run)
    summary = json.loads((under_way / "a_summary.json").read_text())
    assert {key: summary[key] for key in started} == {**started, "flags": {**started["flags"], "resume": "auto"}}
    assert not (under_way / "a_started.json").exists()
    found = find_runs([under_way])
    assert ([run.name for run in found.runs], found.left_out) == (["a"], [])
    (under_way / "a_started.json").write_text("{}")  # as a kill between the two files leaves it
    found = find_runs([under_way])
    assert ([run.name for run in found.runs], found.left_out) == (["a"], [])


def test_files_of_an_earlier_run_are_set_aside_with_what_it_said_at_its_start(under_way):
    before = (under_way / "a_started.json").read_bytes()
    with small_run(under_way, "--epochs", 1) as run:
        for _ in run.epochs:
            end_epoch(run)
    assert (under_way / "earlier" / "1" / "a_started.json").read_bytes() == before
    found = find_runs([under_way])
    assert [run.name for run in found.runs] == ["a"]


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path, monkeypatch):
    write_run(tmp_path, "a")
    write_run(tmp_path / "closed", "b")
    real = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = find_runs([tmp_path])
    assert [run.name for run in found.runs] == ["a"]
    (left,) = found.left_out
    assert (left.name, left.reason) == (
        "closed", f"{tmp_path / 'closed'} cannot be read (Permission denied): check its permissions"
    )  # fmt: skip


def test_runs_of_one_name_in_two_folders_have_names_that_differ_whatever_becomes_of_them(tmp_path):
    write_run(tmp_path / "one", "a")
    spoil(tmp_path / "two", "a", "_summary.json", b"{")
    found = find_runs([tmp_path])
    assert ([run.name for run in found.runs], [left.name for left in found.left_out]) == (["one/a"], ["two/a"])
    assert len(find_runs([tmp_path, tmp_path / "one", tmp_path / "one" / "a_summary.json"]).runs) == 1


def test_a_summary_of_an_older_version_is_left_out_and_says_so(tmp_path):
    write_run(tmp_path, "new")
    path = spoil(tmp_path, "old", "_summary.json", None)
    write_run(tmp_path, "old")
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "class_names"}))
    found = find_runs([tmp_path])
    assert [run.name for run in found.runs] == ["new"]
    assert [left.reason for left in found.left_out] == [
        f"{path} is of an older version, which does not name its classes: train anew, or move it away"
    ]


@pytest.mark.parametrize("key", ["versions", "machine"])
@pytest.mark.parametrize("value", ["3.11", [1], {"python": [1]}, 3, True])
def test_versions_and_machine_that_are_none_are_named(tmp_path, key, value):
    write_run(tmp_path, "a")
    path = tmp_path / "a_summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    assert f"a_summary.json cannot be used: its {key}" in wrong(find_runs, [tmp_path])


def test_sets_of_the_same_sizes_and_other_classes_are_not_compared(tmp_path):
    own = {"dataset": "folder", "imb_factor": None, "data_root": "/a/images", "log": False}
    for seed in (1, 2):
        write_run(tmp_path, f"pets_{seed}", seed, class_names=["cat", "dog", "owl"], **own)
        write_run(tmp_path, f"cars_{seed}", seed, class_names=["bus", "car", "van"], lam=seed, **own)
    found = {name: [run.name for run in runs] for name, runs in long_tails(find_runs([tmp_path]).runs).items()}
    assert found == {
        "folder images, 3 classes (cars_1)": ["cars_1", "cars_2"], "folder images, 3 classes (pets_1)": ["pets_1", "pets_2"],
    }  # fmt: skip
    write_run(tmp_path, "cars_3", 1, class_names=["cat", "dog", "owl"], lam=1, **own)  # in all else as cars_1
    runs = find_runs([tmp_path]).runs
    assert runs[0].kind != next(run for run in runs if run.name == "cars_3").kind


def test_own_images_and_features_are_named_by_their_place(tmp_path):
    for name, more in (("a", {"data_root": "/x/birds"}), ("b", {"data_root": "data", "features": "/y/fish.npz"})):
        write_run(tmp_path, name, dataset="own", imb_factor=None, **more)
    assert list(long_tails(find_runs([tmp_path]).runs)) == ["own birds", "own fish.npz"]


def test_the_command_of_a_report_leads_to_the_script_from_where_the_run_was(tmp_path, monkeypatch):
    summary = tmp_path / "my runs" / "a_summary.json"
    there = str(ROOT / "report.py")
    for place, script in ((ROOT, "report.py"), (ROOT / "ImageNet_iNat", "../report.py"), (tmp_path, there)):
        monkeypatch.chdir(place)
        assert report_command(summary) == f"python3 {script} '{summary}'"


def test_a_finished_training_prints_the_command_of_its_report(run, tmp_path):
    flags = ["--dataset", "digits", "--arch", "resnet8", "--epochs", 1, "--no-cuda", "--batch-size", 500]
    out = run("MetaSAug_CE_train.py", *flags, "--save_name", "my run", "--idx", "x").stdout
    command = re.search(r"^to make its report: python3 (\S+) '(.*)'$", out, re.M)
    assert command[1] == str(ROOT / "report.py")
    assert command[2] == "checkpoint/ours/x/my run_summary.json"
    assert "wrote report/report.html" in run("report.py", command[2]).stdout
