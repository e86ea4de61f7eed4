"""Batches that are too large to go through a network at once, or on one process: lists of micro-batches, passes over them.

Where a micro-batch is computed changes nothing: its batch norm takes its own statistics, random numbers follow from its
place, and what is summed over micro-batches is summed over processes as well. See `finetune_step.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from data_utils import mixed_seed
from harness.process_group import Group, shard_sizes
from meta_gradient import Batch, random_state, set_random_state, trained_weights
from meta_layers import head_of
from passes import Passes

MeanLoss = Callable[[Tensor, Tensor], Tensor]  # (logits (N, C), target (N,)) -> the weighted mean, a scalar
Outputs = tuple[Tensor, Tensor, Tensor]  # features (n, A), logits (n, C), target (n,) of a micro-batch


class MicroBatches(NamedTuple):
    """A batch of all processes.

    Parameters
    ----------
    own:
        This process's micro-batches, (inputs (n, ...), target (n,)) each, in the order of the batch; may be none.
    target:
        (N,), of the whole batch.
    sizes:
        How many images each of its micro-batches has, those of other processes too.
    seed:
        What the network's random numbers are drawn from.
    """

    own: Sequence[Batch]
    target: Tensor
    sizes: Sequence[int]
    seed: int


def micro_sizes(count: int, micro_batch: int) -> list[int]:
    """Return how many of `count` images each micro-batch has: `micro_batch` at most, and no two differ by more than one."""
    return shard_sizes(count, -(-count // micro_batch))


def own_places(sizes: Sequence[int], group: Group) -> range:
    """Return which of the micro-batches are this process's."""
    return range(len(sizes))[group.share(len(sizes))]


