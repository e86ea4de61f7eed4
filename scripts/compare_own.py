#!/usr/bin/env python3
"""Which way of training suits your images, or features: tries a handful of them and says which to take.

  python3 scripts/compare_own.py --data_root photographs --backbone efficientnet_b0
  python3 scripts/compare_own.py --features embeddings.npz --seeds 1,2,3,4,5
Further flags are those of train_own.py. Features are computed once. Each way's rate and λ are chosen with the first seed on
images that are held out of training; then it is trained with every seed, as train_own.py does. The last lines say which way
is best on the held-out images, and the command that trains it; the report compares all on the test images.
The same command goes on where an interrupted one stood. On several machines with one disk: --shard 1/2 and --shard 2/2.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":
    from harness.before_loading import prepare_process
    prepare_process()

from frozen.drawn_sets import Sets, class_counts
from frozen.own_flags import OwnFlags, given_flags, parse_own
from frozen.own_sources import Source, read_source
from frozen.run_flags import parse_group
from frozen.trials import Trials
from harness.errors import Stopped, UserError, run_main
from harness.files import read_bytes, replacing
from harness.flags import Parser, require
from harness.metrics import PER_CLASS_MEAN
from harness.process_group import Group, process_group
from harness.progress import progress
from harness.run_files import summary_path
from harness.text import say
from reporting.comparisons import paired
from reporting.group_names import write_group_names
from reporting.study_results import CHOSEN, Line, number, read_lines, write_lines
from reporting.study_tables import choose
from scripts.meta_study import chosen_from, numbers
from scripts.study_heads import LAMS, RATES, SIZES, beside
from scripts.study_stops import Stops
from train_own import train

ROOT = Path(__file__).resolve().parent.parent
WAYS = {  # by name: the flags of train_own.py
    "plain": "--stage2 none",
    "plain_subtracted": "--stage2 none --logit_adjust 1",
    "prior": "--stage2 reweight --balance prior",
    "prior_throughout": "--stage2 reweight --balance prior --meta_start 0",
    "reweight": "--stage2 reweight",
    "isda": "--stage2 isda",
    "published": "--stage2 metasaug --meta_update published",
    "relative": "--stage2 metasaug --meta_update relative",
}
MEANINGS = {
    "plain": "plain cross-entropy",
    "plain_subtracted": "plain cross-entropy, log prior subtracted",
    "prior": "log prior in stage 2",
    "prior_throughout": "log prior from the start",
    "reweight": "re-weighting",
    "isda": "ISDA",
    "published": "MetaSAug (published rule)",
    "relative": "MetaSAug (relative rule)",
}
# What one part of several does as a whole: the constants of the meta steps are tried beside those chosen for ISDA.
UNITS = (("isda", "published", "relative"), ("plain", "plain_subtracted"), ("prior", "prior_throughout"), ("reweight",))
CONSTANTS = ("lr", "lam", "meta_step_size")
COLUMNS = ("way", *CONSTANTS, "heldout_acc1", "chosen")
OWNED = {*CONSTANTS, "stage2", "meta_update", "balance", "logit_adjust", "meta_start", "seed", "save_name", "select_on",
         "resume"}  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """What is compared: the flags that all trainings share, as words and read, seeds and ways."""

    words: tuple[str, ...]
    flags: OwnFlags
    seeds: tuple[int, ...]
    ways: tuple[str, ...]

    def file(self, name: str) -> Path:
        """Return a file of the comparison's folder."""
        return self.flags.folder / name

    def flags_of(self, way: str, seed: int, constants: Line) -> OwnFlags:
        """Return the flags of a training."""
        own = ["--seed", str(seed), "--save_name", f"{way}_seed{seed}", "--select_on", "heldout", "--resume", "auto"]
        return parse_own("", [*self.words, "--idx", self.flags.idx, *words_of(way, constants), *own])


def words_of(way: str, constants: Line) -> list[str]:
    """Return the flags of train_own.py that a way with these constants has."""
    return [*WAYS[way].split(), *told(constants).split()]


def grid(way: str, chosen: dict[str, Line]) -> Iterator[list[Line]]:
    """Yield the constants to try in rounds; those of the second go with the best ones of the first."""
    rates, lams = list(RATES), list(LAMS) if way in UNITS[0] else [""]
    if way in ("published", "relative"):
        rates, lams = beside(RATES, chosen["isda"]["lr"]), beside(LAMS, chosen["isda"]["lam"])
    first = {"meta_step_size": SIZES[0]} if way == "relative" else {}
    yield [{"lr": rate, "lam": lam, **first} for rate in rates for lam in lams]
    if first:
        yield [{"meta_step_size": size} for size in SIZES[1:]]


