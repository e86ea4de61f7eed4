"""What looks after a run while it goes: signals, a lock on its files, numbers gone wrong, and the moments of saving."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO, TypeVar

import torch
from torch import Tensor

from checkpoint import save_checkpoint
from errors import Stopped, UserError, writing
from runlog import Meter

T = TypeVar("T")
SIGNALS = (signal.SIGTERM, signal.SIGINT)
CHECK_EVERY = 20  # steps between two looks at the numbers, besides one before every save


class Interrupted(BaseException):
    """A signal came where the run may be left at once. As KeyboardInterrupt it passes by who handles every exception."""


class Signals:
    """Within this context SIGTERM and SIGINT do not end the process: they are remembered until the step is done.

    Within `interruptible` they raise `Interrupted` at once. Further signals change nothing: a launcher sends its own after
    that of the terminal. `asked` is the number of the first one, 0 before. From then on loading processes may die of the
    same signal: that is no error any more.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.at_once = False

    def _remember(self, number: int, frame: FrameType | None) -> None:
        first, self.asked = not self.asked, self.asked or number
        if hasattr(signal, "SIGCHLD"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler raises when a loading process dies
        if first and self.at_once:
            raise Interrupted

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal that comes, or came, raise `Interrupted` inside."""
        self.at_once = True
        try:
            if self.asked:
                raise Interrupted
            yield
        finally:
            self.at_once = False

    def __enter__(self) -> Signals:
        self.before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def open_lock(path: Path) -> TextIO:
    """Open the lock file, or say that it cannot be."""
    with writing(path):
        return open(path, "a+", encoding="utf-8")


@contextmanager
def only_run(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, so that no other run writes the same files; it goes when the process does, however it ends.

    Raises
    ------
    UserError
        If another run holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has none
        yield
        return
    while True:
        with open_lock(path) as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's not held on by loading processes
            except (BlockingIOError, PermissionError) as error:
                file.seek(0)
                holder = file.read().strip() or "another process"
                held = f"{path} is held by {holder}, which writes the same files"
                raise UserError(f"{held}: wait for it or choose another --save_name") from error
            except OSError as error:
                print(f"note: no lock on {path} ({error.strerror}): see that no other run writes the same files")
                yield
                return
            if not path.exists() or os.fstat(file.fileno()).st_ino != path.stat().st_ino:
                continue  # the run before removed it just now
            with writing(path):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {os.uname().nodename}")
                file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


class Keeper:
    """Looks after a run from step to step: numbers gone wrong, saving now and then, stopping when asked.

    Every process has the same state, so none has to ask another: the one that writes saves what it has when it stops.

    Parameters
    ----------
    path:
        The file of the state; `state` makes its content.
    minutes:
        Between two saves, beside those at the end of an epoch; 0 saves after every step.
    weights:
        The weights that are trained.
    main:
        Whether this process writes.
    """

    def __init__(
        self, path: Path, state: Callable[[], dict[str, Any]], minutes: float, weights: Iterable[Tensor], main: bool = True
    ) -> None:
        self.path, self.state, self.seconds, self.weights, self.main = path, state, 60 * minutes, list(weights), main
        self.signals = Signals()
        self.epoch, self.meter = 0, Meter()
        self.saved_at = time.monotonic()

    def begin(self, epoch: int, meter: Meter) -> None:
        """Look after this epoch from here on."""
        self.epoch, self.meter = epoch, meter

    def watched(self, batches: Iterable[T]) -> Iterator[T]:
        """Pass the batches on; a signal that comes while the next one is made stops the run at once."""
        iterator = iter(batches)
        while True:
            try:
                with self.signals.interruptible():
                    batch = next(iterator)
            except StopIteration:
                return
            except Interrupted:
                self.stop()
            yield batch

    def after_step(self) -> None:
        """Check, save and stop where it is time to.

        Raises
        ------
        Stopped
            After the state is saved, if a signal came.
        UserError
            If loss or weights are no longer finite; nothing is saved then.
        """
        if self.signals.asked:
            self.stop()
        elif self.main and time.monotonic() - self.saved_at >= self.seconds:
            self.save()
        elif self.meter.steps % CHECK_EVERY == 0:
            self.check()

    def stop(self) -> NoReturn:
        """Save and raise `Stopped`."""
        self.save()
        number = self.signals.asked
        where = f"stopped by {signal.Signals(number).name} in epoch {self.epoch} after step {self.meter.steps}"
        raise Stopped(f"{where}; to go on, give the same command with --resume auto", 128 + number)

    def check(self) -> None:
        """Raise a `UserError` if a loss of this epoch was not finite, or a weight is not."""
        bad = int(self.meter.first_bad)
        norms = torch.stack(torch._foreach_norm([w.detach() for w in self.weights]))
        if bad or not bool(torch.isfinite(norms).all()):
            good = f"the last good checkpoint is {self.path}" if self.path.is_file() else "nothing was saved yet"
            good = good if self.main else "rank 0 knows the last good checkpoint"
            raise UserError(
                f"the loss or a weight is not finite in epoch {self.epoch}, step {bad or self.meter.steps}; {good}. "
                "Train anew with a lower --lr, --lam or --meta_lr"
            )

    def save(self) -> None:
        """Check, and save the state now, on the process that writes."""
        self.check()
        if self.main:
            save_checkpoint(self.state(), self.path)
        self.saved_at = time.monotonic()
