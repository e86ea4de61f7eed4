"""How far the confidences of networks can be believed: the bins of a reliability diagram (Guo et al., arXiv 1706.04599)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.metrics import BINS, calibration_bins
from reporting.finished_runs import FinishedRun


class ReliabilityBin(NamedTuple):
    """The images whose confidence is in (low, high], all in per cent: mean confidence, accuracy, number."""

    low: float
    high: float
    confidence: float
    accuracy: float
    images: int


def pooled(runs: Sequence[FinishedRun]) -> Tensor:
    """Return images, those recognised and the sum of confidence in each bin (3, 15), of all runs that have predictions."""
    sums = torch.zeros(3, BINS, dtype=torch.float64)
    for run in runs:
        if run.tested is not None:
            right = run.tested.target == run.tested.predicted
            confidence = torch.from_numpy(run.tested.confidence.astype(np.float64))  # of any kind that a file may have
            sums += calibration_bins(confidence, torch.from_numpy(right))
    return sums


def bins_of(runs: Sequence[FinishedRun]) -> list[ReliabilityBin]:
    """Return the bins that have images, those of the ECE that trainings log, over the images of all runs together."""
    found = []
    for k, (images, right, confidence) in enumerate(pooled(runs).T.tolist()):
        if images:
            low, high = 100 * k / BINS, 100 * (k + 1) / BINS
            found.append(ReliabilityBin(low, high, 100 * confidence / images, 100 * right / images, int(images)))
    return found
