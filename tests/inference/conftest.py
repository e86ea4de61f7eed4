"""Checkpoints and images that the tests of this folder share."""

import pytest
from support.classifiers import write_all


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("inference")
    write_all(made)
    return made
