"""Examples of a data set, whatever they are: what is drawn from them, and which of two lists are the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TypeVar

import numpy as np
from PIL import Image

Self = TypeVar("Self", bound="Examples")


@dataclass(frozen=True)
class Examples:
    """M examples, their class names, the file or folder that they are of, and lines for the user.

    `items` (M,) are paths, digests or numbers of rows: what two entries, also of two lists, have in common that are one
    example. `targets` (M,) are int64.
    """

    items: np.ndarray
    targets: np.ndarray
    class_names: list[str]
    source: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def content(self) -> str:
        """What tells these examples from others with the same items."""
        return ""

    def subset(self: Self, index: np.ndarray) -> Self:
        """Return the examples at `index`."""
        return replace(self, items=self.items[index], targets=self.targets[index])

    def joined(self: Self, other: Self) -> Self:
        """Return these examples and after them those of `other`, of the same classes."""
        items, targets = np.append(self.items, other.items), np.append(self.targets, other.targets)
        return replace(self, items=items, targets=targets)

    def without(self: Self, items: Container[Hashable]) -> Self:
        """Return the examples that are none of `items`."""
        return self.subset(np.flatnonzero([item not in items for item in self.items.tolist()]))

    def picture(self, index: int) -> Image.Image | None:
        """Return the image at `index`, None where there is none to show."""
        return None

    def digest(self) -> str:
        """Return a short digest of items and targets."""
        digest = hashlib.sha256(os.fsencode("\n".join(map(str, self.items.tolist()))))
        digest.update(np.ascontiguousarray(self.targets).tobytes())
        return digest.hexdigest()[:16]


def first_places(examples: Examples) -> np.ndarray:
    """Return where each item is listed first, in the order of the items."""
    return np.unique(examples.items, return_index=True)[1]


def with_others(examples: Self, more: Self) -> Self:
    """Return the examples and, after them, those of `more` that are not among them, each once."""
    others = more.without(set(examples.items.tolist()))
    return examples.joined(others.subset(np.sort(first_places(others))))


def united(parts: Iterable[Self]) -> Self:
    """Return all examples of some lists, each once, in the order of their items whatever list they are of."""
    whole = reduce(lambda joined, part: joined.joined(part), parts)
    return whole.subset(first_places(whole))


def class_counts(examples: Examples) -> list[int]:
    """Return how many examples each class has."""
    counts: list[int] = np.bincount(examples.targets, minlength=len(examples.class_names)).tolist()
    return counts


def row_digests(rows: np.ndarray) -> list[str]:
    """Return a digest of each row (N, ...)."""
    return [hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() for row in rows]


def repeat_notes(train: Sequence[Hashable], targets: np.ndarray, test: Sequence[Hashable]) -> list[str]:
    """Return lines that count the test examples that are trained on too, and the training examples of two classes."""
    known, pairs, notes = set(train), set(zip(train, targets.tolist(), strict=True)), []
    if repeated := sum(one in known for one in test):
        notes.append(f"{repeated} of the {len(test)} examples of the test set are trained on too: the accuracy on them says "
                     "nothing about new ones")  # fmt: skip
    if twice := len(pairs) - len(known):
        notes.append(f"training examples that are in more than one class: {twice}")
    return notes
