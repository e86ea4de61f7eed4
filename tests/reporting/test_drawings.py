"""Pictures of charts for pages and papers draw any names; eyes of every kind tell their colours apart."""

import io
import re
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from support.made_runs import made_run
from support.places import ROOT
from support.studies import ODD_NAMES

from harness.text import shown_names
from reporting import charts
from reporting.chart_parts import DASHES, MOST_GROUPS
from reporting.drawings import GROUPS_DARK, GROUPS_LIGHT, WIDE_FONT, on_paper, picture
from reporting.report_files import in_lines

GROUPS = ("</script><b>", "\"q\" 'q' back\\slash", "constructor", "var(--g1)", "עברית", "🐢" * 20, "a" * 80, "{{1}} $x$ [0]")
SEVERITY_1 = {  # Machado, Oliveira and Fernandes 2009, of linear RGB
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])


def texts(svg):
    """The words of a picture; that it can be read says that no name broke it."""
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def odd_charts(groups=GROUPS):
    """Charts of 20 classes with odd names; of groups with such names too."""
    names = shown_names(ODD_NAMES[2:22])
    rng = np.random.default_rng(0)
    target = np.arange(20)
    counts = [*range(40, 20, -1)]
    log = [{"epoch": k, "train_loss": 1.0} for k in range(2)]
    made = {name: [made_run("a", tested=(target, rng.integers(0, 20, 20)), counts=counts, class_names=names, log=log)]
            for name in groups}  # fmt: skip
    means = rng.random((2, 20)).tolist()
    return names, [
        charts.by_class(made, counts, names, list(made)), charts.shots(made), charts.differences(*means, counts, names),
        charts.curve(made, "train_loss", [1]), charts.confusion_chart(made[groups[0]], names),
    ]  # fmt: skip


def test_any_names_are_drawn_letter_by_letter():
    names, made = odd_charts()
    short = [name for name in names if len(name) <= 8 and name.isascii()]
    assert {"a|b", "null", "-"} <= {*short}
    for chart in made:
        svg = picture(chart, 330)
        shown = texts(svg)
        if chart.name in ("classes", "differences", "confusion"):
            assert [name for name in short if name not in shown] == []
            assert len(shown) > 20
        assert svg.startswith('<svg aria-hidden="true" focusable="false" ')
        assert "<script" not in svg
    counts = [*range(40, 10, -1)]
    many = {name: [made_run(counts=counts, figures={"acc1": 50.0})] for name in GROUPS}  # classes have no names there
    assert picture(charts.by_class(many, counts, [str(k) for k in counts], GROUPS[2:4]), 330).count("<path") > 60
    fonts = charts.differences([1.0, 2.0], [0.0, 0.0], [2, 1], [WIDE_FONT, "b"])
    assert WIDE_FONT in texts(picture(fonts, 680))  # a class called as the font that letters are measured in
    assert f'"{WIDE_FONT}"' not in picture(fonts, 680)
    broken = made[0]._replace(spec={**made[0].spec, "encoding": {"x": {"field": "a", "axis": {"labelExpr": "'a'b'"}}}})
    with pytest.raises(ValueError, match=r".+"):  # the control
        picture(broken, 330)


def test_files_for_papers_are_as_wide_as_a_column_and_have_names_on_their_axes_and_a_legend():
    names, made = odd_charts()
    short = [name for name in names if len(name) <= 8 and name.isascii()]
    for chart in made:
        files = on_paper(chart)
        svg = files["svg"].decode()
        with Image.open(io.BytesIO(files["png"])) as image:
            assert image.width == pytest.approx(3.35 * 300, abs=2)
            assert image.info["dpi"] == pytest.approx((300, 300), abs=1)
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
        assert float(re.search(r'<svg[^>]* width="([\d.]+)"', svg)[1]) == pytest.approx(241, abs=1)
        shown = texts(svg)
        if chart.name == "confusion":
            assert [shown.count(name) for name in short] == [2] * len(short)
        if chart.name in ("classes", "shots", "curve_train_loss"):  # names are legends, not taken for colours
            assert {"</script><b>", "constructor", "var(--g1)", "עברית"} < {*shown}
            assert all(colour in svg for colour in GROUPS_LIGHT)
        assert not re.search(r'="var\(', svg)
    _, made = odd_charts(GROUPS[:1])
    assert GROUPS[0] not in texts(on_paper(made[0])["svg"].decode())  # of one group there is no legend


def legend_entries(svg):
    """The symbols of the legend of a picture, and the places of its entries from the left and the top of the legend."""
    root = ElementTree.fromstring(svg)
    entries = [group for group in root.iter() if group.get("class") == "mark-group role-scope"
               and any("role-legend-symbol" in inner.get("class", "") for inner in group.iter())]  # fmt: skip
    places = [re.search(r"translate\(([-\d.]+),([-\d.]+)", one.get("transform", "")) for group in entries for one in group]
    symbols = [group[0].attrib for group in root.iter() if "role-legend-symbol" in group.get("class", "")]
    return symbols, [(float(place[1]), float(place[2])) for place in places]


def curves(log_of):
    """A figure of the meta loss: the runs of a group have two lines and their mean."""
    runs = {name: [made_run(f"{name} {k}", k, figures={"acc1": 50.0}, log=log) for k in (1, 2)]
            for name, log in log_of.items()}  # fmt: skip
    return on_paper(charts.curve(runs, "meta_loss"))["svg"].decode()


