"""Reports of finished runs: tables against their own arithmetic, pages, figures, and files that are no runs."""

import csv
import json
import math
import statistics
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from support.finished_runs import write_run
from support.places import ROOT
from support.refusals import wrong

from harness.flags import UNSAID
from report import html_page, html_table, markdown_page
from reporting.drawn_names import replaced_names
from reporting.finished_runs import PUBLISHED, grouped, published_tables, read_runs
from reporting.lam_sweeps import find_sweeps, write_choices
from reporting.plots import draw_all, draw_classes, draw_confusion, draw_covariances, draw_curves, draw_shots, smoothed


@pytest.fixture
def folder(tmp_path):
    for seed, accuracy in ((1, 80.0), (2, 82.0), (3, 81.5)):
        write_run(tmp_path / "runs" / "a", f"metasaug_{seed}", seed, accuracy=accuracy)
        write_run(tmp_path / "runs" / "b", f"plain_{seed}", seed, "CE", 70 + seed, log=seed == 1, stage2="none", lam=0.25)
    write_run(tmp_path / "runs" / "a" / "earlier" / "1", "metasaug_1", accuracy=1.0)
    return tmp_path / "runs"


def test_text_of_others_is_shown_letter_by_letter(run, tmp_path):
    """Formulas, hidden labels, table rules, escape sequences, line breaks, scripts that the font lacks."""
    names = ["$x$", "_base", "a|b", "\x1b[31mred\n", "é" * 40, "鳥", "<b>"]
    for name in ("cost_$5_a_$6", "_base", "a|b"):
        write_run(tmp_path / "runs", name, counts=(500, 400, 300, 200, 60, 50, 8), class_names=names, lr=len(name) / 100)
    out = run("report.py", "runs", "--out", "out").stdout
    assert "| cost_$5_a_$6 | last (199)" in out
    assert "| a|b " in out
    assert "| a\\|b " in (tmp_path / "out" / "report.md").read_text()
    page = (tmp_path / "out" / "report.html").read_text()
    assert {"cost_$5_a_$6", "_base", "a\\|b"} & set(Page(page).cells) == {"cost_$5_a_$6", "_base"}
    made = Figure()
    draw_classes(grouped(read_runs([tmp_path / "runs"])), made)
    shown = [label.get_text() for label in made.axes[1].get_xticklabels()]
    assert shown == [r"\$x\$", " _base", "a|b", r"\x1b[31mred\n", "é" * 23 + "…", "no. 5", "<b>"]
    made.savefig(tmp_path / "x.png")  # nothing of it is read as a formula


def test_names_that_figures_cannot_show_are_numbers_and_the_report_says_which(run, tmp_path):
    names = ["dog", "鳥", "猫"]
    for name in ("a", "犬", "b", "x\udcff"):
        write_run(tmp_path / "runs", name, class_names=names, lr=ord(name[0]) / 1000)
    out = run("report.py", "runs", "--out", "out", PYTHONWARNINGS="error").stdout
    sentence = "Names that the figures cannot show are numbers there: no. 1 is 鳥, no. 2 is 猫, run 4 is 犬."
    assert sentence in out
    assert sentence in (tmp_path / "out" / "report.md").read_text()
    assert sentence in (tmp_path / "out" / "report.html").read_text()
    runs = read_runs([tmp_path / "runs"])
    made = Figure()
    for draw in (draw_shots, draw_classes, draw_curves, draw_covariances):
        made = Figure()
        draw(grouped(runs), made)
        texts = [text.get_text() for text in made.findobj(Text)]
        assert "run 4" in texts or " run 4" in texts, draw
        assert not any(set("犬鳥猫") & set(text) for text in texts)
    plain = runs[:2]
    for one in plain:
        one.summary["class_names"] = None
    assert replaced_names(plain) == []


