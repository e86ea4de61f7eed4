"""The page of a report without a browser: one file that asks for nothing, sound HTML, and what it says of its runs."""

import json
import math
import re
from collections import Counter

import numpy as np
import pytest
from support.made_runs import made_run
from support.pages import Parsed, heading_faults, outside_requests, table_faults
from support.studies import ODD_NAMES, Way, write_study

import report
from harness.metrics import PER_CLASS_MEAN
from harness.text import shown_names
from reporting import page as pages
from reporting.chart_parts import bin_edges
from reporting.finished_runs import grouped, read_runs
from reporting.found_runs import Found, find_runs
from reporting.group_names import write_group_names
from reporting.page import in_script
from reporting.page_contents import make_section
from reporting.page_tables import from_text, signed
from reporting.verdicts import judge

WAYS = (Way("plain", "CE", "none"), Way("<b>", "LDAM", "isda", few=0.5), Way("re|weight", "LDAM", "reweight"),
        Way("metasaug", "LDAM", "metasaug", few=3.0, many=0.5))  # fmt: skip
CLASSES = "Accuracy of each class, %"
MEANS = "Last epoch, mean ± standard deviation over seeds, in per cent"


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The page of 20 runs of 100 classes with odd names, uneven test images and none of one class; its folder and text."""
    folder = tmp_path_factory.mktemp("large")
    write_study(folder / "runs", 100, WAYS, 5, names=ODD_NAMES, test_per_class=[0, *range(1, 100)], epochs=100)
    write_group_names(folder / "runs", {f"{way.name}*": way.name for way in WAYS})
    report.make(find_runs([folder / "runs"]), report.Options(folder / "out", None, False, None))
    return folder, (folder / "out" / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(large):
    return Parsed(large[1])


@pytest.fixture
def undrawn(monkeypatch):
    """Make pages without their pictures, which take seconds; return how, from what was found and flags."""
    monkeypatch.setattr(pages, "picture", lambda *_: "<svg></svg>")
    monkeypatch.setattr(pages, "runtime", lambda: "")

    def make(found):
        sets = {title: grouped(own) for title, own in report.long_tails(found.runs).items()}
        settings = [make_section(k, title, groups, None) for k, (title, groups) in enumerate(sets.items())]
        return pages.render(report.page_of(found, settings))

    return make


def test_a_page_of_twenty_runs_of_a_hundred_classes_is_small_and_drawn(large, parsed):
    assert 1e6 < len(large[1].encode()) < 5e6
    figures = [k for k, (tag, attrs, _) in enumerate(parsed.elements) if tag == "figure" and attrs["class"] == "figure"]
    assert len(figures) > 8
    for place in figures:
        assert len(parsed.inside(place, "svg")) == 2  # a wide one, a narrow one
        assert len(parsed.inside(place, "path")) > 2
        (image,) = [attrs for _, attrs, above in parsed.elements if place in above and attrs.get("role") == "img"]
        words = next(parsed.texts[k] for k in parsed.inside(place, "p"))
        assert image["aria-label"].endswith(words)
        assert len(words) > 20


def test_a_page_asks_for_nothing(parsed):
    assert outside_requests(parsed) == []
    policy = next(attrs["content"] for attrs, _ in parsed.all("meta") if "Policy" in (attrs.get("http-equiv") or ""))
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert not [attrs for attrs, _ in parsed.all("script") if "src" in attrs]
    for fault in ('<img src="beside.png">', '<a href="https://example.org">x</a>', '<style>a{background:url(x.png)}</style>',
                  '<p style="background: url(x.png)">', "<style>@import 'x'</style>"):  # fmt: skip
        assert len(outside_requests(Parsed(fault.replace("<p style=", "<input style=")))) > 0, fault


def test_a_page_is_sound_html(parsed):
    assert heading_faults(parsed) == []
    assert table_faults(parsed) == []
    ids = Counter(attrs["id"] for _, attrs, _ in parsed.elements if "id" in attrs)
    assert [name for name, number in ids.items() if number > 1 or not re.fullmatch(r"[\w-]+", name)] == []
    named = [attrs[key] for _, attrs, _ in parsed.elements for key in ("aria-labelledby",) if key in attrs]
    targets = [attrs["href"][1:] for attrs, _ in parsed.all("a")]
    assert {*named, *targets} <= ids.keys()
    assert not [attrs for attrs, _ in parsed.all("svg") if attrs.get("aria-hidden") != "true"]
    assert parsed.all("html")[0][0]["lang"] == "en"
    assert parsed.all("title")[0][1] == "20 runs on cifar100, imb_factor 0.01"
    sound = "<h1></h1><h2></h2><table><caption></caption><tr><th scope='col'></th></tr><tr><td></td></tr></table>"
    assert (heading_faults(Parsed(sound)), table_faults(Parsed(sound))) == ([], [])
    for was, now in (("<h2></h2>", "<h3></h3>"), ("<h2></h2>", "<h1></h1>")):
        assert len(heading_faults(Parsed(sound.replace(was, now)))) == 1
    for was, now in ((" scope='col'", ""), ("<td></td>", ""), ("<caption></caption>", ""), ("<td></td>", "<th></th>")):
        assert len(table_faults(Parsed(sound.replace(was, now)))) == 1
    with pytest.raises(AssertionError):
        Parsed("<p><b></p></b>")


def test_names_of_classes_and_groups_are_texts_wherever_they_stand(large, parsed):
    names = shown_names(ODD_NAMES)
    rows = [row[0] for row in parsed.tables()[CLASSES][1:]]
    assert {*names} < {*rows}
    assert len(rows) == 100
    assert [text for _, text in parsed.all("option")][:4] == [text for _, text in parsed.all("option")][4:]
    assert {text for _, text in parsed.all("option")} == {"plain", "<b>", "re|weight", "metasaug"}
    assert "{{ 7 * 7 }}" in rows
    scripts = parsed.data()
    (data,) = [one for one in scripts if "order" in one]
    assert data["names"][:24] == names
    assert "</script><script>nothing" not in large[1]
    assert len(scripts) == len(parsed.all("script")) - 2


@pytest.mark.parametrize("text", ["</script>", "<!--<script>", "]]>", "\u2028\u2029&", "é鳥😀", '"\\'])
def test_data_cannot_end_the_script_it_stands_in(text):
    made = str(in_script({text: [text, 1.5, None]}))
    assert not re.search(r"[<>&\u2028\u2029]", made)
    assert json.loads(made) == {text: [text, 1.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        in_script([math.nan])


def test_uneven_test_sets_show_the_mean_over_classes_beside_the_accuracy(parsed, undrawn):
    heads = parsed.tables()[MEANS][0]
    assert heads[:4] == ["group", "n", "overall", "mean over classes"]
    even = Found([made_run(tested=([0, 1, 2], [0, 0, 2]))])
    heads = Parsed(undrawn(even)).tables()[MEANS][0]
    assert "mean over classes" not in heads


def test_a_run_that_does_not_say_its_mean_over_classes_has_it_all_the_same(undrawn):
    """As of an even test set beside one that is not: the verdict, its table and its order are of one figure."""
    even = [made_run(f"even{s}", s, figures={"acc1": 70.0 + s}, lr=0.5) for s in (1, 2, 3)]
    figures = [{"acc1": 50.0 + s, PER_CLASS_MEAN: 40.0 + s * s / 2, "per_class": [40.0] * 3} for s in (1, 2, 3)]
    uneven = [made_run(f"uneven{s}", s, figures=own) for s, own in enumerate(figures, 1)]
    text = undrawn(Found([*even, *uneven]))
    heads, *rows = Parsed(text).tables()[MEANS]
    column = heads.index("mean over classes")
    assert [row[column] for row in rows] == ["72.00 ± 1.00", "42.33 ± 2.02"]
    assert "<b>72.00 ± 1.00</b>" in text
    assert "best in the mean over classes with 72.00 %" in text


def test_classes_without_test_images_are_named_and_are_not_0(large, parsed):
    (words,) = [text for _, text in parsed.all("p") if "no test images" in text]
    name = ODD_NAMES[0]
    assert words == f"1 of 100 classes have no test images and are in none of the figures: {name}."
    (row,) = [row for row in parsed.tables()[CLASSES] if row[0] == name]
    assert row[2:] == ["0", "-", "-", "-"]
    runs = read_runs([large[0] / "runs"])
    charts = [one for one in parsed.data() if "order" not in one]
    parts = [part for chart in charts for part in (chart, *chart.get("layer", [])) if "data" in part]
    values = [value for part in parts for value in part["data"]["values"]]
    named = {value["class"] for value in values if "class" in value}
    assert (len(named), name in named) == (99, False)
    never = [k for k in range(1, 100) if all(run.summary["last"]["per_class"][k] == 0 for run in runs)]
    shown = {row[0]: row for row in parsed.tables()[CLASSES]}
    assert all("0.00" in shown[runs[0].class_names[k]][3:5] for k in never)


def by_seed(name, accuracies, **flags):
    """Runs of one group, whose figures are all the same number at each seed."""
    return [made_run(f"{name}{seed}", seed, figures={"acc1": acc, "many": acc, "medium": acc, "few": acc}, **flags)
            for seed, acc in accuracies.items()]  # fmt: skip


def test_bold_is_only_what_the_verdict_calls_better_beyond_chance(undrawn):
    low = by_seed("low", {1: 50.0, 2: 51.0, 3: 49.5}, stage2="none")
    for high, beyond in (({1: 60.0, 2: 61.2, 3: 59.4}, True), ({1: 40.0, 2: 80.0, 3: 50.0}, False), ({1: 90.0}, False)):
        runs = [*low, *by_seed("high", high, stage2="isda")]
        text = undrawn(Found(runs))
        bold = [text for _, text in Parsed(text).all("b") if re.match(r"\d", text)]
        verdict = judge("", grouped(runs))
        assert (bool(bold), bool(verdict.beyond)) == (beyond, beyond), high
        assert "beyond chance" in " ".join(verdict.sentences) or not beyond
        assert len(bold) == (4 if beyond else 0)
        assert all(text.startswith("60.20 ") for text in bold)


def test_the_verdict_comes_first_and_counts_the_classes_as_the_page_does(large, parsed):
    place = next(k for k, (_, attrs, _) in enumerate(parsed.elements) if attrs.get("class") == "verdict")
    sentences = [parsed.texts[k] for k in parsed.inside(place, "li")]
    verdict = judge("cifar100, imb_factor 0.01", grouped(find_runs([large[0] / "runs"]).runs))
    assert sentences == [*verdict.sentences]
    assert place < next(k for k, (tag, _, _) in enumerate(parsed.elements) if tag == "table")
    (words,) = [text for attrs, text in parsed.all("p") if attrs.get("class") == "pair"]
    numbers = len(verdict.gained), len(verdict.lost), len(verdict.same)
    better, worse, same = numbers
    assert words == f"{verdict.best} against {verdict.reference}: {better} classes better, {worse} worse, {same} the same."
    rows = parsed.tables()[CLASSES][1:]
    signs = Counter(row[-1][0] for row in rows if row[-1] != "-")
    assert (signs["+"], signs["−"], signs["0"]) == numbers
    for row in rows:
        if row[-1] != "-":
            assert float(row[-1].replace("−", "-")) == pytest.approx(float(row[3]) - float(row[4]), abs=0.011)


def test_a_text_that_begins_with_a_number_is_written_out_too():
    table = from_text("", [["run", "overall"], ["1 \x1b[31m", "50.00 \u202e"]])
    assert [cell.text for cell in table.rows[0]] == [r"1 \x1b[31m", r"50.00 \u202e"]


def test_zero_has_no_sign():
    assert [signed(value) for value in (0.0, -1e-14, 1e-14, 1.5, -1.5, math.nan)] == ["0.00"] * 3 + ["+1.50", "−1.50", "-"]


def many_classes(size, groups):
    """Runs of so many classes, a group for each; the class k of group g has k·(g + 1)/size % and 300 have no test images."""
    runs = []
    for number in range(groups):
        per_class = [None if k % (size // 300) == 0 else 100 * (k / size) ** (number + 1) for k in range(size)]
        acc1 = float(np.mean([value for value in per_class if value is not None]))
        figures = {"acc1": acc1, "per_class": per_class}
        runs.append(made_run(f"g{number}", 1, [size - k for k in range(size)], figures, lr=number + 0.1))
    return runs


def test_of_many_classes_a_table_has_200_and_says_which(undrawn):
    for groups, words in ((2, "those that changed most"), (1, "those with the most training images")):
        runs = many_classes(1000, groups)
        parsed = Parsed(undrawn(Found(runs)))
        rows = parsed.tables()[CLASSES][1:]
        note = f"200 of 1,000 classes: {words}; search for others. All are in classes.csv."
        assert note in [text for _, text in parsed.all("p")]
        assert len(rows) == 200
        if groups == 1:
            assert [row[0] for row in rows] == [str(k) for k in range(200)]
        else:
            first, second = (run.summary["last"]["per_class"] for run in runs)
            gaps = {k: a - b for k, (a, b) in enumerate(zip(first, second, strict=True)) if a is not None}
            ranked = sorted(gaps, key=lambda k: gaps[k])
            assert {int(row[0]) for row in rows} == {*ranked[:100], *ranked[-100:]}
            assert [int(row[1]) for row in rows] == sorted((int(row[1]) for row in rows), reverse=True)
        (data,) = [one for one in parsed.data() if "order" in one]
        assert data["bins"] == [[*edge] for edge in bin_edges(1000)]
        assert [len(own) for own in data["means"].values()] == [1000] * groups


def test_groups_that_are_named_the_same_once_written_out_stay_apart(undrawn):
    names = ("a\n", "a\\n", "a\\n (2)", "b")
    runs = [made_run(name, 1, figures={"acc1": 50.0 + k}, lr=0.1 + k) for k, name in enumerate(names)]
    page = Parsed(undrawn(Found(runs)))
    rows = page.tables()[MEANS][1:]
    assert {row[0]: row[2] for row in rows} == {r"a\n": "50.00", r"a\n (2)": "51.00", r"a\n (2) (2)": "52.00", "b": "53.00"}
    (data,) = [one for one in page.data() if "order" in one]
    assert len(data["means"]) == 4


def test_of_very_many_groups_the_charts_show_as_many_as_there_are_marks_for(undrawn):
    stages = ["none", *["isda"] * 11]
    runs = [made_run(f"g{k}", 1, figures={"acc1": 50.0 + k}, lr=0.1 + k, stage2=stage) for k, stage in enumerate(stages)]
    page = Parsed(undrawn(Found(runs)))
    assert "The charts show 8 of the 12 groups: the highest ones and the reference." in [text for _, text in page.all("p")]
    shown = [text for _, text in page.all("bdi")][:8]
    assert shown == [*(f"g{k}" for k in range(11, 4, -1)), "g0"]
    assert PER_CLASS_MEAN not in page.tables()[MEANS][0]
