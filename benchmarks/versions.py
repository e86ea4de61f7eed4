"""What is compared: steps and batches of ours, and of the published code's structure, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.published_pipeline import make_loader
from benchmarks.published_step import PublishedStep
from data_utils import epoch_batches, meta_batches
from datasets.drawing import long_tailed_counts
from datasets.small_sets import ImageSet, image_set
from heads.head_step import head_step
from loss import EstimatorCV, MetaSAugCE, MetaSAugLDAM
from meta_layers import HeadAlone
from meta_step import meta_step, plain_step
from passes import Passes
from resnet import build_model, make_model

Step = Callable[[], object]
LR, META_LR, LAM_T, FEATURES = 0.01, 0.1, 0.6, 2048


class Sizes(NamedTuple):
    """Batch and classes, the network, and where."""

    batch_size: int
    num_classes: int
    arch: str
    device: torch.device

    @property
    def counts(self) -> list[int]:
        """The images of each class of a long tail of ratio 100."""
        return long_tailed_counts(500, self.num_classes, 0.01)


def random_set(sizes: Sizes, images: int) -> ImageSet:
    """Return random images, the classes in turn."""
    pixels = np.random.default_rng(0).integers(0, 256, (images, 32, 32, 3), np.uint8)
    names = [str(k) for k in range(sizes.num_classes)]
    return image_set(pixels, np.arange(images) % sizes.num_classes, names)


def random_batch(sizes: Sizes, *shape: int) -> tuple[Tensor, Tensor]:
    """Return random inputs (N, *shape) and target (N,)."""
    inputs = torch.rand(sizes.batch_size, *shape).to(sizes.device)
    return inputs, torch.randint(0, sizes.num_classes, (sizes.batch_size,)).to(sizes.device)


def our_step(sizes: Sizes, virtual: str | None, amp: torch.dtype | None = None) -> Step:
    """Return a MetaSAug step with its meta batch, or one of plain cross-entropy (None)."""
    images, target = random_batch(sizes, 3, 32, 32)
    batch = images.contiguous(memory_format=torch.channels_last), target
    model = make_model(sizes.arch, sizes.num_classes).to(sizes.device).to(memory_format=torch.channels_last).train()
    passes = Passes(model, amp)
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    if virtual is None:
        return lambda: plain_step(passes, optimizer, batch)
    criterion = MetaSAugLDAM(sizes.counts).to(sizes.device)
    estimator = EstimatorCV(64, sizes.num_classes).to(sizes.device)
    meta = meta_batches(random_set(sizes, 10 * sizes.num_classes).to(sizes.device), sizes.batch_size, 0)
    return lambda: meta_step(
        model, criterion, estimator, optimizer, batch, next(meta), lam_t=LAM_T, virtual_lr=LR, meta_lr=META_LR,
        passes=passes, virtual=virtual,
    )  # fmt: skip


def published_step(sizes: Sizes) -> Step:
    """Return the published step; it starts a new worker process for its meta batch, as published."""
    new_model = partial(build_model, sizes.arch, sizes.num_classes)
    published = PublishedStep(new_model, sizes.counts, LR, META_LR, device=sizes.device)
    batch, loader = random_batch(sizes, 3, 32, 32), make_loader(random_set(sizes, 10 * sizes.num_classes), sizes.batch_size)
    return lambda: published.step(*batch, loader, LAM_T)


def our_head(sizes: Sizes) -> Step:
    """Return a step of the linear head."""
    head = torch.nn.Linear(FEATURES, sizes.num_classes)
    criterion = MetaSAugCE(sizes.counts)
    estimator = EstimatorCV(FEATURES, sizes.num_classes, diagonal=True)
    optimizer = torch.optim.SGD(head.parameters(), LR, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    batch, meta = random_batch(sizes, FEATURES), random_batch(sizes, FEATURES)
    return lambda: head_step(
        head, criterion, estimator, optimizer, batch, meta, lam_t=LAM_T, virtual_lr=LR, meta_lr=META_LR
    )  # fmt: skip


def published_head(sizes: Sizes) -> Step:
    """Return the published step of the head."""
    layer = partial(torch.nn.Linear, FEATURES, sizes.num_classes)
    published = PublishedStep(lambda: HeadAlone(layer()), sizes.counts, LR, META_LR, diagonal=True)
    batch, meta = random_batch(sizes, FEATURES), random_batch(sizes, FEATURES)
    return lambda: published.step(*batch, [meta], LAM_T)


def our_batch(sizes: Sizes) -> Step:
    """Return what gets the next augmented batch."""
    images = random_set(sizes, 100 * sizes.batch_size)
    batches = (batch for epoch in count() for batch in epoch_batches(images, sizes.batch_size, 0, epoch))
    return lambda: next(batches)


def published_batch(sizes: Sizes) -> Step:
    """Return what gets the next batch of image-by-image transforms in one worker process."""
    images = random_set(sizes, 100 * sizes.batch_size)
    batches = (batch for _ in count() for batch in make_loader(images, sizes.batch_size))
    return lambda: next(batches)


VERSIONS: dict[str, dict[str, Callable[[Sizes], Step]]] = {  # the first of each is what others are compared with
    "step": {
        "published": published_step,
        "MetaSAug": lambda sizes: our_step(sizes, "all"),
        "MetaSAug bf16": lambda sizes: our_step(sizes, "all", torch.bfloat16),
        "MetaSAug, head": lambda sizes: our_step(sizes, "head"),
        "cross-entropy": lambda sizes: our_step(sizes, None),
        "cross-entropy bf16": lambda sizes: our_step(sizes, None, torch.bfloat16),
    },
    "head": {"published": published_head, "MetaSAug": our_head},
    "pipeline": {"published": published_batch, "ours": our_batch},
}
