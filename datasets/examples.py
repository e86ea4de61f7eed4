"""Examples of a data set, whatever they are: what is drawn from them, and which of two lists are the same."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Container, Hashable, Sequence
from typing import TypeVar

import numpy as np

Self = TypeVar("Self", bound="Examples")


class Examples(ABC):
    """M examples: targets (M,) int64, class names, the file or folder that they are of, and lines for the user."""

    targets: np.ndarray
    class_names: list[str]
    source: str
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.targets)

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """What the examples are called."""

    @property
    @abstractmethod
    def content(self) -> str:
        """What tells these examples from others of the same names."""

    @abstractmethod
    def ids(self) -> Sequence[Hashable]:
        """Return what two entries, also of two lists, have in common that are one example."""

    @abstractmethod
    def subset(self: Self, index: np.ndarray) -> Self:
        """Return the examples at `index`."""

    @abstractmethod
    def joined(self: Self, other: Self) -> Self:
        """Return these examples and after them those of `other`, of the same classes."""

    def without(self: Self, keys: Container[Hashable]) -> Self:
        """Return the examples that are none of `keys`."""
        return self.subset(np.flatnonzero([key not in keys for key in self.ids()]))

    def digest(self) -> str:
        """Return a short digest of names and labels."""
        digest = hashlib.sha256(os.fsencode("\n".join(self.names)))
        digest.update(np.ascontiguousarray(self.targets).tobytes())
        return digest.hexdigest()[:16]


def first_places(examples: Examples) -> dict[Hashable, int]:
    """Return, of each example, the place where it is listed first."""
    return {key: place for place, key in reversed(list(enumerate(examples.ids())))}


def with_meta(train: Self, meta: Self) -> Self:
    """Return the training examples and, after them, the meta examples that are not among them, each once."""
    others = meta.without(set(train.ids()))
    return train.joined(others.subset(np.array(sorted(first_places(others).values()), dtype=np.int64)))


def united(parts: Sequence[Self]) -> Self:
    """Return all examples of some lists, each once, in the order of their keys whatever list they are of."""
    whole = parts[0]
    for part in parts[1:]:
        whole = with_meta(whole, part)
    return whole.subset(np.array([place for _, place in sorted(first_places(whole).items())], dtype=np.int64))


def class_counts(examples: Examples) -> list[int]:
    """Return how many examples each class has."""
    counts: list[int] = np.bincount(examples.targets, minlength=len(examples.class_names)).tolist()
    return counts
