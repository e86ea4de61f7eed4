"""Which of several processes this one is, as a launcher says it in environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.errors import UserError

LAUNCHER = "a launcher as torchrun sets WORLD_SIZE, RANK, MASTER_ADDR and MASTER_PORT; for a single process unset them all"

MOST = 4096  # processes


@dataclass(frozen=True)
class Place:
    """A process among the `world_size` of a run, the `local_rank`-th on its machine; they meet at `master`."""

    rank: int
    world_size: int
    local_rank: int
    master: tuple[str, int]


def read_place(variables: Mapping[str, str], local_rank: int | None) -> Place:
    """Read WORLD_SIZE, RANK, LOCAL_RANK (else the flag's `local_rank`), MASTER_ADDR and MASTER_PORT.

    Without the first two there is one process. A variable that is empty is a mistake: it is what is left of `RANK=$ID` where
    ID is unset, and to read it as unset would have every process train all by itself.
    """
    if local_rank is not None and local_rank < 0:
        raise UserError(f"--local_rank {local_rank} makes no sense: it must be a whole number from 0")
    local = whole(variables, "LOCAL_RANK", 0, None) if "LOCAL_RANK" in variables else local_rank or 0
    if "WORLD_SIZE" not in variables:
        for name in ("RANK", "LOCAL_RANK"):
            if name in variables:
                raise UserError(f"{name} is {variables[name]!r}, but WORLD_SIZE is not set: {LAUNCHER}")
        return Place(0, 1, local, ("", 0))
    world = whole(variables, "WORLD_SIZE", 1, MOST)
    if world == 1 and "RANK" not in variables:
        return Place(0, 1, local, ("", 0))
    rank = whole(variables, "RANK", 0, world - 1)
    if world == 1:
        return Place(0, 1, local, ("", 0))
    if not variables.get("MASTER_ADDR", "").strip():
        found = "empty" if "MASTER_ADDR" in variables else "not set"
        raise UserError(f"MASTER_ADDR is {found}: it must be where rank 0 runs")
    return Place(rank, world, local, (variables["MASTER_ADDR"], whole(variables, "MASTER_PORT", 1, 65535)))


def whole(variables: Mapping[str, str], name: str, least: int, most: int | None) -> int:
    """Return a variable that must be a whole number."""
    wanted = f"a whole number from {least}{'' if most is None else f' to {most}'}"
    if name not in variables:
        raise UserError(f"{name} is not set: {LAUNCHER}")
    text = variables[name]
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UserError(f"{name} is {text!r}: it must be {wanted}")
    if int(text) < least or (most is not None and int(text) > most):
        raise UserError(f"{name} is {text!r}: it must be {wanted}")
    return int(text)