def choose_constants(one: Comparison, unit: Sequence[str], trials: Trials) -> dict[str, Line]:
    """Return the best constants of each way of a unit; those tried are kept in a file, and not tried again."""
    path, chosen = one.file(f"tried_{unit[0]}.csv"), dict[str, Line]()
    before = read_lines(path, COLUMNS)
    for way in unit:
        lines: list[Line] = []
        for candidates in grid(way, chosen):
            best = {name: choose(lines)[name] for name in CONSTANTS} if lines else {}
            whole = [{**dict.fromkeys(CONSTANTS, ""), **best, **constants} for constants in candidates]
            for constants in progress(whole, len(whole), f"trying constants of {way}", print_freq=len(whole)):
                line = next((old for old in before if {"way": way, **constants}.items() <= old.items()), None)
                if line is None:
                    figure = trials.heldout(one.flags_of(way, one.seeds[0], constants))
                    line = {"way": way, **constants, "heldout_acc1": number(figure), "chosen": ""}
                    before.append(line)
                    write_lines(path, COLUMNS, before)
                lines.append(line)
        best_line = choose(lines)
        chosen[way] = {name: best_line[name] for name in CONSTANTS}
        for line in lines:
            line["chosen"] = CHOSEN if line is best_line else ""
        write_lines(path, COLUMNS, before)
        say(f"{way}: held-out accuracy {float(best_line['heldout_acc1']):.2f} with {told(chosen[way])}, "
            f"the best of {len(lines)}")  # fmt: skip
    return chosen


def told(constants: Line) -> str:
    """Return constants as flags."""
    return " ".join(f"--{name} {constants[name]}" for name in CONSTANTS if constants.get(name))


def train_way(one: Comparison, way: str, constants: Line, source: Source, group: Group) -> None:
    """Train a way with every seed, as far as that was not done before; what the runs print goes to a file."""
    for seed in one.seeds:
        flags = one.flags_of(way, seed, constants)
        with open(one.file("runs.log"), "a", encoding="utf-8") as log, redirect_stdout(log):
            try:
                train(flags, group, lambda: source, whole=False)
            except Stopped as stopped:
                if stopped.status:
                    raise Stopped("stopped; to go on, give the same command", stopped.status) from stopped
                say(str(stopped))  # it is finished
        last = figures(one, way)[str(seed)]
        say(f"{MEANINGS[way]}, seed {seed}: held out {last['heldout_acc1']:.2f}, test {last['acc1']:.2f}  "
            f"({flags.folder / flags.save_name}_*)")  # fmt: skip


def figures(one: Comparison, way: str) -> dict[str, dict[str, float]]:
    """Return the figures of the last epoch of a way's finished runs by seed."""
    paths = {str(seed): summary_path(one.flags.folder, f"{way}_seed{seed}") for seed in one.seeds}
    return {seed: json.loads(read_bytes(path))["last"] for seed, path in paths.items() if os.path.isfile(path)}


def over_classes(last: Mapping[str, float]) -> float:
    """Return the accuracy on the test images, the mean over classes, which is the accuracy where all have as many."""
    return float(last.get(PER_CLASS_MEAN, last["acc1"]))


def verdict(one: Comparison) -> list[str]:
    """Return lines that compare the ways whose runs are finished, and say which to take."""
    runs = {way: found for way in one.ways if len(found := figures(one, way)) == len(one.seeds)}
    if len(runs) < len(one.ways):
        missing = [way for way in one.ways if way not in runs]
        return [f"not finished: {', '.join(missing)}; the last of the parts says which way to take"]
    held = {way: {seed: last["heldout_acc1"] for seed, last in found.items()} for way, found in runs.items()}
    order = sorted(held, key=lambda way: (-statistics.mean(held[way].values()), [*WAYS].index(way)))  # equals: the simplest
    lines = [f"{'last epoch, mean over classes:':{width()}}  {'held out':14}  test"]
    lines += [f"{MEANINGS[way]:{width()}}  {spread(held[way]):14}  "
              f"{spread({seed: over_classes(last) for seed, last in runs[way].items()})}" for way in order]  # fmt: skip
    best = order[0]
    alike = [way for way in order[1:] if not paired(held[best], held[way]).beyond_chance]
    names = "all the others" if alike == order[1:] else "; ".join(MEANINGS[way] for way in alike)
    seeds = f"{len(one.seeds)} seed{'s' * (len(one.seeds) > 1)}"
    close = f"; not told apart from it by {seeds}: {names}" if alike else ""
    lines.append(f"best on the held-out images: {MEANINGS[best]}{close}")
    line = next(line for unit in UNITS if best in unit for line in read_lines(one.file(f"tried_{unit[0]}.csv"), COLUMNS)
                if line["way"] == best and line["chosen"] == CHOSEN)  # fmt: skip
    command = ["python3", "train_own.py", *one.words, *words_of(best, line)]
    lines.append(f"to train it, without images held out: {shlex.join(command)}")
    return [*lines, "then predict.py again: what an earlier head was exported or predicted to is not of this one"]


