"""One epoch of plain cross-entropy, one epoch of MetaSAug, and validation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loss import EstimatorCV
from meta_step import Criterion, meta_step
from metrics import confusion_matrix
from runlog import Meter, progress

Batch = tuple[Tensor, Tensor]  # images (N, 3, 32, 32), target (N,)


class EpochResult(NamedTuple):
    """Mean training loss, training accuracy in per cent, and the mean loss of the meta batches (nan in stage 1)."""

    loss: float
    acc1: float
    meta_loss: float


def train_one_epoch(
    model: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    *,
    total: int,
    label: str,
    print_freq: int,
) -> EpochResult:
    """Train an epoch of `total` batches with plain, unweighted cross-entropy (stage 1)."""
    model.train()
    meter = Meter()
    for inputs, target in progress(batches, total, label, meter, print_freq):
        _, logits = model(inputs)
        loss = F.cross_entropy(logits, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        meter.update(loss, logits, target)
    return EpochResult(*meter.read(), float("nan"))


def train_one_epoch_meta(
    model: nn.Module,
    batches: Iterable[Batch],
    meta_batches: Iterator[Batch],
    criterion: Criterion,
    estimator: EstimatorCV,
    optimizer: torch.optim.Optimizer,
    *,
    ratio: float,
    virtual_lr: float,
    meta_lr: float,
    total: int,
    label: str,
    print_freq: int,
) -> EpochResult:
    """Train an epoch of `total` batches with MetaSAug (stage 2); `ratio` is λ_t."""
    model.train()
    meter = Meter()
    meta_loss: Tensor | float = 0.0
    for inputs, target in progress(batches, total, label, meter, print_freq):
        result = meta_step(
            model, criterion, estimator, optimizer, (inputs, target), next(meta_batches),
            ratio=ratio, virtual_lr=virtual_lr, meta_lr=meta_lr,
        )  # fmt: skip
        meter.update(result.loss, result.logits, target)
        meta_loss = meta_loss + result.loss_meta
    return EpochResult(*meter.read(), float(meta_loss) / total)


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
