"""A preset, a list of trainings in a few lines of TOML, and the trainings that it stands for."""

from __future__ import annotations

import os
import re
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated

import msgspec

from harness.errors import UserError
from harness.files import read_bytes
from harness.flags import TrainingFlags, require
from harness.run_files import read_finished
from harness.training_flags import parse_training
from reporting.finished_runs import SUMMARY

ROOT = Path(__file__).resolve().parent.parent
PRESETS = ROOT / "scripts" / "presets"
STAGE1 = "_stage1.pth.tar"
OWNED = {"--seed", "--idx", "--save-name", "--resume", "--stage1"}
Value = str | int | float
Constants = dict[str, str]  # values of flags


class Way(msgspec.Struct, forbid_unknown_fields=True):
    """One of the ways of training that are compared."""

    words: str = ""  # for the tables
    flags: str = ""
    script: str = ""  # if it is another than the preset's
    stage1: str = ""  # the way whose stage 1 it begins with
    choose: dict[str, Annotated[list[Value], msgspec.Meta(min_length=1)]] = {}  # flag: values, the mildest first
    chosen_as: str = ""  # the way whose chosen constants it takes


def filled(text: str, variables: Mapping[str, Value]) -> str:
    """Return a text with its {names} filled in."""
    try:
        return re.sub(r"\{(\w+)\}", lambda found: str(variables[found[1]]), text)
    except KeyError as error:
        known = ", ".join(variables)
        raise UserError(f"{text} has {{{error.args[0]}}}, which has no value: there are {known}") from None


def flags_in(words: Sequence[str]) -> set[str]:
    """Return the flags among words, with dashes."""
    return {word.partition("=")[0].replace("_", "-") for word in words if word.startswith("-")}


@dataclass(frozen=True)
class Training:
    """A training as a job, see `jobs.Job`; `base` is the one whose stage 1 it begins with."""

    script: str
    words: tuple[str, ...]
    flags: TrainingFlags
    base: Training | None

    @property
    def name(self) -> str:
        """Its folder and save name."""
        return f"{self.flags.idx}/{self.flags.save_name}"

    def file(self, end: str) -> Path:
        """Return the path of one of its files."""
        return self.flags.folder / f"{self.flags.save_name}{end}"

    def done(self) -> bool:
        """Whether it has ended; one with other flags is not gone on with, as its stage 2 may have begun too early."""
        flags, summary = self.flags, self.file(SUMMARY)
        found = read_finished(flags.folder, flags.save_name, flags.binding(), flags.epochs)
        if found is None and os.path.isfile(summary):
            raise UserError(f"{summary} is of a training with other flags: name another --workdir, or move it away")
        return found is not None

    def ready(self) -> bool:
        """Whether its stage 1 is there."""
        if self.base is None or os.path.isfile(self.base.file(STAGE1)):
            return True
        if self.base.done():
            raise UserError(f"{self.base.file(STAGE1)} is not there though {self.base.name} is done: put it back")
        return False

    def run(self) -> None:
        """Train, as the command would."""
        script = str(ROOT / self.script)
        sys.argv = [script, *self.words]
        runpy.run_path(script, run_name="__main__")


