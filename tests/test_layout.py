"""The plan: who may import whom, nothing twice, one name for one thing, no import that does work."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter

import pytest
from support.places import ROOT

METHOD = "resnet meta_layers loss covariance_rules meta_gradient meta_step passes tangents heads.head_step"
MAY_IMPORT = {  # groups of modules; "root" are its scripts and commands
    "method": "method",
    "harness": "harness",
    "datasets": "datasets harness",
    "data_utils": "datasets harness",
    "heads": "heads datasets harness method data_utils",
    "inference": "inference heads datasets harness method data_utils",
    "reporting": "reporting heads datasets harness method data_utils",
    "root": "root inference reporting heads datasets harness method data_utils",
    "ImageNet_iNat": "ImageNet_iNat heads datasets harness method data_utils",
}
SAME_ROLE = "main train parse_training parse_test training_parser testing_parser"  # of two sets of scripts
PACKAGES = ("datasets", "harness", "heads", "inference", "reporting")
FOLDERS = ("", *PACKAGES, "ImageNet_iNat", "ImageNet_iNat/data")
PATHS = {  # by the name that a file is imported by
    ".".join([*([folder] if folder in PACKAGES else []), path.stem]).removesuffix(".__init__"): path
    for folder in FOLDERS
    for path in (ROOT / folder).glob("*.py")
}
SOURCES = {name: path.read_text(encoding="utf-8") for name, path in PATHS.items()}


def group_of(name):
    first = PATHS[name].relative_to(ROOT).parts[0]
    return "method" if name in METHOD.split() else name if name == "data_utils" else first if first in MAY_IMPORT else "root"


def imported(source):
    """The names of all modules that are imported anywhere in a source, `module.*` for a star import."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in SOURCES or name.endswith(".*") else node.module for name in inner)


def faults(name, source):
    """The imports of a module that the plan does not allow."""
    allowed = MAY_IMPORT[group_of(name)].split()
    return [m for m in imported(source) if m.endswith(".*") or (m in SOURCES and group_of(m) not in allowed)]


def ambiguous(sources):
    """The public names that two modules define, and not by the same words."""
    found = defaultdict(dict)
    for module, source in sources.items():
        for node in ast.parse(source).body:
            targets = getattr(node, "targets", [node.target] if isinstance(node, ast.AnnAssign) else [])
            names = [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
            for name in [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else names:
                found[name][module] = ast.unparse(node)
    public = {name: of for name, of in found.items() if not name.startswith("_") and name not in SAME_ROLE.split()}
    return {name: sorted(of) for name, of in public.items() if len(set(of.values())) > 1}


def test_the_root_and_its_scripts_are_small():
    assert len(list(ROOT.glob("*.py"))) <= 15
    others = {path for path in ROOT.glob("[!.]*/**/*.py") if path not in PATHS.values()}
    assert {path.relative_to(ROOT).parts[0] for path in others} <= {"tests", "benchmarks", "scripts"}
    for name, most in (("MetaSAug_LDAM_train", 116), ("MetaSAug_CE_train", 20), ("MetaSAug_test", 100)):
        assert len(SOURCES[name].splitlines()) <= most, name


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_imports_follow_the_plan(name):
    assert faults(name, SOURCES[name]) == []


@pytest.mark.parametrize(
    ("name", "source", "seen"),
    [
        ("loss", "def f():\n    from harness.errors import UserError", "harness.errors"),
        ("heads.head_step", "from harness import errors\nimport loss", "harness.errors"),
        ("passes", "import reporting.charts", "reporting.charts"),
        ("harness.run", "from meta_step import meta_step\nimport data_utils", "meta_step data_utils"),
        ("harness.flags", "from reporting import charts\nfrom head_flags import x", "reporting.charts head_flags"),
        ("report", "import head_flags\nfrom os import *", "head_flags os.*"),
        ("reporting.charts", "from harness.metrics import SHOTS\nfrom resnet import ResNet\nimport os", ""),
    ],
)
def test_what_the_plan_does_not_allow_is_seen(name, source, seen):
    assert faults(name, source) == seen.split()


def test_imports_have_no_cycles():
    graph = {name: {m for m in imported(source) if m in SOURCES} for name, source in SOURCES.items()}
    TopologicalSorter(graph).prepare()
    with pytest.raises(CycleError):  # the control
        TopologicalSorter({**graph, "harness.errors": {"harness.run"}}).prepare()


def test_one_name_has_one_meaning():
    assert ambiguous(SOURCES) == {}
    two = {"a": "def f(): return 1\nX: int = 1\n_Y = 1\nT = 0", "b": "class f: pass\n(X, Z) = 2, 3\n_Y = 2\nT = 0"}
    assert ambiguous(two) == {"f": ["a", "b"], "X": ["a", "b"]}


def printing(source):
    """The lines that print what is not constant, not by `say`: names in it might move the cursor."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    named = (call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print")
    return [call.lineno for call in named if not all(isinstance(word, ast.Constant) for word in call.args)]


def test_one_function_prints_what_is_not_constant():
    scripts = {path.stem: path.read_text(encoding="utf-8") for path in ROOT.glob("scripts/*.py")}
    found = {name for name, source in {**SOURCES, **scripts}.items() if printing(source)}
    assert found == {"harness.text"}
    assert printing('print("a")\nprint(f"{x}")\nprint(x)\nprint("a", *x)\nsay(x)\nprint()') == [2, 3, 4]


def test_imports_do_no_work(tmp_path):
    """No files, no output, no random numbers drawn, no default changed, by importing everything."""
    code = [
        f"import sys; sys.path[:0] = {[str(ROOT / folder) for folder in FOLDERS if folder not in PACKAGES]}",
        "import random, signal, numpy, torch",
        "def state(): return [random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist(),",
        "    torch.get_num_threads(), torch.get_default_dtype(), *map(signal.getsignal, signal.Signals)]",
        *("before = state()", *(f"import {name}" for name in SOURCES), "assert state() == before"),
    ]
    command = [sys.executable, "-B", "-c", "\n".join(code)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_files_are_looked_for_by_functions_that_take_any_name():
    """Path.exists and its like raise an OSError at a name that is too long; those of os.path say that there is none."""
    for name, source in SOURCES.items():
        asked = re.findall(r"(\w+|\))\.(?:exists|is_file|is_dir|is_symlink)\(\)", source)
        assert set(asked) <= {"entry"}, name  # of os.scandir
