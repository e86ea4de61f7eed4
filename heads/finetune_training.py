"""The recipe of `head_training.py` for a whole network: what is trained, and its images in micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, tee
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from data_utils import mixed_seed
from harness.errors import UserError
from harness.process_group import Group
from harness.progress import StepFigures
from heads.backbone import make_head
from heads.batches import DrawnImages, Extract, load, meta_indices, train_indices
from heads.feature_scale import FeatureScale
from heads.finetune_step import augmented_network_step, meta_network_step, plain_network_step
from heads.head_training import Task, parts_of_task
from heads.image_check import check_readable
from heads.micro_batches import CopyingPasses, MicroBatches, Network, micro_sizes, own_places
from heads.own_flags import OwnFlags
from heads.own_sources import ImageSource
from meta_layers import WithFeatures
from meta_step import META_COST
from passes import lacks_bf16

TRAIN_DRAWS, META_DRAWS = 4, 5  # streams of random numbers, beside those of data_utils and of batches


@dataclass(frozen=True, kw_only=True)
class NetworkTask(Task[MicroBatches]):
    """A whole network, on micro-batches of images; `virtual` is what the virtual step moves."""

    network: Network
    virtual: str

    @property
    def trained(self) -> nn.Module:
        """The network."""
        return self.network.model

    def plain(self, batch: MicroBatches, extra_batch: MicroBatches | None = None) -> StepFigures:
        """Take a step of plain cross-entropy."""
        return plain_network_step(self.network, self.optimizer, batch, extra_batch)

    def augmented(self, batch: MicroBatches, extra_batch: MicroBatches | None, lam_t: float) -> StepFigures:
        """Take a step at the estimated covariances."""
        parts = self.network, self.criterion, self.estimator, self.optimizer
        return augmented_network_step(*parts, batch, extra_batch, lam_t=lam_t)

    def meta(self, batch: MicroBatches, meta_batch: MicroBatches, **settings: Any) -> StepFigures:
        """Take a MetaSAug step."""
        parts = self.network, self.criterion, self.estimator, self.optimizer
        return meta_network_step(*parts, batch, meta_batch, virtual=self.virtual, **settings)


class LiveMicroBatches(DrawnImages):
    """Batches of an experiment's images in micro-batches of at most `micro_batch`, augmented anew in every epoch.

    `batch_size` is that of the global batch, all processes together; `extract` serves tests.
    """

    def __init__(self, *drawn: Any, micro_batch: int) -> None:
        super().__init__(*drawn)
        self.micro_batch = micro_batch

    def train(self, taken: int = 0) -> Iterator[MicroBatches]:
        """Yield the training batches of one epoch after the other, without the first `taken`."""
        trained = self.sets.trained.targets
        return self._parted("train", trained, train_indices(len(trained), self.batch_size, self.seed), TRAIN_DRAWS, taken)

    def meta(self, taken: int = 0) -> Iterator[MicroBatches]:
        """Yield the meta batches without end, without the first `taken`."""
        meta = self.sets.meta.targets
        return self._parted("meta", meta, meta_indices(len(meta), self.batch_size, self.seed), META_DRAWS, taken)

    def smallest(self) -> int:
        """Return the size of the smallest micro-batch."""
        trained, meta, most = len(self.sets.trained), len(self.sets.meta), self.batch_size
        counts = min(trained, most), trained % most, min(meta, most)  # a whole batch, the last one, a meta batch
        return min(size for count in counts if count for size in micro_sizes(count, self.micro_batch))

    def _parted(
        self, name: str, targets: np.ndarray, indices: Iterator[tuple[int, Tensor]], stream: int, taken: int
    ) -> Iterator[MicroBatches]:
        device = self.group.device
        drawn, wanted = tee(islice(enumerate(indices), taken, None))
        keys = ([(i, number) for i in part.tolist()] for _, (number, index) in wanted for part in self._own(index))
        loaded = load(self.images[name], keys, self.workers, device)
        for count, (_, index) in drawn:
            sizes = micro_sizes(len(index), self.micro_batch)
            pairs = list(islice(loaded, len(own_places(sizes, self.group))))
            own = [(images.contiguous(memory_format=torch.channels_last), target) for images, target in pairs]
            target = torch.from_numpy(targets[index.numpy()]).to(device)
            yield MicroBatches(own, target, sizes, mixed_seed(self.seed, stream, count))

    def _own(self, index: Tensor) -> list[Tensor]:
        sizes = micro_sizes(len(index), self.micro_batch)
        parts = index.split(sizes)
        return [parts[place] for place in own_places(sizes, self.group)]


def tested_features(model: nn.Module) -> Extract:
    """Return a function from images (N, 3, H, W) to the features (N, A) that a network has in eval mode.

    It is left in train mode.
    """

    @torch.no_grad()
    def extract(images: Tensor) -> Tensor:
        model.eval()
        features: Tensor = model(images.contiguous(memory_format=torch.channels_last))[0]
        model.train()
        return features

    return extract


def network_task(flags: OwnFlags, source: ImageSource, group: Group) -> NetworkTask:
    """Return the backbone of `source` with a new last layer, all of it to be trained; the backbone itself is changed."""
    backbone, sets = source.backbone, source.sets
    head = make_head(len(sets.cls_num_list), flags.seed, source.features)
    backbone.model.set_submodule(backbone.head, head)
    model = WithFeatures(backbone.model.requires_grad_(True), backbone.head).train()
    parts = parts_of_task(flags, sets, model, head, group, flags.stages, flags.logit_adjust)
    passes = CopyingPasses(model, torch.bfloat16 if flags.amp == "bf16" else None)
    network = Network(model, passes, group, flags.stage2 == "metasaug" and flags.virtual == "all")
    return NetworkTask(**parts, network=network, virtual=flags.virtual)


def micro_batches(
    flags: OwnFlags, source: ImageSource, task: NetworkTask, group: Group
) -> tuple[LiveMicroBatches, FeatureScale]:
    """Return the batches of a task's images, and that features are left as they are, once all images can be read."""
    check_readable(source.sets, group, flags.workers, source.backbone.prepared.resize_size)
    assert flags.micro_batch is not None
    sizes = task.batch_size, flags.test_batch_size, flags.workers
    model, prepared = task.network.model, source.backbone.prepared
    batches = LiveMicroBatches(
        source.sets, prepared, tested_features(model), group, *sizes, flags.seed, micro_batch=flags.micro_batch
    )
    group.agree(lambda: check_micro_batches(model, batches))
    group.agree(lambda: check_forward_mode(task.network, prepared.image_size))
    return batches, FeatureScale(torch.zeros(source.features), torch.ones(()))


