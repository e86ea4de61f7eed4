"""Charts drawn: pictures inside a page, the runtime that makes them interactive, and files for papers.

By vl-convert, which draws Vega-Lite without a browser and carries the runtime for one: 0.9 MB in a page, where plotly's is
4.8 and bokeh's 1.3. Its pictures are SVG: a page has them without scripts, in its own colours, with letters that are text.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Container, Sequence
from functools import cache
from typing import Any

from reporting.chart_parts import Chart, as_list, whole_letters

VERSION = "6.4"  # of Vega-Lite, the same in the page and in pictures
WIDTHS = (680, 330)  # CSS pixels of the pictures of a page, one of which is shown
CONTAINER = "container"  # the width of what a chart stands in
FONT = "system-ui, sans-serif"  # the reader's own
WIDE_FONT = "DejaVu Sans"  # that letters are measured in, so that those of most fonts have room
COLUMN = 241  # points, 3.35 inches: the width of a figure in one of two columns
PRINT = 8  # points, of the letters of a figure
LONG_NAME = 18  # letters, of a group whose legend has one column
LAST_LATIN = "\u024f"  # later letters are wider
FREE = 5  # points, left of a legend
BESIDE_LABEL = 36  # points, of the symbol of a legend and what is left free
LINE_SYMBOL = 256  # its square root is the length of a line in a legend, of which two dashes are seen
MARK_AREA = 25  # square points, of a mark beside which the ends of an error bar are seen
SHADES = ["#ffffff", "#08306b"]  # of shares, from 0 %
SHRUNK = 0.65  # the height of a figure against that in the page
PPI = 300  # of PNG files
# By group. Any two differ also to those who see no red, green or blue (ΔE of 12 or more after Machado et al. 2009) and, in
# grey, in lightness; all stand out from the page by 3 : 1 or more.
GROUPS_LIGHT = ("#004593", "#cf5e06", "#06785a", "#944185", "#734c0b", "#838f9b", "#452764", "#0f4633")
GROUPS_DARK = ("#89c1ea", "#ff9853", "#4af190", "#e781ca", "#e1f478", "#7ca682", "#a877f2", "#e3fff5")
PAPER = {  # the colours of figures, those of the light page
    "text": "#1a1d21",
    "soft": "#565d66",
    "line": "#aab1ba",
    "grid": "#e3e6ea",
    "better": "#0b6e4f",
    "worse": "#b3400a",
}
AXIS = {
    "labelColor": "var(--text)",
    "titleColor": "var(--text)",
    "gridColor": "var(--grid)",
    "domainColor": "var(--line)",
    "tickColor": "var(--line)",
    "labelFontSize": 12,
    "titleFontSize": 12,
    "titleFontWeight": "normal",
    "titlePadding": 8,
    "labelSeparation": 6,
}
NAMES_OF_OTHERS = {"values", "domain"}  # keys below which strings are data
CONFIG: dict[str, Any] = {
    "background": None,
    "font": FONT,
    "aria": False,
    "axis": AXIS,
    "view": {"stroke": None},
    "customFormatTypes": False,
}


def complete(chart: Chart, width: int | str) -> dict[str, Any]:
    """Return the specification of a chart in so many pixels, or "container"."""
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "config": CONFIG,
        "width": width,
        "autosize": {"type": "fit-x", "contains": "padding"},
        **chart.spec,
    }


def picture(chart: Chart, width: int) -> str:
    """Return a chart as an SVG element for a page: its colours are the page's, its size that of its place."""
    import vl_convert

    spec = {**complete(chart, width), "config": {**CONFIG, "font": WIDE_FONT}}
    drawn = str(vl_convert.vegalite_to_svg(spec, vl_version=VERSION))
    drawn = drawn.replace(f'font-family="{WIDE_FONT}"', f'font-family="{FONT}"')  # no name that holds the font's
    return re.sub(r"^<svg ", '<svg aria-hidden="true" focusable="false" ', drawn)


@cache
def runtime() -> str:
    """Return the JavaScript of Vega, Vega-Lite and vega-embed, as one text for a script element."""
    import vl_convert

    bundle = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VERSION))
    return bundle.replace("</script", "<\\/script")


