"""A training run of the head, and its evaluation, which test.py shares."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from backbone import FEATURES, fingerprint, load_backbone, load_head, make_backbone, make_head, read_weights
from checkpoint import fit_weights
from engine import EpochResult, make_optimizer, train_one_epoch_meta
from feature_cache import CachedFeatures, FeatureCache
from features import Batch, LiveFeatures, extractor
from head_options import HeadFlags
from head_step import head_step
from image_lists import check_there
from keeper import Keeper, only_run
from large_sets import Sets, read_sets
from loss import EstimatorCV, SemanticLoss
from metrics import Accuracy, calibration_bins, calibration_error, class_accuracy
from options import SPLIT_NOTE, binding
from places import output_folder
from process_group import Group, RankGoneError
from record import Record
from resume import collect, find_state, may_only_grow, must_match, restore, seed_everything
from runlog import Meter, duration


class Tested(NamedTuple):
    """Mean cross-entropy, top-1 accuracies and top-5 accuracy in per cent (top C where there are fewer classes)."""

    loss: float
    accuracy: Accuracy
    top5: float


@torch.no_grad()
def evaluate(head: nn.Linear, batches: Iterator[Batch], cls_num_list: list[int], group: Group) -> Tested:
    """Test on each process's share; every image counts once, and sums of counts are exact on any number of processes."""
    classes = head.out_features
    right, total, guessed = torch.zeros(3, classes, dtype=torch.int64).unbind()
    bins = calibration_bins(torch.zeros(0), torch.zeros(0))
    among_five, loss = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.float64)
    for features, target in batches:
        logits = head(features)  # (N, C)
        loss += F.cross_entropy(logits, target, reduction="none").cpu().double().sum()
        best = logits.topk(min(5, classes), dim=1).indices
        hit = (best == target.unsqueeze(1)).cpu()
        labels = target.cpu()
        right += torch.bincount(labels[hit[:, 0]], minlength=classes)
        total += torch.bincount(labels, minlength=classes)
        guessed += torch.bincount(best[:, 0].cpu(), minlength=classes)
        bins += calibration_bins(logits.softmax(dim=1).amax(dim=1).cpu(), hit[:, 0])
        among_five += hit.sum()
    for part in (right, total, guessed, bins, among_five, loss):
        group.total(part)
    images = max(int(total.sum()), 1)
    sides = right.tolist(), total.tolist(), guessed.tolist()
    accuracy = class_accuracy(*sides, cls_num_list, calibration_error(bins))
    return Tested(float(loss) / images, accuracy, 100 * int(among_five) / images)


def list_digests(sets: Sets) -> dict[str, str]:
    """Return a digest of each list."""
    parts = {"train": sets.train, "meta": sets.meta, "test": sets.test}
    return {f"{name} list": part.digest() for name, part in parts.items()}


@contextmanager
def head_run(flags: HeadFlags, group: Group) -> Iterator[HeadRun]:
    """Hold the run's files against other runs, read and compare everything, and then look after signals until the end.

    Raises
    ------
    UserError
        If flags, data or files do not fit, on one process or together.
    Stopped
        At SIGTERM or SIGINT, after what `--resume` needs is saved.
    """
    with ExitStack() as held:

        def hold() -> Path:
            if not group.main:
                return Path()
            folder = output_folder(flags.workdir, flags.dataset, flags.save_name)
            held.enter_context(only_run(folder / f"{flags.save_name}.lock"))
            return folder

        run = HeadRun(flags, group, group.agree(hold, lambda _: {}))
        with run.keeper.signals:
            try:
                yield run
            except RankGoneError as error:
                if run.keeper.signals.asked:  # the other one had the same signal, and left first
                    run.keeper.stop()
                run.keeper.save()  # every process has the whole state, as it was after the last step
                raise RankGoneError(f"{error} with --resume auto") from error


