#!/usr/bin/env python3
"""Train what a preset lists, choose constants on held-out images where it says so, and compare over seeds.

  python3 scripts/sweep.py demo
  python3 scripts/sweep.py ablation --dataset cifar10 --imb_factor 0.01 --jobs 2
  python3 scripts/sweep.py study_short --sets cifar100 --dataset folder --data_root 'DIR/{set}'
PRESET is the name of a file in scripts/presets, or the path of a .toml; further flags are those of the training script and
go to all trainings. The same command resumes an interrupted sweep: finished trainings are skipped, others
resumed. Given several times, on machines that see the same folder, the commands share the trainings.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":
    from harness.before_loading import prepare_process

    prepare_process("msgspec", "tqdm", help_of="harness.command_flags:SweepFlags")

import pandas as pd

from harness.command_flags import SweepFlags
from harness.errors import UserError, run_main
from harness.files import read_bytes
from harness.flag_parser import parse_known
from harness.record import report_command
from harness.text import say
from reporting.comparisons import paired, spread
from reporting.finished_runs import SUMMARY, FinishedRun, decoded, find_runs, write_group_names, write_json
from reporting.tables import HEADINGS, markdown
from reporting.verdict import compare as compared
from scripts.jobs import do_all
from scripts.trainings import Constants, Preset, Training, filled, read_preset

HEADS = "train_own.py"  # the script of presets of heads
CHOSEN = "chosen.json"  # {way: {flag: value}}, beside the runs
SHOWN = ("acc1", "many", "medium", "few")
LOADED = ("MetaSAug_CE_train", "torch._dynamo", "tensorboard.compat.proto.event_pb2", "sklearn.datasets")  # slowly


def chosen_for(preset: Preset, of: str) -> dict[str, Constants]:
    """Return the constants of each way that chooses on a set: once chosen, they stay.

    They are those of the best held-out accuracy after the last epoch, the mean over classes, of equal ones the first.
    """
    path, candidates = preset.folder(of) / CHOSEN, preset.candidates(of)
    if not candidates:
        return {}
    if not os.path.isfile(path):
        figures = {
            way: [json.loads(read_bytes(run.file(SUMMARY)))["last"]["heldout_acc1"] for run in runs]
            for way, runs in candidates.items()
        }
        write_json(path, {way: preset.grid(way)[own.index(max(own))] for way, own in figures.items()})
    chosen: dict[str, Constants] = decoded(path, dict[str, Constants])
    for way in candidates:
        if chosen.get(way) not in preset.grid(way):
            raise UserError(f"{path} has no constants of {way} that the preset lists: move it away to choose anew")
    return chosen


def train(runs: Iterable[Training], at_once: int) -> None:
    """Train what is not trained yet, each after the one whose stage 1 it begins with."""
    do_all(list(dict.fromkeys(one for run in runs for one in (run.base, run) if one)), at_once)


def tables(runs: Mapping[str, Sequence[FinishedRun]], title: str) -> list[str]:
    """Return the last epoch's test accuracy of each way, and what it is above that of the first, paired over seeds."""
    first, *others = runs
    shown = {
        title: [[name, *(spread([run.figure(key) for run in own]) for key in SHOWN)] for name, own in runs.items()],
        f"minus {first}: mean ± half the 95 % interval (seeds)": [
            [name, *(str(paired(runs[name], runs[first], key)) for key in SHOWN)] for name in others
        ],
    }
    heads = [HEADINGS[key] for key in SHOWN]
    both = [pd.DataFrame(rows, columns=[head, *heads]) for head, rows in shown.items() if rows]
    return [line for table in both for line in ("", *markdown(table))]


def compare(preset: Preset, of: str, chosen: Mapping[str, Constants]) -> None:
    """Print the tables of a set, and which constants were chosen; say what reports call its runs."""
    names = {way: filled(spec.words, preset.sets[of]) or way for way, spec in preset.ways.items()}
    runs = dict[str, list[FinishedRun]]()
    for way, name in names.items():
        own = [preset.training(of, way, seed, chosen).file(SUMMARY) for seed in preset.seeds]
        runs[name] = find_runs(own).runs
    say(*tables(runs, f"{of or preset.idx}, test accuracy in %"))
    say("", *compared("", runs).sentences)
    for way, constants in chosen.items():
        flags = " ".join(f"--{flag} {value}" for flag, value in constants.items())
        say(f"chosen on held-out images for {names[way]}: {flags}")
    patterns = {re.sub(r"{\w+}", "*", preset.save_name.replace("{way}", way)): name for way, name in names.items()}
    write_group_names(preset.folder(of), patterns)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, choose, train, compare."""
    args, more = parse_known(SweepFlags, argv)
    more = [word for word in more if word != "--"]
    preset = read_preset(args.preset, args.sets, jobs=args.jobs, seeds=args.seeds, workdir=args.workdir, more=more)
    if preset.script == HEADS:
        from scripts.own_comparison import compare_heads  # loaded where it is needed, as it takes long

        if args.jobs or args.seeds:
            raise UserError("--jobs and --seeds apply only to training networks: leave them out")
        compare_heads(preset)
        return
    preset.check()
    if sys.platform == "linux":  # trainings are forked from this process
        for name in LOADED:
            importlib.import_module(name)
    still = [preset.candidates(of) for of in preset.sets if not os.path.isfile(preset.folder(of) / CHOSEN)]
    train([run for candidates in still for runs in candidates.values() for run in runs], preset.jobs)
    chosen = {of: chosen_for(preset, of) for of in preset.sets}
    train([run for of in preset.sets for run in preset.final(of, chosen[of])], preset.jobs)
    for of in preset.sets:
        compare(preset, of, chosen[of])
    say("", f"to compare them in a page: {report_command(*dict.fromkeys(map(preset.folder, preset.sets)))}")


if __name__ == "__main__":
    run_main(main)
