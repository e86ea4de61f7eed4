"""What a run shows and leaves: a progress bar or plain lines, one JSON line an epoch, TensorBoard events."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor
from tqdm import tqdm

T = TypeVar("T")


class Meter:
    """Mean loss and top-1 accuracy of an epoch, summed on the device; the device is waited for only when read."""

    def __init__(self) -> None:
        self.count = 0
        self.loss: Tensor | float = 0.0
        self.correct: Tensor | float = 0.0

    def update(self, loss: Tensor, logits: Tensor, target: Tensor) -> None:
        """Take in a batch: mean loss (scalar), logits (N, C), target (N,)."""
        self.count += len(target)
        self.loss = self.loss + loss.detach() * len(target)
        self.correct = self.correct + (logits.detach().argmax(1) == target).sum()

    def read(self) -> tuple[float, float]:
        """Return the mean loss and the accuracy in per cent so far."""
        count = max(self.count, 1)
        return float(self.loss) / count, 100 * float(self.correct) / count


def duration(seconds: float) -> str:
    """Return for instance 1:02:03 or 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def progress(batches: Iterable[T], total: int, label: str, meter: Meter, print_freq: int) -> Iterator[T]:
    """Pass the batches on and show how far they are: a bar with the time left on a terminal, else plain lines.

    Loss and accuracy are read from `meter` every `print_freq` batches, for the bar at least every tenth.
    """
    terminal = sys.stdout.isatty()
    print_freq = min(print_freq, 10) if terminal else print_freq
    bar = tqdm(total=total, desc=label, disable=not terminal, file=sys.stdout, leave=False, dynamic_ncols=True)
    start = time.monotonic()
    with bar:
        for step, batch in enumerate(batches, start=1):
            yield batch
            if terminal:
                bar.update()
            if step % print_freq == 0 or (terminal and step == total):
                loss, acc1 = meter.read()
                if terminal:
                    bar.set_postfix_str(f"loss {loss:.4f} acc {acc1:.2f}")
                else:
                    left = (time.monotonic() - start) / step * (total - step)
                    print(f"{label}  [{step}/{total}]  Loss {loss:.4f}  Acc@1 {acc1:.2f}  left {duration(left)}", flush=True)


def finite(value: Any) -> Any:
    """Replace nan and infinities by None throughout, for strict JSON."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class RunLog:
    """`<name>_metrics.jsonl`, one line an epoch, and TensorBoard events in `<name>_tensorboard`, in one folder."""

    def __init__(self, folder: Path, name: str) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it

        self.path, board = self.files(folder, name)
        self.file = open(self.path, "w", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self.board = SummaryWriter(str(board))

    @staticmethod
    def files(folder: Path, name: str) -> tuple[Path, Path]:
        """Return the paths of both."""
        return folder / f"{name}_metrics.jsonl", folder / f"{name}_tensorboard"

    def epoch(self, epoch: int, values: dict[str, Any]) -> None:
        """Write the values of an epoch; what is not finite becomes null."""
        clean = finite(values)
        self.file.write(json.dumps({"epoch": epoch, **clean}) + "\n")
        self.file.flush()
        for key, value in clean.items():
            if isinstance(value, int | float):
                self.board.add_scalar(key, value, epoch)
        self.board.flush()

    def close(self) -> None:
        """Close both."""
        self.file.close()
        self.board.close()
