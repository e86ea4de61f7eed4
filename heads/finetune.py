"""The recipe of `head_training.py` for a whole network: what is trained, and the shares of its images."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, tee
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from data_utils import mixed_seed
from datasets.drawn_sets import Sets
from datasets.image_check import check_readable
from harness.errors import UserError
from harness.process_group import Group
from heads.backbone import make_head
from heads.batches import DrawnImages, Extract, load, meta_indices, train_indices
from heads.feature_scale import FeatureScale
from heads.finetune_step import ImageBatch, NetworkTask, Share, SharedPasses
from heads.head_training import parts_of_task
from heads.own_flags import OwnFlags
from heads.own_sources import ImageSource
from meta_layers import WithFeatures
from meta_step import META_COST
from passes import lacks_bf16

TRAIN_DRAWS, META_DRAWS = 4, 5  # streams of random numbers, beside those of data_utils and of batches
LEAST_CHUNK = 4  # images, where there is batch norm: two chunks of a share, which may be one image smaller, have two each


class ImageShares(DrawnImages):
    """A process's shares of batches of an experiment's images, which are augmented anew in every epoch.

    `batch_size` is that of the global batch, all processes together, and no batch has fewer than `least` images; `extract`
    serves tests.
    """

    def __init__(self, *drawn: Any, least: int) -> None:
        super().__init__(*drawn)
        self.least = least

    def train(self, taken: int = 0) -> Iterator[ImageBatch]:
        """Yield the training batches of one epoch after the other, without the first `taken`."""
        trained = self.sets.trained.targets
        indices = with_rest_joined(train_indices(len(trained), self.batch_size, self.seed), self.least)
        return self._shares("train", trained, indices, TRAIN_DRAWS, taken)

    def meta(self, taken: int = 0) -> Iterator[ImageBatch]:
        """Yield the meta batches without end, without the first `taken`."""
        meta = self.sets.meta.targets
        return self._shares("meta", meta, meta_indices(len(meta), self.batch_size, self.seed), META_DRAWS, taken)

    def _shares(
        self, name: str, targets: np.ndarray, indices: Iterator[tuple[int, Tensor]], stream: int, taken: int
    ) -> Iterator[ImageBatch]:
        group, device = self.group, self.group.device
        drawn, wanted = tee(islice(enumerate(indices), taken, None))
        keys = ([(i, number) for i in index[group.share(len(index))].tolist()] for _, (number, index) in wanted)
        for images, _ in load(self.images[name], keys, self.workers, device):
            count, (_, index) = next(drawn)
            seed = mixed_seed(self.seed, stream, count, group.rank)
            share = Share(images.contiguous(memory_format=torch.channels_last), len(index), seed)
            yield share, torch.from_numpy(targets[index.numpy()]).to(device)


def with_rest_joined(indices: Iterator[tuple[int, Tensor]], least: int) -> Iterator[tuple[int, Tensor]]:
    """Pass (epoch, indices) on, joining what is left of an epoch to the batch before if that is fewer than `least`."""
    epoch, held = next(indices)
    for now, index in indices:
        if now == epoch and len(index) < least:
            held = torch.cat([held, index])
        else:
            yield epoch, held
            epoch, held = now, index


def least_images(model: nn.Module, group: Group) -> int:
    """Return how many images a batch must have: one for each process, two where batch norm divides by their deviation."""
    return group.world_size * (2 if has_batch_norm(model) else 1)


def has_batch_norm(model: nn.Module) -> bool:
    """Return whether there is batch norm in a network."""
    return any(isinstance(layer, _BatchNorm) for layer in model.modules())


def check_batches(flags: OwnFlags, sets: Sets, model: nn.Module, group: Group) -> None:
    """Refuse batches, and parts of them, that are too small for the processes or for batch norm."""
    least, batch_size = least_images(model, group), flags.batch_size * group.world_size
    for flag, count in {"--batch_size": len(sets.trained), "--num_meta": len(sets.meta)}.items():
        if 0 < min(count, batch_size) < least:
            told = f"a batch of {min(count, batch_size)} images is too small for this network: it must have {least}"
            raise UserError(f"{told}, {least // group.world_size} for each process; raise {flag} or take fewer processes")
    if flags.micro_batch and flags.micro_batch < LEAST_CHUNK and has_batch_norm(model):
        raise UserError(f"--micro_batch {flags.micro_batch} is too small for batch norm: take {LEAST_CHUNK} or more")


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
    group.agree(lambda: check_batches(flags, sets, model, group))
    if group.world_size > 1 and group.device.type == "cuda":  # there is none on the CPU
        from timm.layers import convert_sync_batchnorm  # PyTorch's own drops what timm's batch norms do besides

        convert_sync_batchnorm(model)
    parts = parts_of_task(flags, sets, model, head, group, flags.stages, flags.logit_adjust)
    whole, rest = divmod(len(sets.trained), parts["batch_size"])
    parts["steps"] = max(1, whole + (rest >= least_images(model, group)))
    return NetworkTask(**parts, passes=SharedPasses(model, group, flags.amp == "bf16", flags.micro_batch))


def image_shares(flags: OwnFlags, source: ImageSource, task: NetworkTask, group: Group) -> tuple[ImageShares, FeatureScale]:
    """Return the batches of a task's images, and that features are left as they are, once all images can be read."""
    prepared, model = source.backbone.prepared, task.trained
    check_readable(source.sets, group, flags.workers, prepared.resize_size)
    sizes = task.batch_size, flags.test_batch_size, flags.workers
    least = least_images(model, group)
    batches = ImageShares(source.sets, prepared, tested_features(model), group, *sizes, flags.seed, least=least)
    return batches, FeatureScale(torch.zeros(source.features), torch.ones(()))


def network_notes(flags: OwnFlags, task: NetworkTask, group: Group) -> list[str]:
    """Return lines that say how the network is run."""
    lines = []
    if flags.amp == "bf16" and lacks_bf16(group.device):
        lines.append("note: this device has no bfloat16 arithmetic, so --amp bf16 is slower than without")
    if group.world_size > 1 and group.device.type == "cpu" and has_batch_norm(task.trained):
        lines.append("note: batch norm takes each process's own images on the CPU, on GPUs those of all processes")
    return lines


def step_cost(flags: OwnFlags, epoch: int) -> float:
    """Return how long a step of an epoch takes against those of others, by the passes through the network."""
    meta = flags.finetune and flags.stage2 == "metasaug" and epoch >= flags.meta_start
    return META_COST["head"] if meta else 1.0
