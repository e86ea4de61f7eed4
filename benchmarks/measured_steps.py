"""The steps that `meta_step.py` measures, by name, on one network and random batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from data_utils import meta_batches
from datasets.small_sets import ImageSet, image_set
from loss import EstimatorCV, MetaSAugLDAM
from meta_step import MetaStepResult, meta_step
from passes import make_passes
from resnet import make_model

Step = Callable[[], object]
PRECISIONS = {"float32": None, "bf16": torch.bfloat16}
UNITS = {"metasaug": 10, "metasaug-head": 4, "plain": 3}  # of a forward pass, that a step of each kind takes


def random_set(count: int, num_classes: int) -> ImageSet:
    """Return random images with every class among them."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    return image_set(pixels, np.arange(count) % num_classes, [str(k) for k in range(num_classes)])


def class_counts(num_classes: int) -> list[int]:
    """Return the counts of a long tail of ratio 100."""
    return [max(1, round(500 * 0.01 ** (k / num_classes))) for k in range(num_classes)]


class Ours:
    """Our step on one network and random batches: MetaSAug, with one virtual step or the other, or plain cross-entropy."""

    def __init__(
        self, kind: str, device: torch.device, batch_size: int, num_classes: int, arch: str,
        amp: torch.dtype | None = None, compiled: bool = False,
    ) -> None:  # fmt: skip
        self.kind = kind
        images, self.target = random_batch(device, batch_size, num_classes)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.model = make_model(arch, num_classes).to(device).to(memory_format=torch.channels_last).train()
        self.passes = make_passes(self.model, amp, "default" if compiled else None)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=device.type != "mps"
        )
        self.criterion = MetaSAugLDAM(class_counts(num_classes)).to(device)
        self.estimator = EstimatorCV(64, num_classes).to(device)
        self.meta_stream = meta_batches(random_set(10 * num_classes, num_classes).to(device), batch_size, 0)

    def __call__(self) -> MetaStepResult | None:
        """Take one step."""
        if self.kind != "plain":
            return meta_step(
                self.model, self.criterion, self.estimator, self.optimizer, (self.images, self.target),
                next(self.meta_stream), lam_t=0.6, virtual_lr=0.01, meta_lr=0.1, passes=self.passes,
                virtual="head" if self.kind == "metasaug-head" else "all",
            )  # fmt: skip
        loss = F.cross_entropy(self.passes.plain(self.images)[1], self.target)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return None


def random_batch(device: torch.device, batch_size: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random images (N, 3, 32, 32) and target (N,)."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 3, 32, 32, generator=generator).to(device)
    return images, torch.randint(0, num_classes, (batch_size,), generator=generator).to(device)


def make_step(name: str, device: torch.device, batch_size: int, num_classes: int, arch: str) -> Step:
    """Return a step by its name: "published", or a kind of UNITS, a precision, and "compiled" or not."""
    if name != "published":
        kind, precision, *rest = name.split()
        return Ours(kind, device, batch_size, num_classes, arch, PRECISIONS[precision], "compiled" in rest)
    from benchmarks.published_pipeline import make_loader
    from benchmarks.published_step import PublishedStep

    batch = random_batch(device, batch_size, num_classes)
    published = PublishedStep(num_classes, class_counts(num_classes), 0.01, 0.1, int(arch[6:]) // 6, device=device)
    meta_set = random_set(10 * num_classes, num_classes)
    loader = make_loader(meta_set.pixels, meta_set.target, batch_size)
    return lambda: published.step(*batch, loader, lam_t=0.6)
