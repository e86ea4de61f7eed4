"""Which runs a report shows and what it says of the others; what their files may hold, found before anything is written."""

import json
import os

import numpy as np
import pytest
from support.finished_runs import write_run
from support.image_lists import save_noise
from support.places import ROOT
from support.refusals import wrong
from support.runs import end_epoch, files_of, small_run

from harness.record import report_command
from reporting.finished_runs import find_runs, write_group_names
from reporting.groups import grouped

DAMAGED = [  # the end of a file's name, its content (None: cut), and what is said
    ("_summary.json", b"[]", "Expected `object`, got `array`"), ("_summary.json", b"", "cannot be used"),
    ("_summary.json", b'{"best": {}}', "missing required field"), ("_summary.json", b"[" * 10**5, "recursion"),
    ("_metrics.jsonl", None, "trunc"), ("_last_predictions.npz", None, "cannot be used"),
    ("_mistakes.json", b'[{"target": 0, "predicted": 3, "times": 1, "images": 1, "picture": ""}]', "beyond 3 classes"),
    ("group_names.json", b'{"a": 1}', "Expected `str`, got `int`"),
]  # fmt: skip
REFUSED = [  # where a value stands in a summary or a log, and what no run has there
    ("best/per_class", None), ("last/per_class", [1.0]), ("last/epoch", -1), ("best/acc1", 101.0),
    ("last/acc1", float("nan")), ("last/trace_learned", [1e308] * 3), ("last/trace_learned", [1.0]),
    ("class_names", ["a"]), ("cls_num_list", [0, 1, 1]), ("flags", {"lam": [1]}),
    ("log/train_loss", 1e308), ("log/test_acc1", 1e6), ("log/train_loss", 10**400),
]  # fmt: skip
OTHERS = [  # predictions of three classes, and what is said of them
    ({"target": [0, 9]}, "it holds no labels of 3 classes"), ({"predicted": [0, -1]}, "it holds no labels of 3"),
    ({"target": [0.0, 0.0]}, "no labels"), ({"predicted": [0]}, "must have the same shape"),
    ({"confidence": [1.1, 0]}, "no probabilities"),
]  # fmt: skip


def left_out(folder):
    return [(left.name, left.reason) for left in find_runs([folder]).left_out]


@pytest.mark.parametrize(("end", "content", "word"), DAMAGED)
def test_a_damaged_run_of_a_folder_is_left_out_whole_and_named_by_itself_it_is_an_error(tmp_path, end, content, word):
    write_run(tmp_path / "runs" / "deep", "good")
    write_run(tmp_path / "runs", "bad")
    path = tmp_path / "runs" / (end if end.startswith("group") else f"bad{end}")
    path.write_bytes(path.read_bytes()[:40] if content is None else content)
    found = find_runs([tmp_path / "runs"])
    ((name, summary, reason),) = found.left_out
    assert ([run.name for run in found.runs], name, summary.name) == (["deep/good"], "bad", "bad_summary.json")
    assert reason.startswith(str(path))
    assert word in reason
    assert "\n" not in reason
    assert wrong(find_runs, [tmp_path / "runs", summary]) == reason
    (tmp_path / "runs" / "deep" / "good_summary.json").unlink()
    assert "runs: no finished run that can be shown (bad: " in wrong(find_runs, [tmp_path / "runs"])


@pytest.mark.parametrize(("place", "value"), REFUSED)
def test_figures_that_no_run_has_are_refused_when_they_are_read(tmp_path, place, value):
    write_run(tmp_path, "a")
    outer, _, name = place.rpartition("/")
    path = tmp_path / ("a_metrics.jsonl" if outer == "log" else "a_summary.json")
    content = json.loads(path.read_text().splitlines()[0])
    content.get(outer, content)[name] = value
    path.write_text(json.dumps(content) + "\n")
    line = wrong(find_runs, [tmp_path / "a_summary.json"])
    assert line.startswith(str(path))
    assert name in line or isinstance(value, int)
    assert line.endswith(": move it away, or retrain")


