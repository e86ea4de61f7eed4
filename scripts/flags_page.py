#!/usr/bin/env python3
"""Print docs/flags.md, the flags of all scripts as they are declared: `python3 scripts/flags_page.py > docs/flags.md`."""

import re
import sys
from collections.abc import Sequence
from dataclasses import Field
from itertools import chain
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness.command_flags import CifarTestFlags, PredictFlags, ReportFlags, SweepFlags
from harness.flag_parser import FlagSet, declared, described, option_names
from harness.flags import LearningFlags, TrainingFlags
from harness.text import say
from heads.run_flags import (
    CompareFlags,
    GroupFlags,
    HeadWords,
    LargeFlags,
    LargeTestFlags,
)

INTRODUCTION = """# All flags

Dashes and underscores in flag names are the same; names cannot be abbreviated. Names, short forms and, on CIFAR, defaults
are those of the published scripts. `--help` of each script says the same, in groups. What the choices are for:
[comparing.md](comparing.md) and [own_data.md](own_data.md). `python3 scripts/flags_page.py > docs/flags.md` makes this
page."""
SECTIONS: dict[str, tuple[type[FlagSet], ...]] = {
    "All trainings": (LearningFlags,),
    "MetaSAug_LDAM_train.py, MetaSAug_CE_train.py": (TrainingFlags,),
    "train_own.py": (HeadWords, GroupFlags),
    "ImageNet_iNat/train.py": (LargeFlags, GroupFlags),
    "ImageNet_iNat/test.py": (LargeTestFlags, GroupFlags),
    "MetaSAug_test.py": (CifarTestFlags,),
    "predict.py": (PredictFlags,),
    "report.py": (ReportFlags,),
    "scripts/sweep.py": (SweepFlags,),
    "scripts/compare_own.py": (CompareFlags,),
}


def listed(heading: str, classes: Sequence[type[FlagSet]], told: set[Field[Any]]) -> list[str]:
    """Return the lines of a script's flags, without those that are `told` already."""
    own = {one: of for of in classes for one in declared(of)}
    above = ", ".join(f"`--{one.name}`" for one in own if one in told)
    usual = ", ".join(f"`--{name}` {value}" for name, value in classes[0].usual.items())
    lines = [f"\n## {heading}\n"]
    lines += [f"{words} {names}.\n" for words, names in (("As above:", above), ("Its own defaults:", usual)) if names]
    for one in [one for one in own if one not in told]:
        words = re.sub("([<*])", r"\\\1", described(one, own[one]))  # as they are, in Markdown
        lines.append(f"- {', '.join(f'`{name}`' for name in option_names(one))}: {words}")
    told.update(own)
    return lines


def page() -> str:
    """Return the page."""
    told = set[Field[Any]]()
    parts = [listed(heading, classes, told) for heading, classes in SECTIONS.items()]
    return "\n".join([INTRODUCTION, *chain(*parts)])


if __name__ == "__main__":
    say(*page().splitlines())
