"""Where the project lies."""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def copy_of_the_project(folder):
    """Its code, where a test may write beside it."""
    left_out = shutil.ignore_patterns(".*", "tests", "docs", "results", "__pycache__")
    return shutil.copytree(ROOT, folder, ignore=left_out, dirs_exist_ok=True)
