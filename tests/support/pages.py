"""A page of a report, read without a browser: its elements, tables and data."""

import json
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "input"}


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

