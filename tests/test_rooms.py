"""The plan of the house: imports point down only, no star import, no import has side effects."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

FLOORS = [
    ["errors"],
    ["archives", "meta_layers", "loss", "metrics", "checkpoint", "runlog"],
    ["image_sets", "places", "record", "resume", "keeper", "tangents"],
    ["data_utils", "options", "resnet"],
    ["runs"],
    ["passes", "plots", "sweeps", "trained"],
    ["meta_step", "exports", "announce"],
    ["engine"],
    ["training", "image_lists", "backbone", "process_group", "head_step"],
    ["large_sets"],
    ["features", "head_options"],
    ["feature_cache"],
    ["head_training"],
    ["MetaSAug_LDAM_train", "MetaSAug_CE_train", "MetaSAug_test", "predict", "report", "train", "test", "prepare_lists"],
]
HEIGHT = {name: height for height, floor in enumerate(FLOORS) for name in floor}
PATHS = {path.stem: path for path in [*ROOT.glob("*.py"), *ROOT.glob("ImageNet_iNat/**/*.py")]}
ROOMS = sorted(PATHS)


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
    assert upward(name, PATHS[name].read_text()) == []


def test_the_root_needs_nothing_of_imagenet_inat():
    large = {name for name, path in PATHS.items() if path.parent != ROOT}
    for name in set(PATHS) - large:
        assert not large & {module for module, _ in imports(PATHS[name].read_text())}
    assert large & {module for module, _ in imports(PATHS["train"].read_text())}  # the control


def test_no_line_is_in_two_rooms():
    """Nothing is copied: no eight lines in a row, comments and blanks aside, stand in two files."""
    seen = {}
    for name, path in PATHS.items():
        lines = [line.strip() for line in path.read_text().splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        for i in range(len(lines) - 7):
            block = "\n".join(lines[i : i + 8])
            if len(block) > 200:
                assert seen.setdefault(block, name) == name, f"{name} and {seen[block]} share:\n{block}"


def test_the_check_sees_an_upward_and_a_star_import():
    assert upward("loss", "def f():\n    from meta_step import meta_step") == ["meta_step"]
    assert upward("loss", "from os import *") == ["os"]


def test_imports_do_no_work(tmp_path):
    """No files, no output, no random numbers drawn, no default changed, by importing everything."""
    code = (
        "import random, torch; s = torch.get_rng_state(), random.getstate(), torch.get_num_threads()\n"
        + "".join(f"import {name}\n" for name in ROOMS if name != "prepare_lists")
        + "assert torch.equal(s[0], torch.get_rng_state()) and s[1:] == (random.getstate(), torch.get_num_threads())"
    )
    result = subprocess.run(
        [sys.executable, "-B", "-c", f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'ImageNet_iNat')!r}]\n{code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
