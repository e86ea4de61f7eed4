"""Scores of ways by how many of 100 rows of two classes are right."""

import numpy as np

from heads.folds import Score


def level(right):
    """The first `right` of the rows are; all log-losses are the same."""
    rows = np.arange(100)
    return Score(rows % 2, rows < right, np.ones(100))