def width() -> int:
    """Return the width of the longest meaning."""
    return max(map(len, MEANINGS.values()))


def spread(values: dict[str, float]) -> str:
    """Return mean ± standard deviation."""
    deviation = f" ± {statistics.stdev(values.values()):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values.values()):.2f}{deviation}"


def unseen(sets: Sets) -> list[str]:
    """Return a line that names classes of which no image is held out."""
    assert sets.heldout is not None
    names = [name for name, count in zip(sets.heldout.class_names, class_counts(sets.heldout), strict=True) if not count]
    return [f"note: no image is held out of {', '.join(names)}: the choice does not see these classes"] if names else []


def check_same(one: Comparison, source: Source) -> None:
    """Refuse to go on with a comparison of other images or flags."""
    free = {f"--{name}" for name in OWNED}
    facts = {key: value for key, value in {**one.flags.binding(), **source.digests()}.items() if key not in free}
    facts = json.loads(json.dumps({**facts, "--epochs": one.flags.epochs, "first seed": one.seeds[0]}, default=str))
    path = one.file("compared.json")
    if os.path.isfile(path):
        before = json.loads(read_bytes(path))
        other = [key for key in facts if before.get(key) != facts[key]]
        if other:
            told = f"{path.parent} holds a comparison of another kind ({other[0]} differs)"
            raise UserError(f"{told}: give this one another --idx")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def shard(text: str) -> tuple[int, int]:
    """Read --shard: which part, from 0, and of how many."""
    number_of, _, parts = text.partition("/")
    plain = number_of.isascii() and number_of.isdigit() and parts.isascii() and parts.isdigit()
    good = plain and 1 <= int(number_of) <= int(parts) <= len(UNITS)
    require(good, "--shard", text, f"I/N, part I of N, at most {len(UNITS)}")
    return int(number_of) - 1, int(parts)


def parse(argv: Sequence[str]) -> tuple[Comparison, tuple[int, int]]:
    """Read the flags."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3", help="constants are chosen with the first (default: %(default)s)")
    parser.add_argument("--ways", default=",".join(WAYS), help="what is compared (default: %(default)s)")
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="do only part I of N (default: all)")
    args, words = parser.parse_known_args(argv)
    ways = chosen_from(args.ways, "--ways", tuple(WAYS))
    if {"published", "relative"} & {*ways} and "isda" not in ways:
        raise UserError("--ways: the constants of published and relative are tried beside those of isda: add it")
    spelled = given_flags(words)
    if owned := sorted(OWNED & spelled):
        raise UserError(f"--{owned[0]} is set by this script for each training: leave it out")
    idx = [] if "idx" in spelled else ["--idx", "compare"]
    flags = parse_own(__doc__, [*words, *idx, "--select_on", "heldout", "--resume", "auto"])
    if flags.finetune:
        raise UserError("--finetune: heads are compared here, whose features are computed once: leave it out")
    return Comparison(tuple(words), flags, tuple(numbers(args.seeds, "--seeds")), tuple(ways)), shard(args.shard)


def main() -> None:
    """Choose, train, report, say which to take."""
    found = parse_group()
    with process_group(found.gpu, found.no_cuda, None, found.timeout) as group, Stops() as stops:
        one, (part, parts) = parse(sys.argv[1:])
        source = read_source(one.flags)
        source = source.without_bad(one.flags, group) if one.flags.skip_bad else source
        check_same(one, source)
        write_group_names(one.flags.folder, {f"{way}_seed*": words for way, words in MEANINGS.items() if way in one.ways})
        say(*source.sets.about(), *unseen(source.sets))
        trials = Trials(replace(one.flags, seed=one.seeds[0]), source, group, stops.check)
        for unit in UNITS[part::parts]:
            own = [way for way in unit if way in one.ways]
            chosen = choose_constants(one, own, trials) if own else {}
            for way, constants in chosen.items():
                train_way(one, way, constants, source, group)
                stops.check()
    folder = one.flags.folder
    command = [sys.executable, str(ROOT / "report.py"), str(folder), "--out", str(folder / "report"), "--force"]
    subprocess.run(command, check=True)
    say(*verdict(one))


if __name__ == "__main__":
    run_main(main)