class HeadRun:
    """Lists, backbone, head, optimizer, features and files of one training.

    Making one reads the lists and the checkpoint on every process and compares them; `train_epoch` trains, tests and saves
    one of `epochs`.
    """

    def __init__(self, flags: HeadFlags, group: Group, folder: Path) -> None:
        self.flags, self.group = flags, group
        self.batch_size = flags.batch_size * group.world
        seed_everything(flags.seed)
        self.sets, self.backbone, self.head, weights = group.agree(self._read, lambda made: self._facts(*made))
        self.binding = self._binding(weights)
        found = group.from_main(group.agree(lambda: self._find(folder), lambda _: {}))
        self.cls_num_list = self.sets.cls_num_list
        self.backbone.to(group.device)
        self.head.to(group.device)
        self.optimizer = make_optimizer(self.head.parameters(), flags, group.device)
        self.estimator = EstimatorCV(FEATURES, self.head.out_features, diagonal=True).to(group.device)
        self.meter, self.meta_taken, self.epoch = Meter(), 0, 0
        if found:
            self._load(*found)
        self.epochs = range(self.epoch, flags.epochs)
        self.describe(found[1] if found else None)
        self.features = self._features(weights)
        self.train_stream = self.features.train(self.epoch * self.steps + self.meter.steps)
        self.meta_stream = self.features.meta(self.meta_taken)
        self.record = None
        if group.main:
            resumed = (found[0]["resume"]["record"], found[1]) if found else (None, None)
            self.record = Record(folder, flags.save_name, self.cls_num_list, flags.pretrained, *resumed)
        path = folder / f"{flags.save_name}_resume.pth.tar"
        self.keeper = Keeper(path, self.resume_state, flags.save_every, self.head.parameters(), group.main)

    @property
    def steps(self) -> int:
        """Global batches an epoch."""
        return -(-len(self.sets.train) // self.batch_size)

    def _read(self) -> tuple[Sets, nn.Module, nn.Linear, str]:
        f = self.flags
        sets = read_sets(f.dataset, f.data_root, f.num_meta, f.num_classes, f.train_list, f.val_list, f.meta_list)
        for part in (sets.train, sets.meta, sets.test):
            check_there(part)
        path = Path(f.pretrained)
        backbone_weights, head_weights, _ = read_weights(path)
        backbone, head = make_backbone(), make_head(len(sets.cls_num_list), f.seed)
        load_backbone(backbone, backbone_weights, path)
        if not f.fresh_head:
            load_head(head, head_weights, path)
        return sets, backbone, head, fingerprint(backbone)

    def _facts(self, sets: Sets, backbone: nn.Module, head: nn.Linear, weights: str) -> dict[str, object]:
        weights_of = {"backbone weights": weights[:16], "head weights": fingerprint(head)[:16]}
        return {**self.flags.facts(), **list_digests(sets), **weights_of, "PyTorch": torch.__version__}

    def _binding(self, weights: str) -> dict[str, object]:
        kept = {name: value for name, value in binding(self.flags).items() if name != "--batch_size"}
        return {**kept, "global batch size": self.batch_size, **list_digests(self.sets), "backbone weights": weights}

    def _find(self, folder: Path) -> tuple[dict[str, Any], Path] | None:
        """Return on the main process the state to go on from, if there is one, and its file.

        Raises
        ------
        UserError
            If a flag that changes the outcome differs, or --epochs is smaller.
        """
        f = self.flags
        if not f.resume or not self.group.main:
            return None
        found = find_state(f.resume, folder / f"{f.save_name}_resume.pth.tar")
        if found:
            may_only_grow(found[0]["resume"], f.epochs, found[1])
            must_match(found[0]["resume"], self.binding, found[1], self.group.device)
        return found

    def _load(self, state: dict[str, Any], source: Path) -> None:
        weights = {name.removeprefix("fc."): value for name, value in state["state_dict"].items()}
        fit_weights(self.head, weights, source)
        self.meter, self.meta_taken, self.epoch = restore(state, self.optimizer, self.estimator, self.group.device)

    def _features(self, weights: str) -> LiveFeatures | CachedFeatures:
        f, group = self.flags, self.group
        extract = extractor(self.backbone)
        live = LiveFeatures(self.sets, f.dataset, extract, group, self.batch_size, f.test_batch_size, f.workers, f.seed)
        if not f.cache_features:
            return live
        folder = Path(f.cache_dir or Path(f.workdir) / "feature_cache")
        cache = FeatureCache(folder, live, weights, group, FEATURES, f.print_freq)
        views = range(f.cache_features)
        train, meta = ([cache.open(name, view) for view in views] for name in ("train", "meta"))
        parts = {"train": self.sets.train, "meta": self.sets.meta, "test": self.sets.test}
        targets = {name: torch.from_numpy(part.targets) for name, part in parts.items()}
        test = cache.open("test", 0)
        return CachedFeatures(train, meta, test, targets, group, self.batch_size, f.test_batch_size, f.seed)

    def describe(self, source: Path | None) -> None:
        """Print what is trained, on what; `source` is the file that an interrupted run goes on from."""
        if not self.group.main:
            return
        f, sets, counts = self.flags, self.sets, self.cls_num_list
        processes = f"{self.group.world} process{'es' if self.group.world > 1 else ''}"
        where = f"on {self.group.device}, {processes}"
        print(f"{f.dataset}, {len(counts)} classes, head of the ResNet-50 in {f.pretrained}, {where}")
        counted = f"{max(counts)} to {min(counts)} a class"
        print(f"training {len(sets.train)} images, {counted}  meta {len(sets.meta)}  test {len(sets.test)}")
        print(f"batch {f.batch_size} a process, {self.batch_size} in all, and as many meta images, {len(sets.meta)} at most")
        if source:
            print(f"going on in epoch {self.epoch} after step {self.meter.steps}: taken from {source}")
        for note in [*sets.notes, *([SPLIT_NOTE] if f.split is not None else [])]:
            print(f"note: {note}")
        print("", end="", flush=True)

    def train_epoch(self, epoch: int, criterion: SemanticLoss) -> None:
        """Train one epoch of MetaSAug, test and save.

        Raises
        ------
        UserError
            If a loss or a weight is not finite; nothing of this epoch is saved then.
        Stopped
            After a signal.
        """
        f, start, keeper = self.flags, time.time(), self.keeper
        keeper.begin(epoch, self.meter)
        step = partial(
            head_step, self.head, criterion, self.estimator, self.optimizer,
            ratio=f.lam * epoch / f.epochs, virtual_lr=f.lr, meta_lr=f.meta_lr,
        )  # fmt: skip

        def after_step() -> None:
            self.meta_taken += 1
            keeper.after_step()

        batches = keeper.watched(islice(self.train_stream, self.steps - self.meter.steps))
        print_freq = f.print_freq if self.group.main else None
        trained = train_one_epoch_meta(
            step, batches, keeper.watched(self.meta_stream), total=self.steps, label=f"epoch {epoch}/{f.epochs}",
            print_freq=print_freq, meter=self.meter, after_step=after_step,
        )  # fmt: skip
        keeper.check()
        if self.group.device.type == "cuda":
            momenta = (state["momentum_buffer"] for state in self.optimizer.state.values() if "momentum_buffer" in state)
            self.group.spread([*(w.detach() for w in self.head.parameters()), *momenta, *self.estimator.buffers()])
        tested = evaluate(self.head, keeper.watched(self.features.test()), self.cls_num_list, self.group)
        if self.record is not None:
            self.keep(self.record, epoch, trained, tested, time.time() - start)
        self.epoch, self.meter = epoch + 1, Meter()
        keeper.begin(self.epoch, self.meter)
        keeper.save()

    def resume_state(self) -> dict[str, Any]:
        """Return a checkpoint with all that going on needs; the backbone, which stays as it is, is not in it."""
        assert self.record is not None
        return {
            "epoch": self.epoch,
            "state_dict": {f"fc.{name}": tensor.detach().cpu() for name, tensor in self.head.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
            "resume": {
                "binding": self.binding,
                "epochs": self.flags.epochs,
                **collect(self.estimator, self.meter, self.meta_taken, self.record.state(self.epoch)),
            },
        }

    def keep(self, record: Record, epoch: int, trained: EpochResult, tested: Tested, seconds: float) -> None:
        """Print, log and save an epoch."""
        print(
            f"epoch {epoch}  train loss {trained.loss:.4f}  train acc {trained.acc1:.2f}  test loss {tested.loss:.4f}  "
            f"test acc {tested.accuracy.overall:.2f}  top-5 {tested.top5:.2f}  "
            f"{duration(seconds)}, left {duration((self.flags.epochs - epoch - 1) * seconds)}",
            flush=True,
        )
        values = {
            "lr": self.flags.lr,
            "train_loss": trained.loss,
            "train_acc1": trained.acc1,
            "meta_loss": trained.meta_loss,
            "grad_norm": trained.grad_norm,
            "test_loss": tested.loss,
            "test_acc5": tested.top5,
            "seconds": seconds,
        }
        record.epoch(epoch, tested.accuracy, values, lambda: self.state(epoch, record.best["acc1"]))

    def state(self, epoch: int, best_acc1: float) -> dict[str, Any]:
        """Return a checkpoint in the published form, with what testing and going on need."""
        f = self.flags
        feature = {k: v for k, v in self.backbone.state_dict().items() if not k.endswith("num_batches_tracked")}
        return {
            "epoch": epoch + 1,
            "state_dict": {
                "feature": {name: tensor.detach().cpu().contiguous() for name, tensor in feature.items()},
                "classifier": {f"fc.{name}": tensor.detach().cpu() for name, tensor in self.head.state_dict().items()},
            },
            "best_acc1": best_acc1,
            "optimizer": self.optimizer.state_dict(),
            "estimator": self.estimator.state_dict(),
            "dataset": f.dataset,
            "class_names": self.sets.train.class_names,
            "cls_num_list": self.cls_num_list,
            "global_batch_size": self.batch_size,
            "flags": asdict(f),
        }

    def finish(self) -> None:
        """Print best and last epoch, write the summary, and say what was written where."""
        if self.record is not None:
            device, world = str(self.group.device), self.group.world
            self.record.finish({"loss": "CE", "flags": asdict(self.flags), "device": device, "processes": world})
