"""The recipe of `head_training.py` for a whole network, on one process or many: its passes, and the shares of its images.

The passes return features (N, A) and logits (N, C) of the whole batch, gathered, of which a process's own rows have a graph.
So every process computes the same loss, the same Σ̂ and the same class statistics, those of the whole batch. Its backward
pass finds the part of the gradient that goes through its own rows, and DistributedDataParallel brings the parts together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from data_utils import mixed_seed
from datasets.drawn_sets import Sets
from harness.errors import UserError
from harness.process_group import Group, shard_sizes
from heads.backbone import make_head
from heads.batches import Batches, Indices, LiveViews, drawn_images, extractor
from heads.feature_scale import FeatureScale
from heads.head_training import Step, Task, make_task
from heads.own_flags import OwnFlags
from heads.own_sources import Source
from meta_layers import WithFeatures
from passes import Passes

ImageBatch = tuple[Any, Tensor]  # a `Share`, and the target (N,) of the whole batch
Buffers = dict[str, Tensor]
LEAST_CHUNK = 4  # images, where there is batch norm: two chunks of a share, which may be one image smaller, have two each


class Share(NamedTuple):
    """A process's images (n, 3, S, S) of a batch of `total`.

    `seed` is what the network's random numbers in a step are drawn from, as dropout's.
    """

    images: Tensor
    total: int
    seed: int


class Chunked(nn.Module):
    """A network that takes its images in chunks, leaves its buffers, as running statistics, as they are, and returns both.

    Of several chunks none keeps its graph: each goes through again in the backward pass, with the same random numbers.
    """

    def __init__(self, model: nn.Module, bf16: bool) -> None:
        super().__init__()
        self.model, self.bf16 = model, bf16
        self.unused = nn.Parameter(torch.zeros(1))  # else DDP, told to look for such ones, warns that there is none

    def forward(self, images: Tensor, chunks: int) -> tuple[Tensor, Tensor, Buffers]:
        """Return features (n, A), logits (n, C) and the buffers that chunks leave, their mean."""
        run = self.whole if chunks == 1 else partial(checkpoint, self.whole, use_reentrant=False)
        features, logits, buffers = zip(*(run(part) for part in images.tensor_split(chunks)), strict=True)
        return torch.cat(features), torch.cat(logits), {n: sum(one[n] for one in buffers) / chunks for n in buffers[0]}

    def whole(self, images: Tensor) -> tuple[Tensor, Tensor, Buffers]:
        """Take images at once."""
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        with torch.autocast(images.device.type, torch.bfloat16, self.bf16):
            features, logits = functional_call(self.model, buffers, (images,))
        return features, logits, {name: buffer for name, buffer in buffers.items() if buffer.dtype != torch.bool}


def distributed(network: nn.Module, group: Group) -> nn.Module:
    """Return a network whose backward pass leaves the mean of the gradients of all processes.

    Where DDP looks for unused parameters it also leaves its buckets as they are. Else it lays them out anew after the first
    step: then sums over three or more processes are in another order, and a resumed run parts from one that never stopped.
    """
    ddp = DistributedDataParallel(network, find_unused_parameters=True)
    ddp.broadcast_buffers = False  # they are the same everywhere
    ddp.register_comm_hook(None, allreduce_hook)
    return ddp


class SharedPasses(Passes):
    """The passes of a network in train mode on the processes of a group, perhaps in bfloat16.

    `model` returns (features (n, A), logits (n, C)), see `meta_layers.WithFeatures`; at most `micro_batch` images of a
    process go through it at once.
    """

    def __init__(self, model: nn.Module, group: Group, bf16: bool = False, micro_batch: int | None = None) -> None:
        super().__init__(model)
        self.group, self.alone, self.micro_batch = group, Chunked(model, bf16), micro_batch
        self.synced: nn.Module = self.alone
        self.moves: dict[str, Tensor] = {}
        if group.world_size > 1:
            self.synced = group.together(lambda: distributed(self.alone, group))

    def plain(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """Return features and logits of the whole batch of a `Share`, and keep how the running statistics are to move.

        That is the mean over all processes.
        """
        torch.manual_seed(inputs.seed)
        features, logits, buffers = self.run(self.synced, inputs)
        with torch.no_grad():
            for name, left in buffers.items():
                self.moves[name] = self.group.all_reduce(left - self.model.get_buffer(name)) / self.group.world_size
        return features, logits

    def moved(self, weights: Any, inputs: Any) -> tuple[Tensor, Tensor]:
        """Return features and logits of the whole batch of a `Share` at the model's own weights; statistics stay."""
        features, logits, _ = self.run(self.alone, inputs)
        return features, logits

    def run(self, network: nn.Module, share: Share) -> tuple[Tensor, Tensor, Buffers]:
        """Return features (N, A) and logits (N, C), and what this process's images make of the buffers."""
        sizes = shard_sizes(share.total, self.group.world_size)
        most = max(sizes)
        chunks = min(-(-most // (self.micro_batch or most)), min(sizes))  # as many everywhere: SyncBatchNorm waits for all
        features, logits, buffers = network(share.images, chunks)
        return self.gathered(features.to(self.dtype), sizes), self.gathered(logits.to(self.dtype), sizes), buffers

    def gathered(self, rows: Tensor, sizes: list[int]) -> Tensor:
        """Return the rows of all processes; one's own have a multiple of their gradient, as DDP takes the mean over all."""
        if self.group.world_size == 1:
            return rows
        fixed = rows.detach()
        parts = list(self.group.all_gather(fixed, sizes).split(sizes))
        parts[self.group.rank] = fixed + self.group.world_size * (rows - fixed)
        return torch.cat(parts)

    def whole(self, step: Step) -> Step:
        """Return a step that moves the running statistics too, once.

        Nothing moves before all was sent: where another process goes, the state is that of before.
        """

        def taken(*batches: Any, **settings: Any) -> Any:
            seen = self.group.together(partial(step, *batches, **settings))
            for name, move in self.moves.items():
                buffer = self.model.get_buffer(name)
                buffer += move.to(buffer.dtype)
            return seen

        return taken


@dataclass(frozen=True)
class Shares(LiveViews):
    """A set whose batches are a process's share of images; what is left of a pass is left out if fewer than `least`."""

    least: int

    def drawn(self, indices: Indices, generator: torch.Generator, taken: int, group: Group) -> Iterator[ImageBatch]:
        """Yield shares of global batches, and the whole batch's target, without the first `taken`."""
        seed = int(torch.randint(2**62, (), generator=generator))
        large = ((epoch, index) for epoch, index in indices if len(index) >= self.least)
        for number, (images, target) in enumerate(self.shares(islice(large, taken, None), group), taken):
            own = images.contiguous(memory_format=torch.channels_last)
            yield Share(own, len(target), mixed_seed(seed, number, group.rank)), target


def has_batch_norm(model: nn.Module) -> bool:
    """Return whether there is batch norm in a network."""
    return any(isinstance(layer, _BatchNorm) for layer in model.modules())


def least_images(model: nn.Module, group: Group) -> int:
    """Return how many images a batch must have: one for each process, two where batch norm divides by their deviation."""
    return group.world_size * (2 if has_batch_norm(model) else 1)


def check_batches(flags: OwnFlags, sets: Sets, model: nn.Module, group: Group) -> None:
    """Refuse batches that are too small for the processes or for batch norm."""
    least, batch_size = least_images(model, group), flags.batch_size * group.world_size
    for flag, count in {"--batch_size": len(sets.trained), "--num_meta": len(sets.meta)}.items():
        if 0 < min(count, batch_size) < least:
            told = f"a batch of {min(count, batch_size)} images is too small for this network: it must have {least}"
            raise UserError(f"{told}, {least // group.world_size} for each process; raise {flag} or take fewer processes")
    if flags.micro_batch and flags.micro_batch < LEAST_CHUNK and has_batch_norm(model):
        raise UserError(f"--micro_batch {flags.micro_batch} is too small for batch norm: take {LEAST_CHUNK} or more")


def network_task(flags: OwnFlags, source: Source, group: Group) -> Task:
    """Return the backbone of `source` with a new last layer, all of it to be trained; the backbone itself is changed."""
    backbone, sets = source.backbone, source.sets
    assert backbone is not None
    head = make_head(len(sets.cls_num_list), flags.seed, source.features)
    backbone.model.set_submodule(backbone.head, head)
    model = WithFeatures(backbone.model.requires_grad_(True), backbone.head).train()
    group.agree(lambda: check_batches(flags, sets, model, group))
    if group.world_size > 1 and group.device.type == "cuda":  # there is none on the CPU
        from timm.layers import convert_sync_batchnorm  # PyTorch's own drops what timm's batch norms do besides

        convert_sync_batchnorm(model)
    passes = SharedPasses(model.to(group.device), group, flags.amp == "bf16", flags.micro_batch)
    task = make_task(flags, sets, head, group, flags.logit_adjust, passes)
    whole, rest = divmod(len(sets.trained), task.batch_size)
    steps = whole + (rest >= least_images(model, group))
    plain, augmented, meta = map(passes.whole, (task.plain, task.augmented, task.meta))
    return replace(task, steps=steps, plain=plain, augmented=augmented, meta=meta)


def image_shares(flags: OwnFlags, source: Source, task: Task, group: Group) -> tuple[Batches, FeatureScale]:
    """Return the batches of a task's images, and that features are left as they are."""
    assert source.backbone is not None
    prepared, model = source.backbone.prepared, task.trained
    extract, least = extractor(model), least_images(model, group)
    images = drawn_images(source.sets, prepared, flags.seed)
    parts = {name: Shares(part, extract, flags.workers, least) for name, part in images.items()}
    batches = Batches(parts, group, task.batch_size, flags.test_batch_size, flags.seed)
    return batches, FeatureScale(torch.zeros(source.features), torch.ones(()))
