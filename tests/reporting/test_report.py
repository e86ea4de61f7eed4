"""report.py as its users run it: what it prints and writes, names of others letter by letter, flags and mistakes."""

import csv
import json
import os
import re
import statistics
from html import unescape

import numpy as np
import pytest
from PIL import Image
from support.finished_runs import write_run
from support.pages import Parsed
from support.places import ROOT

ACCURACIES = {"metasaug": {1: 80.0, 2: 82.0, 3: 81.5}, "plain": {1: 71.0, 2: 72.0, 3: 73.0}}
CLASSES = ("$x$", "_base", "a|b", "\x1b[31mred\n", "é" * 40, "鳥", "<b>", "</script><b>", "x\udcff", "'\"\\", "&amp;")
SHOWN = ("$x$", "_base", "a|b", r"\x1b[31mred\n", "é" * 40, "鳥", "<b>", "</script><b>", r"x\udcff", "'\"\\", "&amp;")
RUNS = ("cost_$5_a_$6", "_base", "a|b", "犬", "<script>alert(1)<", "x\udcff", "\x1b[31mred\n")


def rows(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def cells(line):
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def write_folder(folder):
    for name, own in ACCURACIES.items():
        for seed, accuracy in own.items():
            flags = {} if name == "metasaug" else {"loss": "CE", "log": seed == 1, "stage2": "none", "lam": 0.25}
            write_run(folder / name, f"{name}_{seed}", seed, accuracy=accuracy, **flags)
    write_run(folder / "metasaug" / "earlier" / "1", "metasaug_1", accuracy=1.0)


@pytest.fixture(scope="module")
def made(run_in, tmp_path_factory):
    """A report of two groups of three seeds, with pictures, of a new interpreter whose terminal shows ASCII alone."""
    place = tmp_path_factory.mktemp("made")
    write_folder(place / "runs")
    words = ["runs", "--out", "out", "--figures", "--latex"]
    return place / "out", run_in("report.py", *words, cwd=place, fresh=True, PYTHONIOENCODING="ascii").stdout


@pytest.fixture(scope="module")
def odd(run_in, tmp_path_factory):
    """The report of runs and classes with odd names."""
    place = tmp_path_factory.mktemp("odd")
    for k, name in enumerate(RUNS):
        write_run(place / "runs", name, counts=[*range(110, 0, -10)], class_names=CLASSES, lr=(1 + k) / 100)
    return place / "out", run_in("report.py", "runs", "--out", "out", cwd=place).stdout


def test_names_of_runs_are_printed_letter_by_letter(odd):
    _, out = odd
    for name in ("cost_$5_a_$6", "_base", "a|b", "犬", "<script>alert(1)<", r"x\udcff", r"\x1b[31mred\n"):
        assert f"\n| {name} " in out
        assert re.search(rf"\n\| {re.escape(name)} +\| last \(199\) ", out)
    assert "\x1b" not in out


def test_names_are_in_the_page_letter_by_letter_and_are_no_markup(odd):
    text = (odd[0] / "report.html").read_text(encoding="utf-8")
    page = Parsed(text)
    assert {*SHOWN, "cost_$5_a_$6", "a|b", "犬", "<script>alert(1)<", r"x\udcff"} <= {text for _, text in page.all("th")}
    assert "alert(1)" in text
    assert not re.search(r"<script>\s*alert", text)
    assert text.count("</script>") == len(page.all("script")) == len(page.data()) + 2
    (classes,) = [one for one in page.data() if "order" in one]
    assert (tuple(classes["names"]), {*classes["means"]} >= {"犬", r"x\udcff", "<script>alert(1)<"}) == (SHOWN, True)
    assert "\x1b" not in text


def test_names_are_in_the_csv_files_letter_by_letter(odd):
    own = rows(odd[0] / "runs.csv")
    lines = (odd[0] / "classes.csv").read_text(encoding="utf-8")
    groups = {row["group"] for row in csv.DictReader(lines.splitlines(keepends=True))}
    assert {"cost_$5_a_$6", "_base", "a|b", "犬", "<script>alert(1)<", r"x\udcff"} <= groups
    classes = [row["class"] for row in csv.DictReader(lines.splitlines(keepends=True))]
    assert classes[: len(CLASSES)] == [r"x\udcff" if name == "x\udcff" else name for name in CLASSES]
    assert {"cost_$5_a_$6", "犬", r"x\udcff"} <= {row["run"] for row in own}


def test_what_a_terminal_cannot_show_is_written_out(made, run):
    _, out = made
    assert "81.17 \\xb1 1.04" in out
    assert out.isascii()
    assert "strength \\u03bb of" in run("MetaSAug_LDAM_train.py", "--help", fresh=True, PYTHONIOENCODING="ascii").stdout


def test_it_prints_the_verdict_the_groups_and_every_run(made, run):
    out = made[1].replace("\\xb1", "±")
    verdict, groups, *_, own = out.strip().split("\n\n")
    assert verdict.startswith(r"- Take \u201cmetasaug\u201d, best overall with 81.17 %.")
    assert all(line.startswith("- ") for line in verdict.splitlines())
    table = {cells(line)[0]: cells(line) for line in groups.splitlines()}
    assert table["metasaug"][1:3] == ["3", f"{statistics.mean([80, 82, 81.5]):.2f} ± {statistics.stdev([80, 82, 81.5]):.2f}"]
    assert table["none"][1:3] == ["3", "72.00 ± 1.00"]  # plain: neither loss nor λ tells it apart
    lines = [cells(line)[:3] for line in own.splitlines() if line.startswith(("| metasaug", "| plain"))]
    assert lines == [[f"{name}_{seed}", epoch, f"{accuracy + (epoch[0] == 'b'):.2f}"] for name, by_seed in ACCURACIES.items()
                     for seed, accuracy in by_seed.items() for epoch in ("last (199)", "best (180)")]  # fmt: skip
    assert out.strip().splitlines()[-1] == (
        "wrote out/report.html; beside it runs.csv, means.csv, classes.csv, table.tex, figures/"
    )


def test_the_report_is_one_page_and_tables_beside_it(made, odd):
    assert {path.name for path in odd[0].iterdir()} == {"report.html", "runs.csv", "means.csv", "classes.csv"}
    more = {path.name for path in made[0].iterdir()} - {path.name for path in odd[0].iterdir()}
    assert more == {"table.tex", "figures"}
    page = (made[0] / "report.html").read_text(encoding="utf-8")
    assert page.count("<path") > 20  # pictures
    assert "vegaEmbed" in page


def test_runs_csv_has_every_figure_unrounded(made):
    found = rows(made[0] / "runs.csv")
    assert len(found) == 12
    last = [row for row in found if row["stage2"] == "metasaug" and row["which"] == "last"]
    own = [(row["run"], row["seed"], float(row["acc1"]), row["few"], row["epoch"], row["lam"]) for row in last]
    assert own == [(f"metasaug_{k}", f"{k}", acc1, "", "199", "0.75") for k, acc1 in ACCURACIES["metasaug"].items()]
    (best,) = [row for row in found if row["run"] == "plain_3" and row["which"] == "best"]
    assert (float(best["acc1"]), best["loss"], best["lam"]) == (74.0, "", "")  # plain knows neither
    assert {(row["data set"], row["group"], row["run"][:5]) for row in found} == {
        ("cifar10, imb_factor 0.01", "metasaug", "metas"), ("cifar10, imb_factor 0.01", "none", "plain")}  # fmt: skip


def test_means_csv_has_means_and_differences_of_their_own_arithmetic(made):
    found = {row["group"]: row for row in rows(made[0] / "means.csv")}
    for group, name in (("metasaug", "metasaug"), ("none", "plain")):
        values = list(ACCURACIES[name].values())
        row = found[group]
        assert (row["n"], row["seeds"], row["best"]) == ("3", "1 2 3", "metasaug")
        assert float(row["acc1_mean"]) == pytest.approx(sum(values) / 3)
        assert float(row["acc1_std"]) == pytest.approx(np.std(values, ddof=1))
    gaps = [b - a for a, b in zip(ACCURACIES["metasaug"].values(), ACCURACIES["plain"].values(), strict=True)]
    half = 4.302652729911275 * np.std(gaps, ddof=1) / np.sqrt(3)  # of Student's t with 2 degrees of freedom
    figures = [float(found["none"][key]) for key in ("difference", "low", "high")]
    assert figures == pytest.approx([np.mean(gaps), np.mean(gaps) - half, np.mean(gaps) + half])
    assert (found["none"]["method"], found["metasaug"]["difference"]) == ("seeds", "")


def test_classes_csv_has_the_mean_of_every_class_and_none_of_those_without_test_images(made):
    found = [(row["group"], row["class"], row["training images"], row["accuracy"]) for row in rows(made[0] / "classes.csv")]
    assert found == [(group, *own) for group in ("metasaug", "none")
                     for own in (("0", "500", "90.0"), ("1", "60", "70.0"), ("2", "8", ""))]  # fmt: skip


def test_figures_are_png_and_svg_in_the_width_of_a_column(made):
    found = sorted(path.name for path in (made[0] / "figures").iterdir())
    names = ["classes", "confusion", "covariances", "curve_test_acc1", "curve_train_loss", "differences", "reliability"]
    names.append("shots")
    assert found == [f"{name}.{end}" for name in names for end in ("png", "svg")]
    for path in (made[0] / "figures").glob("*.png"):
        with Image.open(path) as image:
            assert (image.width, image.info["dpi"][0]) == (pytest.approx(3.35 * 300, abs=2), pytest.approx(300, abs=1))
    assert (made[0] / "figures" / "shots.svg").read_text().startswith("<svg")


def test_the_table_of_a_paper_has_accuracy_or_error(made, run, refused, tmp_path):
    assert r"$\mathbf{81.2}_{\pm 1.0}$" in (made[0] / "table.tex").read_text()
    run("report.py", made[0].parent / "runs", "--latex", "error")
    table = (tmp_path / "report" / "table.tex").read_text()
    assert "18.8" in table
    assert "81.2" not in table
    assert "--latex" in refused("report.py", made[0].parent / "runs", "--out", "x", "--latex", "wrong").splitlines()[-1]


def test_no_text_in_a_table_is_a_formula_of_a_spreadsheet(run, tmp_path):
    names = ["=1+1", "+1-a", "-2-b", "@sum", "\t=1", "plain"]
    write_run(tmp_path / "runs", "=cmd|x", counts=[9] * 6, class_names=names, lr=-0.5)
    run("report.py", "runs")
    classes = [row["class"] for row in rows(tmp_path / "report" / "classes.csv")]
    assert classes == [*(f"'{name}" for name in names[:5]), "plain"]
    found = rows(tmp_path / "report" / "runs.csv")[0]
    assert (found["run"], found["group"], found["lr"]) == ("'=cmd|x", "'=cmd|x", "-0.5")  # a number is none


def test_classes_are_compared_with_those_of_the_named_group(made, run, refused, tmp_path):
    runs = made[0].parent / "runs"
    write_run(tmp_path / "more", "isda", accuracy=60.0, stage2="isda")
    said = refused("report.py", runs, "more", "--baseline", "nobody")
    assert said == "report.py: error: --baseline nobody: there is no such group; there are “metasaug”, “none”, “isda”"
    assert not (tmp_path / "report").exists()
    run("report.py", runs, "more", "--baseline", "isda")
    run("report.py", runs, "more", "--out", "plain")
    highest = run("report.py", runs, "more", "--out", "best", "--baseline", "metasaug").stdout
    note = "note: --baseline metasaug is the highest group of cifar10, imb_factor 0.01, which is compared with none\n"
    assert note in highest
    pages = [(tmp_path / folder / "report.html").read_text(encoding="utf-8") for folder in ("report", "plain")]
    assert ["metasaug against isda" in page for page in pages] == [True, False]
    assert ["metasaug against none" in page for page in pages] == [False, True]


def test_groups_that_are_named_alike_once_written_out_can_be_named_as_the_table_names_them(run, tmp_path):
    for name, accuracy in (("a\n", 60.0), ("a\\n", 50.0), ("b", 40.0)):
        write_run(tmp_path / "runs", name, accuracy=accuracy, log=False, lr=accuracy)
    run("report.py", "runs", "--baseline", r"a\n (2)")
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert r"a\n against a\n (2): " in page


def test_the_classes_most_confused_are_told_beside_those_of_the_reference(run, tmp_path):
    target = np.repeat(np.arange(3), 4)
    for name, wrong in (("a", {0: 2, 1: 2, 5: 0}), ("b", {1: 2, 2: 2, 3: 2})):
        write_run(tmp_path / "runs", name, accuracy=51.0 if name == "a" else 50.0, stage2="isda" if name == "a" else "none")
        predicted = target.copy()
        predicted[[*wrong]] = [*wrong.values()]
        arrays = {"target": target, "predicted": predicted, "confidence": np.ones(12)}
        np.savez(tmp_path / "runs" / f"{name}_last_predictions.npz", **arrays)
    run("report.py", "runs")
    page = Parsed((tmp_path / "report" / "report.html").read_text(encoding="utf-8"))
    assert page.tables()["Classes most confused: test images, mean over runs"] == [
        ["class", "taken for", "a: images", "of", "%", "b: images"],
        ["0", "2", "2.0", "4", "50.0", "3.0"], ["1", "0", "1.0", "4", "25.0", "0.0"],
    ]  # fmt: skip


def test_a_page_has_nothing_of_other_files_than_those_of_runs(run, tmp_path):
    """A stranger's summary may name any file of this machine, and a page is made to be sent on."""
    (tmp_path / "secret.txt").write_text("password hunter2")
    os.mkfifo(tmp_path / "pipe")
    for k, path in enumerate(("secret.txt", "pipe")):
        lists = {key: str(tmp_path / path) for key in ("val_list", "train_list", "features")}
        write_run(tmp_path / "runs", f"r{k}", dataset="own", data_root=str(tmp_path), lr=0.1 + k, **lists)
    run("report.py", "runs")
    assert "hunter2" not in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_who_reads_the_first_line_only_gets_no_traceback(run, tmp_path):
    for k in range(300):  # more than a pipe holds
        write_run(tmp_path / "many", f"run_{'x' * 200}_{k}", seed=k, log=False)
    write_folder(tmp_path / "few")
    report = f'"$PYTHON" {ROOT}/report.py'
    result = run("sh", "-c", f"{report} many --out out 2>err | head -n 1; cat err >&2")
    assert (result.stdout[:3], result.stderr) == ("- “", "")
    few = f"{{ {report} few --out out2; echo status $? >&2; }} | true"
    assert run("sh", "-c", few).stderr == "status 141\n"  # less than fills the buffer


def test_a_damaged_file_of_a_run_is_named(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty holds no finished run" in refused("report.py", "empty")
    for end, content in (("_metrics.jsonl", None), ("_metrics.jsonl", b"[1]\n"), ("_last_predictions.npz", None)):
        write_run(tmp_path / "runs", "a")
        path = tmp_path / "runs" / f"a{end}"
        path.write_bytes(content or path.read_bytes()[:40])
        assert path.name in refused("report.py", "runs")


def test_the_answer_of_a_comparison_is_the_verdict(run, refused, tmp_path):
    """Letter by letter, and no markup; not where other runs are shown too."""
    for k, name in enumerate("abc"):
        write_run(tmp_path / ("more" if name == "c" else "runs"), name, lr=(1 + k) / 10)
    path = tmp_path / "runs" / "answer.json"
    sentences = ['Take <i>b</i> & "c".', "Nothing\x1b[31m is better."]
    kept = {"compared": ["a_summary.json", "b_summary.json"], "sentences": sentences}
    path.write_text(json.dumps(kept), encoding="utf-8")
    for runs in (["runs", "more"], ["runs/a_summary.json"]):
        assert "Take" not in run("report.py", *runs, "--out", "other", "--force").stdout
    shown = ['Take <i>b</i> & "c".', r"Nothing\x1b[31m is better."]
    assert run("report.py", "runs", "--out", "out").stdout.splitlines()[:2] == [f"- {sentence}" for sentence in shown]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<i>b" not in page
    assert [sentence for sentence in shown if sentence not in unescape(page)] == []
    for damaged in (b'["a"', b'["a"]', b'{"compared": [], "sentences": ["\xff"]}'):
        path.write_bytes(damaged)
        assert "answer.json cannot be read" in refused("report.py", "runs", "--out", "new")


def test_several_sets_have_a_part_of_the_page_each(run, tmp_path):
    for name, counts in (("a", (500, 60, 8)), ("b", (500, 60, 8)), ("c", (300, 50, 40, 6))):
        write_run(tmp_path / "runs", name, counts=counts, stage2="isda" if name == "b" else "metasaug")
    out = run("report.py", "runs", "--figures").stdout
    titles = ["cifar10, imb_factor 0.01, 3 classes (a)", "cifar10, imb_factor 0.01, 4 classes (c)"]
    assert [line for line in out.splitlines() if line in titles] == titles
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'<li><a href="#(set\d)">', page) == ["set0", "set1"]
    tables = Parsed(page).tables()
    highest = tables["The highest group of each data set, in per cent"]
    assert [row[:3] for row in highest] == [["data set", "groups", "highest"], [titles[0], "2", "a"], [titles[1], "1", "c"]]
    assert [os.path.exists(tmp_path / "report" / "figures" / f"set{k}_differences.svg") for k in (0, 1)] == [True, False]
    assert {row["data set"] for row in rows(tmp_path / "report" / "means.csv")} == {*titles}
