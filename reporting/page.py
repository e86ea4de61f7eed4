"""The page of a report: one HTML file that needs no other and asks nothing of a network."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.progress import progress
from harness.text import printable
from reporting.chart_parts import DASHES, Chart
from reporting.drawings import CONTAINER, GROUPS_DARK, GROUPS_LIGHT, WIDTHS, complete, picture, runtime
from reporting.page_contents import Section
from reporting.page_tables import PageTable

TEMPLATES = Path(__file__).resolve().parent / "templates"
MARKS = (  # the marks of charts.SHAPES, about (0, 0), for the legend
    "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0Z",
    "M-4.5,-4.5h9v9h-9Z",
    "M0,-5L5.5,4.5h-11Z",
    "M0,-6L5,0L0,6L-5,0Z",
    "M-5.5,-2h3.5v-3.5h4v3.5h3.5v4h-3.5v3.5h-4v-3.5h-3.5Z",
    "M0,5L5.5,-4.5h-11Z",
    "M5,0L-4.5,-5.5v11Z",
    "M-5,0L4.5,-5.5v11Z",
)


@dataclass(frozen=True)
class Block:
    """Tables below the settings: a heading, a text, the tables."""

    id: str
    title: str
    text: str
    tables: list[PageTable]


@dataclass(frozen=True)
class Page:
    """What the template shows."""

    title: str
    made: str
    settings: list[Section]
    blocks: list[Block]
    foot: str
    overview: PageTable | None = None


@dataclass(frozen=True)
class DrawnChart:
    """A chart in a page: pictures of two widths, and its specification for the reader's browser."""

    id: str
    title: str
    text: str
    wide: str
    narrow: str
    spec: dict[str, Any]


def drawn(setting: Section, chart: Chart) -> DrawnChart:
    """Draw a chart of a setting."""
    wide, narrow = (picture(chart, width) for width in WIDTHS)
    return DrawnChart(f"{setting.id}-{chart.name}", chart.title, chart.text, wide, narrow, complete(chart, CONTAINER))


def as_shown(setting: Section) -> dict[str, Any]:
    """Return a setting as the template takes it: charts drawn, the legend of its groups added."""
    legend = [
        {"name": printable(name), "dash": " ".join(map(str, dash)) if dash[1] else "none", "path": path}
        for name, dash, path in zip(setting.shown, DASHES, MARKS, strict=False)
    ]
    shown: dict[str, Any] = {"legend": legend}
    for one in fields(setting):
        value = getattr(setting, one.name)
        if isinstance(value, Chart):
            value = drawn(setting, value)
        elif one.name == "curves":
            value = [drawn(setting, chart) for chart in value]
        shown[one.name] = value
    return shown


def in_script(value: Any) -> Markup:
    """Return plain data as JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def breakable(name: str) -> Markup:
    """Return a name that a browser may break after its signs, where it would not."""
    return Markup("<wbr>").join(re.split(r"(?<=[_+=/.,-])(?=.)", name))


def style() -> str:
    """Return the style sheet with the colours of the groups."""
    text = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    for name, colours in (("GROUPS_LIGHT", GROUPS_LIGHT), ("GROUPS_DARK", GROUPS_DARK)):
        text = text.replace(name, " ".join(f"--g{k + 1}: {colour};" for k, colour in enumerate(colours)))
    return text


@cache
def environment() -> Environment:
    """Return the templates, with everything escaped that is put into them."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters["in_script"] = in_script
    made.filters["breakable"] = breakable
    return made


def render(page: Page) -> str:
    """Return the page as HTML."""
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    sets = progress(page.settings, len(page.settings), "drawing", file=sys.stderr)
    shown = {**{one.name: getattr(page, one.name) for one in fields(page)}, "settings": [*map(as_shown, sets)]}
    template = environment().get_template("report.html.jinja")
    return template.render(page=shown, style=Markup(style()), runtime=Markup(runtime()), script=Markup(script))
