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

import msgspec
import pandas as pd

from harness.command_flags import SweepFlags
from harness.errors import UserError, run_main
from harness.files import read_bytes, replacing
from harness.flag_parser import parse_known
from harness.record import report_command
from harness.text import say
from reporting.comparisons import figures_by_seed, paired, spread
from reporting.finished_runs import FinishedRun, read_runs, write_group_names
from reporting.tables import HEADINGS, markdown
from reporting.verdict import compare as compared
from scripts.jobs import do_all
from scripts.trainings import SUMMARY, Constants, Sweep, Training, filled, read_preset

HEADS = "train_own.py"  # the script of presets of heads
CHOSEN = "chosen.json"  # {way: {flag: value}}, beside the runs
SHOWN = ("acc1", "many", "medium", "few")
LOADED = ("MetaSAug_CE_train", "torch._dynamo", "tensorboard.compat.proto.event_pb2", "sklearn.datasets")  # slowly


def choose(sweep: Sweep, of: str) -> dict[str, Constants]:
    """Return the constants of each way that chooses: those of the best held-out accuracy, of equal ones the first.

    That is the mean over classes after the last epoch.
    """
    chosen: dict[str, Constants] = {}
    for way in sweep.choosing:
        summaries = [json.loads(read_bytes(run.file(SUMMARY))) for run in sweep.candidates(of, way)]
        figures = [summary["last"]["heldout_acc1"] for summary in summaries]
        chosen[way] = sweep.grid(way)[figures.index(max(figures))]
    return chosen


def chosen_for(sweep: Sweep, of: str) -> dict[str, Constants]:
    """Return what is chosen for a set; what is not yet, is and then stays."""
    path = sweep.folder(of) / CHOSEN
    if not os.path.isfile(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, shared=True) as part:
            part.write_text(json.dumps(choose(sweep, of), indent=1) + "\n", encoding="utf-8")
    try:
        chosen = msgspec.json.decode(read_bytes(path), type=dict[str, Constants])
    except msgspec.DecodeError:
        chosen = {}
    for way in sweep.choosing:
        if chosen.get(way) not in sweep.grid(way):
            raise UserError(f"{path} has no constants of {way} that the preset lists: move it away to choose anew")
    return chosen


def train(runs: Iterable[Training], at_once: int) -> None:
    """Train what is not trained yet, each after the one whose stage 1 it begins with."""
    do_all(list(dict.fromkeys(one for run in runs for one in (run.base, run) if one)), at_once)


def tables(runs: Mapping[str, Sequence[FinishedRun]], words: Mapping[str, str], title: str) -> list[str]:
    """Return the last epoch's test accuracy of each way, and what it is above that of the first, paired over seeds."""
    heads = [HEADINGS.get(key, key) for key in SHOWN]
    means, gaps = [[title, *heads]], list[list[str]]()
    first = {key: figures_by_seed(next(iter(runs.values())), key) for key in SHOWN}
    for way, own in runs.items():
        figures = {key: figures_by_seed(own, key) for key in SHOWN}
        means.append([words[way], *(spread([*figures[key].values()]) for key in SHOWN)])
        gaps.append([words[way], *(str(paired(figures[key], first[key])) for key in SHOWN)])
    gaps[0] = [f"minus {means[1][0]}: mean ± half the 95 % interval (seeds)", *heads]
    both = (pd.DataFrame(rows, columns=head) for head, *rows in (means, gaps) if rows)
    return [line for table in both for line in ("", *markdown(table))]


def compare(sweep: Sweep, of: str, chosen: Mapping[str, Constants]) -> None:
    """Print the tables of a set, and which constants were chosen; say what reports call its runs."""
    words, patterns, runs = dict[str, str](), dict[str, str](), dict[str, list[FinishedRun]]()
    for way, spec in sweep.preset.ways.items():
        own = [sweep.training(of, way, seed, chosen) for seed in sweep.preset.seeds]
        words[way] = filled(spec.words, sweep.preset.sets[of]) or way
        patterns[re.sub(r"{\w+}", "*", sweep.preset.save_name.replace("{way}", way))] = words[way]
        runs[way] = read_runs([run.file(SUMMARY) for run in own])
    say(*tables(runs, words, f"{of or own[0].flags.idx}, test accuracy in %"))
    say("", *compared("", {words[way]: own for way, own in runs.items()}).sentences)
    for way, constants in chosen.items():
        flags = " ".join(f"--{flag} {value}" for flag, value in constants.items())
        say(f"chosen on held-out images for {words[way]}: {flags}")
    write_group_names(sweep.folder(of), patterns)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, choose, train, compare."""
    args, more = parse_known(SweepFlags, argv)
    preset = read_preset(args.preset, args.sets, jobs=args.jobs, seeds=args.seeds, workdir=args.workdir)
    if preset.script == HEADS:
        from scripts.own_comparison import compare_heads  # loaded where it is needed, as it takes long

        for name in ("jobs", "seeds", "sets"):
            if getattr(args, name) is not None:
                raise UserError(f"--{name} applies only to training networks: leave it out")
        compare_heads(preset, more)
        return
    sweep = Sweep(preset, tuple(word for word in more if word != "--"))
    sweep.check()
    if sys.platform == "linux":  # trainings are forked from this process
        for name in LOADED:
            importlib.import_module(name)
    still = [of for of in preset.sets if not os.path.isfile(sweep.folder(of) / CHOSEN)]
    train([run for of in still for way in sweep.choosing for run in sweep.candidates(of, way)], preset.jobs)
    chosen = {of: chosen_for(sweep, of) if sweep.choosing else {} for of in preset.sets}
    train([run for of in preset.sets for run in sweep.final(of, chosen[of])], preset.jobs)
    for of in preset.sets:
        compare(sweep, of, chosen[of])
    say("", f"to compare them in a page: {report_command(*dict.fromkeys(map(sweep.folder, preset.sets)))}")


if __name__ == "__main__":
    run_main(main)
