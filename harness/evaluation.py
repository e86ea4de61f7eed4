"""Testing a network: what it says of every image, on any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.errors import UserError
from harness.facts import Facts
from harness.flags import UNSAID, in_stage1
from harness.metrics import Accuracy, calibration_error, class_accuracy
from harness.process_group import Group

Batch = tuple[Tensor, Tensor]  # inputs (N, ...), target (N,)


class Predictions(NamedTuple):
    """What a network says of a test set, on the CPU.

    Mean cross-entropy; labels (M,), the most probable classes (M,), their probabilities (M,), and whether the label is among
    the five most probable classes (M,), or among all where there are fewer.
    """

    loss: float
    target: Tensor
    predicted: Tensor
    confidence: Tensor
    in_top5: Tensor

    @property
    def top5(self) -> float:
        """Top-5 accuracy in per cent."""
        return 100 * int(self.in_top5.sum()) / max(len(self.in_top5), 1)

    def accuracy(self, cls_num_list: Sequence[int]) -> Accuracy:
        """Return the accuracies, given the training images of each class."""
        recognised = self.target == self.predicted
        right, total, guessed = (
            torch.bincount(labels, minlength=len(cls_num_list)).tolist()
            for labels in (self.target[recognised], self.target, self.predicted)
        )
        return class_accuracy(right, total, guessed, cls_num_list, calibration_error(self.confidence, recognised))

    def check(self, source: Path) -> None:
        """Raise a `UserError` if the network of the file `source` gives no finite answer for some image."""
        if not bool(torch.isfinite(self.confidence).all()):
            raise no_answers(source)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return labels, predictions and confidences by name."""
        return {name: getattr(self, name).numpy() for name in ("target", "predicted", "confidence")}


def no_answers(source: Path) -> UserError:
    """Return the error about a network whose answers are no numbers."""
    return UserError(f"{source} cannot be used: the outputs of its network are not finite: its weights are too large")


@torch.no_grad()
def evaluate(classify: Callable[[Tensor], Tensor], batches: Iterable[Batch], group: Group | None = None) -> Predictions:
    """Return what `classify` says of the batches; every process brings its share of the test set, in the ranks' order.

    Parameters
    ----------
    classify:
        Inputs (N, ...) -> logits (N, C).
    group:
        The processes that share the work; None is this one alone. The loss is summed in float64 over all images in their
        order, so that it does not depend on how they are shared out.
    """
    parts: list[tuple[Tensor, ...]] = []
    for inputs, target in batches:
        logits = classify(inputs)
        losses = F.cross_entropy(logits, target, reduction="none")
        confidence, predicted = logits.softmax(dim=1).max(dim=1)
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        parts.append((losses, target, predicted, confidence, (best == target.unsqueeze(1)).any(dim=1)))
    if not parts:  # more processes than images
        whole, real = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
        parts.append((real, whole, whole, real, whole.bool()))
    columns = [torch.cat(column).cpu() for column in zip(*parts, strict=True)]
    if group is not None:
        columns = [group.all_gather(column) for column in columns]
    losses, *others = columns
    return Predictions(float(losses.double().sum()) / max(len(losses), 1), *others)


def validate(model: nn.Module, batches: Iterable[Batch]) -> Predictions:
    """Test a network that returns (features, logits), in eval mode."""
    model.eval()
    return evaluate(lambda inputs: model(inputs)[1], batches)


def prior_counts(
    state: Facts, counts: Sequence[int] | None, source: Path, flag: str = "--logit_adjust"
) -> Sequence[int]:
    """Return how many images of each class a network was trained on last, for a flag that needs them.

    Parameters
    ----------
    state, source:
        Its checkpoint, and the file.
    counts:
        The training images of each class, None where nothing says them; stage 2 may have had meta images besides.
    """
    if "stage2_counts" in state and not in_stage1(state.get("flags", {}), state.get("epoch", 0) - 1):
        counts = state["stage2_counts"]
    if counts is None:
        told = f"{flag} needs the training images of each class, which neither {source} nor a list says"
        raise UserError(f"{told}: take a checkpoint of a training script")
    empty = [k for k, count in enumerate(counts) if not count]
    if empty:
        raise UserError(f"{flag} needs training images of every class, and class {empty[0]} has none: see the list")
    return counts


def adjustment_notes(tau: float, state: Facts) -> list[str]:
    """Return lines about figures of adjusted logits, none if `tau`, of --logit_adjust, is 0."""
    if not tau:
        return []
    lines = [f"logits adjusted: {tau:g} times the log of each class's share of the training images is subtracted"]
    if had := balanced_by(state):
        lines.append(f"note: the loss of this network had {had}: --logit_adjust makes up for the long tail a second time")
    return lines


def balanced_by(state: Facts) -> str | None:
    """Return what made up for the long tail in the loss of a network; None: nothing, or its checkpoint does not say."""
    flags = state.get("flags", {})
    if flags.get("way") in ("balanced", "nearest_mean", "lda"):
        return "classes taken to be equally frequent"
    if flags.get("logit_adjust"):  # of train_own.py, whose networks have it in their last layer
        return "the log prior subtracted"
    if not flags or flags.get("stage2") == "none" or in_stage1(flags, state.get("epoch", 0) - 1):
        return None
    return {"weights": "class-balanced weights", "prior": "the log prior"}.get({**UNSAID, **flags}["balance"])
