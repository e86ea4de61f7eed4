"""The scale of features: a transform, mean zero, variances of mean one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from datasets.drawn_sets import Sets
from datasets.image_lists import ImageList
from harness.errors import UserError
from harness.process_group import Group
from heads.backbone import make_head, transformed
from heads.batches import Batches, RowViews, parted
from heads.own_flags import OwnFlags

BLOCK = 4096  # rows at once
ALIKE = 1e-6  # standard deviation over mean of features that say nothing


@dataclass(frozen=True)
class FeatureScale:
    """Takes features (N, A) to (t(z) − mean) · factor, so that rates and regularisation mean the same for every backbone.

    `factor` (A,) or a scalar; t is a transform, of which "standard" divides features by their standard deviations.
    """

    mean: Tensor
    factor: Tensor
    transform: str = "none"

    def to(self, device: torch.device) -> FeatureScale:
        """Return it on `device`."""
        return FeatureScale(self.mean.to(device), self.factor.to(device), self.transform)

    def __call__(self, features: Tensor) -> Tensor:
        """Return the scaled features."""
        return (transformed(features, self.transform) - self.mean) * self.factor

    def folded(self, head: nn.Linear, subtracted: Tensor) -> nn.Linear:
        """Return the head that gives for transformed features what `head` gives for scaled ones, on the CPU in float32.

        `subtracted` (C,) is taken off its logits.
        """
        made = make_head(head.out_features, 0, head.in_features)
        weight = head.weight.detach().cpu().double() * self.factor.cpu().double()
        made.weight.data.copy_(weight)
        bias = head.bias.detach().cpu().double() - weight @ self.mean.cpu().double()
        made.bias.data.copy_(bias - subtracted.cpu().double())
        return made


def feature_scale(rows: np.ndarray, transform: str = "none") -> FeatureScale:
    """Return what takes away the mean of these rows, and makes the mean of their variances one; "standard": each of them."""
    start = np.zeros(rows.shape[1])
    mean = sum((block.sum(axis=0) for block in float64_blocks(rows, transform)), start) / len(rows)
    variances = sum((np.square(block - mean).sum(axis=0) for block in float64_blocks(rows, transform)), start) / len(rows)
    same = variances <= ALIKE**2 * np.square(mean)  # of constant features nothing is left but rounding
    variance = np.where(same, np.inf, variances) if transform == "standard" else np.array(variances.mean() or 1.0)
    return FeatureScale(torch.from_numpy(mean).float(), torch.tensor(variance**-0.5).float(), transform)


def float64_blocks(rows: np.ndarray, transform: str) -> Iterator[np.ndarray]:
    """Yield the transformed rows in float64, some at a time."""
    for block in parted(rows, BLOCK):
        block = block.astype(np.float64)
        if transform == "sqrt" and (block < 0).any():
            raise UserError("--transform sqrt: some features are negative and have no square root: use another")
        yield transformed(torch.from_numpy(block), transform).numpy()


def scaled_batches(
    flags: OwnFlags, sets: Sets, rows: Callable[[ImageList], Sequence[np.ndarray]], group: Group, batch_size: int
) -> tuple[Batches, FeatureScale]:
    """Return batches of features that are scaled by those of the training list, and that scale.

    Parameters
    ----------
    rows:
        Returns the views of a list, of which the first serves for tests.
    """
    lists = {**sets.parts, "train": sets.trained}
    views = {name: rows(part) for name, part in lists.items()}
    scale = feature_scale((views["train"] if sets.joined is None else rows(sets.train))[0], flags.transform)
    placed = scale.to(group.device)
    parts = {name: RowViews(views[name], torch.from_numpy(part.targets), placed) for name, part in lists.items()}
    return Batches(parts, group, batch_size, flags.test_batch_size, flags.seed), scale
