"""What a report calls the runs that differ in their seed only: words of the one who made them, or what tells them apart."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from harness import schemas
from harness.errors import UserError
from harness.files import read_bytes, replacing
from reporting.run_contents import decoded
from reporting.run_facts import RunFacts

FILE = "group_names.json"  # in a folder of runs
EXAMPLE = 'it is to be as {"isda_seed*": "ISDA"}'
SAY_ALONE = ("loss", "stage2", "dataset", "arch")  # flags whose values need no name
FEW_FLAGS = 1  # with a name and a value that a name is made of, where there may be shorter words


def write_group_names(folder: Path, words: Mapping[str, str]) -> None:
    """Say what reports call the runs of a folder, by patterns of their save names; what is there already stays.

    So whoever wants other words changes the file.
    """
    if not os.path.exists(folder / FILE):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / FILE, shared=True) as part:
            part.write_text(json.dumps(dict(words), indent=1) + "\n", encoding="utf-8")


def read_group_names(folder: Path) -> dict[str, str]:
    """Return what `write_group_names` or a user wrote for a folder, {} if there is none."""
    path = folder / FILE
    if not os.path.isfile(path):
        return {}
    words: dict[str, str] = decoded(read_bytes(path), path, advice=f"correct it, {EXAMPLE}")
    if found := schemas.problem(words, dict[schemas.Name, schemas.Name], "content"):
        raise UserError(f"{path} cannot be used: {found}: correct it, {EXAMPLE}")
    return words


def idle_patterns(words: Mapping[str, str], save_names: Sequence[str]) -> list[str]:
    """Return the patterns that fit none of these runs."""
    return [pattern for pattern in words if not any(fnmatchcase(name, pattern) for name in save_names)]


def words_for(save_name: str, words: Mapping[str, str]) -> str:
    """Return the words whose pattern fits first, "" if none does."""
    return next((said for pattern, said in words.items() if fnmatchcase(save_name, pattern)), "")


def group_names(members: Sequence[Sequence[RunFacts]]) -> list[str]:
    """Return a name for each group of runs, no two the same.

    Words of the folder's file come first. Then, where no two runs belong together, each keeps its own name. Else the flags
    tell the groups apart, or what the save names have in common, where that is shorter.
    """
    said = [{run.words for run in group} for group in members]
    others = [group[0].name for group in members]
    if any(len(group) > 1 for group in members):
        by_flags, longest = flag_names(members)
        stems = [found.pop() if len(found := {stem(run) for run in group}) == 1 else "" for group in members]
        shorter = max(map(len, stems)) < max(map(len, by_flags))
        distinct = all(stems) and len(set(stems)) == len(stems)
        others = stems if longest > FEW_FLAGS and distinct and shorter else by_flags
    names: list[str] = []
    for group, words, other in zip(members, said, others, strict=True):
        name = next(iter(words)) if len(words) == 1 else ""
        name = name or other
        names.append(f"{name} ({group[0].name})" if name in names else name)
    return names


def flag_names(members: Sequence[Sequence[RunFacts]]) -> tuple[list[str], int]:
    """Return names made of the flags that differ, and how many of them with a name and a value the longest has."""
    flags = [group[0].flags for group in members]
    known = {key: None for own in flags for key in own}  # in order
    telling = [key for key in known if len({str(own[key]) for own in flags if key in own}) > 1]
    names, longest = [], 0
    for own in flags:
        keys = [key for key in telling if key in own]
        words = [str(own[key]) if key in SAY_ALONE else f"{key} {own[key]}" for key in keys]
        names.append(" ".join(words) or "all")
        longest = max(longest, sum(key not in SAY_ALONE for key in keys))
    return names, longest


def stem(run: RunFacts) -> str:
    """Return a run's name without its seed, as `isda` for isda_seed3 with seed 3."""
    if not isinstance(run.seed, int):
        return run.name
    found = list(re.finditer(rf"([-_ ]?seed[-_= ]?|[-_ ]s|[-_ ])?(?<![\d.]){run.seed}(?!\d)", run.name))
    return (run.name[: found[-1].start()] + run.name[found[-1].end() :]).strip("-_ ") if found else run.name
