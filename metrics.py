"""Accuracy overall, per class and per shot group, from the labels and predictions of a whole test set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MANY, FEW = 100, 20  # many-shot: more than 100 training images; few-shot: fewer than 20 (arXiv 1904.05160)
SHOTS = ("many", "medium", "few")


def confusion_matrix(target: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """Return counts (C, C), rows the true and columns the predicted class."""
    flat = torch.bincount(target * num_classes + predicted, minlength=num_classes**2)
    return flat.view(num_classes, num_classes)


def shot_of(count: int) -> str:
    """Return the shot group of a class with `count` training images."""
    return "many" if count > MANY else "few" if count < FEW else "medium"


@dataclass(frozen=True)
class Accuracy:
    """Accuracies in per cent: over all images, of each class, and the mean over the classes of each shot group.

    A class without test images, and a group without classes, is nan.
    """

    overall: float
    per_class: list[float]
    per_shot: dict[str, float]


def percent(value: float) -> str:
    """Return the figure with two decimals, "-" for nan."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def shots_line(per_shot: Mapping[str, float]) -> str:
    """Return for instance "many 81.20  medium 60.15  few -"."""
    return "  ".join(f"{shot} {percent(per_shot[shot])}" for shot in SHOTS)


def accuracy(confusion: Tensor, cls_num_list: Sequence[int]) -> Accuracy:
    """Return the accuracies of a confusion matrix (C, C), given the training images of each class."""
    return class_accuracy(confusion.diagonal().tolist(), confusion.sum(dim=1).tolist(), cls_num_list)


def class_accuracy(right: Sequence[int], total: Sequence[int], cls_num_list: Sequence[int]) -> Accuracy:
    """Return the accuracies from each class's test images and those of them that were recognised."""
    per_class = [100 * r / n if n else math.nan for r, n in zip(right, total, strict=True)]
    groups: dict[str, list[float]] = {shot: [] for shot in SHOTS}
    for value, count in zip(per_class, cls_num_list, strict=True):
        if not math.isnan(value):
            groups[shot_of(count)].append(value)
    per_shot = {shot: sum(values) / len(values) if values else math.nan for shot, values in groups.items()}
    return Accuracy(100 * sum(right) / max(sum(total), 1), per_class, per_shot)
