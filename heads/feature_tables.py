"""Batches of a head's training out of whole tables of features, cached ones of images or those of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from data_utils import seeded
from harness.errors import UserError
from harness.evaluation import Batch
from harness.process_group import Group
from harness.text import say
from heads.backbone import transformed
from heads.drawn_sets import Sets
from heads.features import meta_indices, train_indices
from heads.image_lists import ImageList

TRAIN_VIEWS, META_VIEWS = 2, 3  # streams of random numbers, beside those of data_utils
BLOCK = 4096  # rows at once
ALIKE = 1e-6  # variance over mean square of features that say nothing; EfficientNet-Lite0 trained on ImageNet has 2.4


class PickedRows:
    """Rows of a table in an order, each taken when it is asked for."""

    def __init__(self, table: np.ndarray, rows: np.ndarray) -> None:
        self.table, self.rows = table, rows
        self.shape, self.dtype = (len(rows), table.shape[1]), table.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: np.ndarray | slice) -> np.ndarray:
        """Return the rows at `index` of the order."""
        return np.asarray(self.table[self.rows[index]])


Rows = np.ndarray | PickedRows


class CachedFeatures:
    """Batches of cached features, on every process the whole global batch.

    Parameters
    ----------
    train, meta:
        K views (M, A) each; every image of a batch comes from a view drawn at random.
    test, heldout:
        (M, A), of the held-out images only if there are any.
    targets:
        Labels by set name.
    scale:
        What is done to features before they are used.
    """

    def __init__(
        self, train: Sequence[Rows], meta: Sequence[Rows], test: Rows, targets: Mapping[str, Tensor],
        group: Group, batch_size: int, test_batch_size: int, seed: int, heldout: Rows | None = None,
        scale: Callable[[Tensor], Tensor] = lambda features: features,
    ) -> None:  # fmt: skip
        self.views, self.scale = {"train": train, "meta": meta}, scale
        self.rows = {"test": test} if heldout is None else {"test": test, "heldout": heldout}
        self.targets, self.group = targets, group
        self.batch_size, self.test_batch_size, self.seed = batch_size, test_batch_size, seed

    def train(self, taken: int = 0) -> Iterator[Batch]:
        """Yield the training batches of one epoch after the other, without the first `taken`."""
        batches = train_indices(len(self.targets["train"]), self.batch_size, self.seed)
        return self._drawn("train", batches, seeded(self.seed, TRAIN_VIEWS), taken)

    def meta(self, taken: int = 0) -> Iterator[Batch]:
        """Yield the meta batches without end, without the first `taken`."""
        batches = meta_indices(len(self.targets["meta"]), self.batch_size, self.seed)
        return self._drawn("meta", batches, seeded(self.seed, META_VIEWS), taken)

    def test(self, name: str = "test") -> Iterator[Batch]:
        """Yield this process's share of the test set, or of the "heldout" images."""
        whole = self.rows[name]
        share = self.group.share(len(whole))
        for start in range(share.start, share.stop, self.test_batch_size):
            rows = slice(start, min(start + self.test_batch_size, share.stop))
            yield self._batch(whole[rows], self.targets[name][rows])

    def _drawn(
        self, name: str, batches: Iterator[tuple[int, Tensor]], generator: torch.Generator, taken: int
    ) -> Iterator[Batch]:
        views = self.views[name]
        for number, (_, index) in enumerate(batches):
            view = torch.randint(len(views), (len(index),), generator=generator).numpy()
            if number < taken:
                continue
            rows = np.empty((len(index), views[0].shape[1]), views[0].dtype)
            for k, matrix in enumerate(views):
                rows[view == k] = matrix[index.numpy()[view == k]]
            yield self._batch(rows, self.targets[name][index])

    def _batch(self, rows: np.ndarray, target: Tensor) -> Batch:
        features = torch.from_numpy(np.array(rows)).to(self.group.device).float()
        return self.scale(features), target.to(self.group.device)


def picked(table: np.ndarray, places: Mapping[str, int], images: ImageList) -> PickedRows:
    """Return the rows of a list, given the row of each file."""
    return PickedRows(table, np.array([places[file] for file in images.files()], dtype=np.int64))


