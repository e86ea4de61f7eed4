"""Training steps as CUDA graphs: the step's kernels are recorded once and started by one call.

The steps of small networks keep the CPU busy with starting kernels while the GPU waits. A graph is recorded anew when a
number that the step was given changes, as the rates and λ_t do after an epoch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from harness.facts import Facts
from harness.progress import StepFigures

Step = Callable[..., StepFigures]
Graph = tuple[torch.cuda.CUDAGraph, list[Tensor], StepFigures]  # with the batches that it reads and the result


class StepTaker:
    """Calls a step function: as it is, or on CUDA as a graph from the second of equal calls on.

    A step is given its batches as tuples of tensors. Its result's tensors are overwritten by a later call. A step that draws
    random numbers on the GPU or waits for it is called as it is.

    Parameters
    ----------
    device:
        Where the step computes; elsewhere than on CUDA every step is called as it is.
    modules:
        All whose buffers the step may replace.
    enabled:
        False calls every step as it is.
    """

    def __init__(self, device: torch.device, modules: Sequence[nn.Module], enabled: bool) -> None:
        self.device, self.modules = device, modules
        self.enabled = enabled and device.type == "cuda"
        self.constants: tuple[object, ...] = ()  # all but the batches of the last call
        self.seen: dict[object, Graph | None] = {}  # by the batches' shapes; none yet after the first call
        self.pool: Any = None  # the memory of the graphs

    def __call__(self, step: Step, *parts: Any, **keywords: Any) -> StepFigures:
        """Return `step(*parts, **keywords)`."""
        if not self.enabled:
            return step(*parts, **keywords)
        constants = step, *(constant(part) for part in (*parts, *keywords.values()))
        if constants != self.constants:
            self.constants, self.seen, self.pool = constants, {}, torch.cuda.graph_pool_handle()
        given = tensors_of(parts)
        shapes = tuple((t.shape, t.stride(), t.dtype) for t in given)
        if shapes not in self.seen:
            self.seen[shapes] = None
            return self.first(step, parts, keywords)
        recorded = self.seen[shapes] or self.record(step, parts, keywords)
        if recorded is None:
            return step(*parts, **keywords)
        self.seen[shapes] = recorded
        graph, own, result = recorded
        for to, tensor in zip(own, given, strict=True):
            to.copy_(tensor)
        graph.replay()
        return result

    def first(self, step: Step, parts: Sequence[Any], keywords: Facts) -> StepFigures:
        """Call the step as it is, which lets libraries make what must not be made while a graph is recorded."""
        before = torch.cuda.get_rng_state(self.device)
        with same_buffers(self.modules):
            result = step(*parts, **keywords)
        if not torch.equal(before, torch.cuda.get_rng_state(self.device)):
            self.enabled = False  # a graph would not draw as the step does
        return result

    def record(self, step: Step, parts: Sequence[Any], keywords: Facts) -> Graph | None:
        """Record the step, which computes nothing. If that fails, there is a warning, and steps are called as they are."""
        own = [tuple(t.clone() for t in part) if isinstance(part, tuple) else part for part in parts]
        graph = torch.cuda.CUDAGraph()
        generator = torch.cuda.default_generators[self.device.index]
        drawing = generator.clone_state()
        try:
            with torch.cuda.graph(graph, pool=self.pool), same_buffers(self.modules):
                result = step(*own, **keywords)
        except RuntimeError as error:
            self.enabled = False
            generator.graphsafe_set_state(drawing)  # a failure leaves it in the state of being recorded
            reason = [*str(error).strip().splitlines(), repr(error)][0]
            warnings.warn(f"--cuda_graphs: this step cannot be recorded, continuing without ({reason})", stacklevel=3)
            return None
        return graph, tensors_of(own), result


@contextmanager
def same_buffers(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Write what modules get as new buffers into those that they had, which a graph reads and writes."""
    buffers = [(m._buffers, dict(m._buffers)) for module in modules for m in module.modules()]
    try:
        yield
        for now, before in buffers:
            for name, buffer in before.items():
                new = now[name]
                if new is not buffer and new is not None and buffer is not None:
                    buffer.copy_(new)
    finally:
        for now, before in buffers:
            now.update(before)


def tensors_of(parts: Sequence[Any]) -> list[Tensor]:
    """Return the tensors of the batches among the parts of a call."""
    return [tensor for part in parts if isinstance(part, tuple) for tensor in part]


def constant(part: object) -> object:
    """Return what must be the same of two calls for one graph to serve both: numbers, also an optimizer's, or the object."""
    if isinstance(part, tuple):
        return None  # a batch
    if isinstance(part, torch.optim.Optimizer):
        return id(part), repr(part)
    return part if isinstance(part, int | float) else id(part)
