"""The page of a report, one HTML file that needs no other and asks nothing of a network; and its charts as files for papers.

Pictures and the runtime that makes charts interactive come from vl-convert, which draws Vega-Lite without a browser.
"""

from __future__ import annotations

import base64
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.files import make_folder, write_whole
from reporting.charts import MOST_GROUPS, Chart, drawn
from reporting.sections import Section, offered
from reporting.verdict import Compared

TEMPLATES = Path(__file__).resolve().parent / "templates"
VERSION = "6.4"  # of Vega-Lite, the same in the page and in pictures
STILL = 340  # CSS pixels, the width of a picture, which fits a phone
FONT, WIDE_FONT = "system-ui, sans-serif", "DejaVu Sans"  # the reader's own; the one in which letters are measured
COLUMN, PRINT, PPI = 241, 8, 300  # points, the width of a figure in one of two columns; of its letters; of PNG files


class Page(NamedTuple):
    """What the template shows: the sets that are compared with their sections, and sections about all of them."""

    title: str
    made: str
    sets: list[tuple[Compared, list[Section]]]
    more: list[Section]


def complete(chart: Chart, width: int | str, letters: int = 12, font: str = FONT) -> dict[str, Any]:
    """Return the specification of a chart in so many pixels, or in the width of its "container"; letters in pixels."""
    size = {"labelFontSize": letters, "titleFontSize": letters, "titleFontWeight": "normal", "labelColor": "var(--text)",
            "titleColor": "var(--text)"}  # fmt: skip
    lines = {
        "gridColor": "var(--grid)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelSeparation": 6,
        "titlePadding": 8,
    }
    config = {
        "background": None,
        "font": font,
        "aria": False,
        "mark": {"tooltip": {"content": "data"}},
        "view": {"stroke": None},
        "axis": {**size, **lines},
        "legend": size,
    }
    return {**chart.spec, "width": width, "autosize": {"type": "fit-x", "contains": "padding"}, "config": config}


def picture(chart: Chart) -> Markup:
    """Return a chart as an SVG element for a page, in whose colours it is."""
    svg = str(vl_convert.vegalite_to_svg(complete(chart, STILL, font=WIDE_FONT), vl_version=VERSION))
    svg = svg.replace(f'font-family="{WIDE_FONT}"', f'font-family="{FONT}"')
    return Markup(svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1))


@cache
def runtime() -> Markup:
    """Return the JavaScript of Vega, Vega-Lite and vega-embed, as one text for a script element."""
    bundle = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VERSION))
    return Markup(bundle.replace("</script", "<\\/script"))


def render(page: Page) -> str:
    """Return the page as HTML, everything escaped that is put into the template."""
    made = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                       lstrip_blocks=True)  # fmt: skip
    made.filters |= {"picture": picture, "complete": complete, "base64": base64.b64encode}
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    made.tests["part"] = lambda part, kind: type(part).__name__ == kind
    facts = {"page": page, "runtime": runtime(), "most": MOST_GROUPS, "offered": offered, "drawn": drawn}
    return made.get_template("report.html.jinja").render(facts)


def write_figures(page: Page, folder: Path) -> None:
    """Write every chart as PNG and SVG in the width of a column, in the colours of the light page."""
    make_folder(folder)
    light = (TEMPLATES / "page.css").read_text(encoding="utf-8").partition("@media")[0]
    colours = dict(re.findall(r"(--\w+): (#\w+)", light))
    for number, (_, parts) in enumerate(page.sets):
        for chart in (part for section in parts for part in section.parts if isinstance(part, Chart)):
            text = json.dumps({**complete(chart, COLUMN, PRINT), "background": "white"})
            spec = re.sub(r"var\((--\w+)\)", lambda found: colours[found[1]], text)
            files = {"svg": vl_convert.vegalite_to_svg(spec, vl_version=VERSION).encode(),
                     "png": vl_convert.vegalite_to_png(spec, vl_version=VERSION, ppi=PPI, scale=1)}  # fmt: skip
            name = f"set{number}_{chart.name}" if len(page.sets) > 1 else chart.name
            for end, content in files.items():
                write_whole(folder / f"{name}.{end}", content)
