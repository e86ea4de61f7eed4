"""How far a run is: a progress bar or plain lines, and the sums of an epoch."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

T = TypeVar("T")


class StepFigures(Protocol):
    """What is read from a step, all without a graph.

    Losses and the norm of the meta gradient (scalars), logits (N, C), the trace of each class's meta gradient (C,); None is
    what a step does not have.
    """

    @property
    def loss(self) -> Tensor: ...  # noqa: D102

    @property
    def logits(self) -> Tensor: ...  # noqa: D102

    @property
    def loss_meta(self) -> Tensor | None: ...  # noqa: D102

    @property
    def grad_norm(self) -> Tensor | None: ...  # noqa: D102

    @property
    def grad_trace(self) -> Tensor | None: ...  # noqa: D102


class Meter:
    """What an epoch has come to: steps, mean losses, top-1 accuracy, norm of the meta gradient, first step gone wrong.

    Sums stay on the device, which is waited for only when they are read. A resumed epoch goes on from what `state` kept.
    """

    SUMS = ("loss", "correct", "meta_loss", "grad_norm", "grad_trace", "present", "first_bad")

    def __init__(self) -> None:
        self.steps = 0
        self.count = 0
        self.loss: Tensor | float = 0.0
        self.correct: Tensor | float = 0.0
        self.meta_loss: Tensor | float = 0.0
        self.grad_norm: Tensor | float = 0.0
        self.grad_trace: Tensor | float = 0.0
        self.present: Tensor | float = 0.0
        self.has_meta = False
        self.first_bad: Tensor | int = 0  # none

    def update(self, result: StepFigures, target: Tensor) -> None:
        """Take in what a step on target (N,) saw."""
        self.steps += 1
        self.count += len(target)
        self.loss = self.loss + result.loss * len(target)
        self.correct = self.correct + (result.logits.argmax(1) == target).sum()
        seen = result.loss
        if result.loss_meta is not None and result.grad_norm is not None:
            self.has_meta = True
            self.meta_loss, self.grad_norm = self.meta_loss + result.loss_meta, self.grad_norm + result.grad_norm
            seen = seen + result.loss_meta + result.grad_norm
        if result.grad_trace is not None:
            self.grad_trace = self.grad_trace + result.grad_trace
            self.present = self.present + torch.zeros_like(result.grad_trace).index_fill_(0, target, 1)
        first = torch.as_tensor(self.first_bad, device=seen.device)
        self.first_bad = torch.where(torch.isfinite(seen) | (first > 0), first, self.steps)

    def read(self) -> tuple[float, float]:
        """Return the mean loss and the accuracy in per cent so far."""
        count = max(self.count, 1)
        return float(self.loss) / count, 100 * float(self.correct) / count

    def read_meta(self) -> tuple[float, float]:
        """Return the mean meta loss and the mean norm of the meta gradient so far, nan where no step had one."""
        if not self.has_meta:
            return math.nan, math.nan
        return float(self.meta_loss) / self.steps, float(self.grad_norm) / self.steps

    def read_grad_trace(self) -> Tensor | float:
        """Return the trace of each class's meta gradient (C,), the mean over the steps that the class was in; else 0."""
        return self.grad_trace / torch.as_tensor(self.present).clamp(min=1)

    def state(self) -> dict[str, Any]:
        """Return everything, to be saved."""
        sums = {name: torch.as_tensor(getattr(self, name)).cpu() for name in self.SUMS}
        return {"steps": self.steps, "count": self.count, "has_meta": self.has_meta, **sums}

    @classmethod
    def load(cls, state: Mapping[str, Any], device: torch.device) -> Meter:
        """Return the meter that `state` was made of."""
        meter = cls()
        meter.steps, meter.count, meter.has_meta = state["steps"], state["count"], state["has_meta"]
        if not (type(meter.steps) is type(meter.count) is int and type(meter.has_meta) is bool):
            raise TypeError("steps, count or has_meta are of another kind")
        for name in cls.SUMS:
            if state[name].dim() > (name in ("grad_trace", "present")):
                raise ValueError(f"{name} is no number")
            setattr(meter, name, state[name].to(device))
        return meter

    def __str__(self) -> str:
        loss, acc1 = self.read()
        return f"Loss {loss:.4f}  Acc@1 {acc1:.2f}"


def duration(seconds: float) -> str:
    """Return for instance 1:02:03 or 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def progress(
    batches: Iterable[T], total: int, label: str, meter: Meter | None, print_freq: int | None, done: int = 0
) -> Iterator[T]:
    """Pass the batches on and show how far they are: a bar with the time left on a terminal, else plain lines.

    Loss and accuracy are read from `meter`, if any, every `print_freq` batches, for the bar at least every tenth; with None
    nothing is shown. `done` batches of `total` were there before these.
    """
    if print_freq is None:
        yield from batches
        return
    terminal = sys.stdout.isatty()
    print_freq = min(print_freq, 10) if terminal else print_freq
    bar = tqdm(
        total=total, initial=done, desc=label, disable=not terminal, file=sys.stdout, leave=False, dynamic_ncols=True,
        miniters=1,  # else tqdm has a thread that also prints, where nobody would see that it fails
    )  # fmt: skip
    start = time.monotonic()
    with bar:
        for step, batch in enumerate(batches, start=done + 1):
            yield batch
            if terminal:
                bar.update()
            if step % print_freq == 0 or (terminal and step == total):
                figures = f"  {meter}" if meter else ""
                if terminal:
                    bar.set_postfix_str(figures.strip())
                else:
                    left = (time.monotonic() - start) / (step - done) * (total - step)
                    print(f"{label}  [{step}/{total}]{figures}  left {duration(left)}", flush=True)
