"""One epoch of plain cross-entropy, one epoch of MetaSAug, and validation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metrics import Accuracy, accuracy, calibration_bins, calibration_error, confusion_matrix
from options import LearningFlags
from runlog import Meter, StepResult, progress

Batch = tuple[Tensor, Tensor]  # images (N, 3, H, W) or features (N, A), target (N,)


def make_optimizer(weights: Iterable[nn.Parameter], flags: LearningFlags, device: torch.device) -> torch.optim.SGD:
    """Return the published optimizer, fused where PyTorch can."""
    return torch.optim.SGD(
        weights,
        lr=flags.lr,
        momentum=flags.momentum,
        nesterov=flags.nesterov,
        weight_decay=flags.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )


class EpochResult(NamedTuple):
    """Mean training loss, training accuracy in per cent, mean meta loss and norm of the meta gradient (nan without one)."""

    loss: float
    acc1: float
    meta_loss: float
    grad_norm: float


def nothing() -> None:
    """Do nothing after a step."""


def train_one_epoch(
    step: Callable[[Batch], StepResult],
    batches: Iterable[Batch],
    *,
    total: int,
    label: str,
    print_freq: int | None,
    meter: Meter | None = None,
    after_step: Callable[[], None] = nothing,
) -> EpochResult:
    """Train an epoch of `total` batches.

    Parameters
    ----------
    step:
        Takes a batch, as `meta_step.plain_step` or `meta_step.augmented_step` with all else bound to it.
    meter:
        What the epoch has come to already, if its first batches were taken before; `batches` are then the others.
    after_step:
        Called after each step; what it raises ends the epoch.
    """
    meter = meter or Meter()
    for batch in progress(batches, total, label, meter, print_freq, meter.steps):
        result = step(batch)
        meter.update(result, batch[1])
        after_step()
    return EpochResult(*meter.read(), *meter.read_meta())


def train_one_epoch_meta(
    step: Callable[[Batch, Batch], StepResult], batches: Iterable[Batch], meta_batches: Iterator[Batch], **shown: Any
) -> EpochResult:
    """Train an epoch with MetaSAug: `step` takes a training and a meta batch, as `meta_step.meta_step`.

    `shown` are the further arguments of `train_one_epoch`.
    """
    return train_one_epoch(lambda batch: step(batch, next(meta_batches)), batches, **shown)


class Predictions(NamedTuple):
    """What a network says of a test set, on the CPU.

    Mean cross-entropy; labels (M,), the most probable classes (M,), and their probabilities (M,).
    """

    loss: float
    target: Tensor
    predicted: Tensor
    confidence: Tensor

    def accuracy(self, cls_num_list: Sequence[int]) -> Accuracy:
        """Return the accuracies, given the training images of each class."""
        confusion = confusion_matrix(self.target, self.predicted, len(cls_num_list))
        bins = calibration_bins(self.confidence, self.target == self.predicted)
        return accuracy(confusion, cls_num_list, calibration_error(bins))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return labels, predictions and confidences by name."""
        return {name: getattr(self, name).numpy() for name in ("target", "predicted", "confidence")}


@torch.no_grad()
def validate(model: nn.Module, batches: Iterable[Batch]) -> Predictions:
    """Test in eval mode."""
    model.eval()
    parts: list[tuple[Tensor, ...]] = []
    loss: Tensor | float = 0.0
    for inputs, target in batches:
        _, logits = model(inputs)
        loss = loss + F.cross_entropy(logits, target, reduction="sum")
        confidence, predicted = logits.softmax(dim=1).max(dim=1)
        parts.append((target, predicted, confidence))
    target, predicted, confidence = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    return Predictions(float(loss) / len(target), target, predicted, confidence)
