"""The plan of the house: imports point down only, no star import, no import has side effects."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

FLOORS = [
    ["errors"],
    ["meta_layers", "loss", "image_sets", "metrics", "checkpoint", "runlog"],
    ["data_utils", "options", "resnet"],
    ["meta_step"],
    ["engine"],
    ["training"],
    ["MetaSAug_LDAM_train", "MetaSAug_CE_train", "MetaSAug_test", "report"],
]
HEIGHT = {name: height for height, floor in enumerate(FLOORS) for name in floor}
ROOMS = sorted(p.stem for p in ROOT.glob("*.py"))


def imports(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module, node.names[0].name == "*"


def upward(name, source):
    return [module for module, star in imports(source) if star or HEIGHT.get(module, -1) >= HEIGHT[name]]


def test_every_room_has_a_floor():
    assert sorted(HEIGHT) == ROOMS


@pytest.mark.parametrize("name", ROOMS)
def test_imports_point_down(name):
    assert upward(name, (ROOT / f"{name}.py").read_text()) == []


def test_the_check_sees_an_upward_and_a_star_import():
    assert upward("loss", "def f():\n    from meta_step import meta_step") == ["meta_step"]
    assert upward("loss", "from os import *") == ["os"]


def test_imports_do_no_work(tmp_path):
    """No files, no output, no random numbers drawn, no default changed, by importing everything."""
    code = (
        "import random, torch; s = torch.get_rng_state(), random.getstate(), torch.get_num_threads()\n"
        + "".join(f"import {name}\n" for name in ROOMS)
        + "assert torch.equal(s[0], torch.get_rng_state()) and s[1:] == (random.getstate(), torch.get_num_threads())"
    )
    result = subprocess.run(
        [sys.executable, "-B", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
