"""All that a report says of a study, letter by letter: the page, what is printed, the tables.

The figures are held against slow references in the other files of this folder. After a change that is wanted,
`REWRITE=1 python3 -m pytest tests/reporting/test_study.py` writes the files of the folder study anew.
"""

import os
import re

import pytest
from support.made_runs import ODD_NAMES, WAYS, write_study
from support.pages import Parsed
from support.places import ROOT

from reporting.finished_runs import write_group_names

GOLDEN = ROOT / "tests" / "reporting" / "study"
FILES = ["classes.csv", "means.csv", "page.txt", "runs.csv", "stdout.txt", "table.tex"]


def rounded(text):
    """A text whose fractions have six digits, as the last ones depend on the machine."""
    return re.sub(r"\d+\.\d{3,}(e-\d+)?", lambda found: f"{float(found[0]):.6g}", text)


@pytest.fixture(scope="module")
def made(run_in, tmp_path_factory):
    """The folder of the report of two long-tailed sets, at published settings and others, and of a run that is damaged.

    Of the first set a class has no test images, and a way never came to its stage 2.
    """
    folder = tmp_path_factory.mktemp("study")
    ways = {"early": {"meta_start": 300}, **WAYS}
    write_study(folder / "runs", 12, ways, 3, names=ODD_NAMES, test_per_class=[0, *range(80, 91)], epochs=200)
    write_study(folder / "runs" / "other", 3, {"none": WAYS["none"], "isda": WAYS["isda"]}, imb_factor=0.1)
    write_group_names(folder / "runs", {"early*": "never $2$ | <b>"})
    (folder / "runs" / "reweight_seed3_metrics.jsonl").write_text("[1]")
    out = run_in("report.py runs --latex error --figures --out out", cwd=folder).stdout
    (folder / "out" / "stdout.txt").write_text(out, encoding="utf-8")
    return folder / "out"


@pytest.fixture(scope="module")
def parsed(made):
    """The page; what it says is beside it as page.txt."""
    text = (made / "report.html").read_text(encoding="utf-8")
    ((_, said),) = Parsed(re.sub("(</t[dh]>|</li>)", r" | \1", re.sub("(?s)<script.*?</script>", "", text))).all("main")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    (made / "page.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Parsed(text)


@pytest.mark.usefixtures("parsed")
@pytest.mark.parametrize("name", FILES)
def test_what_is_said_and_written(made, name):
    text = rounded((made / name).read_text(encoding="utf-8"))
    if os.environ.get("REWRITE"):
        (GOLDEN / name).write_text(text, encoding="utf-8")
    assert text == (GOLDEN / name).read_text(encoding="utf-8")


def test_every_chart_is_said_in_words_and_nothing_is_asked_for(made, parsed):
    figures = [k for k, (_, attrs, _) in enumerate(parsed.elements) if attrs.get("class") == "figure"]
    shown = [parsed.elements[k][1]["id"] for k in figures]
    files = {f"{name.replace('-', '_')}.{end}" for name in shown for end in ("png", "svg")}
    assert {path.name for path in (made / "figures").iterdir()} == files
    for place in figures:
        (image,) = [attrs for _, attrs, above in parsed.elements if place in above and attrs.get("role") == "img"]
        assert image["aria-label"].endswith(next(parsed.texts[k] for k in parsed.inside(place, "p")))
    policy = next(attrs["content"] for attrs, _ in parsed.all("meta") if "Policy" in (attrs.get("http-equiv") or ""))
    assert policy.startswith("default-src 'none'; img-src data:;")
    addresses = [attrs[name] for _, attrs, _ in parsed.elements for name in ("src", "href") if name in attrs]
    assert {address[:4] for address in addresses} <= {"data", "#con", "#set"}
