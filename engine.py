"""One epoch of plain cross-entropy, one epoch of MetaSAug, and validation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metrics import confusion_matrix
from passes import Passes
from runlog import Meter, progress

Batch = tuple[Tensor, Tensor]  # images (N, 3, H, W) or features (N, A), target (N,)


class MetaResult(Protocol):
    """What the loop reads from a step: losses (scalars) and logits (N, C)."""

    @property
    def loss(self) -> Tensor: ...  # noqa: D102

    @property
    def loss_meta(self) -> Tensor: ...  # noqa: D102

    @property
    def logits(self) -> Tensor: ...  # noqa: D102


class EpochResult(NamedTuple):
    """Mean training loss, training accuracy in per cent, and the mean loss of the meta batches (nan in stage 1)."""

    loss: float
    acc1: float
    meta_loss: float


def nothing() -> None:
    """Do nothing after a step."""


def train_one_epoch(
    model: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    *,
    total: int,
    label: str,
    print_freq: int,
    passes: Passes | None = None,
    meter: Meter | None = None,
    after_step: Callable[[], None] = nothing,
) -> EpochResult:
    """Train an epoch of `total` batches with plain, unweighted cross-entropy (stage 1).

    Parameters
    ----------
    passes:
        As in `meta_step`.
    meter:
        What the epoch has come to already, if its first batches were taken before; `batches` are then the others.
    after_step:
        Called after each step; what it raises ends the epoch.
    """
    passes = passes or Passes(model)
    meter = meter or Meter()
    model.train()
    for inputs, target in progress(batches, total, label, meter, print_freq, meter.steps):
        loss = F.cross_entropy(logits := passes.plain(inputs)[1], target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        meter.update(loss, logits, target)
        after_step()
    return EpochResult(*meter.read(), float("nan"))


def train_one_epoch_meta(
    step: Callable[[Batch, Batch], MetaResult],
    batches: Iterable[Batch],
    meta_batches: Iterator[Batch],
    *,
    total: int,
    label: str,
    print_freq: int,
    meter: Meter | None = None,
    after_step: Callable[[], None] = nothing,
) -> EpochResult:
    """Train an epoch of `total` batches with MetaSAug (stage 2).

    `step` takes a training and a meta batch, as `meta_step.meta_step` with all else bound to it; `meter` and `after_step`
    are as in `train_one_epoch`.
    """
    meter = meter or Meter()
    for batch in progress(batches, total, label, meter, print_freq, meter.steps):
        result = step(batch, next(meta_batches))
        meter.update(result.loss, result.logits, batch[1], result.loss_meta)
        after_step()
    return EpochResult(*meter.read(), float(meter.meta_loss) / total)


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