@pytest.mark.parametrize(
    "name", ["a|b", r"a\|b", "`t`", "*b*", "_u_", "<img src=x>", "[l](u)", "![l](u)", "$x$", "#h", "&amp;", "~~s~~"]
)
def test_markdown_shows_names_letter_by_letter(name):
    page = markdown_page([("", name, [(name, [["run", "acc1"], [name, "80.00 ± 1.00"]])])], [("x.png", name)])
    shown = "".join("\\" + c if c in "\\`*_{}[]<>#|~$&!@^" else c for c in name)
    paragraph, title, _, _, row, _, caption, image = [line for line in page.splitlines()[4:] if line]
    assert (paragraph, title, caption, image) == (shown, f"**{shown}**", shown, f"![{shown}](x.png)")
    assert row.split() == [*["|"], *shown.split(), *["|", "80.00", "±", "1.00", "|"]]


def test_what_a_terminal_cannot_show_is_written_out(run, folder):
    assert "strength \\u03bb of" in run("MetaSAug_LDAM_train.py", "--help", fresh=True, PYTHONIOENCODING="ascii").stdout
    assert "80.00 \\xb1 " not in run("report.py", folder).stdout  # the control
    assert "81.17 \\xb1 " in run("report.py", folder, "--force", fresh=True, PYTHONIOENCODING="ascii").stdout