class Preset(msgspec.Struct, forbid_unknown_fields=True):
    """What a file of scripts/presets may hold; {way}, {seed}, {set} and the variables of a set are filled in all texts."""

    idx: str
    ways: Annotated[dict[str, Way], msgspec.Meta(min_length=1)]
    sets: dict[str, dict[str, Value]] = {}  # their variables; without any there is one, named ""
    seeds: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0)], ...], msgspec.Meta(min_length=1)] = (42,)
    script: str = "MetaSAug_LDAM_train.py"
    flags: str = ""
    more: tuple[str, ...] = msgspec.field(default=(), name="--")  # flags of the command line, which no file holds
    save_name: str = "{way}_seed{seed}"
    workdir: str = "."
    jobs: Annotated[int, msgspec.Meta(ge=1)] = 1  # at a time

    def grid(self, way: str) -> list[Constants]:
        """Return the constants among which a way chooses, {} alone if it chooses nothing."""
        choose = self.ways[way].choose
        return [dict(zip(choose, map(str, values), strict=True)) for values in product(*choose.values())]

    def training(self, of: str, way: str, seed: int, chosen: Mapping[str, Constants], choosing: bool = False) -> Training:
        """Return the training of a set, a way and a seed.

        `chosen` has constants of ways; of others the first count. `choosing`: with images held out, beside the other runs.
        """
        spec, base = self.ways[way], None
        constants = chosen.get(spec.chosen_as or way, self.grid(way)[0])
        if spec.stage1:
            base = self.training(of, spec.stage1, seed, chosen, choosing)
        words = [*self.flags.split(), *self.more, *spec.flags.split()]
        words += [word for flag, value in constants.items() for word in (f"--{flag}", value)]
        idx, save_name = self.idx, self.save_name
        if choosing:
            words += ["--select_on", "heldout"]
            idx, save_name = f"{idx}_choice", "_".join([save_name, *map("".join, constants.items())])
        words += ["--seed", str(seed), "--workdir", self.workdir, "--idx", idx, "--save_name", save_name]
        words += ["--resume", "auto", *(["--stage1", str(base.file(STAGE1))] if base else [])]
        words = [filled(word, {**self.sets[of], "set": of, "way": way, "seed": seed}) for word in words]
        try:
            flags = parse_training(words)
        except UserError as error:
            raise UserError(f"{f'{of}, ' if of else ''}{way}: {error}") from error
        return Training(spec.script or self.script, tuple(words), flags, base)

    def folder(self, of: str) -> Path:
        """Return the folder of a set's runs."""
        return self.training(of, next(iter(self.ways)), self.seeds[0], {}).flags.folder

    def candidates(self, of: str) -> dict[str, list[Training]]:
        """Return the trainings among which the constants of ways are chosen, by way, in the order of its grid."""
        return {
            way: [self.training(of, way, self.seeds[0], {way: constants}, True) for constants in self.grid(way)]
            for way, spec in self.ways.items() if spec.choose
        }  # fmt: skip

    def final(self, of: str, chosen: Mapping[str, Constants]) -> list[Training]:
        """Return the trainings of a set that are compared."""
        return [self.training(of, way, seed, chosen) for seed in self.seeds for way in self.ways]

    def check(self) -> None:
        """Refuse flags that the sweep sets itself, and a training that is there twice, or in the place of another."""
        set_here = [word for spec in self.ways.values() for word in (*spec.flags.split(), *map("--{}".format, spec.choose))]
        for flag in sorted(flags_in(self.more) & (OWNED | flags_in(set_here))):
            raise UserError(
                f"{flag} cannot be given, as the sweep or a way of this preset sets it: leave it out, or write a preset of "
                "your own"
            )
        seen = set[object]()
        for of, way, seed in product(self.sets, self.ways, self.seeds):
            one = self.training(of, way, seed, {})
            filled(self.ways[way].words, self.sets[of])
            places = one.name, (way, replace(one.flags, save_name="", idx="", stage1=None))
            if not seen.isdisjoint(places):
                raise UserError(f"{one.name} would be trained twice: see save_name, sets and seeds, and the flags given")
            seen.update(places)


def read_preset(name: str, sets: str | None = None, more: Sequence[str] = (), **given: object) -> Preset:
    """Read a preset of ours, or one at a path; of its sets take those named, and what is given instead of what it says."""
    path = Path(name) if name.endswith(".toml") else PRESETS / f"{name}.toml"
    if path.parent == PRESETS and not os.path.isfile(path):
        ours = ", ".join(sorted(path.stem for path in PRESETS.glob("*.toml")))
        raise UserError(f"there is no preset {name}: name one of {ours}, or the path of a .toml")
    try:
        value = msgspec.toml.decode(read_bytes(path))
        preset = msgspec.convert(value | {key: own for key, own in given.items() if own is not None}, Preset)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no preset ({error}): correct it") from error
    for way, spec in preset.ways.items():
        first, like = (preset.ways.get(name) for name in (spec.stage1, spec.chosen_as))
        if spec.stage1 and (first is None or first.stage1):
            raise UserError(f"{path}: way {way} has stage1 {spec.stage1}, which is no way that trains its own stage 1")
        if spec.chosen_as and (like is None or not like.choose):
            raise UserError(f"{path}: way {way} is chosen_as {spec.chosen_as}, which is no way that chooses")
        if spec.choose and len(preset.sets) > 1 and "{set}" not in preset.idx:
            raise UserError(f"{path}: constants are chosen per set: idx must contain {{set}}")
    known = preset.sets or {"": {}}
    named = known if sets is None else sets.split(",")
    for of in named:
        require(of in known, "--sets", of, f"one of {', '.join(known)}" if preset.sets else "left out, as there is one set")
    return msgspec.structs.replace(preset, sets={of: known[of] for of in named}, more=tuple(more))
