"""Reading the flags of the CIFAR scripts: defaults that follow from other flags, or from a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import UserError
from harness.facts import Facts
from harness.flag_parser import given_flags, with_defaults
from harness.flags import DATASETS, DIGITS_IMB_FACTOR, IMB_FACTOR, SPLIT_NOTE, TESTED_IMB_FACTOR, TrainingFlags
from harness.text import say


def parse_training(argv: Sequence[str] | None = None) -> TrainingFlags:
    """Read and check the flags of a training script."""
    given = given_flags(argv, TrainingFlags)
    if given.pop("split", None) is not None:
        say(SPLIT_NOTE)
    given["meta_start_given"] = "meta_start" in given
    given.setdefault("meta_start", 160 * given.get("epochs", 200) // 200)  # so that any length has a stage 2
    factor = default_imb_factor(given.get("dataset", "cifar100"), given.get("imb_factor"), IMB_FACTOR)
    return with_defaults(TrainingFlags, {**given, "imb_factor": factor})


def tested_set(state: Facts, dataset: str | None, imb_factor: float | None) -> tuple[str, float | None]:
    """Return the data set and imb_factor of a checkpoint: what it says itself, else the flags, else the defaults."""
    for key, value in (("dataset", dataset), ("imb_factor", imb_factor)):
        if key in state and value is not None and value != state[key]:
            raise UserError(f"the checkpoint was trained with --{key} {state[key]}, not {value}: leave the flag out")
    name = state.get("dataset", dataset or "cifar10")
    if name not in DATASETS:
        raise UserError(f"the checkpoint was trained on {name}: test it with ImageNet_iNat/test.py")
    return name, state["imb_factor"] if "imb_factor" in state else default_imb_factor(name, imb_factor, TESTED_IMB_FACTOR)


def default_imb_factor(dataset: str, given: float | None, published: float) -> float | None:
    """Return what is given, else the default of the data set; a folder keeps its natural counts."""
    defaults = {"folder": None, "digits": DIGITS_IMB_FACTOR}
    return defaults.get(dataset, published) if given is None else given
