"""A training run: what the training scripts share around their two stages."""

from __future__ import annotations

import json
import math
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from checkpoint import load_checkpoint, load_weights, save_checkpoint, set_earlier_aside
from data_utils import build_dataset, epoch_batches, meta_batches, plain_batches
from engine import EpochResult, train_one_epoch, train_one_epoch_meta, validate
from errors import UserError
from loss import EstimatorCV
from meta_step import Criterion
from metrics import SHOTS, Accuracy, accuracy, percent, shot_of, shots_line
from options import TrainingFlags, check_num_classes, choose_device, learning_rate, output_folder
from resnet import ResNet, build_model
from runlog import RunLog, duration, finite

# What stage 1 depends on besides the data and the architecture.
STAGE1_FLAGS = ("batch_size", "epochs", "lr", "momentum", "nesterov", "weight_decay", "seed")

META_COST = 11 / 3  # a MetaSAug step against a plain one, in forward passes


def make_model(arch: str, num_classes: int, seed: int = 0) -> ResNet:
    """Return a new network with weights drawn from `seed`; the global random state is left as it was.

    Raises
    ------
    UserError
        If there is no such architecture.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return build_model(arch, num_classes)
        except ValueError as error:
            raise UserError(f"--arch: {error}") from error


class Run:
    """Data, network, optimizer, log and checkpoints of one training.

    Making one reads the data and prints the counts per class; after that `cross_entropy_epoch` or `metasaug_epoch` is
    called for each epoch, and `finish` at the end. `loss_name` goes into the checkpoints.
    """

    def __init__(self, flags: TrainingFlags, loss_name: str) -> None:
        self.flags, self.loss_name = flags, loss_name
        self.start = time.time()
        self.device = choose_device(flags.gpu, flags.no_cuda)
        make_model(flags.arch, 2)  # a wrong name is said before the data are read
        self.folder = output_folder(flags.workdir, flags.idx, flags.save_name)
        data = build_dataset(flags.dataset, flags.num_meta, flags.imb_factor, flags.data_root)
        self.class_names = data.train.class_names
        check_num_classes(flags.num_classes, len(self.class_names), flags.data_root)
        self.cls_num_list = data.cls_num_list
        self.train, self.meta, self.test = (s.to(self.device) for s in (data.train, data.meta, data.test))
        self.model = make_model(flags.arch, len(self.class_names), flags.seed)
        self.model.to(self.device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=flags.lr,
            momentum=flags.momentum,
            nesterov=flags.nesterov,
            weight_decay=flags.weight_decay,
        )
        self.estimator = EstimatorCV(self.model.linear.in_features, len(self.class_names)).to(self.device)
        self.meta_stream = meta_batches(self.meta, flags.batch_size, flags.seed)
        self.best: dict[str, Any] = {"epoch": -1, "acc1": -1.0}
        self.last: dict[str, Any] = {}
        self.first_epoch = self.load_stage1(Path(flags.stage1)) if flags.stage1 else 0
        self.describe(data.notes)
        self.prepare_folder()

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
        own = {**asdict(self.flags), "class_names": self.class_names, "cls_num_list": self.cls_num_list}
        recorded = {**state, **state.get("flags", {})}
        epoch, end = state.get("epoch"), min(self.flags.meta_start, self.flags.epochs - 1)
        if not isinstance(epoch, int) or epoch > end:
            raise UserError(
                f"--stage1 {path} stands at epoch {epoch}, this run can go on from {end} at most: see --meta_start"
            )
        if epoch > recorded.get("meta_start", epoch):
            raise UserError(f"--stage1 {path} is past the stage 1 of its run, which ended at epoch {recorded['meta_start']}")
        for key in ("dataset", "class_names", "cls_num_list", *STAGE1_FLAGS):
            if key in recorded and recorded[key] != own[key]:
                raise UserError(f"--stage1 {path} was trained with {key} {recorded[key]}, this run has {own[key]}")
        load_weights(self.model, state["state_dict"], path)
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except (KeyError, ValueError) as error:
            raise UserError(f"--stage1 {path} holds no state of this optimizer ({error})") from error
        return epoch

    def describe(self, notes: list[str]) -> None:
        """Print what is trained, on what, and the two stages."""
        f = self.flags
        print(f"{f.arch} on {self.device}, {f.dataset}, {len(self.class_names)} classes, MetaSAug with {self.loss_name}")
        print(f"training images a class: {self.cls_num_list}")
        print(f"training {sum(self.cls_num_list)}  meta {len(self.meta.targets)}  test {len(self.test.targets)}")
        for note in notes:
            print(f"note: {note}")
        split = min(f.meta_start, f.epochs)
        if f.stage1:
            print(f"stage 1 to epoch {self.first_epoch - 1}: taken from {f.stage1}")
        first = self.first_epoch
        print(f"stage 1, plain cross-entropy: {f'epochs {first} to {split - 1}' if first < split else 'none'}")
        print(f"stage 2, MetaSAug: {f'epochs {split} to {f.epochs - 1}' if split < f.epochs else 'none'}", flush=True)

    def prepare_folder(self) -> None:
        """Set the files of an earlier run of the same name aside and open the log."""
        name = self.flags.save_name
        self.paths = {kind: self.folder / f"{name}_{kind}.pth.tar" for kind in ("ckpt", "stage1", "last")}
        self.summary_path = self.folder / f"{name}_summary.json"
        files = [*self.paths.values(), self.summary_path, *RunLog.files(self.folder, name)]
        used = Path(self.flags.stage1).resolve() if self.flags.stage1 else None
        aside = set_earlier_aside(self.folder, [f.name for f in files if f.resolve() != used])
        if aside:
            print(f"note: the files of an earlier run {name} are now in {aside}")
        self.log = RunLog(self.folder, name)

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return -(-len(self.train.targets) // self.flags.batch_size)

    def begin_epoch(self, epoch: int) -> dict[str, Any]:
        """Set the real step's rate and return what both kinds of epoch are called with."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.flags.lr, epoch + 1, self.flags.epochs)
        self.epoch_start = time.time()
        label = f"epoch {epoch}/{self.flags.epochs} stage {1 if epoch < self.flags.meta_start else 2}"
        return {"total": self.steps, "label": label, "print_freq": self.flags.print_freq}

    def cross_entropy_epoch(self, epoch: int) -> None:
        """Train one epoch of stage 1, test and save."""
        shown = self.begin_epoch(epoch)
        batches = epoch_batches(self.train, self.flags.batch_size, self.flags.seed, epoch)
        self.end_epoch(epoch, train_one_epoch(self.model, batches, self.optimizer, **shown))
        if epoch + 1 == self.flags.meta_start < self.flags.epochs:
            save_checkpoint(self.state(epoch), self.paths["stage1"])

    def metasaug_epoch(self, epoch: int, criterion: Criterion) -> None:
        """Train one epoch of stage 2, test and save."""
        shown = self.begin_epoch(epoch)
        batches = epoch_batches(self.train, self.flags.batch_size, self.flags.seed, epoch)
        result = train_one_epoch_meta(
            self.model,
            batches,
            self.meta_stream,
            criterion,
            self.estimator,
            self.optimizer,
            ratio=self.flags.lam * epoch / self.flags.epochs,
            virtual_lr=learning_rate(self.flags.lr, epoch, self.flags.epochs),
            meta_lr=self.flags.meta_lr,
            **shown,
        )
        self.end_epoch(epoch, result)

    def end_epoch(self, epoch: int, trained: EpochResult) -> None:
        """Test, print, log and save.

        Raises
        ------
        UserError
            If the training loss is not finite; nothing of this epoch is saved then.
        """
        if not math.isfinite(trained.loss):
            raise UserError(f"the training loss of epoch {epoch} is {trained.loss}: lower --lr, --lam or --meta_lr")
        batches = plain_batches(self.test, self.flags.test_batch_size)
        test_loss, confusion = validate(self.model, batches, len(self.class_names))
        tested = accuracy(confusion, self.cls_num_list)
        seconds = time.time() - self.epoch_start
        print(
            f"epoch {epoch}  train loss {trained.loss:.4f}  train acc {trained.acc1:.2f}  "
            f"test loss {test_loss:.4f}  test acc {tested.overall:.2f}  "
            f"{duration(seconds)}, left {duration(self.time_left(epoch, seconds))}",
            flush=True,
        )
        self.log.epoch(
            epoch,
            {
                "stage": 1 if epoch < self.flags.meta_start else 2,
                "lr": self.optimizer.param_groups[0]["lr"],
                "train_loss": trained.loss,
                "train_acc1": trained.acc1,
                "meta_loss": trained.meta_loss,
                "test_loss": test_loss,
                "test_acc1": tested.overall,
                **{f"test_{shot}": tested.per_shot[shot] for shot in SHOTS},
                "seconds": seconds,
            },
        )
        self.last = self.outcome(epoch, tested)
        if tested.overall > self.best["acc1"]:
            self.best = self.last
            save_checkpoint(self.state(epoch), self.paths["ckpt"])
        save_checkpoint(self.state(epoch), self.paths["last"])

    def time_left(self, epoch: int, seconds: float) -> float:
        """Return the seconds that the epochs after this one take, if they go as this one; stage 2 costs META_COST a step."""
        split, end = min(self.flags.meta_start, self.flags.epochs), self.flags.epochs
        if epoch >= split:
            return (end - epoch - 1) * seconds
        return (split - epoch - 1) * seconds + (end - split) * META_COST * seconds

    def outcome(self, epoch: int, tested: Accuracy) -> dict[str, Any]:
        """Return the accuracies of an epoch as plain values."""
        return {"epoch": epoch, "acc1": tested.overall, **tested.per_shot, "per_class": tested.per_class}

    def state(self, epoch: int) -> dict[str, Any]:
        """Return a checkpoint in the published form, with what testing needs to know."""
        weights = {k: v.detach().cpu().contiguous() for k, v in self.model.state_dict().items()}
        return {
            "epoch": epoch + 1,
            "state_dict": weights,
            "best_acc1": self.best["acc1"],
            "optimizer": self.optimizer.state_dict(),
            "arch": self.flags.arch,
            "dataset": self.flags.dataset,
            "imb_factor": self.flags.imb_factor,
            "class_names": self.class_names,
            "cls_num_list": self.cls_num_list,
            "flags": asdict(self.flags),
        }

    def finish(self) -> None:
        """Print best and last epoch, write the summary, and say what was written where."""
        seconds = time.time() - self.start
        for which, outcome in (("best", self.best), ("last", self.last)):
            print(f"{which} epoch {outcome['epoch']}: accuracy {percent(outcome['acc1'])}  {shots_line(outcome)}")
        groups = [shot_of(n) for n in self.cls_num_list]
        since = f" from epoch {self.first_epoch} on" if self.first_epoch else ""
        print(f"(best is chosen on the test set{since}; classes: {', '.join(f'{groups.count(s)} {s}' for s in SHOTS)})")
        summary = {
            "loss": self.loss_name,
            "flags": asdict(self.flags),
            "cls_num_list": self.cls_num_list,
            "best": self.best,
            "last": self.last,
            "seconds": seconds,
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "device": str(self.device),
            "threads": torch.get_num_threads(),
        }
        self.summary_path.write_text(json.dumps(finite(summary), indent=1) + "\n", encoding="utf-8")
        self.log.close()
        written = ", ".join(str(p) for p in (*self.paths.values(), self.summary_path, self.log.path) if p.exists())
        print(f"done in {duration(seconds)}; wrote {written}")
