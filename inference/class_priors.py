"""Probabilities for images among which the classes are as frequent as one says, from a network that was trained on others.

p'(y|x) ∝ p(y|x) · π'(y) / π(y) (Saerens et al., Neural Computation 14, 2002, eq. 2.4). π are the frequencies that the
network's probabilities are for: those of its training images if its loss did not make up for them, else the same of all
classes, which the weights and the log prior aim at.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.errors import UserError
from harness.evaluation import balanced_by, prior_counts
from harness.files import read_bytes
from loss import log_prior

TRAIN, UNIFORM = "train", "uniform"  # the choices of --prior besides a file


def prior_shift(given: str, names: Sequence[str], state: Mapping[str, Any], source: Path) -> tuple[Tensor, str]:
    """Return what is added to the logits (C,), log π' − log π, and a line that says so.

    Parameters
    ----------
    given:
        "train", "uniform", or a file, see `read_shares`.
    names:
        The classes'.
    state, source:
        The network's checkpoint, and the file.
    """
    even = torch.full((len(names),), -math.log(len(names)), dtype=torch.float64)
    plain = bool(state.get("flags")) and balanced_by(state) is None
    trained = even
    if plain or given == TRAIN:
        trained = log_prior(prior_counts(state, state.get("cls_num_list"), source, "--prior"))
    if given == TRAIN:
        wanted, words = trained, "as frequent as in training"
    elif given == UNIFORM:
        wanted, words = even, "equally frequent"
    else:
        wanted, words = read_shares(Path(given), names).log(), f"as frequent as {given} says"
    own = trained if plain else even
    taken = "classes as frequent as in training" if plain else "equally frequent ones"
    line = f"probabilities are for classes that are {words}; those of the network are taken to be for {taken}"
    return (wanted - own).float(), line


def read_shares(path: Path, names: Sequence[str]) -> Tensor:
    """Read a line `class,number` for each class, in any order, after a heading or none; return the shares (C,) in float64.

    Numbers may be counts or shares; one may be 0.
    """
    try:
        reader = csv.reader(io.StringIO(read_bytes(path).decode("utf-8-sig"), newline=""))
        rows = [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--prior {path} cannot be read as a table ({error}): save it as CSV in UTF-8") from error
    found: dict[str, float] = {}
    for number, row in rows:
        name, value = row[0], number_in(row)
        if value is None and len(row) == 2 and (number, row) == rows[0] and name not in names:  # a heading
            continue
        if value is None or not 0 <= value < math.inf:
            what = "a class (in quotes if it has a comma), a comma and a number of 0 or more"
            raise UserError(f"--prior {path}, line {number}: it must be {what}")
        if name not in names or name in found:
            why = "is there twice" if name in found else "is no class of the network"
            raise UserError(f"--prior {path}, line {number}: {name} {why}")
        found[name] = value
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(f"--prior {path} has no line for {missing[0]}: each of the {len(names)} classes needs one")
    if not any(found.values()):
        raise UserError(f"--prior {path}: one class at least needs a number above 0")
    shares = torch.tensor([found[name] for name in names], dtype=torch.float64)
    shares /= shares.max()  # the sum of the largest numbers is not finite
    return shares / shares.sum()


def number_in(row: Sequence[str]) -> float | None:
    """Return the number in the second of two fields."""
    try:
        return float(row[1]) if len(row) == 2 and row[1].isascii() and "_" not in row[1] else None
    except ValueError:
        return None
