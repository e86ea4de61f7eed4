"""Flags of the commands that train or test heads of frozen backbones, on one process or many."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from datasets.drawn_sets import Lists, Sets
from harness.errors import UserError
from harness.flags import LearningFlags, Parser, require
from harness.run_files import list_paths


@dataclass(frozen=True)
class GroupFlags:
    """What a process needs to find the others."""

    gpu: int | None
    no_cuda: bool
    local_rank: int | None
    timeout: float


@dataclass(frozen=True)
class FrozenFlags(LearningFlags):
    """What all trainings of heads have; `batch_size` is that of one process."""

    train_list: str | None
    val_list: str | None
    meta_list: str | None
    val_fraction: float | None
    val_seed: int
    workers: int
    pretrained: str | None

    @property
    def folder(self) -> Path:
        """Where the run's files go."""
        return Path(self.workdir) / "checkpoint" / "ours" / self.dataset

    @property
    def needs_meta(self) -> bool:
        """Whether steps take meta batches."""
        return self.stage2 == "metasaug" or self.trains_on_meta

    def decayed(self, model: nn.Module, features: int, rows: int) -> Any:
        """Return the parameters for the optimizer of a head of so many features and training rows."""
        return model.parameters()

    @property
    def writes_lists(self) -> bool:
        """Whether the lists that were drawn are written beside the checkpoints."""
        return self.val_fraction is not None

    def drawn(self, lists: Lists) -> Sets:
        """Return the sets that are drawn from the lists."""
        return lists.sets(self.num_meta, self.heldout, self.joins_meta)

    def drawn_facts(self, sets: Sets) -> dict[str, object]:
        """Return what a checkpoint says of test images that were drawn."""
        return {} if self.val_fraction is None else {"test_list": sets.test.digest()}

    def binding(self) -> dict[str, object]:
        """Leave the batch of one process out: the global one is compared."""
        return {name: value for name, value in super().binding().items() if name != "--batch_size"}

    def facts(self) -> dict[str, object]:
        """Return the values by flag, as all processes must have them."""
        return {f"--{name}": value for name, value in asdict(self).items()}


def add_group_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `GroupFlags`."""
    parser.add_argument("--gpu", type=int, help="which CUDA device (default: the process's local rank)")
    parser.add_argument("--no-cuda", action="store_true", help="use the CPU")
    parser.add_argument("--local_rank", "--local-rank", type=int, help="given by torch.distributed.launch")
    parser.add_argument(
        "--timeout", type=float, default=600, help="seconds to wait for another process (default: %(default)s)"
    )


def parse_group(argv: Sequence[str] | None = None) -> GroupFlags:
    """Read only what is needed to find the other processes, so that all else can be checked together with them."""
    parser = Parser(add_help=False)
    add_group_flags(parser)
    known, _ = parser.parse_known_args(argv)
    require(1 <= known.timeout <= 1e6, "--timeout", known.timeout, "a number of seconds from 1 to 1,000,000")
    return GroupFlags(**vars(known))


def add_val_fraction_flags(parser: argparse.ArgumentParser, whose: str) -> None:
    """Add the flags of test images that are drawn from one folder of classes; `whose` begins their help."""
    parser.add_argument("--val_fraction", type=float, help=f"{whose}DATA_ROOT has the class folders, and this share of each "
                        "class is drawn for tests; the lists are written beside the checkpoints")  # fmt: skip
    parser.add_argument("--val_seed", type=int, default=0, help="seed of that draw (default: %(default)s)")


def add_test_batch_flags(parser: argparse.ArgumentParser, workers: int | None = 4, words: str = "%(default)s") -> None:
    """Add the flags of how images are loaded; `workers` is the default, which `words` tell of."""
    parser.add_argument("--test_batch_size", type=int, default=100, help="of one process (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=workers, help="loading processes for each process "
                        f"(default: {words})")  # fmt: skip


def check_lists_stay(flags: FrozenFlags) -> None:
    """Refuse lists that an earlier run of the same name wrote: they are set aside with its other files."""
    drawn = [path.resolve() for path in list_paths(flags.folder, flags.save_name)]
    for name in ("train_list", "val_list", "meta_list"):
        given = getattr(flags, name)
        if given is not None and Path(given).resolve() in drawn:
            told = f"--{name} {given} belongs to an earlier run {flags.save_name}, whose files are set aside"
            raise UserError(f"{told}: choose another --save_name")


def check_workers(workers: int) -> None:
    """Check --workers."""
    require(0 <= workers <= 1024, "--workers", workers, "from 0 to 1024")
