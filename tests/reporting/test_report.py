"""report.py as its users run it: what it prints and writes, names of others letter by letter, flags and mistakes."""

import json
import re
from html import unescape

import pytest
from PIL import Image
from support.finished_runs import write_run
from support.made_runs import write_study
from support.pages import Parsed
from support.runs import files_of

CLASSES = ("$x$", "a|b", "\x1b[31mred\n", "é" * 40, "</script><b>", "<!--<script>", "\u2028", "x\udcff", "'\"\\", "&amp;")
SHOWN = ("$x$", "a|b", r"\x1b[31mred\n", "é" * 40, "</script><b>", "<!--<script>", r"\u2028", r"x\udcff", "'\"\\", "&amp;")
RUNS = ("cost_$5_a_$6", "a|b", "<script>alert(1)<", "x\udcff", "\x1b[31mred\n", "\\x1b[31mred\\n")
NAMES = ("cost_$5_a_$6", "a|b", "<script>alert(1)<", r"x\udcff", r"\x1b[31mred\n", r"\x1b[31mred\n (2)")


def test_names_of_others_are_shown_letter_by_letter_and_no_path_is_followed(run, tmp_path):
    """A stranger's summary may name any file of this machine, and a page is made to be sent on."""
    (tmp_path / "secret.txt").write_text("hunter2")
    lists = {key: str(tmp_path / "secret.txt") for key in ("val_list", "train_list", "features")}
    for k, name in enumerate(RUNS):
        flags = {"lr": (1 + k) / 100, "dataset": "own", "data_root": str(tmp_path), **lists}
        write_run(tmp_path / "runs", name, counts=[*range(100, 0, -10)], class_names=CLASSES, **flags)
    out = run("report.py runs --baseline", NAMES[-1]).stdout
    for name in NAMES:
        assert re.search(rf"\n\| {re.escape(name)} +\| last \(199\) ", out)
    text = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    page = Parsed(text)
    assert {*SHOWN, *NAMES} <= {text for _, text in page.all("th")}
    assert not re.search(r"<script>\s*alert", text)
    assert text.count("</script>") == len(page.all("script")) == len(page.data()) + 2
    assert "\x1b" not in out + text
    assert "hunter2" not in text


def test_figures_are_png_and_svg_in_the_width_of_a_column(run, tmp_path):
    """Of a new interpreter whose terminal shows ASCII alone."""
    write_study(tmp_path / "runs", 3)
    run("report.py runs --out out --figures", fresh=True, PYTHONIOENCODING="ascii")
    for path in (tmp_path / "out" / "figures").glob("*.png"):
        with Image.open(path) as image:
            assert (image.width, image.info["dpi"][0]) == (pytest.approx(3.35 * 300, abs=2), pytest.approx(300, abs=1))
    svg = (tmp_path / "out" / "figures" / "shots.svg").read_text()
    assert svg.startswith("<svg")
    assert "var(" not in svg
    assert "#004593" in svg


def test_what_is_left_out_is_named_and_a_report_is_replaced_only_when_told(run, refused, tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / "runs", name)
    run("report.py runs --out out")
    before = files_of(tmp_path / "out")
    (tmp_path / "runs" / "b_metrics.jsonl").write_text("[1]")
    assert "b_metrics.jsonl" in refused("report.py runs runs/b_summary.json --out out --force")
    said = refused("report.py runs --out out")
    assert said == "report.py: error: out/report.html exists already: give --force to replace it, or another --out"
    assert files_of(tmp_path / "out") == before
    out = run("report.py runs --out out --force").stdout
    (note,) = [line for line in out.splitlines() if line.startswith("note: ")]
    assert note.startswith("note: left out b: runs/b_metrics.jsonl cannot be used")
    page = Parsed((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert [row[0] for row in page.tables()["Runs and files"]] == ["name", "b"]


def test_the_answer_of_a_comparison_is_the_verdict(run, refused, tmp_path):
    """Letter by letter, and no markup; not where other runs are shown too."""
    for k, name in enumerate("abc"):
        write_run(tmp_path / ("more" if name == "c" else "runs"), name, lr=(1 + k) / 10)
    path = tmp_path / "runs" / "answer.json"
    sentences = ['Take <i>b</i> & "c".', "Nothing\x1b[31m is better."]
    path.write_text(json.dumps({"compared": ["a_summary.json", "b_summary.json"], "sentences": sentences}), encoding="utf-8")
    for runs in ("runs more", "runs/a_summary.json"):
        assert "Take" not in run(f"report.py {runs} --out other --force").stdout
    shown = ['Take <i>b</i> & "c".', r"Nothing\x1b[31m is better."]
    assert run("report.py runs --out out").stdout.splitlines()[:2] == [f"- {sentence}" for sentence in shown]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<i>b" not in page
    assert [sentence for sentence in shown if sentence not in unescape(page)] == []
    for damaged in (b'["a"', b'["a"]', b'{"compared": [], "sentences": ["\xff"]}'):
        path.write_bytes(damaged)
        assert "answer.json cannot be used" in refused("report.py runs --out new")


@pytest.mark.parametrize("name", ["runs.csv", "table.tex", "figures/mine.svg"])
def test_files_of_the_user_with_the_names_of_a_report_are_kept(run, refused, tmp_path, name):
    write_run(tmp_path / "runs", "a", log=False)
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    place, before = name.partition("/")[0], files_of(tmp_path / "out")
    said = refused("report.py runs --out out --figures --latex")
    assert f"error: out/{place} exists already: give --force" in said
    assert f"out/{name} cannot be written (" in refused(f"report.py runs --out {path}")
    assert files_of(tmp_path / "out") == before
    if name != "runs.csv":  # the others are written when asked for only
        run("report.py runs --out out")
        assert path.read_text() == "mine"
