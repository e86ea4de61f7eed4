"""How far a run is: a progress bar or plain lines, and the sums of an epoch."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, TextIO, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from harness.facts import Facts, State
from harness.metrics import PER_CLASS_MEAN
from harness.text import printable, say
from harness.weights import check_tensors

T = TypeVar("T")
# The figures of an epoch's line, besides losses and training accuracy.
SHOWN = {"acc1": "test acc", PER_CLASS_MEAN: "mean over classes", "heldout_acc1": "held-out acc", "test_acc5": "top-5"}
HALF_A_MINUTE = 30.0  # seconds that work may go on without a line


class StepFigures(Protocol):
    """What is read from a step, all without a graph.

    Losses and the norm of the meta gradient (scalars), logits (N, C), the trace of each class's meta gradient (C,), whether
    the move of the covariances made a trace negative (scalar); None is what a step does not have.
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

    @property
    def negative_trace(self) -> Tensor | None: ...  # noqa: D102


class Meter:
    """What an epoch has come to: steps, mean losses, top-1 accuracy, norm of the meta gradient, first step gone wrong.

    Sums stay on the device, which is waited for only when they are read. A resumed epoch goes on from what `state` kept.
    """

    SUMS = ("loss", "correct", "meta_loss", "grad_norm", "grad_trace", "present", "negative_traces", "first_bad")
    OF_CLASSES = ("grad_trace", "present")

    def __init__(self) -> None:
        self.steps = self.count = 0
        self.has_meta = False
        self.sums: State = dict.fromkeys(self.SUMS, 0.0)  # first_bad is the first step gone wrong, 0 if there is none

    def update(self, result: StepFigures, target: Tensor) -> None:
        """Take in what a step on target (N,) saw."""
        self.steps += 1
        self.count += len(target)
        seen = result.loss
        more: State = {"loss": result.loss * len(target), "correct": (result.logits.argmax(1) == target).sum()}
        if result.loss_meta is not None:
            seen = seen + result.loss_meta
        if result.grad_norm is not None and result.grad_trace is not None:  # of a meta step, which has all
            self.has_meta = True
            seen = seen + result.grad_norm
            present = torch.zeros_like(result.grad_trace).index_fill_(0, target, 1)
            more |= {"meta_loss": result.loss_meta, "grad_norm": result.grad_norm, "grad_trace": result.grad_trace,
                     "present": present, "negative_traces": result.negative_trace}  # fmt: skip
        self.sums |= {name: self.sums[name] + value for name, value in more.items()}
        first = torch.as_tensor(self.sums["first_bad"], device=seen.device)
        self.sums["first_bad"] = torch.where(torch.isfinite(seen) | (first > 0), first, self.steps)

    def read(self) -> tuple[float, float]:
        """Return the mean loss and the accuracy in per cent so far."""
        count = max(self.count, 1)
        return float(self.sums["loss"]) / count, 100 * float(self.sums["correct"]) / count

    def figures(self) -> dict[str, float]:
        """Return what the log has of an epoch; means over meta steps are nan where there were none."""
        loss, acc1 = self.read()
        steps = self.steps if self.has_meta else math.nan
        meta = {name: float(self.sums[name]) / steps for name in ("meta_loss", "grad_norm")}
        return {"train_loss": loss, "train_acc1": acc1, **meta, "negative_traces": int(self.sums["negative_traces"])}

    def read_grad_trace(self) -> Tensor | float:
        """Return the trace of each class's meta gradient (C,), the mean over the steps that the class was in; else 0."""
        trace: Tensor | float = self.sums["grad_trace"] / torch.as_tensor(self.sums["present"]).clamp(min=1)
        return trace

    def trace_note(self) -> list[str]:
        """Return a line if steps moved the covariances too far."""
        steps = int(self.sums["negative_traces"])
        told = f"note: in {steps} of {self.steps} steps the learned covariance of some class had a negative trace"
        return [f"{told}, which a covariance cannot have: lower --meta_lr"] if steps else []

    def state(self) -> State:
        """Return everything, to be saved."""
        sums = {name: torch.as_tensor(value).cpu() for name, value in self.sums.items()}
        return {"steps": self.steps, "count": self.count, "has_meta": self.has_meta, **sums}

    @classmethod
    def load(cls, state: Facts, classes: int, device: torch.device) -> Meter:
        """Return the meter that `state` was made of; a ValueError says which sum is none, or of other `classes`."""
        meter = cls()
        meter.steps, meter.count, meter.has_meta = state["steps"], state["count"], state["has_meta"]
        for name in cls.SUMS:
            value = state[name]
            shape = (classes,) if name in cls.OF_CLASSES and value.dim() else ()
            check_tensors({name: value}, {name: value.new_zeros(shape)})
            meter.sums[name] = value.to(device)
        return meter

    def __str__(self) -> str:
        return "Loss {:.4f}  Acc@1 {:.2f}".format(*self.read())


def epoch_line(meter: Meter, test_loss: float, values: Mapping[str, float]) -> str:
    """Return how an epoch's line says its figures: those in SHOWN, as far as `values` have them, and the losses."""
    loss, acc1 = meter.read()
    said = [f"train loss {loss:.4f}", f"train acc {acc1:.2f}", f"test loss {test_loss:.4f}"]
    if math.isnan(values["acc1"]):
        return "  ".join([*said[:2], "no test images"])
    return "  ".join([*said, *(f"{name} {values[key]:.2f}" for key, name in SHOWN.items() if key in values)])


def duration(seconds: float) -> str:
    """Return for instance 1:02:03 or 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def progress(
    batches: Iterable[T], total: int, label: str, meter: Meter | None = None, print_freq: int = 0, done: int = 0,
    file: TextIO | None = None, shown: bool = True, now: Callable[[], float] = time.perf_counter,
) -> Iterator[T]:  # fmt: skip
    """Pass the batches on and show how far they are: a bar with the time left on a terminal, else plain lines.

    A line comes whenever the last one, or the start, is HALF_A_MINUTE ago, so none of work that is done before that.

    Parameters
    ----------
    meter, print_freq:
        Of a training: loss and accuracy, and every how many batches there is a line with them; for the bar they are read at
        least every tenth. Without a meter the number does not matter.
    done:
        How many of `total` were there before these batches.
    file:
        Where to, stdout if left out; stderr where the results are on stdout.
    shown:
        Whether anything is.
    """
    if not shown:
        yield from batches
        return
    file, label = file or sys.stdout, printable(label)
    terminal = file.isatty()
    often = min(print_freq, 10) if terminal else print_freq
    bar = tqdm(
        total=total, initial=done, desc=label, disable=not terminal, file=file, leave=False, dynamic_ncols=True,
        miniters=1,  # else tqdm has a thread that also prints, where nobody would see that it fails
    )  # fmt: skip
    start = last = now()
    with bar:
        for step, batch in enumerate(batches, start=done + 1):
            yield batch
            bar.update()
            due = meter is not None and step % often == 0
            if terminal and due:
                bar.set_postfix_str(str(meter))
            elif not terminal and (due or now() - last >= HALF_A_MINUTE):
                last = now()
                left = (last - start) / (step - done) * (total - step)
                figures = f"  {meter}" if meter else ""
                say(f"{label}  [{step}/{total}]{figures}  left {duration(left)}", file=file)
