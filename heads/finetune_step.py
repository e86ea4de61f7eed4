"""Passes over a process's shares of batches, with which the steps of `meta_step.py` train a whole network on many processes.

The passes return features (N, A) and logits (N, C) of the whole batch, gathered, of which a process's own rows have a graph.
So every process computes the same loss, the same Σ̂ and the same class statistics, those of the whole batch. Its backward
pass finds the part of the gradient that goes through its own rows, and DistributedDataParallel brings the parts together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from harness.process_group import Group, shard_sizes
from heads.head_training import Task
from loss import EstimatorCV, SemanticLoss
from meta_step import MetaStepResult, PlainStepResult, augmented_step, meta_step, plain_step
from passes import Passes

T = TypeVar("T")
ImageBatch = tuple[Any, Tensor]  # a `Share`, and the target (N,) of the whole batch
Buffers = dict[str, Tensor]


class Share(NamedTuple):
    """A process's images (n, 3, S, S) of a batch of `total`.

    `seed` is what the network's random numbers in a step are drawn from, as dropout's.
    """

    images: Tensor
    total: int
    seed: int


class Chunked(nn.Module):
    """A network that takes its images in chunks and leaves its buffers, as running statistics, as they are.

    Of several chunks none keeps its graph: each goes through again in the backward pass, with the same random numbers.
    """

    def __init__(self, model: nn.Module, bf16: bool) -> None:
        super().__init__()
        self.model, self.bf16 = model, bf16
        self.unused = nn.Parameter(torch.zeros(1))  # else DDP, told to look for such ones, warns that there is none

    def forward(self, images: Tensor, chunks: int) -> tuple[Tensor, Tensor, list[Buffers]]:
        """Return features (n, A), logits (n, C), and what each chunk makes of the buffers."""
        run = self.whole if chunks == 1 else partial(checkpoint, self.whole, use_reentrant=False)
        outputs = [run(part) for part in images.tensor_split(chunks)]
        features, logits, buffers = zip(*outputs, strict=True)
        return torch.cat(features), torch.cat(logits), list(buffers)

    def whole(self, images: Tensor) -> tuple[Tensor, Tensor, Buffers]:
        """Take all images at once."""
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        with torch.autocast(images.device.type, torch.bfloat16, self.bf16):
            features, logits = functional_call(self.model, buffers, (images,))
        return features, logits, buffers


def distributed(network: nn.Module, group: Group) -> nn.Module:
    """Return a network whose backward pass leaves the mean of the gradients of all processes.

    Where DDP looks for unused parameters it also leaves its buckets as they are. Else it lays them out anew after the first
    step: then sums over three or more processes are in another order, and a resumed run parts from one that never stopped.
    """
    ddp = DistributedDataParallel(network, find_unused_parameters=True)
    ddp.broadcast_buffers = False  # they are the same everywhere

    def averaged(_, bucket):  # type: ignore[no-untyped-def]
        return allreduce_hook(dist.group.WORLD, bucket)

    ddp.register_comm_hook(None, averaged)
    return ddp


class SharedPasses(Passes):
    """The passes of a network in train mode on the processes of a group.

    Parameters
    ----------
    model:
        Returns (features (n, A), logits (n, C)), see `meta_layers.WithFeatures`.
    bf16:
        Whether it is run in bfloat16.
    micro_batch:
        How many images of a process go through it at once; None is all.
    """

    def __init__(self, model: nn.Module, group: Group, bf16: bool = False, micro_batch: int | None = None) -> None:
        super().__init__(model)
        self.group, self.micro_batch = group, micro_batch
        self.alone = Chunked(model, bf16)
        self.synced: nn.Module = self.alone
        self.moves: dict[str, Tensor] = {}
        if group.world_size > 1:
            self.synced = group.together(lambda: distributed(self.alone, group))

    def plain(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """Return features and logits of the whole batch of a `Share`, and keep how the running statistics are to move."""
        torch.manual_seed(inputs.seed)
        features, logits, buffers = self.run(self.synced, inputs)
        self.moves = self.mean_moves(buffers)
        return features, logits

    def moved(self, weights: Any, inputs: Any) -> tuple[Tensor, Tensor]:
        """Return features and logits of the whole batch of a `Share` at the model's own weights; statistics stay."""
        features, logits, _ = self.run(self.alone, inputs)
        return features, logits

    def run(self, network: nn.Module, share: Share) -> tuple[Tensor, Tensor, list[Buffers]]:
        """Return features (N, A) and logits (N, C), and what each chunk makes of the buffers."""
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

    @torch.no_grad()
    def mean_moves(self, chunks: list[Buffers]) -> Buffers:
        """Return by how much the chunks of all processes move the buffers, their mean."""
        count, moves = len(chunks) * self.group.world_size, {}
        for name, buffer in self.model.named_buffers():
            if buffer.dtype != torch.bool:
                own = torch.stack([chunk[name] - buffer for chunk in chunks]).sum(dim=0)
                moves[name] = self.group.all_reduce(own) / count
        return moves

    @torch.no_grad()
    def move_statistics(self) -> None:
        """Move the running statistics, once a step."""
        for name, move in self.moves.items():
            buffer = self.model.get_buffer(name)
            buffer += move.to(buffer.dtype)


@dataclass(frozen=True, kw_only=True)
class NetworkTask(Task[ImageBatch]):
    """A whole network, and the steps of `meta_step.py` that train it."""

    passes: SharedPasses

    @property
    def trained(self) -> nn.Module:
        """The network."""
        return self.passes.model

    def plain(self, batch: ImageBatch, extra_batch: ImageBatch | None = None) -> PlainStepResult:
        """Take a step of plain cross-entropy."""
        return self.take(partial(plain_step, self.passes, self.optimizer, batch, extra_batch))

    def augmented(self, batch: ImageBatch, extra_batch: ImageBatch | None, lam_t: float) -> PlainStepResult:
        """Take a step at the estimated covariances."""
        return self.take(partial(augmented_step, *self.parts, batch, extra_batch, lam_t=lam_t, passes=self.passes))

    def meta(self, batch: ImageBatch, meta_batch: ImageBatch, **settings: Any) -> MetaStepResult:
        """Take a MetaSAug step whose virtual step moves the head alone."""
        return self.take(partial(meta_step, *self.parts, batch, meta_batch, virtual="head", passes=self.passes, **settings))

    @property
    def parts(self) -> tuple[nn.Module, SemanticLoss, EstimatorCV, torch.optim.Optimizer]:
        """What most steps take first."""
        return self.trained, self.criterion, self.estimator, self.optimizer

    def take(self, step: Callable[[], T]) -> T:
        """Take a step. Nothing moves before all was sent: where another process goes, the state is that of before."""
        seen = self.passes.group.together(step)
        self.passes.move_statistics()
        return seen
