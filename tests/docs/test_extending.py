"""docs/extending.md: each change applies as it stands there, and its command runs with it."""

import re
import subprocess

import pytest
from support.places import ROOT, copy_of_the_project

TEXT = (ROOT / "docs" / "extending.md").read_text()
SECTIONS = re.findall(r"^## ([^\n]+)\n(.*?)```diff\n(.*?)^```\n\n```\n(.*?)^```", TEXT, re.M | re.S)


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
    command = command.replace("python3 ", f"{tmp_path}/", 1)
    if "new loss" not in title:  # the control: without the change there is no such thing
        run(command, status=2)
    applied = apply(diff, tmp_path)
    assert applied.returncode == 0, applied.stderr
    assert "last epoch 1: accuracy" in run(command).stdout
    assert apply(diff, tmp_path).returncode != 0  # it can be applied once
