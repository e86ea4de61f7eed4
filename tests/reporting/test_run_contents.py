"""What the files of finished runs may hold: figures that a report can show, found before anything is printed or written."""

import json
import os
import warnings

import numpy as np
import pytest
from PIL import Image
from support.finished_runs import write_run
from support.refusals import wrong

from reporting.drawings import picture
from reporting.finished_runs import grouped, read_runs
from reporting.page_contents import make_section
from reporting.run_contents import decoded


def changed(folder, which, key, value):
    """Write a run, then another value of its summary, `which` "log" of its log; None takes the key away."""
    write_run(folder, "a")
    path = folder / ("a_metrics.jsonl" if which == "log" else "a_summary.json")
    content = json.loads(path.read_text().splitlines()[0])
    inner = content if which == "log" else content[which]
    inner[key] = value
    if value is None:
        del inner[key]
    path.write_text(json.dumps(content) + "\n")
    return path


REFUSED = [
    *[(which, key, value) for which in ("best", "last") for key, value in (
        ("per_class", None), ("per_class", [1.0]), ("epoch", 200), ("epoch", -1), ("acc1", -1.0), ("acc1", 101.0))],
    ("last", "trace_learned", [1e308] * 3), ("last", "trace_estimated", [-1e39] * 3),
    ("log", "epoch", 200), ("log", "train_loss", 1e308), ("log", "grad_norm", -1.0), ("log", "test_loss", -0.5),
    ("log", "meta_loss", -1.0), ("log", "test_acc1", 1e6), ("log", "test_few", -1.0), ("log", "test_ece", 101.0),
    ("log", "trace_estimated_few", 1e39), ("log", "anything", 1e200),
]  # fmt: skip


@pytest.mark.parametrize(("which", "key", "value"), REFUSED)
def test_figures_that_no_run_has_are_refused_when_they_are_read(tmp_path, which, key, value):
    path = changed(tmp_path, which, key, value)
    line = wrong(read_runs, [path.with_name("a_summary.json")])
    assert path.name in line
    assert key in line


@pytest.mark.parametrize(
    ("which", "key", "value"),
    [("last", "trace_estimated", [1e-320, 1e-40, 3e38]), ("last", "trace_learned", [-3e38, 0.0, 3e38]), ("last", "epoch", 0),
     ("log", "train_loss", -3e38), ("log", "trace_estimated_few", 3e38), ("log", "epoch", 199)],
)  # fmt: skip
def test_figures_at_the_limits_are_drawn_without_a_warning(tmp_path, which, key, value):
    changed(tmp_path, which, key, value)
    runs = read_runs([tmp_path])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        setting = make_section(0, "a set", grouped(runs), None)
        for chart in filter(None, (setting.covariances, *setting.curves)):
            assert picture(chart, 330).count("<path") > 1
    assert "curve_train_loss" in {chart.name for chart in setting.curves}


@pytest.mark.parametrize("end", ["_metrics.jsonl", "_last_predictions.npz"])
def test_a_damaged_file_of_a_run_that_was_named_is_found_before_anything_is_printed_or_written(run, tmp_path, end):
    for name in ("a", "b"):
        write_run(tmp_path / "runs", name)
    run("report.py", "runs", "--out", "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    path = tmp_path / "runs" / f"b{end}"
    path.write_bytes(path.read_bytes()[:40])
    write_run(tmp_path / "runs", "c", log=False)  # another figure
    result = run("report.py", "runs", "runs/b_summary.json", "--out", "out", "--force", status=2)
    assert (result.stdout, len(result.stderr.splitlines())) == ("", 1)
    assert path.name in result.stderr
    assert "move it away" in result.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    out = run("report.py", "runs", "--out", "out", "--force").stdout
    said = "is damaged or no JSON file" if end.endswith("jsonl") else "cannot be read"
    assert f"note: left out b: runs/{path.name} {said} (" in out
    assert {line.split("|")[1].strip() for line in out.splitlines() if "last (199)" in line} == {"a", "c"}


def test_a_run_of_very_many_classes_has_no_confusion_matrix_and_the_report_says_so(run, tmp_path):
    for name, classes in (("large", 1001), ("small", 1000), ("tiny", 100)):
        write_run(tmp_path / "runs", name, counts=[5] * classes)
    out = run("report.py", "runs", "--out", "out", "--figures").stdout.splitlines()
    wanted = [f"note: no figure of a confusion matrix: cifar10, imb_factor 0.01, {name} has more than 100 classes"
              for name in ("1001 classes (large)", "1000 classes (small)")]  # fmt: skip
    assert [line for line in out if line.startswith("note: ")] == wanted
    assert [path.name for path in (tmp_path / "out" / "figures").glob("*confusion*.svg")] == ["set2_confusion.svg"]
    large, small, _ = read_runs([tmp_path / "runs"])
    assert (large.confusion(), small.confusion().shape) == (None, (1000, 1000))
    assert np.array_equal(large.tested.target, small.tested.target)


def test_names_that_are_no_text_or_move_the_cursor_are_trained_on_and_reported(run, refused, tmp_path):
    """A class folder whose name is no UTF-8, and an output folder with an escape sequence and a line break in its name."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        for name in ("a", os.fsdecode(b"b\xff")):
            folder = tmp_path / "own" / part / name
            folder.mkdir(parents=True)
            for k in range(count):
                Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    data, odd = ["--dataset", "folder", "--data_root", "own"], "odd\x1b[31m\nx"
    train = ["MetaSAug_CE_train.py", *data, "--num_meta", 2, "--arch", "resnet8", "--epochs", 1, "--workdir", odd]
    checkpoint = tmp_path / odd / "checkpoint" / "ours" / "0" / "name_last.pth.tar"
    said = [
        run(*train).stdout,
        run(*train).stdout,  # the files of the first are set aside
        refused(*train, "--resume", checkpoint),
        run("report.py", odd, "--out", f"{odd}/out").stdout,
        run("MetaSAug_test.py", *data, "--checkpoint_path", checkpoint, "--export", "torchscript").stdout,
    ]
    assert "earlier run name are now in odd\\x1b[31m\\nx/" in said[1]
    assert all("odd\\x1b[31m\\nx/" in text for text in said)
    assert "\x1b" not in "".join(said)
    assert [line.split()[0] for line in said[-1].splitlines()[3:5]] == ["a", "b\\udcff"]
    (made,) = read_runs([tmp_path / odd])
    assert made.class_names == ["a", r"b\udcff"]
    assert "is finished" in run(*train, "--resume", "auto").stdout


def test_bytes_of_names_that_are_no_text_are_read_as_they_are_printed(tmp_path):
    texts = ["\udcff", "a\\udcff", "\\\udcff", "😀\udc80", "\ud83d", "é"]
    assert decoded(json.dumps(texts).encode(), tmp_path) == [r"\udcff", r"a\udcff", r"\\udcff", r"😀\udc80", r"\ud83d", "é"]
    assert "is damaged or no JSON file" in wrong(decoded, b'"\\', tmp_path)
