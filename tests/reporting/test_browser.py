"""The report in a real browser, headless chromium without a network: all of it is there, for every size, eye and hand."""

import msgspec
import numpy as np
import pytest
from PIL import Image
from support import browser as browsers
from support.browser import opened
from support.made_runs import ODD_NAMES, WAYS, write_study

from harness.mistakes import most_confused
from reporting.finished_runs import write_group_names

pytestmark = pytest.mark.skipif(browsers.CHROMIUM is None, reason="needs chromium")
WIDTHS = (390, 1280, 1920)  # a phone, a laptop, a large screen, in CSS pixels
SCHEMES = ("light", "dark")
THREE = {way: WAYS[way] for way in ("reweight", "isda", "metasaug")}

RIGHT = """<!doctype html><html lang="en"><head><title>A page</title><meta name="color-scheme" content="light dark"><style>
body { font: 16px sans-serif; background: #fff; color: #000 } .wide { overflow-x: auto } svg { width: 300px; height: 80px }
@media (prefers-color-scheme: dark) { body { background: #111; color: #eee } }
.note { overflow: hidden } </style></head>
<body><main><h1>A page</h1><h2>A table</h2><div class="wide" tabindex="0" role="region" aria-label="A wide table"><table>
<caption>A table</caption><thead><tr><th scope="col"><button>run</button></th><th scope="col">figure</th></tr></thead>
<tbody><tr><th scope="row">a</th><td>1<span style="padding-left: 2000px">2</span></td></tr></tbody></table></div>
<h2>A chart</h2><figure id="f"><div class="chart" role="img" aria-label="A line that goes up from 0 to 1.">
<svg viewBox="0 0 300 80" aria-hidden="true"><path d="M0,80L300,0"/><text x="9" y="20" font-size="13">up</text>
<text x="9" y="60" font-size="13">down</text></svg></div></figure><p class="note">One note.</p></main></body></html>"""
BROKEN = (  # the kinds of fault that must be seen, and what is put in place of what
    ("sideways", "</main>", "<p style='width: 2000px'>More.</p></main>"),
    ("cut", 'class="note"', 'class="note" style="white-space: nowrap; width: 20px"'),
    ("small", 'viewBox="0 0 300 80"', 'viewBox="0 0 400 80"'),
    ("overlapping", 'y="60"', 'y="24"'),
    ("headings", "<h2>A chart</h2>", "<h3>A chart</h3><h5>More</h5>"),
    ("tables", '<th scope="row">a</th>', "<th>a</th>"),
    ("tables", "<caption>A table</caption>", ""),
    ("charts", 'role="img"', 'role="img" hidden'),
    ("charts", "One note.", '<img alt="a dog" src="data:image/png;base64,AAAA">'),
    ("silent", 'aria-label="A line that goes up from 0 to 1."', ""),
    ("twice", "<h2>A chart", '<h2 id="f">A chart'),
    ("console", "</main>", "</main><script>nothing.at.all()</script>"),
    ("console", 'id="f"', 'id="f" class="figure"'),  # its script does not draw it
    ("console requests", "</head>", "<link rel='stylesheet' href='https://example.org/page.css'></head>"),
    ("scheme", "#111", "#ddd"),
)


@pytest.fixture(scope="module")
def browser():
    with browsers.chromium() as found:
        yield found


@pytest.fixture(scope="module")
def report(run_in, tmp_path_factory):
    """The page of three ways and two seeds on 24 classes of odd names; test images are uneven, one class has none."""
    folder = tmp_path_factory.mktemp("odd")
    write_study(folder / "runs", 24, THREE, names=ODD_NAMES, test_per_class=[*range(1, 24), 0])
    write_group_names(folder / "runs", {"isda*": " isda  (two spaces)"})
    wrong = most_confused(np.array([0, 0, 1]), np.array([8, 8, 3]), lambda place: Image.new("RGB", (32, 20 + place)))
    (folder / "runs" / "metasaug_seed1_mistakes.json").write_bytes(msgspec.json.encode(wrong))
    run_in("report.py runs --out out", cwd=folder, PICTURES="drawn")
    assert (folder / "out" / "report.html").stat().st_size < 2.5e6
    return folder / "out" / "report.html"


