"""Shell scripts run, or made to print their commands instead."""

import shutil

import pytest
from support.places import ROOT


@pytest.fixture
def sh(run):
    return lambda name, *words, **kwargs: run("sh", ROOT / "scripts" / name, *words, **kwargs)


@pytest.fixture
def tiny_network(tmp_path):
    """Flags for a network that trains in no time."""
    shutil.copy(ROOT / "tests" / "support" / "tiny_networks.py", tmp_path)
    return ["--arch", "tiny_networks:logits"]


@pytest.fixture
def echoed(sh):
    """Run a script that prints its commands instead; return the lines."""
    return lambda *words, **kwargs: sh(*words, PYTHON="echo", **kwargs).stdout.splitlines()
