"""What part `cifar` of the study trains: its cells, rows and constants, as commands of the training scripts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from covariance_rules import RULES
from harness.errors import UserError
from harness.flags import FREE_FLAGS, UNSAID
from harness.run_files import checkpoint_paths, summary_path
from harness.training_flags import parse_training
from meta_step import STAGE2
from reporting.study_results import CONSTANTS, Line

PART = "cifar"
LOSSES = ("LDAM", "CE")
CHOICE_SEED, CHOICE_LOSS = 1, "LDAM"  # constants are chosen with these and used for all
COMMON = ("--dataset folder --arch resnet20 --epochs 50 --select_on heldout --lam 0.75 --test-batch-size 500 --threads 1 "
          "--print-freq 10 --resume auto")  # fmt: skip
OWNED = ("dataset", "data_root", "imb_factor", "select_on", "threads", "print_freq", "resume", "seed", "workdir", "idx",
         "save_name", "stage1", "stage2", "stage2_lr", "lam", "meta_update", "meta_lr", "meta_step_size", "virtual",
         "balance", "meta_images")  # fmt: skip
ROWS: dict[str, tuple[str, Line]] = {  # --stage2 and the constants that are not chosen
    "plain": ("none", {}),
    "reweight": ("reweight", {}),
    "isda": ("isda", {"lam": "0.75"}),
    "relative_head": ("metasaug", {"lam": "0.75", "virtual": "head"}),
    "meta_train": ("reweight", {"meta_images": "train"}),
    "meta_loss": ("reweight", {"meta_images": "loss"}),
    "prior": ("reweight", {"balance": "prior"}),
    "published": ("metasaug", {"lam": "0.75", "virtual": "all", "meta_lr": "0.1", "stage2_lr": "1"}),
    "relative_all": ("metasaug", {"lam": "0.75", "virtual": "all"}),
}
FACTORS = [{"stage2_lr": "1"}, {"stage2_lr": "3"}]
GRIDS: dict[str, list[Line]] = {  # in the order of work: the cheap and most telling rows first
    **dict.fromkeys(("reweight", "isda"), FACTORS),
    "relative_head": [{"step_size": size, **factor} for size in ("0.5", "0.2") for factor in FACTORS],
    **dict.fromkeys(("meta_train", "meta_loss", "prior"), FACTORS),
}
SHOWN = (*GRIDS, "published", "relative_all", "plain")  # in the order of work
AT_PUBLISHED_RATE = ("reweight", "isda")  # shown at a factor of 1 as well as at the best one
FLAGS = {"step_size": "--meta_step_size", **{key: f"--{key}" for key in CONSTANTS if key not in ("lr", "step_size")}}


class _HeldOut(msgspec.Struct):
    heldout_acc1: float


class HeldOutRun(msgspec.Struct):
    """What is read of a summary before a choice: no test figure is decoded."""

    last: _HeldOut
    flags: dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A set at an imb_factor: where its images and the runs are, and flags that are passed on."""

    images: Path
    imb_factor: str
    workdir: Path
    more: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of its folder of runs."""
        return f"{self.images.name}-{self.imb_factor}"

    @property
    def folder(self) -> Path:
        """Where its runs are."""
        return self.workdir / "checkpoint" / "ours" / "study" / self.name

    @property
    def choices(self) -> Path:
        """Its choices, which are never changed once written."""
        return self.folder / "study_choices.csv"

    @property
    def line(self) -> Line:
        """What it is called in the CSVs."""
        return {"part": PART, "dataset": self.images.name, "imb_factor": self.imb_factor}


@dataclass(frozen=True)
class Job:
    """One training: its row, loss, seed, and all constants as the CSVs have them."""

    row: str
    loss: str
    seed: int
    constants: Line

    @property
    def name(self) -> str:
        """The --save_name."""
        if self.row == "plain":
            return f"plain_seed{self.seed}"
        size = f"_eta{self.constants['step_size']}" if "step_size" in self.constants else ""
        return f"{self.loss}_{self.row}_x{self.constants['stage2_lr']}{size}_seed{self.seed}"

    @property
    def stage2(self) -> str:
        """The choice of --stage2."""
        return ROWS[self.row][0]

    def line(self, cell: Cell) -> Line:
        """Return the CSVs' columns that say which run it is."""
        return {**cell.line, "loss": self.loss, "row": self.row, "seed": str(self.seed), **self.constants}


def job(row: str, loss: str, seed: int, constants: Mapping[str, str] = {}) -> Job:
    """Return the job of a row with these constants besides its fixed ones."""
    return Job(row, "CE" if row == "plain" else loss, seed, {"stage2_lr": "1", **ROWS[row][1], **constants})


def words(cell: Cell, one: Job) -> list[str]:
    """Return script and flags of a training."""
    flags = ["--data_root", str(cell.images), "--imb_factor", cell.imb_factor, "--seed", str(one.seed)]
    flags += ["--workdir", str(cell.workdir), "--idx", f"study/{cell.name}", "--save_name", one.name, "--stage2", one.stage2]
    for key, value in one.constants.items():
        flags += [FLAGS[key], value]
    if one.row.startswith("relative"):
        flags += ["--meta_update", "relative"]
    if one.row != "plain":
        flags += ["--stage1", str(stage1(cell, one.seed))]
    return [f"MetaSAug_{one.loss}_train.py", *COMMON.split(), *flags, *cell.more]


def stage1(cell: Cell, seed: int) -> Path:
    """Return the checkpoint that all rows of a seed begin with."""
    return checkpoint_paths(cell.folder, f"plain_seed{seed}")["stage1"]


def check_more(more: Sequence[str]) -> None:
    """Refuse flags that the study sets itself."""
    given = {word.partition("=")[0].lstrip("-").replace("-", "_") for word in more if word.startswith("-")}
    if owned := sorted(given & set(OWNED)):
        raise UserError(f"--{owned[0]} is set by this script for each run: leave it out")


def words_make_sense(cell: Cell) -> None:
    """Refuse flags that the training script would refuse."""
    parse_training("", STAGE2, RULES, words(cell, job("plain", "CE", CHOICE_SEED))[1:])


def finished(cell: Cell, one: Job) -> HeldOutRun | None:
    """Return what the summary of a run holds besides its test figures, if it has ended with these flags."""
    path = summary_path(cell.folder, one.name)
    if not os.path.isfile(path):
        return None
    try:
        summary = msgspec.json.decode(path.read_bytes(), type=HeldOutRun)
    except (OSError, msgspec.DecodeError):  # the training script says what is wrong
        return None
    wanted = asdict(parse_training("", STAGE2, RULES, words(cell, one)[1:]))
    found = {**UNSAID, **summary.flags}
    same = all(found.get(key) == value for key, value in wanted.items() if key not in FREE_FLAGS - {"epochs"})
    return summary if same else None
