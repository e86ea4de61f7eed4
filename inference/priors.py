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
FORM = "write a UTF-8 CSV with one line per class: name (quoted if it contains a comma), comma, number"


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
    trained = even = torch.full((len(names),), -math.log(len(names)), dtype=torch.float64)
    plain = bool(state.get("flags")) and balanced_by(state) is None
    if plain or given == TRAIN:
        trained = log_prior(prior_counts(state, state.get("cls_num_list"), source, "--prior"))
    known = {TRAIN: (trained, "as frequent as in training"), UNIFORM: (even, "equally frequent")}
    wanted, words = known.get(given) or (read_shares(Path(given), names).log(), f"as frequent as {given} says")
    own, taken = known[TRAIN if plain else UNIFORM]
    line = f"probabilities assume classes {words}; without --prior this network assumes them {taken}"
    return (wanted - own).float(), line


def read_shares(path: Path, names: Sequence[str]) -> Tensor:
    """Read a line `class,number` for each class, in any order, after a heading or none; return the shares (C,) in float64.

    Numbers may be counts or shares; one may be 0.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if any(row)]
        heading = rows[:1] if rows and rows[0][0] not in names else []
        found = {name: float(number) for name, number in rows[len(heading) :]}
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError too
        raise UserError(f"--prior {path} cannot be read as a table ({error}): {FORM}") from error
    for name in (*found, *names):
        if name not in names or not 0 <= found.get(name, -1) < math.inf:
            fault = "is no class of the network" if name not in names else "needs a line with a number of 0 or more"
            raise UserError(f"--prior {path}: {name} {fault}: {FORM}")
    if len(found) < len(rows) - len(heading) or not any(found.values()):
        raise UserError(f"--prior {path} has a class twice, or no number above 0: {FORM}")
    shares = torch.tensor([found[name] for name in names], dtype=torch.float64)
    shares /= shares.max()  # the sum of the largest numbers is not finite
    return shares / shares.sum()
