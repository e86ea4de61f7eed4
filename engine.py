"""One epoch of plain cross-entropy, one epoch of MetaSAug, and validation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metrics import confusion_matrix
from options import LearningFlags
from runlog import Meter, progress

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


class StepResult(Protocol):
    """What the loop reads from a step: losses and the norm of the meta gradient (scalars), and logits (N, C)."""

    @property
    def loss(self) -> Tensor: ...  # noqa: D102

    @property
    def logits(self) -> Tensor: ...  # noqa: D102

    @property
    def loss_meta(self) -> Tensor | None: ...  # noqa: D102

    @property
    def grad_norm(self) -> Tensor | None: ...  # noqa: D102


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
    print_freq: int,
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
        meter.update(result.loss, result.logits, batch[1], result.loss_meta, result.grad_norm)
        after_step()
    return EpochResult(*meter.read(), *meter.read_meta())


def train_one_epoch_meta(
    step: Callable[[Batch, Batch], StepResult], batches: Iterable[Batch], meta_batches: Iterator[Batch], **shown: Any
) -> EpochResult:
    """Train an epoch with MetaSAug: `step` takes a training and a meta batch, as `meta_step.meta_step`.

    `shown` are the further arguments of `train_one_epoch`.
    """
    return train_one_epoch(lambda batch: step(batch, next(meta_batches)), batches, **shown)


@torch.no_grad()
def validate(model: nn.Module, batches: Iterable[Batch], num_classes: int) -> tuple[float, Tensor]:
    """Return the mean cross-entropy and the confusion matrix (C, C) in eval mode."""
    model.eval()
    count = 0
    loss: Tensor | float = 0.0
    confusion: Tensor | int = 0
    for inputs, target in batches:
        _, logits = model(inputs)
        loss = loss + F.cross_entropy(logits, target, reduction="sum")
        confusion = confusion + confusion_matrix(target, logits.argmax(1), num_classes)
        count += len(target)
    return float(loss) / count, torch.as_tensor(confusion).cpu()