def test_a_right_page_has_no_fault_and_each_fault_is_seen(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(browsers, "TO_DRAW", 3000)  # what is there is found at once, also on a busy machine
    page = tmp_path / "page.html"
    page.write_text(RIGHT)
    for scheme in SCHEMES:
        with opened(browser, page, scheme=scheme) as view:
            assert view.faults() == {}
            if scheme == "dark":
                for kinds, was, now in BROKEN:
                    assert RIGHT.count(was) == 1
                    page.write_text(RIGHT.replace(was, now))
                    view.show(page)
                    assert " ".join(sorted(view.faults())) == kinds, now


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_at_every_size_in_light_and_dark(browser, report, width):
    with opened(browser, report, width, scheme="dark") as view:
        assert view.faults() == {}
        view.unfold()
        for each in reversed(SCHEMES):
            view.prefer(each)
            assert (view.faults(), view.axe()) == ({}, [])
        assert view.page.locator("img").count() == 2


def test_the_keyboard_reaches_all_and_shows_where_it_is(browser, report, tmp_path):
    with opened(browser, report) as view:
        assert view.tab_stops() == ([], [])
    hidden = RIGHT.replace("</style>", "button:focus, .wide:focus { outline: none }</style>")
    (tmp_path / "page.html").write_text(hidden.replace("One note.", "<button>a</button><button id='b'>b</button>").replace(
        "</main>", "</main><script>b.addEventListener('focus', () => b.blur())</script>"))  # fmt: skip
    with opened(browser, tmp_path / "page.html") as view:  # the control
        missed, unmarked = view.tab_stops()
    assert [len(missed), len(unmarked)] == [1, 3]


def test_axe_sees_what_is_wrong(browser, tmp_path):
    wrong = '<img src="data:,"><span style="color: #ccc">pale</span>'
    (tmp_path / "page.html").write_text(RIGHT.replace("One note.", wrong))
    with opened(browser, tmp_path / "page.html") as view:
        assert [line.split(",")[0] for line in view.axe()] == ["color-contrast", "image-alt"]


def test_without_scripts_tables_and_still_pictures_are_there(browser, report):
    with opened(browser, report, scripts=False) as view:
        assert view.faults() == {}
        assert view.page.locator("tbody tr").count() > 24
        assert view.page.locator("input:visible, th button").count() == 0  # what would do nothing


def test_a_table_is_sorted_by_a_click_and_by_the_keyboard(browser, report):
    with opened(browser, report) as view:

        def order(words, column, *keys):
            """Press the button of a column of a table with such words; return the order that is said, and the texts."""
            table = view.page.locator("table.sortable").filter(has_text=words).first
            head = table.locator("thead th").filter(has_text=column).first
            number = head.evaluate("head => 1 + head.cellIndex")
            head.locator("button").press(*keys) if keys else head.locator("button").click()
            (said,) = table.locator("thead th[aria-sort]:not([aria-sort=none])").all()
            assert head.get_attribute("aria-sort") == said.get_attribute("aria-sort")
            return said.get_attribute("aria-sort"), table.locator(f"tbody tr > :nth-child({number})").all_inner_texts()

        def number(text):
            return float(text.split(" ")[0].replace("−", "-"))

        for keys, expected in (((), "descending"), (["Enter"], "ascending"), (["Space"], "descending")):
            said, texts = order("overall", "overall", *keys)
            assert (said, texts) == (expected, sorted(texts, key=number, reverse=expected == "descending"))
            assert len({*map(number, texts)}) == 3
        for expected in ("ascending", "descending", "ascending"):  # words begin with the first
            said, texts = order("overall", "group")
            assert (said, texts) == (expected, sorted(texts, key=str.casefold, reverse=expected == "descending"))
        _, (*texts, last) = order("difference", "difference")  # − is below 0, - is none
        assert (last, texts) == ("-", sorted(texts, key=number, reverse=True))


def test_the_reader_chooses_the_groups_in_the_charts(browser, run_in, tmp_path):
    write_study(tmp_path / "runs", 10, {f"way {k}": {"lr": 0.1 + k} for k in range(8)})
    run_in("report.py runs --out out", cwd=tmp_path, PICTURES="drawn")
    with opened(browser, tmp_path / "out" / "report.html") as view:
        boxes = view.page.locator(".choice input")

        def drawn():
            texts = view.page.locator("#set0-classes .live svg .role-legend-label text").all_text_contents()
            return sorted(text.strip() for text in texts)

        def chosen():
            return sorted(boxes.evaluate_all("all => all.filter(box => box.checked).map(box => box.value)"))

        assert len(drawn()) == len(chosen()) == 6
        assert boxes.evaluate_all("all => all.filter(box => box.disabled).length") == 2  # six are chosen
        first, last = boxes.first, boxes.last
        first.uncheck()
        last.check()
        redrawn = "name => document.querySelector('#set0-classes .live').textContent.includes(name)"
        view.page.wait_for_function(redrawn, arg=last.get_attribute("value"))
        assert drawn() == chosen()