class CopyingPasses(Passes):
    """Passes that leave the network's buffers, as running statistics, as they are: `copies` has those of the last one."""

    copies: Mapping[str, Tensor]

    def plain(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits at the model's own weights."""
        self.copies = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        with self.precision(inputs):
            features, logits = functional_call(self.model, dict(self.copies), (inputs,))
        return features.to(self.dtype), logits.to(self.dtype)


@dataclass(frozen=True)
class Network:
    """A network in train mode, on the processes of a group.

    `model` returns (features (N, A), logits (N, C)) and names its `head`, see `meta_layers.WithFeatures`. `directional` says
    whether there are to be directional passes: PyTorch's fused kernels of attention have no forward mode, so that all passes
    take the plain one, as kernels draw their random numbers each in its way.
    """

    model: nn.Module
    passes: CopyingPasses
    group: Group
    directional: bool = False

    @contextmanager
    def drawing(self, seed: int, device: torch.device) -> Iterator[None]:
        """Let a pass draw the random numbers that follow from `seed`; afterwards they go on where they stood."""
        now = random_state(device)
        torch.manual_seed(seed)
        try:
            with sdpa_kernel(SDPBackend.MATH) if self.directional else nullcontext():
                yield
        finally:
            set_random_state(now, device)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The parameters that are trained, by name."""
        return trained_weights(self.model)

    @property
    def head_weight(self) -> Tensor:
        """W (C, A)."""
        return head_of(self.model).weight

    def reduced(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the sum of each tensor over all processes."""
        if self.group.world_size == 1:
            return list(tensors)
        flat = self.group.all_reduce(torch.cat([one.flatten().to(self.passes.dtype) for one in tensors]))
        parts = flat.split([one.numel() for one in tensors])
        return [part.view(one.shape).to(one.dtype) for part, one in zip(parts, tensors, strict=True)]

    def summed(
        self, losses: Iterable[Tensor], weights: Mapping[str, Tensor], again: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the losses of all processes, and its gradient for each weight that it depends on.

        Each loss is made, differentiated and let go before the next. `again`: its graph serves once more, if it is kept.
        """
        grads: list[Tensor | None] = [None] * len(weights)
        total = self.head_weight.new_zeros(())
        for loss in losses:
            found = torch.autograd.grad(loss, list(weights.values()), retain_graph=again, allow_unused=True)
            grads = [b if a is None else a if b is None else a + b for a, b in zip(grads, found, strict=True)]
            total = total + loss.detach()
        if self.group.world_size == 1:
            return total, {name: grad for name, grad in zip(weights, grads, strict=True) if grad is not None}
        used = torch.tensor([float(grad is not None) for grad in grads], device=total.device)
        here = [torch.zeros_like(w) if g is None else g for w, g in zip(weights.values(), grads, strict=True)]
        total, *everywhere = self.reduced([total, *here])
        some = self.group.all_reduce(used).tolist()
        return total, {name: g for name, g, users in zip(weights, everywhere, some, strict=True) if users}

    def move(self, optimizer: torch.optim.Optimizer, grads: Mapping[str, Tensor]) -> None:
        """Take the optimizer's step; weights without a gradient stay, as they do after a backward pass."""
        for name, weight in self.weights.items():
            grad = grads.get(name)
            if grad is not None and grad.stride() != weight.stride():  # fused optimizers take the two to lie alike in memory
                grad = torch.empty_like(weight).copy_(grad)
            weight.grad = grad
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


class MicroPasses:
    """The passes over a process's micro-batches of a batch, run one after the other, as often as they are asked for."""

    def __init__(self, network: Network, batch: MicroBatches) -> None:
        self.network, self.passes, self.batch = network, network.passes, batch
        places = own_places(batch.sizes, network.group)
        self.seeds = [mixed_seed(batch.seed, place) for place in places]
        self.alone = len(places) == 1
        self.kept: tuple[Tensor, Tensor] | None = None
        self.seen: list[tuple[Tensor, Tensor]] = []  # features and logits without their graph
        self.statistics = {name: torch.zeros_like(b) for name, b in network.model.named_buffers() if b.dtype != torch.bool}

    def outputs(self, graph: bool = True, recorded: bool = False) -> Iterator[Outputs]:
        """Yield what the network says of each micro-batch at θ, the same each time.

        Parameters
        ----------
        graph:
            Whether it is to be differentiated.
        recorded:
            Whether `directional` follows, see `passes.Passes.shared`.
        """
        first = not self.seen
        for seed, (inputs, target) in zip(self.seeds, self.batch.own, strict=True):
            out = self.kept
            if out is None:
                with self.network.drawing(seed, inputs.device), torch.set_grad_enabled(graph or self.alone):
                    out = (self.passes.shared if recorded else self.passes.plain)(inputs)
                self.kept = out if self.alone else None
                if first:
                    self.take_in(*out)
            yield *out, target

    @torch.no_grad()
    def take_in(self, features: Tensor, logits: Tensor) -> None:
        """Keep what the first pass over a micro-batch says, and by how much it moves the running statistics."""
        self.seen.append((features.detach(), logits.detach()))
        for name, buffer in self.network.model.named_buffers():
            if name in self.statistics:
                self.statistics[name] += self.passes.copies[name] - buffer

    def moved(self, weights: Mapping[str, Tensor]) -> Iterator[Outputs]:
        """Yield what the network says of each micro-batch at other weights, its own where none is given."""
        for seed, (inputs, target) in zip(self.seeds, self.batch.own, strict=True):
            with self.network.drawing(seed, inputs.device):
                out = self.passes.moved(weights, inputs)
            yield *out, target

    def directional(self, weights: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """Yield the derivative (n, C) of the logits of each micro-batch along `direction`."""
        outputs = self.outputs(graph=False, recorded=True)
        for seed, (inputs, _), _ in zip(self.seeds, self.batch.own, outputs, strict=True):
            with self.network.drawing(seed, inputs.device):
                dots = self.passes.directional(weights, direction, inputs)
            yield dots

    def losses(self, loss_of: MeanLoss, outputs: Iterable[Outputs], class_weights: Tensor | None = None) -> Iterator[Tensor]:
        """Yield what each micro-batch adds to the weighted mean over the whole batch; without weights all count alike."""

        def total(target: Tensor) -> Tensor | int:
            return len(target) if class_weights is None else class_weights[target].sum()

        for _, logits, target in outputs:
            yield loss_of(logits, target) * (total(target) / total(self.batch.target))

    def gathered(self, rows: Sequence[Tensor], size: int) -> Tensor:
        """Return the rows (n, size) of all micro-batches as (N, size), given those of this process."""
        own = torch.cat(list(rows)) if rows else self.network.head_weight.new_zeros(0, size)
        counts = shard_sizes(len(self.batch.sizes), self.network.group.world_size)
        shards = [int(part.sum()) for part in torch.tensor(self.batch.sizes).split(counts)]
        return self.network.group.all_gather(own, shards)

    @property
    def features(self) -> Tensor:
        """(N, A), of the whole batch."""
        return self.gathered([features for features, _ in self.seen], self.network.head_weight.shape[1])

    @property
    def logits(self) -> Tensor:
        """(N, C), of the whole batch."""
        return self.gathered([logits for _, logits in self.seen], len(self.network.head_weight))

    @torch.no_grad()
    def move_statistics(self) -> None:
        """Move the network's buffers by the mean over all micro-batches of what the passes at θ would have moved them by."""
        sums = dict(zip(self.statistics, self.network.reduced(list(self.statistics.values())), strict=True))
        for name, buffer in self.network.model.named_buffers():
            if name in sums:
                buffer.add_((sums[name] / len(self.batch.sizes)).to(buffer.dtype))
