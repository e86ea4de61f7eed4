"""The recipe of `head_training.py` for a whole network: what is trained, and the shares of its images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from data_utils import mixed_seed
from datasets.drawn_sets import Sets
from datasets.image_check import check_readable
from harness.errors import UserError
from harness.process_group import Group
from heads.backbone import make_head
from heads.batches import Batches, Extract, Indices, LiveViews, drawn_images
from heads.feature_scale import FeatureScale
from heads.finetune_step import ImageBatch, NetworkTask, Share, SharedPasses
from heads.head_training import parts_of_task
from heads.own_flags import OwnFlags
from heads.own_sources import ImageSource
from meta_layers import WithFeatures
from meta_step import META_COST
from passes import lacks_bf16

LEAST_CHUNK = 4  # images, where there is batch norm: two chunks of a share, which may be one image smaller, have two each


@dataclass(frozen=True)
class Shares(LiveViews):
    """A set whose batches are a process's share of images; no batch has fewer than `least`."""

    least: int

    def drawn(self, indices: Indices, generator: torch.Generator, taken: int, group: Group) -> Iterator[ImageBatch]:
        """Yield shares of global batches, and the whole batch's target, without the first `taken`."""
        seed = int(torch.randint(2**62, (), generator=generator))
        batches = islice(with_rest_joined(indices, self.least), taken, None)
        for number, (images, target) in enumerate(self.shares(batches, group), taken):
            own = images.contiguous(memory_format=torch.channels_last)
            yield Share(own, len(target), mixed_seed(seed, number, group.rank)), target


def with_rest_joined(indices: Indices, least: int) -> Indices:
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


def image_shares(flags: OwnFlags, source: ImageSource, task: NetworkTask, group: Group) -> tuple[Batches, FeatureScale]:
    """Return the batches of a task's images, and that features are left as they are, once all images can be read."""
    prepared, model = source.backbone.prepared, task.trained
    check_readable(source.sets, group, prepared.resize_size)
    extract, least = tested_features(model), least_images(model, group)
    images = drawn_images(source.sets, prepared, flags.seed)
    parts = {name: Shares(part, extract, flags.workers, least) for name, part in images.items()}
    batches = Batches(parts, group, task.batch_size, flags.test_batch_size, flags.seed)
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