def check_micro_batches(model: nn.Module, batches: LiveMicroBatches) -> None:
    """Refuse micro-batches of one image where there is batch norm."""
    if batches.smallest() == 1 and any(isinstance(layer, _BatchNorm) for layer in model.modules()):
        single = "a micro-batch, perhaps the last of an epoch, would be a single image, too few for batch norm"
        raise UserError(f"--micro_batch {batches.micro_batch}: {single}; choose another, or another --batch_size")


def check_forward_mode(network: Network, size: int) -> None:
    """Refuse a network without the directional pass that the virtual step of all weights needs."""
    if not network.directional:
        return
    images = torch.zeros(2, 3, size, size, device=network.group.device)
    try:
        with network.drawing(0, images.device), torch.no_grad():
            network.passes.shared(images)
            network.passes.directional(network.weights, network.weights, images)
    except Exception as error:  # whatever a layer raises that has no forward-mode derivative
        told = " ".join(str(error).split())[:200]
        raise UserError(f"--virtual all cannot be used with this network ({told}): take --virtual head") from error


def network_notes(flags: OwnFlags, group: Group) -> list[str]:
    """Return lines that say how the network is run."""
    slow = flags.amp == "bf16" and lacks_bf16(group.device)
    note = "note: this device has no bfloat16 arithmetic, so --amp bf16 is slower than without"
    return [f"micro-batches of {flags.micro_batch} images at most, --amp {flags.amp}", *([note] if slow else [])]


def step_cost(flags: OwnFlags, epoch: int) -> float:
    """Return how long a step of an epoch takes against those of others, by the passes through the network."""
    meta = flags.finetune and flags.stage2 == "metasaug" and epoch >= flags.meta_start
    return META_COST[flags.virtual] if meta else 1.0
