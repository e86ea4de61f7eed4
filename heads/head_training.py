"""The recipe of a linear head on frozen features: what is trained, the epochs, the step, the test after each.

Features come in batches, computed from images or read; see `batches.py` and `feature_shards.py`. The same epochs train a
whole network, see `finetune.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from covariance_rules import RULES
from datasets.drawn_sets import Sets
from harness.evaluation import Batch, evaluate
from harness.flags import choice_words, effect_notes
from harness.process_group import Group
from harness.progress import StepFigures
from harness.run import Run
from heads.backbone import trained_part
from heads.batches import Batches
from heads.head_step import augmented_head_step, head_step, plain_head_step
from heads.run_flags import FrozenFlags
from heads.ways import Constants, Fit, fit_into
from loss import EstimatorCV, MetaSAugCE, augmentation_note, covariance_traces, logit_adjustment, moved_note
from meta_step import STAGE2, PlainStepResult

B = TypeVar("B", bound=tuple[Any, ...])  # a global batch, whose second entry is the target (N,)


@dataclass(frozen=True)
class Stages:
    """When stage 2 begins, before which the loss is plain cross-entropy, and from when on the rate is lower.

    `meta_start` and `drop_epoch` count epochs from 0; `lr_drop` is the factor of the rate.
    """

    meta_start: int = 0
    drop_epoch: int = 0
    lr_drop: float = 1.0

    def lr(self, lr: float, epoch: int) -> float:
        """Return the rate of an epoch."""
        return lr * self.lr_drop if epoch >= self.drop_epoch else lr


@dataclass(frozen=True)
class Task(ABC, Generic[B]):
    """A head and what trains it, alone or with the network below; three steps, of which `take_step` chooses.

    `batch_size` is that of all processes together, `steps` are those of an epoch, and `subtracted` (C,) is taken off the
    logits in tests.
    """

    sets: Sets
    head: nn.Linear
    criterion: MetaSAugCE
    estimator: EstimatorCV
    optimizer: torch.optim.Optimizer
    batch_size: int
    steps: int
    stages: Stages = Stages()
    subtracted: Tensor | None = None

    def classify(self, features: Tensor) -> Tensor:
        """Return the logits (N, C) that are tested."""
        logits: Tensor = self.head(features)
        return logits if self.subtracted is None else logits - self.subtracted

    @property
    @abstractmethod
    def trained(self) -> nn.Module:
        """What is trained, its weights under the names that they have in a checkpoint."""

    @abstractmethod
    def plain(self, batch: B, extra_batch: B | None = None) -> StepFigures:
        """Take a step of plain cross-entropy."""

    @abstractmethod
    def augmented(self, batch: B, extra_batch: B | None, lam_t: float) -> StepFigures:
        """Take a step at the estimated covariances."""

    @abstractmethod
    def meta(self, batch: B, meta_batch: B, **settings: Any) -> StepFigures:
        """Take a MetaSAug step; `settings` are the last parameters of `meta_step.meta_step`."""


class HeadTask(Task[Batch]):
    """A head alone, on batches of features."""

    @property
    def trained(self) -> nn.Module:
        """The head."""
        return trained_part(self.head)

    def plain(self, batch: Batch, extra_batch: Batch | None = None) -> StepFigures:
        """Take a step of plain cross-entropy."""
        return plain_head_step(self.head, self.optimizer, batch, extra_batch)

    def augmented(self, batch: Batch, extra_batch: Batch | None, lam_t: float) -> StepFigures:
        """Take a step at the estimated covariances."""
        parts = self.head, self.criterion, self.estimator, self.optimizer
        return augmented_head_step(*parts, batch, extra_batch, lam_t=lam_t)

    def meta(self, batch: Batch, meta_batch: Batch, **settings: Any) -> StepFigures:
        """Take a MetaSAug step."""
        return head_step(self.head, self.criterion, self.estimator, self.optimizer, batch, meta_batch, **settings)


@dataclass(frozen=True, kw_only=True)
class FittedTask(HeadTask):
    """A head that is made at once: an epoch is one step, on all rows."""

    fit: Fit
    constants: Constants

    def plain(self, batch: Batch, extra_batch: Batch | None = None) -> StepFigures:
        """Fit the head; the batch is the whole training set."""
        features, target = batch
        fit_into(self.head, self.fit, features, target, self.constants)
        with torch.no_grad():
            logits = self.classify(features)
        return PlainStepResult(F.cross_entropy(logits, target), logits)


def head_task(
    flags: FrozenFlags, sets: Sets, head: nn.Linear, group: Group, stages: Stages = Stages(), tau: float = 0.0,
    fit: Fit | None = None, constants: Constants | None = None,
) -> HeadTask:  # fmt: skip
    """Return the head, on the device of its group, with its loss, class statistics and optimizer.

    In tests `tau` times the log of each class's share of the training images is subtracted from its logit. `fit` makes the
    head at once, at some constants, in place of steps.
    """
    parts = parts_of_task(flags, sets, head, head, group, stages, tau)
    if fit is None:
        return HeadTask(**parts)
    return FittedTask(**{**parts, "batch_size": len(sets.trained), "steps": 1}, fit=fit, constants=constants or {})


def parts_of_task(
    flags: FrozenFlags, sets: Sets, model: nn.Module, head: nn.Linear, group: Group, stages: Stages, tau: float
) -> dict[str, Any]:
    """Return what a `Task` holds, where all weights of `model`, whose last layer is `head`, are trained."""
    model.to(group.device)
    optimizer = torch.optim.SGD(
        flags.decayed(model, head.in_features, len(sets.trained)), flags.lr, flags.momentum, nesterov=flags.nesterov,
        weight_decay=flags.weight_decay, fused=group.device.type in ("cpu", "cuda"),
    )  # fmt: skip
    batch_size = flags.batch_size * group.world_size
    return {
        "sets": sets,
        "head": head,
        "criterion": MetaSAugCE(sets.stage2_counts, balance=flags.balance).to(group.device),
        "estimator": EstimatorCV(head.in_features, len(sets.cls_num_list), diagonal=True).to(group.device),
        "optimizer": optimizer,
        "batch_size": batch_size,
        "steps": -(-len(sets.trained) // batch_size),
        "stages": stages,
        "subtracted": logit_adjustment(sets.stage2_counts, tau).to(group.device) if tau else None,
    }


def introduction(flags: FrozenFlags, task: Task[Any], group: Group, subject: str) -> list[str]:
    """Return lines that say what is trained, on what and where; `subject` says what."""
    choices, start = choice_words(flags), task.stages.meta_start
    where = f"on {group.device}, {group.world_size} process{'es' if group.world_size > 1 else ''}"
    when = f"from epoch {start}" if start else "every epoch"
    what = f"{flags.dataset}, {len(task.sets.cls_num_list)} classes, {subject}, {where}"
    if isinstance(task, FittedTask):
        return [what, *task.sets.about()]
    return [
        what,
        f"batch {flags.batch_size} a process, {task.batch_size} in all; so are meta batches, if there are as many images",
        *task.sets.about(),
        *([f"{when}: {STAGE2[flags.stage2]}{choices}"] if choices or start or flags.stage2 != "metasaug" else []),
        *effect_notes(flags),
    ]


def strength(flags: FrozenFlags, epoch: int) -> float:
    """Return λ_t."""
    return 0.0 if flags.stage2 == "reweight" else flags.lam * epoch / flags.epochs


def take_step(flags: FrozenFlags, task: Task[B], batch: B, meta: Iterator[B], epoch: int) -> StepFigures:
    """Take the step that --stage2 says, with the next meta batch if it needs one; before stage 2 a plain one."""
    lam_t, lr = strength(flags, epoch), task.stages.lr(flags.lr, epoch)
    for group in task.optimizer.param_groups:
        group["lr"] = lr
    if epoch < task.stages.meta_start:
        return task.plain(batch)
    if flags.stage2 == "metasaug":
        return task.meta(
            batch, next(meta), lam_t=lam_t, virtual_lr=lr, meta_lr=flags.step_size, rule=RULES[flags.meta_update],
            train_on_meta=flags.trains_on_meta,
        )  # fmt: skip
    extra_batch = next(meta) if flags.trains_on_meta else None
    if flags.stage2 == "none":
        return task.plain(batch, extra_batch)
    if flags.stage2 in ("isda", "reweight"):
        return task.augmented(batch, extra_batch, lam_t)
    raise ValueError(f"heads are not trained by --stage2 {flags.stage2}")


def train_epochs(run: Run, flags: FrozenFlags, task: Task[Any], features: Batches, group: Group) -> None:
    """Train from where the run stands to its end."""
    sets, head, estimator, stages = task.sets, task.head, task.estimator, task.stages
    batches = features.train(run.epoch * task.steps + run.meter.steps)  # of one epoch after the other
    meta = run.interruptible(features.meta(run.meta_taken))
    first = run.epoch
    for epoch in run.epochs:
        if epoch == first and flags.writes_lists and group.main:  # earlier files are set aside by now
            run.say(sets.write_lists(flags.folder, flags.save_name))
        lam_t, lr = strength(flags, epoch), stages.lr(flags.lr, epoch)
        left = islice(batches, task.steps - run.meter.steps)
        for batch in run.watch(left, f"epoch {epoch}/{flags.epochs}"):
            seen = take_step(flags, task, batch, meta, epoch)
            run.after_step(seen, batch[1])
        tested = evaluate(task.classify, run.testing(features.test(), len(sets.test)), group)
        values = {"lr": lr, "test_acc5": tested.top5}
        if sets.heldout is not None:  # the best epoch is chosen on these images
            heldout = evaluate(task.classify, run.testing(features.test("heldout"), len(sets.heldout)), group)
            values["heldout_acc1"] = heldout.accuracy(sets.cls_num_list).mean_over_classes
        ends, moved = epoch + 1 == flags.epochs, flags.step_size * run.meter.read_grad_trace()
        spread = covariance_traces(estimator, moved if run.meter.has_meta else None) if ends else {}
        run.after_epoch(tested, values, stage2_from=stages.meta_start, keep_stage1=False)
        if epoch == max(stages.meta_start, 1):  # the first with a λ_t
            run.say(*augmentation_note(head, estimator, lam_t))
        run.say(*moved_note(spread, flags.step_size_flag))
