"""The comparison of heads of one's own images or features: constants and way are chosen by folds, all in this process."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from harness.errors import Stopped, UserError
from harness.files import check_output, output_folder, read_bytes
from harness.flag_parser import given_flags, parse_known, require
from harness.metrics import PER_CLASS_MEAN
from harness.process_group import Group, process_group
from harness.resume import OtherRunError
from harness.run_files import summary_path
from harness.signals_and_lock import Signals
from harness.text import say
from heads.answer import answer
from heads.choosing import ChosenWay, choose_way, open_folds
from heads.folds import done_between
from heads.own_flags import OwnFlags, parse_own
from heads.own_sources import Source, read_source
from heads.run_flags import CompareFlags, GroupFlags, HeadWords, parse_group
from heads.ways import WAYS
from reporting.finished_runs import write_group_names
from reporting.verdict import ANSWER_FILE, write_answer
from scripts.trainings import Preset
from train_own import train

ROOT = Path(__file__).resolve().parent.parent
REPORT, RUNS_LOG = "report", "runs.log"
OWNED = {"way", "resume", "save_name", "C", "transform"}


@dataclass(frozen=True)
class Comparison:
    """What is compared: the flags that all heads share, as words and read, and the ways, the baseline first."""

    words: tuple[str, ...]
    flags: OwnFlags
    ways: tuple[str, ...]

    def flags_of(self, way: str) -> OwnFlags:
        """Return the flags of a way's training."""
        own = ["--way", way, "--idx", self.flags.idx, "--save_name", way, "--resume", "auto"]
        return parse_own([*self.words, *own])


def read_comparison(preset: Preset) -> Comparison:
    """Return what a preset of heads compares, or its baseline with those of --ways, and further flags of train_own.py."""
    known, rest = parse_known(CompareFlags, preset.more)
    asked = known.ways.split(",") if known.ways else [*preset.ways]
    for way in asked:
        require(way in WAYS, "--ways", way, f"one of {', '.join(WAYS)}")
    words = [*preset.flags.split(), *rest]
    if owned := sorted(OWNED & given_flags(words, GroupFlags, HeadWords).keys()):
        raise UserError(f"--{owned[0]} is set by this script for each way: leave it out")
    words += [] if preset.workdir == "." else ["--workdir", preset.workdir]
    baseline = next(iter(preset.ways))
    ways = tuple(way for way in WAYS if way == baseline or way in asked)
    flags = parse_own(["--idx", preset.idx, *words, "--way", ways[0]])
    require(flags.val_fraction != 0, "--val_fraction", 0, "above 0, for heads are compared on test images")
    return Comparison(tuple(words), flags, ways)


def choose_and_train(one: Comparison, source: Source, group: Group) -> list[ChosenWay]:
    """Return each way at the constants that folds choose, trained on all the training images.

    Scores that are there are not computed again; what the trainings print goes to a file.
    """
    rows = source.open_rows(one.flags, group)(source.sets.trained)[0]
    found: dict[str, ChosenWay] = {}
    with Signals() as signals:
        with signals.stoppable():
            for way in one.ways:
                found[way] = open_folds(one.flags_of(way), source, rows, group).choose(way, found)
                say(f"{found[way].words}: {found[way].reached} (mean over classes)")
        for _ in done_between([partial(train_way, one, way, source, group, signals) for way in one.ways], say):
            with signals.stoppable():  # one that came when a run had just ended
                pass
    return list(found.values())


def train_way(one: Comparison, way: str, source: Source, group: Group, signals: Signals) -> None:
    """Train a way, unless it is trained already."""
    flags = one.flags_of(way)
    assert source.sets.lists is not None
    own = replace(source, sets=flags.drawn(source.sets.lists))
    train_own = partial(train, group=group, read=lambda: own)
    place = one.flags.folder / RUNS_LOG
    with signals.stoppable(), open(place, "a", encoding="utf-8") as log, redirect_stdout(log):
        try:
            try:
                train_own(flags)
            except OtherRunError:  # of other images, a seed or constants: its files are set aside
                train_own(replace(flags, resume=None))
        except Stopped as stopped:
            if stopped.status:
                raise Stopped("stopped; give the same command to resume", stopped.status) from stopped


def check_alone(group: Group) -> None:
    """Refuse several processes of torchrun."""
    if group.world_size > 1:
        raise UserError("a comparison runs in one process: start it several times, and they share the work through files")


def check_folder(folder: Path) -> None:
    """Refuse now what could not be written at the end of long work."""
    for place in (folder, folder / REPORT):
        output_folder(place, "runs.tmp")
    for name in (RUNS_LOG, ANSWER_FILE):
        check_output(folder / name)


def tested(one: Comparison, way: str) -> float:
    """Return the accuracy of a way's head on the test images in per cent, the mean over classes."""
    last = json.loads(read_bytes(summary_path(one.flags.folder, way)))["last"]
    return float(last.get(PER_CLASS_MEAN, last["acc1"]))


def compare_heads(preset: Preset) -> None:
    """Choose, train, report, say which way to take."""
    found = parse_group(preset.more)
    with process_group(found.gpu, found.no_cuda, None, found.timeout) as group:
        group.agree(lambda: check_alone(group))
        one = read_comparison(preset)
        source = read_source(one.flags).without_bad(one.flags, group)
        check_folder(one.flags.folder)
        say(*source.sets.about())
        ways = choose_and_train(one, source, group)
    folder, taken, sets = one.flags.folder, choose_way(ways), source.sets
    lines = answer(ways, sets.stage2_counts, tested(one, taken.name), len(sets.test))
    constants = [word for key, value in taken.constants.items() for word in (f"--{key}", str(value))]
    drawn = ["--val_fraction", "0"] if one.flags.val_fraction is not None else []  # its test images are no longer needed
    words = ["python3", os.path.relpath(ROOT / "train_own.py"), *one.words, "--way", taken.name, *constants, *drawn]
    lines.append(f"To train it{' on all the images' if drawn else ''}: {shlex.join(words)}")
    write_answer(folder, [summary_path(folder, way) for way in one.ways], lines)
    write_group_names(folder, {way: WAYS[way].words for way in one.ways})
    report = [sys.executable, str(ROOT / "report.py"), str(folder), "--out", str(folder / REPORT), "--force"]
    status = subprocess.run(report, check=False).returncode  # it has said what was wrong
    say("", *lines)
    if status:
        raise UserError("no report could be made, see above", status=status)
