"""Accuracy overall, per class and per shot group, macro-F1 and calibration, from the predictions for a whole test set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.facts import Facts, State

if TYPE_CHECKING:
    from torch import Tensor  # a report needs the rest and no PyTorch, which takes seconds to load

MANY, FEW = 100, 20  # many-shot: more than 100 training images; few-shot: fewer than 20 (arXiv 1904.05160)
SHOTS = ("many", "medium", "few")
PER_CLASS_MEAN = "mean_per_class"  # in logs and summaries: the mean over classes, where it is another than the accuracy
BINS = 15  # of confidence


def shot_of(count: int) -> str:
    """Return the shot group of a class with `count` training images."""
    return "many" if count > MANY else "few" if count < FEW else "medium"


@dataclass(frozen=True)
class Accuracy:
    """Accuracies in per cent: over all images, of each class, and the mean over the classes of each shot group.

    `macro_f1`, in per cent, is the mean over the classes that have test images; `ece` is the expected calibration error in
    per cent. A class without test images, a group without classes, and an ece that was not measured is nan. `uneven` says
    whether some classes have more test images than others, so that the accuracy is another than the mean over classes.
    """

    overall: float
    per_class: list[float]
    per_shot: dict[str, float]
    macro_f1: float
    ece: float = math.nan
    uneven: bool = False

    @property
    def mean_over_classes(self) -> float:
        """The mean over the classes that have test images."""
        return mean([value for value in self.per_class if not math.isnan(value)])

    def figures(self) -> State:
        """Return everything by its name in logs and summaries."""
        mean_figure = {PER_CLASS_MEAN: self.mean_over_classes} if self.uneven else {}
        figures = {"acc1": self.overall, **mean_figure, **self.per_shot, "macro_f1": self.macro_f1, "ece": self.ece}
        return {**figures, "per_class": self.per_class}


def percent(value: float) -> str:
    """Return the figure with two decimals, "-" for nan."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def mean_words(figures: Facts) -> list[str]:
    """Return the mean over classes in words, if it is among the figures of an `Accuracy`."""
    return [f"mean over classes {percent(figures[PER_CLASS_MEAN])}"] if PER_CLASS_MEAN in figures else []


def shots_line(per_shot: Mapping[str, float]) -> str:
    """Return for instance "many 81.20  medium 60.15  few -"."""
    return "  ".join(f"{shot} {percent(per_shot[shot])}" for shot in SHOTS)


def class_accuracy(
    right: Sequence[int], total: Sequence[int], guessed: Sequence[int], cls_num_list: Sequence[int], ece: float = math.nan
) -> Accuracy:
    """Return the accuracies from each class's numbers of recognised, test and predicted images."""
    per_class = [100 * r / n if n else math.nan for r, n in zip(right, total, strict=True)]
    f1 = [200 * r / (n + g) for r, n, g in zip(right, total, guessed, strict=True) if n]
    overall = 100 * sum(right) / sum(total) if any(total) else math.nan
    uneven = len({n for n in total if n}) > 1
    return Accuracy(overall, per_class, per_shot(per_class, cls_num_list), mean(f1), ece, uneven)


def per_shot(per_class: Sequence[float], cls_num_list: Sequence[int]) -> dict[str, float]:
    """Return the mean over the classes of each shot group, without those that are nan."""
    known = [(value, shot_of(count)) for value, count in zip(per_class, cls_num_list, strict=True) if not math.isnan(value)]
    return {shot: mean([value for value, own in known if own == shot]) for shot in SHOTS}


def mean(values: Sequence[float]) -> float:
    """Return the mean, nan of none."""
    return sum(values) / len(values) if values else math.nan


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Return the expected calibration error in per cent (Guo et al., arXiv 1706.04599, eq. 3); nan without images.

    Confidence (M,) is the largest softmax probability, `right` (M,) says which images were recognised. Bins of confidence
    are (0, 1/15], (1/15, 2/15], ...
    """
    index = (confidence.double() * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = right.double() - confidence.double()
    return 100 * float(gaps.new_zeros(BINS).index_add_(0, index, gaps).abs().sum() / len(right))