LOG = [{"epoch": k, "meta_loss": 1.0 + k} for k in range(3)]


@pytest.mark.parametrize(
    ("names", "columns"),
    [(["metasaug+relative+head+stage2_lr=3", "metasaug+relative+head", "none"], 1), (["ISDA", "MetaSAug", "none"], 2)],
)
def test_a_legend_has_two_columns_where_its_names_have_room_there(names, columns):
    svg = curves(dict.fromkeys(names, LOG))
    assert {*names} <= {*texts(svg)}
    _, places = legend_entries(svg)
    assert len(places) == 3
    assert len({x for x, _ in places}) == columns


def test_the_legend_of_lines_shows_their_dashes_and_no_group_without_a_line():
    svg = curves({"a": LOG, "b": LOG, "c": [{"epoch": 0, "meta_loss": None}], "d": LOG})
    assert {"a", "b", "d"} < {*texts(svg)}
    assert "c" not in texts(svg)
    symbols, _ = legend_entries(svg)
    assert [symbol["stroke-dasharray"] for symbol in symbols] == [",".join(map(str, DASHES[k])) for k in (0, 1, 3)]
    assert [symbol["stroke"] for symbol in symbols] == [GROUPS_LIGHT[k] for k in (0, 1, 3)]
    assert {(symbol["stroke-width"], symbol.get("opacity", "1")) for symbol in symbols} == {("1.5", "1")}


def test_a_title_says_of_whom_a_figure_is():
    chart = charts.differences([1.0, 2.0], [0.0, 3.0], [2, 1], ["x", "y"])
    svg = on_paper(chart, ["constructor against", "{{b}}"])["svg"]
    assert {"constructor against", "{{b}}"} < {*ElementTree.fromstring(svg).itertext()}
    assert in_lines("a against", "b") == ["a against b"]
    assert in_lines("a" * 30 + " against", "b" * 30) == ["a" * 30 + " against", "b" * 30]


def test_a_confusion_matrix_is_white_without_images_and_nearly_so_with_few():
    target = np.repeat([0, 1], 100)
    predicted = np.concatenate([np.zeros(99), np.ones(101)]).astype(np.int64)
    chart = charts.confusion_chart([made_run("a", tested=(target, predicted), counts=[2, 1])], ["x", "y"])
    svg = on_paper(chart)["svg"].decode()
    assert "tick" not in re.findall(r"role-axis-(\w+)", svg)
    cells = re.findall(r"rgb\((\d+), (\d+), (\d+)\)", svg.split("role-legend")[0])
    assert [min(map(int, cell)) > 245 for cell in cells] == [False, True, False]
    assert "role-axis-tick" in picture(chart, 330)  # the control


def linear(colour):
    """Red, green and blue (3,) in 0 to 1, linear in light."""
    share = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def lab(light):
    """CIELAB (3,) of linear RGB under D65."""
    share = TO_XYZ @ light / TO_XYZ.sum(axis=1)
    f = np.where(share > (6 / 29) ** 3, np.cbrt(share), share / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def luminance(colour):
    return float(TO_XYZ[1] @ linear(colour))


def contrast(first, second):
    """The contrast of WCAG 2."""
    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)


def confused_colours(colours):
    """The pairs of colours that someone cannot tell apart, or that a print in grey does not."""
    found = []
    for pair in combinations(colours, 2):
        grey = [lab(np.full(3, luminance(colour)))[0] for colour in pair]
        if abs(grey[0] - grey[1]) < 2:
            found.append((*pair, "grey"))
        for eye, matrix in SEVERITY_1.items():
            seen = [lab(np.clip(np.array(matrix) @ linear(colour), 0, 1)) for colour in pair]
            if np.linalg.norm(seen[0] - seen[1]) < 12:
                found.append((*pair, eye))
    return found


def test_what_is_computed_of_colours_is_right():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    assert lab(linear("#ffffff")) == pytest.approx([100, 0, 0], abs=0.01)
    assert lab(linear("#ff0000")) == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    red_and_green = {eye for *_, eye in confused_colours(("#a86a00", "#6f7f00"))}
    assert "normal" not in red_and_green
    assert {"protanopia", "deuteranopia"} & red_and_green
    assert {eye for *_, eye in confused_colours(("#c00000", "#5a5a5a"))} >= {"grey"}
    assert {eye for *_, eye in confused_colours(("#0000c0", "#0000c4"))} == {*SEVERITY_1, "grey"}


def backgrounds():
    """The colours of the page's ground, light and dark, by its style sheet."""
    return re.findall(r"--back: (#\w{6});", (ROOT / "reporting" / "templates" / "page.css").read_text())


@pytest.mark.parametrize("scheme", [0, 1])
def test_every_eye_tells_the_groups_apart_on_light_and_dark_pages_and_in_grey(scheme):
    colours = (GROUPS_LIGHT, GROUPS_DARK)[scheme]
    assert len(colours) == MOST_GROUPS
    assert confused_colours(colours) == []
    light, dark = backgrounds()
    assert luminance(light) > 0.8 > 0.1 > luminance(dark)
    assert min(contrast(colour, (light, dark)[scheme]) for colour in colours) >= 3
    assert min(contrast(colour, (dark, light)[scheme]) for colour in colours) < 3  # the other page's would not do
