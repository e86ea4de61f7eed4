"""Examples that are there more than once: in the training and the test set, or in two classes.

Examples are given by what is equal where they are the same: a digest of pixels or of features, or the place of a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

import numpy as np

from datasets.pictures import numbered


def row_digests(rows: np.ndarray) -> list[Hashable]:
    """Return a digest of each row (N, ...)."""
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
    return [hashlib.blake2b(row.data, digest_size=16).digest() for row in flat]


def repeat_notes(train: Sequence[Hashable], targets: np.ndarray, test: Sequence[Hashable]) -> list[str]:
    """Return lines that count the test examples that are trained on too, and the training examples of two classes."""
    known, notes = set(train), []
    repeated = sum(one in known for one in test)
    if repeated:
        were = numbered(repeated, *(f"of the {len(test)} examples of the test set {verb}" for verb in ("is", "are")))
        notes.append(f"{were} trained on too: the accuracy on them says nothing about new ones")
    labels = dict[Hashable, set[int]]()
    for one, label in zip(train, targets.tolist(), strict=True):
        labels.setdefault(one, set()).add(label)
    twice = sum(len(found) > 1 for found in labels.values())
    if twice:
        notes.append(f"{numbered(twice, 'training example is', 'training examples are')} in more than one class")
    return notes
