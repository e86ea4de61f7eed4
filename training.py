"""A training run: what the training scripts share around their two stages."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from announce import describe, stages
from checkpoint import load_checkpoint, load_weights, save_checkpoint
from data_utils import build_dataset, epoch_batches, meta_batches, plain_batches
from engine import Batch, EpochResult, make_optimizer, train_one_epoch, train_one_epoch_meta, validate
from errors import Stopped, UserError, nobody_reads
from keeper import Keeper, only_run
from loss import EstimatorCV, traces
from meta_step import Criterion, augmented_step, meta_step, plain_step
from metrics import mean, per_shot
from options import TrainingFlags, binding, check_num_classes, learning_rate
from passes import make_passes
from places import choose_device, output_folder
from record import Record, finished
from resnet import make_model
from resume import collect, find_state, load_optimizer, may_only_grow, must_match, restore, seed_everything, stage1_epoch
from runlog import Meter, StepResult, duration

AMP = {"off": None, "bf16": torch.bfloat16}

META_COST = 10 / 3  # a MetaSAug step against a plain one, in forward passes


@contextmanager
def training_run(flags: TrainingFlags, loss_name: str) -> Iterator[Run]:
    """Hold the run's files against other runs, read the data, and then look after signals until the end.

    Raises
    ------
    UserError
        If flags, data or files do not fit.
    Stopped
        At SIGTERM or SIGINT, after what `--resume` needs is saved; where stdout is a pipe that nobody reads any more; or
        where `--resume auto` finds the run finished.
    """
    make_model(flags.arch, 2)  # a wrong name is said before the data are read
    folder = output_folder(flags.workdir, flags.idx, flags.save_name)
    with only_run(folder / f"{flags.save_name}.lock"):
        run = Run(flags, loss_name, folder)
        try:
            with run.keeper.signals:
                yield run
        except BrokenPipeError as error:
            if nobody_reads():
                raise Stopped("nobody reads its output; to go on, give the same command with --resume auto", 141) from error
            raise


class Run:
    """Data, network, optimizer, log and checkpoints of one training.

    Making one reads the data and prints the counts per class; after that `cross_entropy_epoch` or `stage2_epoch` is
    called for each epoch from `first_epoch` on, and `finish` at the end. `loss_name` goes into the checkpoints.
    """

    def __init__(self, flags: TrainingFlags, loss_name: str, folder: Path) -> None:
        self.loss_name = loss_name
        self.device = choose_device(flags.gpu, flags.no_cuda)
        if flags.threads:
            torch.set_num_threads(flags.threads)
        num_heldout = (flags.num_heldout or -1) if flags.select_on == "heldout" else 0
        data = build_dataset(flags.dataset, flags.num_meta, flags.imb_factor, flags.data_root, num_heldout)
        self.class_names = data.train.class_names
        check_num_classes(flags.num_classes, len(self.class_names), flags.data_root)
        self.cls_num_list, self.train_digest = data.cls_num_list, data.train.digest()
        self.binding = {"loss": loss_name, **binding(flags), "data": data.digest()}
        if flags.resume == "auto" and finished(folder, flags.save_name, self.binding, flags.epochs):
            raise Stopped(f"{flags.save_name} is finished: see {folder / flags.save_name}_summary.json", 0)
        seed_everything(flags.seed)
        found = find_state(flags.resume, folder / f"{flags.save_name}_resume.pth.tar") if flags.resume else None
        self.flags = self.resumed_flags(flags, *found) if found else flags
        self.train, self.meta, self.test = (s.to(self.device) for s in (data.train, data.meta, data.test))
        self.heldout = data.heldout.to(self.device) if data.heldout else None
        self.model = make_model(flags.arch, len(self.class_names), flags.seed)
        self.model.to(self.device).to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(self.model.parameters(), flags, self.device)
        self.passes = make_passes(self.model, AMP[flags.amp], flags.compile)
        self.estimator = EstimatorCV(self.model.linear.in_features, len(self.class_names)).to(self.device)
        self.meter, self.meta_taken, self.first_epoch = Meter(), 0, 0
        if found:
            self.load_state(*found)
        elif flags.stage1:
            self.first_epoch = self.load_stage1(Path(flags.stage1))
        source = found[1] if found else None
        going_on = f"after step {self.meter.steps}: taken from {source}" if found else None
        describe(self.flags, loss_name, self.device, data, self.first_epoch, going_on)
        resumed = found[0]["resume"]["record"] if found else None
        chosen_by = "heldout_acc1" if data.heldout else "acc1"
        self.record = Record(folder, flags.save_name, self.cls_num_list, flags.stage1, resumed, source, chosen_by)
        self.record.since = self.record.since if found else self.first_epoch
        self.epoch = self.first_epoch
        self.meta_stream = meta_batches(self.meta, flags.batch_size, flags.seed, self.meta_taken)
        resume_path = self.record.paths["resume"]
        self.keeper = Keeper(resume_path, self.resume_state, flags.save_every, self.model.parameters())

    def resumed_flags(self, flags: TrainingFlags, state: dict[str, Any], source: Path) -> TrainingFlags:
        """Return the flags to go on with: stage 2 begins where it did before, unless another epoch is asked for.

        Raises
        ------
        UserError
            If a flag that changes the outcome differs, or --epochs is smaller.
        """
        inner = state["resume"]
        may_only_grow(inner, flags.epochs, source)
        before = state.get("flags", {})
        if not flags.meta_start_given and not before.get("meta_start_given") and isinstance(before.get("meta_start"), int):
            self.binding["--meta_start"] = before["meta_start"]
            flags = replace(flags, meta_start=before["meta_start"])
        must_match(inner, self.binding, source, self.device)
        return flags

    def load_state(self, state: dict[str, Any], source: Path) -> None:
        """Put everything back to where the interrupted run was."""
        load_weights(self.model, state["state_dict"], source)
        self.meter, self.meta_taken, self.first_epoch = restore(state, self.optimizer, self.estimator, self.device)

    def resume_state(self) -> dict[str, Any]:
        """Return a checkpoint with all that `load_state` needs."""
        return {
            **self.state(self.epoch - 1),
            "resume": {
                "binding": self.binding,
                "epochs": self.flags.epochs,
                **collect(self.estimator, self.meter, self.meta_taken, self.record.state(self.epoch)),
            },
        }

    def load_stage1(self, path: Path) -> int:
        """Take weights and optimizer from a checkpoint of stage 1; return the epoch to go on with.

        Stage 1 is the same for every loss and every stage 2, so one can serve many runs. The outcome is that of a run
        that trains it itself, to the last bit, if data and flags are the same. The best epoch counts from here on.

        Raises
        ------
        UserError
            If the checkpoint is past --meta_start, or was trained on other data or with other flags.
        """
        state = load_checkpoint(path)
        facts = {name: getattr(self, name) for name in ("class_names", "cls_num_list", "train_digest")}
        own = {**asdict(self.flags), **facts}
        epoch = stage1_epoch(state, own, path)
        load_weights(self.model, state["state_dict"], path)
        try:
            load_optimizer(self.optimizer, state.get("optimizer"))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"--stage1 {path} holds no state of this optimizer ({error})") from error
        return epoch

    @property
    def stage1_epochs(self) -> range:
        """The epochs of plain cross-entropy from `first_epoch` on."""
        return stages(self.flags, self.first_epoch)[0]

    @property
    def stage2_epochs(self) -> range:
        """The epochs of stage 2 from `first_epoch` on."""
        return stages(self.flags, self.first_epoch)[1]

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return -(-len(self.train.targets) // self.flags.batch_size)

    def begin_epoch(self, epoch: int) -> dict[str, Any]:
        """Set the real step's rate and return what both kinds of epoch are called with."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.flags.lr, epoch + 1, self.flags.epochs)
        self.epoch_start, self.epoch = time.time(), epoch
        self.model.train()
        self.keeper.begin(epoch, self.meter)
        label = f"epoch {epoch}/{self.flags.epochs} stage {1 if epoch < self.flags.meta_start else 2}"
        return {"total": self.steps, "label": label, "print_freq": self.flags.print_freq, "meter": self.meter}

    def batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the batches of the epoch that were not taken yet."""
        f = self.flags
        return self.keeper.watched(epoch_batches(self.train, f.batch_size, f.seed, epoch, self.meter.steps))

    def cross_entropy_epoch(self, epoch: int) -> None:
        """Train one epoch of plain cross-entropy, test and save."""
        self.plain_epoch(epoch, partial(plain_step, self.passes, self.optimizer))

    def stage2_epoch(self, epoch: int, criterion: Criterion) -> None:
        """Train one epoch of stage 2 as --stage2 says, test and save."""
        f = self.flags
        if f.stage2 == "none":
            self.cross_entropy_epoch(epoch)
            return
        ratio = 0.0 if f.stage2 == "reweight" else f.lam * epoch / f.epochs
        common = (self.model, criterion, self.estimator, self.optimizer)
        if f.stage2 == "metasaug":
            rate = learning_rate(f.lr, epoch, f.epochs)
            step = partial(meta_step, *common, ratio=ratio, virtual_lr=rate, meta_lr=f.meta_lr, passes=self.passes)
            self.metasaug_epoch(epoch, step)
        else:
            self.plain_epoch(epoch, partial(augmented_step, *common, ratio=ratio, passes=self.passes))

    def plain_epoch(self, epoch: int, step: Callable[[Batch], StepResult]) -> None:
        """Train one epoch of steps without meta batches, test and save."""
        shown = self.begin_epoch(epoch)
        self.end_epoch(epoch, train_one_epoch(step, self.batches(epoch), after_step=self.keeper.after_step, **shown))

    def metasaug_epoch(self, epoch: int, step: Callable[[Batch, Batch], StepResult]) -> None:
        """Train one epoch of MetaSAug steps, test and save."""
        shown = self.begin_epoch(epoch)

        def after_step() -> None:
            self.meta_taken += 1
            self.keeper.after_step()

        self.end_epoch(
            epoch, train_one_epoch_meta(step, self.batches(epoch), self.meta_stream, after_step=after_step, **shown)
        )

    def end_epoch(self, epoch: int, trained: EpochResult) -> None:
        """Test, print, log and save.

        Raises
        ------
        UserError
            If a loss or a weight is not finite; nothing of this epoch is saved then.
        """
        self.keeper.check()
        batches = self.keeper.watched(plain_batches(self.test, self.flags.test_batch_size))
        predictions = validate(self.model, batches)
        tested = predictions.accuracy(self.cls_num_list)
        heldout = self.heldout_figures()
        seconds = time.time() - self.epoch_start
        chosen = f"held-out acc {heldout['heldout_acc1']:.2f}  " if heldout else ""
        print(
            f"epoch {epoch}  train loss {trained.loss:.4f}  train acc {trained.acc1:.2f}  "
            f"test loss {predictions.loss:.4f}  test acc {tested.overall:.2f}  {chosen}"
            f"{duration(seconds)}, left {duration(self.time_left(epoch, seconds))}",
            flush=True,
        )
        values = {
            "stage": 1 if epoch < self.flags.meta_start else 2,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": trained.loss,
            "train_acc1": trained.acc1,
            "meta_loss": trained.meta_loss,
            "grad_norm": trained.grad_norm,
            "test_loss": predictions.loss,
            "seconds": seconds,
            **heldout,
        }
        traces_of = self.covariance_traces()
        for name, per_class in traces_of.items():
            values |= {f"{name}_{shot}": value for shot, value in per_shot(per_class, self.cls_num_list).items()}
        more = {**traces_of, **heldout}
        self.record.epoch(epoch, tested, values, lambda: self.state(epoch), predictions.arrays(), more)
        if epoch + 1 == self.flags.meta_start < self.flags.epochs:
            save_checkpoint(self.state(epoch), self.record.paths["stage1"])
        self.epoch, self.meter = epoch + 1, Meter()
        self.keeper.begin(self.epoch, self.meter)
        self.keeper.save()

    def heldout_figures(self) -> dict[str, float]:
        """Return the mean over the classes of the accuracy on held-out images, in per cent; nothing without such images."""
        if self.heldout is None:
            return {}
        batches = self.keeper.watched(plain_batches(self.heldout, self.flags.test_batch_size))
        per_class = validate(self.model, batches).accuracy(self.cls_num_list).per_class
        return {"heldout_acc1": mean([value for value in per_class if not math.isnan(value)])}

    def covariance_traces(self) -> dict[str, list[float]]:
        """Return the traces of the classes' covariances (C,), estimated and, after MetaSAug, as moved by the meta steps.

        The second are the mean over the epoch's steps with an image of the class. Nothing in stage 1.
        """
        if not bool(self.estimator.count.any()):
            return {}
        estimated = traces(self.estimator.covariance)
        found = {"trace_estimated": estimated.tolist()}
        if self.meter.has_meta:
            found["trace_learned"] = (estimated - self.flags.meta_lr * self.meter.read_grad_trace()).tolist()
        return found

    def time_left(self, epoch: int, seconds: float) -> float:
        """Return the seconds that the epochs after this one take, if they go as this one; MetaSAug costs META_COST."""
        split, end = min(self.flags.meta_start, self.flags.epochs), self.flags.epochs
        if epoch >= split:
            return (end - epoch - 1) * seconds
        cost = META_COST if self.flags.stage2 == "metasaug" else 1
        return (split - epoch - 1) * seconds + (end - split) * cost * seconds

    def state(self, epoch: int) -> dict[str, Any]:
        """Return a checkpoint in the published form, with what testing needs to know."""
        weights = {k: v.detach().cpu().contiguous() for k, v in self.model.state_dict().items()}
        return {
            "epoch": epoch + 1,
            "state_dict": weights,
            "best_acc1": self.record.best["acc1"],
            "optimizer": self.optimizer.state_dict(),
            "arch": self.flags.arch,
            "dataset": self.flags.dataset,
            "imb_factor": self.flags.imb_factor,
            "class_names": self.class_names,
            "cls_num_list": self.cls_num_list,
            "train_digest": self.train_digest,
            "flags": asdict(self.flags),
        }

    def finish(self) -> None:
        """Print best and last epoch, write the summary, and say what was written where."""
        flags, digest = asdict(self.flags), self.binding["data"]
        self.record.finish({"loss": self.loss_name, "flags": flags, "data": digest, "device": str(self.device)})