TRANSFORMS = {
    "none": "features as they are",
    "unit": "features of unit length",
    "sqrt": "square roots of the features",
    "standard": "features divided by their standard deviations",
}


@dataclass(frozen=True)
class FeatureScale:
    """Takes features (N, A) to (t(z) − mean) · factor, so that rates and regularisation mean the same for every backbone.

    `factor` (A,) or a scalar; t is a transform of `TRANSFORMS`.
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

    def folded(self, head: nn.Linear, subtracted: Tensor | None) -> nn.Linear:
        """Return the head that gives for transformed features what `head` gives for scaled ones, on the CPU in float32.

        `subtracted` (C,) is taken off its logits.
        """
        with torch.random.fork_rng(devices=[]):
            made = nn.Linear(head.in_features, head.out_features)
        weight = head.weight.detach().cpu().double() * self.factor.cpu().double()
        made.weight.data.copy_(weight)
        bias = head.bias.detach().cpu().double() - weight @ self.mean.cpu().double()
        made.bias.data.copy_(bias if subtracted is None else bias - subtracted.cpu().double())
        return made


def feature_scale(rows: Rows, source: str, transform: str = "none") -> FeatureScale:
    """Return what takes away the mean of these rows, and makes the mean of their variances one; "standard": each of them.

    `source` is named where they are nearly all the same; "" says nothing of it.
    """
    sums = np.zeros(rows.shape[1])
    for block in float64_blocks(rows, transform):
        sums += block.sum(axis=0)
    mean = sums / len(rows)
    if not np.isfinite(mean).all():
        raise UserError(f"features of {source} are too large for the 16 bits that they are kept in: take another backbone")
    squares = np.zeros(rows.shape[1])
    for block in float64_blocks(rows, transform):
        squares += np.square(block - mean).sum(axis=0)
    variances = squares / len(rows)
    if source and variances.mean() <= ALIKE * float(np.square(mean).mean()):
        say(f"note: features of {source} are nearly the same for all: they can tell classes apart only if their network was "
            "trained, see --pretrained")  # fmt: skip
    same = variances <= ALIKE**2 * np.square(mean)  # of constant features nothing is left but rounding
    variance = np.where(same, np.inf, variances) if transform == "standard" else np.array(variances.mean() or 1.0)
    return FeatureScale(torch.from_numpy(mean).float(), torch.tensor(variance**-0.5).float(), transform)


def float64_blocks(rows: Rows, transform: str = "none") -> Iterator[np.ndarray]:
    """Yield the transformed rows in float64, some at a time."""
    for start in range(0, len(rows), BLOCK):
        block = rows[slice(start, start + BLOCK)].astype(np.float64)
        if transform == "sqrt" and (block < 0).any():
            raise UserError("--transform sqrt: some features are negative, and have no square root: take another")
        yield transformed(torch.from_numpy(block), transform).numpy()


def scaled_batches(
    sets: Sets, rows: Callable[[ImageList], Sequence[Rows]], group: Group, batch_size: int, test_batch_size: int, seed: int,
    transform: str = "none",
) -> tuple[CachedFeatures, FeatureScale]:  # fmt: skip
    """Return batches of features that are scaled by those of the training list, and that scale.

    Parameters
    ----------
    rows:
        Returns the views of a list, of which the first serves for tests.
    """
    trained = rows(sets.trained)
    scale = feature_scale((trained if sets.joined is None else rows(sets.train))[0], sets.train.source, transform)
    parts = {"train": sets.trained, "meta": sets.meta, "test": sets.test}
    parts |= {} if sets.heldout is None else {"heldout": sets.heldout}
    targets = {name: torch.from_numpy(part.targets) for name, part in parts.items()}
    heldout = None if sets.heldout is None else rows(sets.heldout)[0]
    batches = CachedFeatures(
        trained, rows(sets.meta), rows(sets.test)[0], targets, group, batch_size, test_batch_size, seed, heldout,
        scale.to(group.device),
    )  # fmt: skip
    return batches, scale
