"""What files may hold beside tensors: the kind and the range of every plain value that is read from one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import msgspec
from msgspec import Meta

from harness.errors import UserError
from harness.facts import State

LARGEST = sys.float_info.max
Finite = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
Positive = Annotated[float, Meta(gt=0, le=LARGEST)]
Count = Annotated[int, Meta(ge=0, le=10**9)]
Images = Annotated[int, Meta(ge=1, le=10**9)]  # of a class that is trained on
Pixels = Annotated[int, Meta(ge=1, le=4096)]
Percent = Annotated[float, Meta(ge=0, le=100)]
Plain = bool | int | float | str | None
Name = Annotated[str, Meta(max_length=10**4)]
MOST_SHOWN = 6  # images of a pair of classes
Chosen = Annotated[float, Meta(ge=-1, le=100)]  # -1: no epoch yet


class OptionalFigures(msgspec.Struct, kw_only=True):
    """Figures of an epoch, in per cent, as far as they are defined: those of a shot group without classes are not."""

    mean_per_class: Percent | None = None
    many: Percent | None = None
    medium: Percent | None = None
    few: Percent | None = None
    macro_f1: Percent | None = None
    ece: Percent | None = None


class Outcome(OptionalFigures, kw_only=True):
    """The figures of an epoch; null is what is not defined."""

    epoch: Annotated[int, Meta(ge=-1, le=10**9)]
    acc1: Chosen | None
    heldout_acc1: Chosen | None = None
    per_class: list[Percent | None] = []


class Confused(msgspec.Struct):
    """Test images of one class that were taken for another so many times: the first of them side by side, as JPEG."""

    target: Count
    predicted: Count
    times: Images
    images: Annotated[int, Meta(ge=1, le=MOST_SHOWN)]
    picture: Annotated[bytes, Meta(max_length=2**17)]


class RecordState(msgspec.Struct):
    """How far the record of an interrupted run is."""

    epoch: Count
    since: Count
    seconds: Annotated[float, Meta(ge=0, le=1e10)]
    best: Outcome
    last: Outcome


class Sums(msgspec.Struct):
    """How far an epoch is, besides its sums."""

    steps: Count
    count: Count
    has_meta: bool


class ResumeState(msgspec.Struct):
    """What a resume file holds besides a checkpoint; tensors in it are checked where they are put back."""

    binding: dict[str, Plain]
    epochs: Images
    estimator: State
    meter: Sums
    meta_taken: Count
    record: RecordState
    random: State
    surroundings: dict[str, Plain]


class Flags(TypedDict, total=False):
    """Flags of the run that wrote a file, as far as they are used as values; others are only compared."""

    meta_start: Count
    meta_start_given: bool
    epochs: Images
    lam: Finite
    imb_factor: Annotated[float, Meta(gt=0, le=1)] | None
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    data_root: Name
    dataset: Name
    features: Name | None


class OptimizerState(msgspec.Struct):
    """What an optimizer's `state_dict` holds."""

    state: dict[Count, State]
    param_groups: list[State]


class BackboneFacts(msgspec.Struct, forbid_unknown_fields=True):
    """What a checkpoint says of the backbone of its head, see `heads.networks.Backbone`."""

    name: Name
    image_size: Pixels
    resize_size: Pixels
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Positive, Positive, Positive]
    interpolation: Literal["bilinear", "bicubic"]
    upright: bool
    jitter: bool
    squash: bool = False
    digest: Name | None = None
    pretrained: Name | None = None
    file: Name | None = None


# What the keys of a checkpoint hold, besides the weights.
CHECKPOINT: tuple[tuple[str, Any], ...] = (
    ("epoch", Count), ("best_acc1", Chosen), ("flags", dict[str, Plain]), ("flags", Flags), ("arch", Name),
    ("dataset", Name), ("backbone", BackboneFacts | None), ("class_names", list[Name]), ("train_digest", Name),
    *((name, Annotated[list[Images], Meta(min_length=1)]) for name in ("cls_num_list", "stage2_counts")),
    ("imb_factor", Annotated[float, Meta(gt=0, le=1)] | None), ("resume", dict[str, Any]),
    ("transform", Literal["none", "unit", "sqrt"]),
)  # fmt: skip


def problem(value: Any, form: Any, name: str = "") -> str | None:
    """Return what in `value`, called `name`, is not as `form` declares it, in words; None if nothing is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tensors that are looked into
            msgspec.convert(value, form, strict=True)
    except (msgspec.ValidationError, RecursionError, AttributeError) as error:  # the last of a tensor in place of a mapping
        what, _, place = str(error).replace("`", "").partition(" - at $")
        return f"its {name}{place} is of another kind or range: {what}"
    return None


def check(value: Any, form: Any, source: Path | str, name: str = "") -> None:
    """Raise a `UserError` that names `source` if `value`, called `name` in it, is not as `form` declares it."""
    found = problem(value, form, name)
    if found:
        raise UserError(f"{source} cannot be used: {found}")


def shown(value: Any, longest: int = 60) -> str:
    """Return a value as a message shows it, on one line, of `longest` characters at most."""
    try:
        text = " ".join(str(value).split())
    except (RecursionError, ValueError):  # a number of more digits than Python writes
        text = f"a {type(value).__name__}"
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def replaced(value: Any, odd: Callable[[Any], bool], by: float | None = None) -> Any:
    """Return plain data with `by` for every value that is `odd`, at any depth."""
    if isinstance(value, Mapping):
        return {key: replaced(inner, odd, by) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [replaced(inner, odd, by) for inner in value]
    return by if odd(value) else value
