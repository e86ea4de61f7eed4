"""docs/extending.md: each change applies as it stands there, and its command runs with it."""

import re
import shlex
import shutil
import subprocess

import pytest
from support.places import ROOT

TEXT = (ROOT / "docs" / "extending.md").read_text()
SECTIONS = re.findall(r"^## ([^\n]+)\n(.*?)```diff\n(.*?)^```\n\n```\n(.*?)^```", TEXT, re.M | re.S)


def copy_of_the_project(folder):
    rooms = ("datasets", "harness", "heads", "inference", "reporting")
    for path in [*ROOT.glob("*.py"), *(path for room in rooms for path in ROOT.glob(f"{room}/*.py"))]:
        (folder / path.relative_to(ROOT)).parent.mkdir(exist_ok=True)
        shutil.copy(path, folder / path.relative_to(ROOT))


def apply(diff, folder):
    return subprocess.run(["git", "apply", "-"], input=diff, cwd=folder, text=True, capture_output=True, check=False)


def test_four_changes_are_shown():
    assert [title for title, *_ in SECTIONS] == ["A new loss", "A new network", "A new data set", "A new rule for Σ"]


@pytest.mark.parametrize(("title", "text", "diff", "command"), SECTIONS, ids=[title for title, *_ in SECTIONS])
def test_a_change_applies_and_runs(run, tmp_path, title, text, diff, command):
    copy_of_the_project(tmp_path)
    lines = [line for line in diff.splitlines() if not line.startswith(("+++", "---"))]
    counts = len(re.findall(r"^\+\+\+", diff, re.M)), *(sum(line.startswith(sign) for line in lines) for sign in "+-")
    removed = f", {counts[2]} removed" if counts[2] else ""
    assert f"{counts[0]} file{'s' * (counts[0] > 1)}, {counts[1]} lines added{removed}" in text
    words = shlex.split(command)[1:]
    if "new loss" not in title:  # the control: without the change there is no such thing
        run("sh", "-c", 'exec "$PYTHON" "$@"', "sh", *words, status=2)
    applied = apply(diff, tmp_path)
    assert applied.returncode == 0, applied.stderr
    assert "last epoch 1: accuracy" in run("sh", "-c", 'exec "$PYTHON" "$@"', "sh", *words).stdout
    assert apply(diff, tmp_path).returncode != 0  # it can be applied once