def on_paper(chart: Chart, title: Sequence[str] | None = None) -> dict[str, bytes]:
    """Return a chart as "png" and "svg" in the width of a column, with a legend and the colours of the light page.

    `title` is lines that say of whom the chart is, where no legend does.
    """
    import vl_convert

    dashed, drawn = '"strokeDash": {"field"' in json.dumps(chart.spec), groups_drawn(chart.spec)
    spec = for_print(complete(chart, COLUMN))
    spec["height"] = SHRUNK * spec["height"]
    if title is not None:
        shown = [whole_letters(line, COLUMN) for line in title]
        spec["title"] = {"text": shown, "limit": COLUMN, "anchor": "start", "fontSize": PRINT, "fontWeight": "normal"}
    small = {"labelFontSize": PRINT, "titleFontSize": PRINT}
    spec["config"] = {**CONFIG, "axis": {**AXIS, **small}, "legend": small}
    colours = {**PAPER, **{f"g{k + 1}": colour for k, colour in enumerate(GROUPS_LIGHT)}}
    spec = {**coloured(spec, {f"var(--{name})": colour for name, colour in colours.items()}), "background": "white"}
    plain = str(vl_convert.vegalite_to_svg(spec, vl_version=VERSION))
    made = with_legend(spec, drawn, dashed, plot_left(plain))
    if dashed:
        made["resolve"] = {"legend": {"shape": "independent"}}  # else it becomes a part of that of colours, though absent
    svg = str(vl_convert.vegalite_to_svg(made, vl_version=VERSION))
    return {"svg": svg.encode(), "png": vl_convert.vegalite_to_png(made, vl_version=VERSION, ppi=PPI, scale=1)}


def plot_left(svg: str) -> float:
    """Return how far the plot of a picture is from its left edge, where Vega begins legends."""
    found = re.search(r"translate\(([\d.]+),", svg)
    return float(found[1]) if found else 0


def groups_drawn(spec: Any) -> set[str]:
    """Return the groups that have a value somewhere in a specification."""
    if isinstance(spec, list):
        return {name for one in spec for name in groups_drawn(one)}
    if not isinstance(spec, dict):
        return set()
    if "group" in spec and None not in spec.values():
        return {spec["group"]} if isinstance(spec["group"], str) else set()
    return {name for value in spec.values() for name in groups_drawn(value)}


def for_print(spec: Any) -> Any:
    """Return a specification with what suits a narrow figure: small marks, near axes, shades from white."""
    if isinstance(spec, list):
        return [for_print(one) for one in spec]
    if not isinstance(spec, dict):
        return spec
    made = {key: value if key in NAMES_OF_OTHERS else for_print(value) for key, value in spec.items() if key != "minExtent"}
    if made.get("type") == "point" and "size" in made:
        made["size"] = MARK_AREA
    if "scheme" in made:  # its first colour is not the paper's, which stands where there is nothing
        made = {**{key: value for key, value in made.items() if key != "scheme"}, "range": SHADES, "interpolate": "lab"}
    if made.get("type") == "ordinal" and made.get("axis"):
        made["axis"] = {**made["axis"], "ticks": False}
    return made


def coloured(spec: Any, colours: dict[str, str]) -> Any:
    """Return a specification with colours for the names of CSS variables; in data and domains there are names of others."""
    if isinstance(spec, list):
        return [coloured(one, colours) for one in spec]
    if isinstance(spec, dict):
        return {key: value if key in NAMES_OF_OTHERS else coloured(value, colours) for key, value in spec.items()}
    return colours.get(spec, spec) if isinstance(spec, str) else spec


def with_legend(spec: Any, drawn: Container[str], dashed: bool, left: float) -> Any:
    """Return a specification with a legend of the groups `drawn` wherever it says that there is none of several groups.

    Of lines with dashes it shows lines, for a mark's outline with dashes is neither. The plot begins at `left`.
    """
    if isinstance(spec, list):
        return [with_legend(one, drawn, dashed, left) for one in spec]
    if not isinstance(spec, dict):
        return spec
    made = {key: value if key in NAMES_OF_OTHERS else with_legend(value, drawn, dashed, left) for key, value in spec.items()}
    if dashed and "shape" in made:
        made["shape"] = {**made["shape"], "legend": None}
    names = spec.get("scale", {}).get("domain", []) if "legend" in spec else []
    if len(names) < 2:
        return made
    there = [k for k, name in enumerate(names) if name in drawn]  # not as "values", where Vega takes a name for its own
    shown = [names[k] for k in there]
    scale = {**spec["scale"], "domain": shown, "range": [spec["scale"]["range"][k] for k in there]}
    return {**made, "scale": scale, "legend": legend_of(shown, dashed, left)}


def legend_of(names: Sequence[str], dashed: bool, left: float) -> dict[str, Any]:
    """Return the legend of a figure: one column where a name is long, for two would cut it; it begins at the edge."""
    long = any(len(name) + sum(letter > LAST_LATIN for letter in name) > LONG_NAME for name in names)
    limit = COLUMN - BESIDE_LABEL if long else COLUMN // 2 - BESIDE_LABEL
    place = f"indexof({as_list(names, sys.maxsize)}, datum.value)"
    return {
        "orient": "bottom",
        "columns": 1 if long else 2,
        "title": None,
        "labelExpr": f"{as_list(names, limit)}[{place}]",
        "labelLimit": limit,
        "symbolOpacity": 1,
        "symbolStrokeWidth": 1.5 if dashed else 0,
        "symbolOffset": FREE - left,
        "rowPadding": 0 if dashed else 2,
        "symbolSize": LINE_SYMBOL if dashed else MARK_AREA,
        **({"symbolType": "stroke"} if dashed else {}),
    }
