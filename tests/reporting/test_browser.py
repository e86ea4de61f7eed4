"""The report in a real browser, headless chromium: every figure is there, nothing is cut off, the console is silent."""

import json
import re
import shutil
import subprocess

import pytest
from support.finished_runs import write_run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium")
WIDTHS = (1280, 390)  # a laptop and a phone, in CSS pixels

# Shows the report in a frame of each width, since a window is never narrower than 500, and writes down what is seen there.
HARNESS = """<!doctype html><html><body><pre id="seen"></pre><script>
const seen = {};
function look(width, frame) {
  const page = frame.contentDocument, root = page.documentElement;
  const scrolls = element => element.closest('.wide') !== null;
  const outside = element => element.getBoundingClientRect().right > width + 1 || element.getBoundingClientRect().left < 0;
  const images = [...page.images];
  seen[width] = {
    title: page.title,
    images: images.filter(i => i.complete && i.naturalWidth > 0).map(i => i.getAttribute('src')),
    broken: images.filter(i => !i.complete || i.naturalWidth === 0).map(i => i.getAttribute('src')),
    page_scrolls: root.scrollWidth > width,
    cut: [...page.querySelectorAll('h1, h2, p, figcaption, .wide')].filter(e => outside(e) && !scrolls(e.parentElement))
      .map(e => e.textContent.slice(0, 40)),
    smallest: Math.min(...[...page.querySelectorAll('p, td, th, figcaption')].map(
      e => parseFloat(frame.contentWindow.getComputedStyle(e).fontSize))),
    narrowest_figure: Math.min(...images.map(i => i.getBoundingClientRect().width)),
    cells: page.querySelectorAll('td').length,
  };
}
for (const width of WIDTHS) {
  const frame = document.createElement('iframe');
  frame.style = `width: ${width}px; height: 800px; border: 0`;
  frame.onload = () => {
    look(width, frame);
    if (Object.keys(seen).length === WIDTHS.length) document.getElementById('seen').textContent = JSON.stringify(seen);
  };
  frame.src = 'report.html';
  document.body.append(frame);
}
</script></body></html>"""


def view(folder):
    """Open folder/report.html as a file, without a server; return what is seen at each width, and the console's lines."""
    (folder / "harness.html").write_text(HARNESS.replace("WIDTHS", json.dumps(WIDTHS)))
    command = [
        *(BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *(f"--user-data-dir={folder / 'profile'}", "--allow-file-access-from-files", "--enable-logging=stderr"),
        *("--virtual-time-budget=20000", "--dump-dom", (folder / "harness.html").as_uri()),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    found = re.search(r'<pre id="seen">(.+?)</pre>', shown.stdout, re.S)
    assert found, shown.stdout + shown.stderr
    return json.loads(found[1]), [line for line in shown.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture
def report(run, tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path / "runs", f"a_run_with_quite_a_long_name_as_they_often_have_{seed}", seed, accuracy=80.0 + seed)
        write_run(tmp_path / "runs", f"plain_{seed}", seed, "CE", 70 + seed, stage2="none")
    run("report.py", "runs", "--out", "out")
    return tmp_path / "out"


def test_the_report_on_a_laptop_and_on_a_phone(report):
    seen, console = view(report)
    assert console == []
    assert sorted(map(int, seen)) == sorted(WIDTHS)
    for page in seen.values():
        assert page["title"] == "Report"
        assert sorted(page["images"]) == sorted(path.name for path in report.glob("*.png"))
        assert len(page["images"]) == 6
        assert (page["broken"], page["cut"], page["page_scrolls"]) == ([], [], False)
        assert page["smallest"] >= 14
        assert page["narrowest_figure"] >= 500  # small print stays legible: a figure scrolls in its frame on a phone
        assert page["cells"] > 100


def test_the_browser_notices_what_is_wrong(report):
    """The control: a figure that is missing, a script that fails, and a table that is wider than a phone."""
    (report / "shots.png").unlink()
    page = (report / "report.html").read_text().replace('class="wide"', "")
    (report / "report.html").write_text(page.replace("</body>", "<script>nothing.at.all()</script></body>"))
    seen, console = view(report)
    assert seen["390"]["broken"] == ["shots.png"]
    assert seen["390"]["page_scrolls"]
    assert any("nothing is not defined" in line for line in console)