class Page(HTMLParser):
    """Collects the images and cells of a page, and checks that its tags close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.cells = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        elif tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


def test_a_report_of_a_folder_has_tables_pages_and_figures(run, folder, tmp_path):
    out = run("report.py", folder, "--out", "out").stdout
    tables = out.split("\n\n")
    assert len([line for line in tables[1].splitlines() if line.startswith("| metasaug_")]) == 6
    assert "| 1.00 " not in tables[1]  # what was set aside is no run of today
    figure = f"{statistics.mean([80, 82, 81.5]):.2f} ± {statistics.stdev([80, 82, 81.5]):.2f}"
    (row,) = [line for line in tables[0].splitlines() if line.startswith("| metasaug ")]
    assert f"| {figure} |" in row
    assert row.split("|")[2].strip() == "3"
    assert any(line.startswith("| none ") for line in tables[0].splitlines())  # plain: neither loss nor λ tells it apart
    text, page = ((tmp_path / "out" / f"report.{end}").read_text() for end in ("md", "html"))
    images = Page(page).images
    assert set(images) == {f"{k}.png" for k in ("shots", "accuracy", "curves", "covariances", "confusion_0", "confusion_1")}
    for name in images:
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
        assert (f"]({name})" in text, name in out) == (True, True)
    assert figure in Page(page).cells
    lines = list(csv.DictReader((tmp_path / "out" / "runs.csv").read_text().splitlines()))
    assert len(lines) == 12
    last = [line for line in lines if line["stage2"] == "metasaug" and line["which"] == "last"]
    found = [(line["run"], line["seed"], float(line["acc1"]), line["few"], line["epoch"], line["lam"]) for line in last]
    assert found == [(f"metasaug_{k}", f"{k}", acc1, "", "199", "0.75") for k, acc1 in ((1, 80.0), (2, 82.0), (3, 81.5))]
    (best,) = [line for line in lines if line["run"] == "plain_3" and line["which"] == "best"]
    assert (float(best["acc1"]), best["loss"], best["lam"]) == (74.0, "", "")  # plain knows neither


def members(runs):
    """The names of the runs of each group."""
    return {name: [run.name for run in group] for name, group in grouped(runs).items()}


def held_out(folder, name, accuracy, seed=0, **flags):
    """Write a run of a sweep, whose accuracy on the test set would choose the other way round."""
    write_run(folder, name, seed, accuracy=95 - accuracy, heldout=accuracy, **flags)


def choices(path):
    rows = csv.DictReader(path.read_text().splitlines())
    return [[row[key] for key in ("dataset", "loss", "imb_factor", "lam")] for row in rows]


def test_lam_is_chosen_by_held_out_accuracy_over_seeds_cell_by_cell(run, tmp_path):
    """Where the test set would choose another, and where one seed would."""
    table = {  # data set, λ: held-out accuracy of two seeds
        ("cifar10", 0.25): (50.0, 52.0), ("cifar10", 0.5): (51.9, 51.9), ("cifar10", 1.0): (40.0, 53.0),
        ("cifar100", 0.25): (20.0, 21.0), ("cifar100", 0.5): (20.0, 21.0), ("digits", 0.5): (90.0, 91.0),
    }  # fmt: skip
    for (dataset, lam), accuracies in table.items():
        for seed, accuracy in enumerate(accuracies):
            held_out(tmp_path / "runs", f"{dataset}_{lam}_{seed}", accuracy, seed, dataset=dataset, lam=lam, log=False)
    out = run("report.py", "runs", "--out", "out").stdout
    chosen = [[cell.strip() for cell in line.split("|")[1:4]] for line in out.splitlines() if "| chosen |" in line]
    # cifar100 comes before cifar10, as the files' names go
    assert [row[:2] for row in chosen] == [["0.25", "2"], ["0.5", "2"]]
    assert "51.90 ± 0.00" in chosen[1][2]
    wanted = [["cifar100", "LDAM", "0.01", "0.25"], ["cifar10", "LDAM", "0.01", "0.5"]]
    assert choices(tmp_path / "out" / "chosen_lam.csv") == wanted
    page = (tmp_path / "out" / "report.md").read_text()
    assert "λ chosen without the test set" in page
    assert "Against the publication" not in page  # trained on fewer images than the published ones


def test_lam_is_compared_on_the_seeds_that_all_have(tmp_path):
    path, before = tmp_path / "chosen_lam.csv", tmp_path / "chosen_lam.csv.previous"

    def choose(accuracy, seed):
        held_out(tmp_path / "runs", "high_1", accuracy, seed, lam=0.1234567)
        return write_choices(find_sweeps(read_runs([tmp_path / "runs"])), path)

    for seed, accuracy in ((1, 60.0), (2, 50.0), (3, 40.0)):
        held_out(tmp_path / "runs", f"low_{seed}", accuracy, seed, lam=0.25)
    assert choose(55.0, 1) == []
    assert choices(path) == [["cifar10", "LDAM", "0.01", "0.25"]]
    assert "held-out training images (60.00 %; seeds: 1)" in path.read_text()
    assert choose(65.0, 1) == []
    assert choices(path) == [["cifar10", "LDAM", "0.01", "0.1234567"]]
    assert "these runs choose no λ" in choose(55.0, 4)[0]  # no seed in common
    assert not path.exists()
    assert "0.1234567" in before.read_text()  # the choice of before is not lost
    assert choose(55.0, 4) == []
    assert "0.1234567" in before.read_text()


def test_sweeps_of_two_networks_make_no_choice_for_the_cell(tmp_path):
    for arch in ("resnet20", "resnet32"):
        for lam in (0.25, 0.5):
            held_out(tmp_path / "runs", f"{arch}_{lam}", 50 + lam, arch=arch, lam=lam)
    sweeps = find_sweeps(read_runs([tmp_path / "runs"]))
    assert [sweep.title for sweep in sweeps] == [
        f"LDAM, cifar10, imb_factor 0.01, metasaug, {arch}, 200 epochs" for arch in ("resnet20", "resnet32")
    ]
    (note,) = write_choices(sweeps, tmp_path / "chosen_lam.csv")
    assert note.startswith("note: several sweeps of cifar10 LDAM 0.01: not in ")
    assert not (tmp_path / "chosen_lam.csv").exists()


def test_who_reads_the_first_line_only_gets_no_traceback(run, folder):
    for k in range(300):  # more than a pipe holds
        write_run(folder / "many", f"run_{'x' * 200}_{k}", seed=k, log=False)
    report = f'"$PYTHON" {ROOT}/report.py {folder}'
    result = run("sh", "-c", f"{report} --out out 2>err | head -n 1; cat err >&2")
    assert (result.stdout[:7], result.stderr) == ("| runs ", "")
    few = f"{{ {report}/a --out out; echo status $? >&2; }} | true"
    assert run("sh", "-c", few).stderr == "status 141\n"  # less than fills the buffer


def test_the_published_tables_take_full_length_runs_only(folder):
    tables = published_tables(read_runs([folder]))
    own = tables["LDAM, CIFAR-10-LT"]
    assert [row[0] for row in own] == ["imbalance ratio", "published error", "ours", "difference"]
    mean, std = statistics.mean([20, 18, 18.5]), statistics.stdev([20, 18, 18.5])
    column = [row[own[0].index("100")] for row in own]
    assert column[1:] == ["19.34", f"{mean:.2f} ± {std:.2f}", f"{mean - 19.34:+.2f}"]
    for title, table in tables.items():
        assert len([cell for cell in table[2][1:] if cell]) == (title == "LDAM, CIFAR-10-LT")
    changes = {
        "epochs": 199, "arch": "resnet20", "stage2": "isda", "imb_factor": 0.03, "batch_size": 64, "lr": 1.0,
        "weight_decay": 0.0, "nesterov": False, "num_meta": 5, "meta_lr": 1.0, "stage2_lr": 3.0, "meta_update": "relative",
        "virtual": "head", "meta_images": "train", "balance": "prior",
    }  # fmt: skip
    for change in changes.items():
        write_run(folder / "c", "other", accuracy=50.0, **dict([change]))
        others = published_tables(read_runs([folder / "c"]))
        assert not any("".join(table[2][1:]) for table in others.values()), change


def test_figures_at_several_lam_are_not_averaged(tmp_path):
    for seed, accuracy in ((1, 80.0), (2, 82.0)):
        write_run(tmp_path, f"a{seed}", seed, accuracy=accuracy)
        write_run(tmp_path, f"b{seed}", seed, accuracy=accuracy - 10, lam=0.25)
    table = published_tables(read_runs([tmp_path]))["LDAM, CIFAR-10-LT"]
    column = table[0].index("100")
    assert [row[column] for row in table[2:]] == ["lam 0.75: 19.00 ± 1.41; lam 0.25: 29.00 ± 1.41", "-0.34; +9.66"]


def test_a_seed_counts_once(folder, tmp_path, monkeypatch):
    write_run(folder / "c", "metasaug_again", 1, accuracy=10.0)
    assert sorted(map(len, members(read_runs([folder / "a", folder / "c"])).values())) == [1, 3]
    monkeypatch.chdir(tmp_path)
    assert len(read_runs([folder.relative_to(tmp_path), folder])) == len(read_runs([folder])) > 0


def test_other_images_and_other_classes_are_other_groups(tmp_path):
    """Own image sets whose folders have the same last name: of three classes, of four, and others of the same sizes."""
    own = {"dataset": "folder", "imb_factor": None, "data_root": "/a/images", "log": False}
    write_run(tmp_path, "a1", 1, data="00000001", **own)
    write_run(tmp_path, "a2", 2, data="00000001", **own)
    write_run(tmp_path, "b1", 3, data="00000002", **own)
    write_run(tmp_path, "c1", 4, counts=(300, 50, 40, 6), **own)
    runs = read_runs([tmp_path])
    assert sorted(members(runs).values()) == [["a1", "a2"], ["b1"], ["c1"]]
    drawn = dict(draw_all(runs, tmp_path))
    assert list(drawn) == ["0_shots.png", "0_accuracy.png", "1_shots.png", "1_accuracy.png"]  # for each long tail
    assert all((tmp_path / name).is_file() for name in drawn)
    assert drawn["1_accuracy.png"].startswith("folder images, 4 classes (c1): Accuracy of each class")


def test_a_legend_is_no_wider_than_its_picture(tmp_path):
    for k in range(20):
        write_run(tmp_path, f"MetaSAug_cifar100_LDAM_imb0.005_seed{k}", k, lam=k / 10, log=False)
    made = Figure(figsize=(8, 4), layout="constrained")
    draw_shots(grouped(read_runs([tmp_path])), made)
    made.draw_without_rendering()
    box = made.legends[0].get_window_extent()
    assert 0 <= box.x0 < box.x1 <= made.bbox.width
    assert len({bar.get_facecolor() for bar in made.axes[0].patches}) == 20  # colours


def inside(made, path):
    """The pixels inside each panel of a figure that is not switched off, frames aside."""
    made.savefig(path, dpi=100)
    pixels = np.asarray(Image.open(path).convert("RGB"))
    shown = []
    for axis in made.axes:
        if axis.axison:
            box = axis.get_window_extent()
            top, bottom = (len(pixels) - round(y) for y in (box.y1, box.y0))
            shown.append(pixels[top + 3 : bottom - 3, round(box.x0) + 3 : round(box.x1) - 3])
    return shown


def test_runs_of_one_epoch_leave_no_panel_empty(tmp_path):
    """Also where stage 2 is of one epoch, and where no class has an estimated covariance."""
    write_run(tmp_path / "runs", "one")
    write_run(tmp_path / "runs", "two", stage2="isda")
    lines = [
        {"epoch": 0, "train_loss": 2.0, "test_acc1": 10.0, "test_few": None, "meta_loss": 2.5},
        {"epoch": 1, "meta_loss": 0.5},
    ]
    for name, content in (("one", lines[:1]), ("two", [{**lines[0], "meta_loss": None}, lines[1]])):
        (tmp_path / "runs" / f"{name}_metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in content))
    runs = read_runs([tmp_path / "runs"])
    for own in (runs, runs[:1], runs[1:]):
        made = Figure(figsize=(8, 7), layout="constrained")
        draw_curves(grouped(own), made)
        panels = inside(made, tmp_path / "x.png")
        assert len(panels) == 3
        assert all((pixels < 250).any() for pixels in panels)
        ticks = [tick for axis in made.axes if axis.axison for tick in axis.get_xticks()]
        assert all(float(tick).is_integer() for tick in ticks)
    runs[0].summary["last"]["trace_estimated"] = [0.0] * 3
    made = Figure(figsize=(8, 4), layout="constrained")
    draw_covariances({"one": runs[:1]}, made)
    (panel,) = inside(made, tmp_path / "x.png")
    assert (panel < 250).any()


def test_classes_without_test_images_are_told_from_those_never_recognised(tmp_path):
    write_run(tmp_path, "a", counts=(500, 60, 8, 3))  # the last has none
    runs = read_runs([tmp_path])
    runs[0].summary["last"]["per_class"] = [90.0, 0.0, 10.0, None]
    made = Figure(figsize=(8, 4), layout="constrained")
    draw_classes(grouped(runs), made)
    assert [(text.get_position()[0], text.get_text()) for text in made.axes[0].texts] == [(3, "no test images")]
    made = Figure(figsize=(8, 4), layout="constrained")
    draw_confusion(np.array([[3, 1], [0, 0]]), ["x", "y"], made)
    assert [text.get_text() for text in made.axes[0].texts] == ["75", "25"]


def test_groups_are_named_by_what_tells_them_apart(tmp_path):
    write_run(tmp_path / "old", "old", seed=1)  # from before there were some flags: as with their defaults
    write_run(tmp_path / "old", "new", seed=2, **UNSAID)
    write_run(tmp_path / "old", "held", seed=3, **{**UNSAID, "select_on": "heldout"})
    found = {name: sorted(runs) for name, runs in members(read_runs([tmp_path / "old"])).items()}
    assert found == {"select_on heldout": ["held"], "select_on test": ["new", "old"]}
    for name, flags in {"a": {}, "b": {"lam": 0.5}, "c": {"lam": 0.5, "seed": 2}, "d": {"stage2": "reweight"},
                        "e": {"stage2": "reweight", "lam": 0.1, "seed": 2}}.items():  # fmt: skip
        write_run(tmp_path / "five", name, **{"seed": 1, **flags})
    found = members(read_runs([tmp_path / "five"]))
    assert found == {"metasaug lam 0.75": ["a"], "metasaug lam 0.5": ["b", "c"], "reweight": ["d", "e"]}
    for seed, number in ((1, 0.2), (2, 0.5)):  # of a step size that the rule, or the method, does not have
        write_run(tmp_path / "rules", f"p{seed}", seed, meta_step_size=number)
        write_run(tmp_path / "rules", f"r{seed}", seed, meta_update="relative", meta_lr=number)
        write_run(tmp_path / "rules", f"i{seed}", seed, stage2="isda", meta_update="relative", meta_step_size=number)
    found = {name: sorted(runs) for name, runs in members(read_runs([tmp_path / "rules"])).items()}
    metasaug = {f"metasaug meta_update {name}": [f"{name[0]}1", f"{name[0]}2"] for name in ("published", "relative")}
    assert found == {"isda": ["i1", "i2"], **metasaug}
    for k in (1, 2):
        write_run(tmp_path / f"own{k}", "same", dataset="folder", data_root=f"/somewhere/images{k}")
    found = read_runs([tmp_path / "own1", tmp_path / "own2"])
    assert list(grouped(found)) == [run.name for run in found] == ["own1/same", "own2/same"]
    write_run(tmp_path / "own1", "again", seed=2, dataset="folder", data_root="/somewhere/images1")
    found = read_runs([tmp_path / "own1", tmp_path / "own2"])
    assert list(grouped(found)) == ["folder images1", "folder images2"]
    assert list(grouped(read_runs([tmp_path / "own1"]))) == ["all"]


def test_names_of_runs_cannot_break_a_page_and_a_table_of_many_rows_is_folded():
    table = [["run", "x"], ["<script>alert(1)</script>", "& more"]]
    page = html_page([("a < b", "c & d", [("<b>", table)])], [('"><img src=x>.png', "<i>")])
    assert "<script>" not in page
    assert Page(page).cells == ["run", "x", "<script>alert(1)</script>", "& more"]
    assert "<td>&amp; more</td>" in html_table("", table)
    assert "a < b" in markdown_page([("a < b", "c & d", [])], [])
    rows = [["run"], *[[str(k)] for k in range(12)]]
    assert "<details>" not in html_table("Each run", rows)
    assert "<details><summary><b>Each run</b> (13 lines)</summary>" in html_table("Each run", [*rows, ["12"]])


def test_the_published_errors_are_those_of_the_readme():
    readme = (ROOT / "README.md").read_text()
    cells = list(csv.DictReader(PUBLISHED.read_text(encoding="utf-8").splitlines()))
    assert len(cells) == 20
    for loss in ("LDAM", "CE"):
        for dataset, title in (("cifar10", "CIFAR-10-LT"), ("cifar100", "CIFAR-100-LT")):
            own = [cell["error"] for cell in cells if (cell["loss"], cell["dataset"]) == (loss, dataset)]
            assert f"| {loss} | {title} | {' | '.join(own)} |" in readme


@pytest.mark.parametrize(
    ("name", "content"),
    [("x_summary.json", "[]"), ("x_summary.json", "{"), ("nowhere", None),
     ("x_summary.json", '{"best": 1, "last": 2, "cls_num_list": [1]}'),
     ("x_summary.json", '{"best": {"epoch": 1, "acc1": 1}, "last": {"epoch": 1, "acc1": "x"}, "cls_num_list": [1]}')],
)  # fmt: skip
def test_files_that_are_no_runs_are_named(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_text(content)
    assert name in wrong(read_runs, [tmp_path / name])


def test_a_damaged_file_of_a_run_is_named(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty holds no finished run" in refused("report.py", "empty")
    for end, content in (("_metrics.jsonl", None), ("_metrics.jsonl", b"[1]\n"), ("_last_predictions.npz", None)):
        write_run(tmp_path / "runs", "a")
        path = tmp_path / "runs" / f"a{end}"
        path.write_bytes(content or path.read_bytes()[:40])
        assert path.name in refused("report.py", "runs")


def test_the_line_over_many_classes_is_the_mean_of_nine_neighbours():
    values = [float(k**2) for k in range(12)]
    values[3] = math.nan
    found = smoothed(values)
    for k in range(12):
        near = [v for v in values[max(k - 4, 0) : min(k + 5, 12)] if not math.isnan(v)]
        assert found[k] == pytest.approx(statistics.mean(near))
    assert math.isnan(smoothed([math.nan])[0])
