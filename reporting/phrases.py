"""Pieces of English sentences: numbers, lists and names. Names pass through letter by letter: a page escapes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

NAMED = 5  # names in a list; of more than these the number is said


def quoted(name: str) -> str:
    """Return a name between quotation marks."""
    return f"“{name}”"


def in_a_row(words: Iterable[str], total: int, named: int = NAMED) -> str:
    """Return for instance "a, b and c", or "a, b, c, d, e and 12 more" of `total` words."""
    first = list(islice(words, named))
    parts = [*first, f"{total - named} more"] if total > named else first
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def amount(number: int, word: str) -> str:
    """Return for instance "1 class" and "1,000 classes"."""
    plural = f"{word}es" if word.endswith("s") else f"{word}s"
    return f"{number:,} {word if number == 1 else plural}"


def span(numbers: Sequence[int]) -> str:
    """Return for instance "5" or "5 to 500"."""
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def amounts(numbers: Sequence[int], word: str) -> str:
    """Return for instance "1 common seed" or "2 to 3 common seeds"."""
    return f"{span(numbers)} {word}{'s' * (max(numbers) != 1)}"


def points(value: float, decimals: int = 2) -> str:
    """Return a number with so many decimals, more of them where it would look like the 0 that it is not."""
    while value and not round(value, decimals) and decimals < 9:
        decimals += 1
    return f"{value:.{decimals}f}".replace("-", "−") if round(value, decimals) else f"{0:.{decimals}f}"


def seed_words(seeds: Sequence[str]) -> str:
    """Return for instance "seeds 1, 2 and 3"."""
    if not seeds:
        return "seeds that are not known"
    return f"seed{'s' * (len(seeds) > 1)} {in_a_row(seeds, len(seeds), named=10)}"
