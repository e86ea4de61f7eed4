"""A page of a report, read without a browser: its elements, tables and data, and what is wrong with its HTML."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise

VOID = {"meta", "link", "img", "input", "br", "wbr"}
ADDRESSES = {"src", "href", "srcset", "action", "data", "poster", "xlink:href"}


class Parsed(HTMLParser):
    """A page with all that is asserted of its elements; a tag that does not match is an error."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs), tuple(place for place in self.open)))
        self.texts.append("")
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), tuple(self.open)))
        self.texts.append("")

    def handle_endtag(self, tag):
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data):
        for place in self.open:
            self.texts[place] += data

    def all(self, tag, **wanted):
        """The attributes and texts of the elements of a kind."""
        return [(attrs, text) for (name, attrs, _), text in zip(self.elements, self.texts, strict=True)
                if name == tag and wanted.items() <= attrs.items()]  # fmt: skip

    def inside(self, place, tag):
        """The places of the elements of a kind inside another."""
        return [k for k, (name, _, above) in enumerate(self.elements) if name == tag and place in above]

    def data(self):
        """What the scripts that are data hold: specifications of charts, and classes."""
        return [json.loads(text) for _, text in self.all("script", type="application/json")]

    def tables(self):
        """The tables by caption: lists of rows of texts."""
        found = {}
        for place, (tag, _, _) in enumerate(self.elements):
            if tag == "table":
                (caption,) = self.inside(place, "caption")
                rows = [[self.texts[k] for k, one in enumerate(self.elements) if one[0] in ("td", "th") and row in one[2]]
                        for row in self.inside(place, "tr")]  # fmt: skip
                found.setdefault(self.texts[caption].strip(), rows)
        return found


def outside_requests(parsed):
    """What a browser might fetch: addresses in attributes and styles that are neither data nor a place in the page."""
    found = []
    for tag, attrs, _ in parsed.elements:
        for name, value in attrs.items():
            value = value or ""
            if name in ADDRESSES and not value.startswith(("data:", "#")):
                found.append((tag, name, value))
            found += [(tag, name, one) for one in re.findall(r"url\((.*?)\)", value) if not one.startswith(("#", "data:"))]
            if re.match(r"https?:", value) and not (name.startswith("xmlns") and value.startswith("http://www.w3.org/")):
                found.append((tag, name, value))
    for _, text in parsed.all("style"):
        found += re.findall(r"url\(.*?\)|@import.*|https?:[^ ]*", text)
    return found


def heading_faults(parsed):
    """Headings that skip a level, or a page without one first heading."""
    levels = [int(tag[1]) for tag, _, _ in parsed.elements if re.fullmatch(r"h[1-6]", tag)]
    steps = [(a, b) for a, b in pairwise(levels) if b > a + 1]
    return steps + ([] if levels[:1] == [1] and levels.count(1) == 1 else ["h1"])


def table_faults(parsed):
    """Tables without a caption, cells of a head without scope, rows that are not as long as their head."""
    found = []
    for place, (tag, _, _) in enumerate(parsed.elements):
        if tag != "table":
            continue
        if len(parsed.inside(place, "caption")) != 1:
            found.append("caption")
        head, *rows = parsed.inside(place, "tr")
        heads = [parsed.elements[k][1] for k in parsed.inside(head, "th")]
        found += ["scope" for attrs in heads if attrs.get("scope") != "col"]
        for row in rows:
            cells = [parsed.elements[k] for k in (*parsed.inside(row, "th"), *parsed.inside(row, "td"))]
            width = sum(int(attrs.get("colspan", 1)) for _, attrs, _ in cells)
            if width != len(heads):
                found.append(f"{width} cells")
            if cells and cells[0][0] == "th" and cells[0][1].get("scope") != "row":
                found.append("scope")
    return found
