"""A training run: its files and its life, on one process or many. It knows nothing of what is trained, or how."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from harness.checkpoint import save_checkpoint
from harness.errors import Stopped, UserError
from harness.evaluation import Predictions
from harness.facts import Facts, State
from harness.files import output_folder, previous
from harness.flags import LearningFlags
from harness.mistakes import Picture, most_confused
from harness.process_group import Group, RankGoneError
from harness.progress import Meter, StepFigures, duration, epoch_line, progress
from harness.random_states import random_states, seed_everything
from harness.record import Record, save_arrays
from harness.resume import check_resumable, find_state, numerics, restore, restore_stage1
from harness.run_files import LONGEST_END, check_apart, read_finished, run_file, summary_path
from harness.signals_and_lock import Interrupted, Signals, only_run
from harness.text import OutputLostError, say
from harness.weights import network_weights

T = TypeVar("T")
CHECK_EVERY = 20  # steps between two looks at the numbers, besides one before every save


class Run:
    """What goes on around the loop of a training script.

    Entering it keeps other runs off the files `<save_name>_*` in `folder`. `begin` takes what is trained, and puts it where
    an interrupted run (--resume) or a finished stage 1 stood. Then come `epochs`, in each `watch` and `after_step`, and
    `after_epoch`. Leaving it prints the best and the last epoch and writes the summary. With several processes each has the
    whole state, and the main one prints and writes.
    """

    def __init__(self, flags: LearningFlags, folder: Path, group: Group) -> None:
        self.flags, self.folder, self.group = flags, folder, group
        self.meter, self.meta_taken, self.epoch = Meter(), 0, 0
        self.signals, self.contexts = Signals(), ExitStack()
        self.record: Record | None = None
        self.begun: State | None = None  # the record of an interrupted run
        self.saved_at: float | None = None  # none before the loop
        self.path = run_file(folder, flags.save_name, "resume.pth.tar")

    def __enter__(self) -> Run:
        self.group.agree(self._hold)
        seed_everything(self.flags.seed)
        return self

    def _hold(self) -> None:
        if self.group.main:
            output_folder(self.folder, f"{self.flags.save_name}{LONGEST_END}")
            self.contexts.enter_context(only_run(self.folder / f"{self.flags.save_name}.lock"))
            if not (self.flags.resume and os.path.isfile(self.path)):
                check_apart(self.flags.facts(), self.folder, self.flags.save_name)

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        with self.contexts:
            if kind is None and self.record is not None:
                try:
                    self.record.finish()
                except OutputLostError as lost:
                    error = lost
            if not isinstance(error, RankGoneError | OutputLostError):
                return
            looping = self.saved_at is not None
            if looping:  # both leave the state whole; where a network itself prints amid a step, that is another error
                if self.signals.asked:  # with the other process, or the terminal
                    self.stop()
                self.save()
            if isinstance(error, OutputLostError):
                raise Stopped(f"{error}; to resume, give the same command with --resume auto", error.status) from error
            if looping:
                raise RankGoneError(f"{error} with --resume auto") from error

    def begin(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, estimator: nn.Module, *, extra: Facts,
        facts: Facts, stage1: str | None = None, saved: Callable[[], State] | None = None,
        cost: Callable[[int], float] = lambda _: 1.0,
    ) -> Any:  # fmt: skip
        """Take what is trained, go on with an interrupted run if there is one, and return the flags to go on with.

        Parameters
        ----------
        extra:
            What must be the same at --resume besides the flags: loss and data.
        facts:
            What checkpoints say beside the weights, `cls_num_list` among it.
        stage1:
            A checkpoint of --stage1 to begin with.
        saved:
            Makes the weights of a checkpoint, by default those of `model` as "state_dict".
        cost:
            How long an epoch takes against the others, for the time left.
        """
        self.model, self.optimizer, self.estimator, self.cost = model, optimizer, estimator, cost
        self.extra, self.facts = extra, facts
        self.saved = saved or (lambda: {"state_dict": network_weights(model)})
        found = self.group.broadcast_object(self.group.agree(self._find))
        if isinstance(found, str):
            raise Stopped(found if self.group.main else "", 0)
        if found:
            state, source = found
            self.flags = self.flags.resumed(state["flags"])
            fitted = model, optimizer, estimator, len(facts["cls_num_list"]), self.group.device
            self.meter, self.begun = restore(state, source, *fitted)
            self.meta_taken, self.epoch = state["resume"]["meta_taken"], self.begun["epoch"]
            if self.group.main and source == previous(self.path):
                os.replace(source, self.path)  # of the damaged file that was there, which must not become the one before
            self.say(f"going on in epoch {self.epoch} after step {self.meter.steps}: taken from {source}")
        elif stage1:
            self.epoch = restore_stage1(Path(stage1), {**asdict(self.flags), **facts}, model, optimizer)
            self.say(f"stage 1 to epoch {self.epoch - 1}: taken from {stage1}")
        return self.flags

    @contextmanager
    def stoppable(self, when: str) -> Iterator[None]:
        """Let a signal end at once, in one line, what is done before the loop; `when` says what it is and what is kept."""
        try:
            with self.signals, self.signals.interruptible():
                yield
        except (Interrupted, RankGoneError):
            if not self.signals.asked:  # another process is gone for a reason of its own
                raise
            raise self.signals.stopped(when, "again") from None

    def say(self, *lines: str) -> None:
        """Print lines, on the main process."""
        if self.group.main:
            say(*lines)

    def _find(self) -> tuple[State, Path] | str | None:
        """Return the state to go on from and its file; None without any; or a line if the run has ended."""
        f, folder = self.flags, self.folder
        if not self.group.main:
            return None
        own = {**f.binding(), **self.extra, "class_names": self.facts.get("class_names")}
        if f.resume == "auto" and read_finished(folder, f.save_name, own, f.epochs):
            return f"{f.save_name} is finished: see {summary_path(folder, f.save_name)}"
        found = find_state(f.resume, self.path) if f.resume else None
        if found:
            state, source = found
            check_resumable(state, {**own, **f.resumed(state["flags"]).binding()}, f.epochs, source, self.group.device)
        return found

    @property
    def is_new(self) -> bool:
        """Whether no step was taken yet."""
        return self.epoch == self.meter.steps == 0

    @property
    def epochs(self) -> Iterator[int]:
        """The epochs that are left; from the first on signals wait for a step's end, and files of this name are written."""
        if self.group.main:
            told = {"flags": asdict(self.flags), "device": str(self.group.device), "processes": self.group.world_size}
            data = {key: self.facts[key] for key in ("class_names", "cls_num_list", "notes") if key in self.facts}
            facts = {**self.extra, **told, **data}
            self.record = Record(self.folder, self.flags.save_name, facts, self.begun, self.epoch)
        self.saved_at = time.monotonic()
        self.contexts.enter_context(self.signals)
        for epoch in range(self.epoch, self.flags.epochs):
            self.began = time.monotonic()
            yield epoch

    def watch(self, batches: Iterable[T], label: str, steps: int) -> Iterator[T]:
        """Yield an epoch's batches, show the progress, and stop on a signal."""
        of_training = self.meter, self.flags.print_freq, self.meter.steps
        return progress(self.interruptible(batches), steps, label, *of_training, shown=self.group.main)

    def testing(self, batches: Iterable[T], images: int) -> Iterator[T]:
        """Pass the batches of a test on as `interruptible` does, and show how far they are; `images` are all of the set."""
        total, label = self.group.batches(images, self.flags.test_batch_size), f"epoch {self.epoch}/{self.flags.epochs} test"
        return progress(self.interruptible(batches), total, label, shown=self.group.main)

    def interruptible(self, batches: Iterable[T]) -> Iterator[T]:
        """Pass the batches on; a signal that comes while the next one is made stops the run at once."""
        iterator = iter(batches)
        with suppress(StopIteration):
            while True:
                try:
                    with self.signals.interruptible():
                        batch = next(iterator)
                except Interrupted:
                    self.stop()
                yield batch

    def after_step(self, seen: StepFigures, target: Tensor) -> None:
        """Count in a step on target (N,); check, save, and stop if a signal came. Nothing is saved of numbers gone wrong."""
        self.meter.update(seen, target)
        self.meta_taken += seen.loss_meta is not None
        if self.signals.asked:
            self.stop()
        elif self.group.main and time.monotonic() - (self.saved_at or 0) >= 60 * self.flags.save_every:
            self.save()
        elif self.meter.steps % CHECK_EVERY == 0:
            self.check()

    def after_epoch(
        self, tested: Predictions, values: Mapping[str, float], per_class: Mapping[str, list[float]] | None = None,
        stage2_from: int = 0, keep_stage1: bool = True, picture: Picture | None = None,
    ) -> None:  # fmt: skip
        """Print, log and save.

        Parameters
        ----------
        values:
            Further figures of the log; some of them are in the epoch's line too, see `epoch_line`.
        per_class:
            Figures (C,) of each class: in the log as means of the shot groups, in the summary as they are.
        stage2_from:
            The first epoch of stage 2. Before it a checkpoint for `stage1` of other runs is kept, if `keep_stage1`, and
            from it on the best epoch is chosen among those of stage 2. A run that ends before it is stage 1 alone.
        picture:
            Returns an image of the test set: the last epoch keeps some of those that were not recognised, for the report.
        """
        self.check()
        if self.group.device.type == "cuda":
            momenta = [kept["momentum_buffer"] for kept in self.optimizer.state.values() if "momentum_buffer" in kept]
            weights = [weight.detach() for weight in self.model.parameters()]
            self.group.broadcast([*weights, *momenta, *self.model.buffers(), *self.estimator.buffers()])
        if self.record is not None:
            seconds = time.monotonic() - self.began
            left = sum(map(self.cost, range(self.epoch + 1, self.flags.epochs))) / self.cost(self.epoch) * seconds
            figures = tested.accuracy(self.facts["cls_num_list"]).figures()
            line = epoch_line(self.meter, tested.loss, {**figures, **values})
            self.say(f"epoch {self.epoch}  {line}  {duration(seconds)}, left {duration(left)}", *self.meter.trace_note())
            logged = {**values, **self.meter.figures(), "test_loss": tested.loss, "seconds": seconds}
            for kind in self.record.epoch(self.epoch, figures, logged, per_class or {}, stage2_from):
                save_checkpoint(self.state(self.epoch), self.record.file(f"{kind}.pth.tar"))
                save_arrays(tested.arrays(), self.record.file(f"{kind}_predictions.npz"))
            if picture is not None and self.epoch + 1 == self.flags.epochs:
                self.record.show_mistakes(most_confused(tested.target.numpy(), tested.predicted.numpy(), picture))
            if keep_stage1 and self.epoch + 1 == stage2_from < self.flags.epochs:
                save_checkpoint(self.state(self.epoch), self.record.file("stage1.pth.tar"))
        self.epoch, self.meter = self.epoch + 1, Meter()
        self.save()

    def state(self, epoch: int) -> State:
        """Return a checkpoint in the published form after an epoch, with what testing needs to know."""
        best = self.record.best["acc1"] if self.record else -1.0  # or nan
        own = {"epoch": epoch + 1, "best_acc1": max(-1.0, best), "optimizer": self.optimizer.state_dict()}
        return {**own, **self.facts, "flags": asdict(self.flags), **self.saved()}

    def save(self) -> None:
        """Check, and save the state now, on the process that writes: a checkpoint with all that going on needs."""
        self.check()
        if self.record is not None:
            inner = {
                "binding": {**self.flags.binding(), **self.extra}, "epochs": self.flags.epochs,
                "estimator": {name: value.cpu() for name, value in self.estimator.state_dict().items()},
                "meter": self.meter.state(), "meta_taken": self.meta_taken, "record": self.record.state(self.epoch),
                "random": random_states(), "surroundings": numerics(self.group.device),
            }  # fmt: skip
            state = {**self.state(self.epoch - 1), "state_dict": network_weights(self.model), "resume": inner}
            save_checkpoint(state, self.path, keep_previous=True)
        self.saved_at = time.monotonic()

    def check(self) -> None:
        """Raise a `UserError` if a loss of this epoch was not finite, or a weight is not."""
        bad = int(self.meter.sums["first_bad"])
        norms = torch.stack(torch._foreach_norm([w.detach() for w in self.model.parameters()]))
        if bad or not bool(torch.isfinite(norms).all()):
            good = f"the last good checkpoint is {self.path}" if os.path.isfile(self.path) else "nothing was saved yet"
            where = f"the loss or a weight is not finite in epoch {self.epoch}, step {bad or self.meter.steps}"
            lower = f"retrain with a lower --lr, --weight-decay, --lam or {self.flags.step_size_flag}"
            raise UserError(f"{where}; {good}. Look at the range of the inputs, or {lower}")

    def stop(self) -> NoReturn:
        """Save and raise `Stopped`."""
        self.save()
        raise self.signals.stopped(f"in epoch {self.epoch} after step {self.meter.steps}", "with --resume auto")
