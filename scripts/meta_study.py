#!/usr/bin/env python3
"""What meta-learning adds: re-weighting, ISDA, MetaSAug and simpler ways, each at constants chosen on held-out images.

  python3 scripts/meta_study.py cifar --cifar_folders DIR --workdir W
trains networks by the training scripts, --jobs of them at a time; further flags of theirs may follow after --.
  python3 scripts/meta_study.py features --cifar_folders DIR --workdir W
trains linear heads on frozen features of EfficientNet-Lite0, which two
packages bring that are no requirement of the project.
  python3 scripts/meta_study.py tables
writes the tables of results/meta_study.md anew from the two CSVs beside it.

CIFAR's images lie in DIR/cifar10 and DIR/cifar100, as {train,test}/<class>/*. Of each row the constants are chosen with
seed 1, written down, and only then are test figures read. The same command goes on where an interrupted one stood, and two
may run side by side for different sets.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":
    from harness.before_loading import prepare_process
    prepare_process()

import torch

from harness.errors import UserError, run_main
from harness.files import read_bytes, replacing
from harness.flags import Parser, require
from harness.text import say
from reporting.study_results import CHOICE_COLUMNS, CHOICES_FILE, RUN_COLUMNS, RUNS_FILE, merge_results, read_lines
from reporting.study_tables import table_lines, with_tables
from scripts import study_features, study_heads, study_jobs, study_networks
from scripts.study_stops import Stops

RESULTS = Path(__file__).resolve().parent.parent / "results"
TABLES_FILE = "meta_study.md"


def numbers(text: str, flag: str) -> list[int]:
    """Read seeds."""
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"{flag} {text} cannot be read: give whole numbers with commas between them") from None
    require(min(found) >= 0, flag, text, "of numbers of 0 or more")
    return list(dict.fromkeys(found))


def chosen_from(text: str, flag: str, known: Sequence[str]) -> list[str]:
    """Read names with commas between them."""
    found = list(dict.fromkeys(text.split(",")))
    for name in found:
        require(name in known, flag, name, f"one of {', '.join(known)}")
    return found


def imb_factors(text: str) -> list[str]:
    """Read ratios; they stay the words that name folders."""
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--imb_factors {text} cannot be read: give numbers with commas between them") from None
    for imb_factor in found:
        require(0 < imb_factor <= 1, "--imb_factors", imb_factor, "above 0 and at most 1")
    return [f"{imb_factor:g}" for imb_factor in dict.fromkeys(found)]


def sets_in(folder: Path, names: str) -> list[Path]:
    """Return the folders of the sets."""
    found = [folder / name for name in dict.fromkeys(names.split(","))]
    for path in found:
        if not path.name or not all((path / part).is_dir() for part in ("train", "test")):
            raise UserError(f"{path} is no set of images as {{train,test}}/<class>/*: see --cifar_folders and --datasets")
    return found


def parser() -> Parser:
    """Return the parser of the command line before --."""
    main = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = main.add_subparsers(dest="part", required=True, metavar="cifar|features|tables", parser_class=Parser)
    for name, words in (("cifar", "train networks"), ("features", "train heads"), ("tables", "write the tables anew")):
        own = parts.add_parser(name, help=words, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        own.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSVs (default: results)")
        if name == "tables":
            continue
        own.add_argument("--cifar_folders", type=Path, required=True, help="folder of the sets' folders")
        own.add_argument("--workdir", type=Path, required=True, help="where runs are kept")
        own.add_argument("--datasets", default="cifar10,cifar100", help="default: %(default)s")
        own.add_argument("--imb_factors", default="0.01,0.1", help="smallest class over largest (default: %(default)s)")
        own.add_argument("--seeds", default="1,2,3", help="default: %(default)s")
        own.add_argument("--only", choices=("choose", "test"), help="choose and test nothing, or test what is chosen")
        rows = study_jobs.SHOWN if name == "cifar" else tuple(study_heads.WAYS)
        own.add_argument("--rows", default=",".join(rows), help="what is compared (default: %(default)s)")
        if name == "cifar":
            own.add_argument("--jobs", type=int, default=1, help="trainings at a time (default: %(default)s)")
            own.add_argument("--losses", default="LDAM,CE", help="constants are chosen with LDAM (default: %(default)s)")
        else:
            own.add_argument("--backbone", default=study_features.EFFICIENTNET, help="package.module:function that returns "
                             "what makes features (N, A) of pixels (N, 32, 32, 3) uint8 (default: EfficientNet-Lite0)")
    return main


def train_networks(args: argparse.Namespace, more: Sequence[str]) -> None:
    """Do part `cifar`."""
    study_jobs.check_more(more)
    images, factors = sets_in(args.cifar_folders, args.datasets), imb_factors(args.imb_factors)
    cells = [study_jobs.Cell(path, word, args.workdir, tuple(more)) for path in images for word in factors]
    seeds, losses = numbers(args.seeds, "--seeds"), chosen_from(args.losses, "--losses", study_jobs.LOSSES)
    rows = chosen_from(args.rows, "--rows", study_jobs.SHOWN)
    require(args.jobs > 0, "--jobs", args.jobs, "1 or more")
    study_jobs.words_make_sense(cells[0])
    plan = study_networks.Plan(cells, seeds, losses, rows, args.only, args.jobs)
    with Stops() as stops:
        for _ in study_networks.Study(plan, stops).work():
            for cell in study_networks.cells_in(args.workdir):
                merge_results(args.results, *study_networks.collected(cell))
            stops.check()


def train_heads(args: argparse.Namespace) -> None:
    """Do part `features`."""
    torch.set_num_threads(1)
    study_features.check_backbone(args.backbone)
    images, factors = sets_in(args.cifar_folders, args.datasets), imb_factors(args.imb_factors)
    cells = [study_heads.HeadCell(path, word, args.workdir) for path in images for word in factors]
    seeds, rows = numbers(args.seeds, "--seeds"), chosen_from(args.rows, "--rows", tuple(study_heads.WAYS))
    with Stops() as stops:
        for cell in study_heads.study(cells, seeds, rows, args.only, args.backbone, stops):
            merge_results(args.results, *study_heads.collected(cell))


def write_tables(folder: Path) -> None:
    """Do `tables`."""
    runs, choices = read_lines(folder / RUNS_FILE, RUN_COLUMNS), read_lines(folder / CHOICES_FILE, CHOICE_COLUMNS)
    path = folder / TABLES_FILE
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read ({error}): it must be a text of UTF-8") from error
    with replacing(path) as part:
        part.write_text(with_tables(text, table_lines(runs, choices), str(path)), encoding="utf-8")
    say(f"wrote the tables of {path}")


def main() -> None:
    """Do the part that the command names."""
    given = sys.argv[1:]
    split = given.index("--") if "--" in given else len(given)
    args, more = parser().parse_args(given[:split]), given[split + 1 :]
    if more and args.part != "cifar":
        raise UserError("flags after -- are those of the networks' training: they go with the part cifar")
    if args.part == "cifar":
        train_networks(args, more)
    elif args.part == "features":
        train_heads(args)
    else:
        write_tables(args.results)


if __name__ == "__main__":
    run_main(main)