@pytest.mark.parametrize(("arrays", "words"), OTHERS)
def test_predictions_that_are_none_are_refused(tmp_path, arrays, words):
    write_run(tmp_path, "a")
    sound = {"target": [0, 1], "predicted": [0, 1], "confidence": [1.0, 1.0]}
    np.savez(tmp_path / "a_last_predictions.npz", **{**sound, **arrays})
    assert words in wrong(find_runs, [tmp_path / "a_summary.json"])


def test_runs_that_are_not_finished_are_left_out_until_they_are(tmp_path):
    under_way = tmp_path / "runs"
    with small_run(under_way, "--seed", 3, cut=True) as run:
        for _ in zip(run.epochs, range(2), strict=False):
            end_epoch(run)
    assert "not finished" in wrong(find_runs, [under_way])
    write_run(under_way, "good")
    assert left_out(under_way) == [("a", "not finished: still training, or interrupted")]
    with small_run(under_way, "--seed", 3, "--resume", "auto") as run:
        for _ in run.epochs:
            end_epoch(run)
    found = find_runs([under_way])
    assert ([run.name for run in found.runs], found.left_out) == (["a", "good"], [])


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path, nest):
    write_run(tmp_path, "a")
    nest(tmp_path, 200 * "d", 25)
    ((_, reason),) = left_out(tmp_path)
    assert reason.endswith(" cannot be read (File name too long): check its permissions")


def test_a_run_counts_once_and_runs_of_one_name_have_names_that_differ(tmp_path, monkeypatch):
    for folder in ("one", "two", "two/earlier/1"):  # of which the last was set aside
        write_run(tmp_path / folder, "a")
    monkeypatch.chdir(tmp_path)
    found = find_runs([tmp_path, tmp_path / "one", (tmp_path / "one" / "a_summary.json").relative_to(tmp_path)])
    assert [run.name for run in found.runs] == ["one/a", "two/a"]


def test_names_that_are_no_text_or_move_the_cursor_are_trained_on_and_reported(run, tmp_path):
    """A class folder whose name is no UTF-8, and an output folder with an escape sequence and a line break in its name."""
    data, odd = "--dataset folder --data_root own", "odd\x1b[31m\nx"
    for part, count in (("train", 6), ("test", 2)):
        for name in ("a", os.fsdecode(b"b\xff")):
            save_noise(tmp_path / "own" / part / name, [f"{k}.png" for k in range(count)])
    for command in (
        (f"MetaSAug_CE_train.py {data} --num_meta 2 --arch resnet8 --epochs 1 --workdir", odd),
        ("report.py", odd, "--out", f"{odd}/out"),
        ("predict.py own/test/a --out", f"{odd}/t.csv", "--checkpoint_path", f"{odd}/checkpoint/ours/0/name_last.pth.tar"),
    ):
        said = run(*command).stdout
        assert "odd\\x1b[31m\\nx/" in said
        assert "\x1b" not in said
    (made,) = find_runs([tmp_path / odd]).runs
    assert made.summary.class_names == ["a", r"b\udcff"]


def test_words_of_the_folder_name_groups_and_stay_as_the_user_has_them(tmp_path):
    for name, stage2 in (("isda_1", "isda"), ("plain_1", "none"), ("b", "reweight")):
        write_run(tmp_path, name, stage2=stage2)
    write_group_names(tmp_path, {"isda_*": "ISDA\n | $x$", "*_1": "the rest"})
    before = files_of(tmp_path)
    write_group_names(tmp_path, {"*": "other"})
    assert files_of(tmp_path) == before
    assert {*grouped(find_runs([tmp_path]).runs)} == {"ISDA\\n | $x$", "the rest", "b"}


def test_the_command_of_a_report_leads_to_the_script_from_where_the_run_was(tmp_path, monkeypatch):
    summary = tmp_path / "my runs" / "a_summary.json"
    for place, script in ((ROOT, "report.py"), (ROOT / "ImageNet_iNat", "../report.py"), (tmp_path, ROOT / "report.py")):
        monkeypatch.chdir(place)
        assert report_command(summary) == f"python3 {script} '{summary}'"
