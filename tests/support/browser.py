"""Pages in a real browser: headless chromium with its network off, and what a reader would find wrong with what it shows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, TimeoutError, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 60_000  # milliseconds until something that does not come is a fault
TO_DRAW = PATIENCE  # of charts
WITHIN = ("data:", "blob:", "about:")  # addresses that are in the page itself
FAULTS = Path(__file__).with_name("page_faults.js").read_text(encoding="utf-8")
DRAWN = "[...document.querySelectorAll('.figure')].every(figure => figure.querySelector('.live svg'))"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser of the system; it ends, with all its processes, where the context does."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


class View:
    """A page as it is shown at one size in one colour scheme, and all that it said and asked for since it was opened."""

    def __init__(self, page: Page, scripts: bool) -> None:
        self.page, self.scripts, self.address = page, scripts, ""
        self.said: list[str] = []  # on the console, and errors of scripts
        self.requests: list[str] = []  # addresses of anything else than the page
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("request", lambda request: self.ask(request.url))
        page.on("websocket", lambda socket: self.ask(socket.url))
        page.route(lambda address: address.split("#")[0] != self.address, lambda route: route.abort())

    def show(self, path: Path) -> None:
        """Open a file, and all charts in it."""
        self.address = path.resolve().as_uri()
        self.said.clear()
        self.requests.clear()
        self.page.goto(self.address)
        if self.scripts:
            self.draw_all()

    def ask(self, address: str) -> None:
        """Write down an address that the page asks for, if it is not in the page itself."""
        if address.split("#")[0] != self.address and not address.startswith(WITHIN):
            self.requests.append(address)

    def draw_all(self) -> None:
        """Read the page to its end, as charts come alive once they are nearly in sight; one that does not is a fault."""
        self.page.evaluate(
            "async () => { for (const figure of document.querySelectorAll('.figure')) { figure.scrollIntoView();"
            " await new Promise(requestAnimationFrame); } scrollTo(0, 0); }"
        )
        try:
            self.page.wait_for_function(DRAWN, timeout=TO_DRAW)
        except TimeoutError:
            self.said.append("error: some charts are not drawn by the page's script")

    def faults(self) -> dict[str, list[str]]:
        """Return what is wrong by kind of fault, those of page_faults.js, "console" and "requests"; none of a right page."""
        found: dict[str, list[str]] = self.page.evaluate(FAULTS)
        found |= {"console": self.said, "requests": self.requests}
        return {kind: words for kind, words in found.items() if words}

    def axe(self) -> list[str]:
        """Return the violations that axe-core finds, a line for each with the first elements concerned."""
        self.page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8"))
        found: list[dict[str, Any]] = self.page.evaluate("async () => (await axe.run()).violations")
        return [f"{one['id']}, {len(one['nodes'])} times: {'; '.join(map(concerned, one['nodes'][:3]))}" for one in found]

    def prefer(self, scheme: str) -> None:
        """Let the reader prefer "light" or "dark" from now on."""
        self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]

    def unfold(self) -> None:
        """Open all that is folded."""
        self.page.evaluate("document.querySelectorAll('details').forEach(folded => { folded.open = true; })")

    def tab_stops(self) -> tuple[list[str], list[str]]:
        """Press Tab from the top of the page to its end; return what cannot be reached so, and what shows no focus there."""
        reachable = self.page.evaluate(FOCUSABLE)
        # Where Tab goes on from is a place that scrollIntoView moves too, in some versions: only a focus surely sets it.
        top = self.page.evaluate_handle(TOP)
        seen: set[int] = set()
        unmarked: list[str] = []
        for _ in range(len(reachable) + 1):
            self.page.keyboard.press("Tab")
            number, words, marked = self.page.evaluate(FOCUSED)
            if number in seen or number < 0:
                break
            seen.add(number)
            unmarked += [] if marked else [words]
        top.evaluate("top => top.remove()")
        return [words for number, words in enumerate(reachable) if number not in seen], unmarked


def concerned(node: dict[str, Any]) -> str:
    """Return what axe-core says of an element: where it is, and what is wrong."""
    return f"{node['target'][-1]}: {node['failureSummary'].splitlines()[-1].strip()}"


# Numbers all elements that the keyboard should come to, and returns them in words; a closed <details> hides what is in it.
FOCUSABLE = """() => [...document.querySelectorAll(
  'a[href], button, select, input, textarea, summary, [tabindex]:not([tabindex="-1"])')]
  .filter(e => !e.disabled && e.checkVisibility({visibilityProperty: true}))
  .map((e, number) => { e.stopNumber = number; return e.outerHTML.slice(0, 80); })"""
# Focuses what is put before all else in the page; Tab itself never comes to it.
TOP = """() => { const top = document.createElement('span'); top.tabIndex = -1; document.body.prepend(top); top.focus();
  return top; }"""
FOCUSED = """() => { const e = document.activeElement, style = getComputedStyle(e);
  const marked = (style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0) || style.boxShadow !== 'none';
  return [e.stopNumber ?? -1, e.outerHTML.slice(0, 80), marked]; }"""


@contextmanager
def opened(
    browser: Browser, path: Path, width: int = 1280, height: int = 800, scheme: str = "light", scripts: bool = True,
    still: bool = True,
) -> Iterator[View]:  # fmt: skip
    """Open a file at a size in CSS pixels.

    Parameters
    ----------
    scheme:
        "light" or "dark", what the reader prefers.
    scripts:
        Whether JavaScript is on.
    still:
        Whether the reader prefers no motion.
    """
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, java_script_enabled=scripts, offline=True,  # type: ignore[arg-type]
        reduced_motion="reduce" if still else "no-preference",
    )  # fmt: skip
    try:
        view = View(context.new_page(), scripts)
        view.show(path)
        yield view
    finally:
        context.close()
