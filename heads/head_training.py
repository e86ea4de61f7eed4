"""The recipe of a linear head on frozen features: what is trained, the epochs, the step, the test after each.

Features come in batches, computed from images or read; see `batches.py` and `feature_shards.py`. The same epochs train a
whole network, see `finetune.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from covariance_rules import RULES
from datasets.drawn_sets import Sets
from harness.evaluation import Batch, evaluate
from harness.flags import STAGE2, choice_words, effect_notes
from harness.process_group import Group
from harness.progress import StepFigures
from harness.run import Run
from heads.backbone import trained_part
from heads.batches import Batches
from heads.head_step import augmented_head_step, head_step
from heads.run_flags import FrozenFlags
from heads.ways import Constants, Fit, fit_into
from loss import EstimatorCV, MetaSAugCE, augmentation_note, covariance_traces, logit_adjustment, moved_note
from meta_step import StepResult, augmented_step, meta_step, plain_step
from passes import Passes

Step = Callable[..., StepFigures]  # of a global batch, and perhaps a meta batch: (features (N, A) or else, target (N,))


@dataclass(frozen=True)
class Task:
    """A head and what trains it, alone or with the network below: `trained` has what a checkpoint holds.

    `batch_size` is that of all processes together, `steps` are those of an epoch, and `subtracted` (C,) is taken off the
    logits in tests. The steps are those of `meta_step.py`, bound to all but the batches and their settings; `at_once` says
    that `plain` is no step, but makes the head of all rows.
    """

    sets: Sets
    head: nn.Linear
    trained: nn.Module
    estimator: EstimatorCV
    optimizer: torch.optim.Optimizer
    batch_size: int
    steps: int
    subtracted: Tensor
    plain: Step
    augmented: Step
    meta: Step
    at_once: bool = False

    def classify(self, features: Tensor) -> Tensor:
        """Return the logits (N, C) that are tested."""
        logits: Tensor = self.head(features)
        return logits - self.subtracted


def three_steps(
    head: nn.Linear, criterion: MetaSAugCE, estimator: EstimatorCV, optimizer: torch.optim.Optimizer, passes: Passes | None
) -> tuple[Step, Step, Step]:
    """Return the plain, the augmented and the MetaSAug step of a head on features, or by `passes` of a whole network."""
    learnt: Any = criterion, estimator, optimizer
    if passes is None:
        plain = partial(augmented_head_step, head, None, None, optimizer)
        return plain, partial(augmented_head_step, head, *learnt), partial(head_step, head, *learnt)
    augmented = partial(augmented_step, passes.model, *learnt, passes=passes)
    meta = partial(meta_step, passes.model, *learnt, passes=passes, virtual="head")
    return partial(plain_step, passes, optimizer), augmented, meta


def make_task(
    flags: FrozenFlags, sets: Sets, head: nn.Linear, group: Group, tau: float = 0.0, passes: Passes | None = None
) -> Task:
    """Return what trains a head on the device of its group, and with `passes` all of their network, whose last layer it is.

    In tests `tau` times the log of each class's share of the training images is subtracted from its logit. `passes` run a
    network on images; without, batches are features.
    """
    model = head.to(group.device) if passes is None else passes.model
    optimizer = torch.optim.SGD(
        flags.decayed(model, head.in_features, len(sets.trained)), flags.lr, flags.momentum, nesterov=flags.nesterov,
        weight_decay=flags.weight_decay, fused=group.device.type in ("cpu", "cuda"),
    )  # fmt: skip
    criterion = MetaSAugCE(sets.stage2_counts, balance=flags.balance).to(group.device)
    estimator = EstimatorCV(head.in_features, len(sets.cls_num_list), diagonal=True).to(group.device)
    batch_size = flags.batch_size * group.world_size
    subtracted = logit_adjustment(sets.stage2_counts, tau).to(group.device)
    trained = model if passes else trained_part(head)
    count = -(-len(sets.trained) // batch_size)
    steps = three_steps(head, criterion, estimator, optimizer, passes)
    return Task(sets, head, trained, estimator, optimizer, batch_size, count, subtracted, *steps)


def fitted_task(task: Task, fit: Fit, constants: Constants) -> Task:
    """Return a task whose head is made at once: an epoch is one step, on all rows."""

    def plain(batch: Batch, extra_batch: Batch | None = None) -> StepResult:
        features, target = batch
        fit_into(task.head, fit, features, target, constants)
        with torch.no_grad():
            logits = task.classify(features)
        return StepResult(F.cross_entropy(logits, target), logits)

    return replace(task, batch_size=len(task.sets.trained), steps=1, plain=plain, at_once=True)


def begin(
    run: Run, flags: FrozenFlags, task: Task, group: Group, subject: str, digests: dict[str, str],
    saved: Callable[[], dict[str, Any]], more: Mapping[str, Any] = {},
) -> None:  # fmt: skip
    """Go on with an interrupted run, or end here if it is finished; say what is trained, on what and where.

    `subject` says what, `digests` tell the data and the backbone from others, `more` is what else checkpoints say.
    """
    sets, size = task.sets, task.batch_size
    drawn = {} if flags.val_fraction is None else {"test_list": sets.test.digest()}
    run.begin(
        task.trained, task.optimizer, task.estimator,
        extra={"loss": "CE", "global batch size": size, **digests}, saved=saved,
        facts={"dataset": flags.dataset, **more, **sets.facts(), "global_batch_size": size, **drawn},
    )  # fmt: skip
    choices, start = choice_words(flags), flags.meta_start
    where = f"on {group.device}, {group.world_size} process{'es' if group.world_size > 1 else ''}"
    when = f"from epoch {start}" if start else "every epoch"
    run.say(f"{flags.dataset}, {len(sets.cls_num_list)} classes, {subject}, {where}", *sets.about())
    if not task.at_once:
        told = [f"{when}: {STAGE2[flags.stage2]}{choices}"] if choices or start or flags.stage2 != "metasaug" else []
        run.say(f"batch {flags.batch_size} a process, {size} in all", *told, *effect_notes(flags))


def begin_epoch(flags: FrozenFlags, task: Task, epoch: int) -> float:
    """Set the rate of an epoch, and return its λ_t."""
    for group in task.optimizer.param_groups:
        group["lr"] = flags.rate(epoch)
    return 0.0 if flags.stage2 == "reweight" else flags.lam * epoch / flags.epochs


def take_step(flags: FrozenFlags, task: Task, batch: Any, meta: Iterator[Any], epoch: int, lam_t: float) -> StepFigures:
    """Take the step that --stage2 says, with the next meta batch if it needs one; before stage 2 a plain one."""
    if epoch < flags.meta_start:
        return task.plain(batch)
    if flags.stage2 == "metasaug":
        rates = {"lam_t": lam_t, "virtual_lr": flags.rate(epoch), "meta_lr": flags.step_size}
        return task.meta(batch, next(meta), train_on_meta=flags.trains_on_meta, rule=RULES[flags.meta_update], **rates)
    extra_batch = next(meta) if flags.trains_on_meta else None
    if flags.stage2 == "none":
        return task.plain(batch, extra_batch)
    if flags.stage2 in ("isda", "reweight"):
        return task.augmented(batch, extra_batch, lam_t=lam_t)
    raise ValueError(f"heads are not trained by --stage2 {flags.stage2}")


def train_epochs(run: Run, flags: FrozenFlags, task: Task, features: Batches, group: Group) -> None:
    """Train from where the run stands to its end."""
    sets, estimator = task.sets, task.estimator
    batches = features.drawn("train", run.epoch * task.steps + run.meter.steps)  # of one epoch after the other
    meta = run.interruptible(features.drawn("meta", run.meta_taken))
    first = run.epoch
    for epoch in run.epochs:
        if epoch == first and flags.writes_lists and group.main:  # earlier files are set aside by now
            run.say(sets.write_lists(flags.folder, flags.save_name))
        lam_t, left = begin_epoch(flags, task, epoch), islice(batches, task.steps - run.meter.steps)
        for batch in run.watch(left, f"epoch {epoch}/{flags.epochs}", task.steps):
            seen = take_step(flags, task, batch, meta, epoch, lam_t)
            run.after_step(seen, batch[1])
        tested = evaluate(task.classify, run.testing(features.test(), len(sets.test)), group)
        values = {"lr": task.optimizer.param_groups[0]["lr"], "test_acc5": tested.top5}
        if sets.heldout is not None:  # the best epoch is chosen on these images
            chosen_on = evaluate(task.classify, run.testing(features.test("heldout"), len(sets.heldout)), group)
            values["heldout_acc1"] = chosen_on.accuracy(sets.cls_num_list).mean_over_classes
        ends, moved = epoch + 1 == flags.epochs, flags.step_size * run.meter.read_grad_trace()
        spread = covariance_traces(estimator, moved if run.meter.has_meta else None) if ends else {}
        run.after_epoch(tested, values, stage2_from=flags.meta_start, keep_stage1=False, picture=sets.test.picture)
        if epoch == max(flags.meta_start, 1):  # the first with a λ_t
            run.say(*augmentation_note(task.head, estimator, lam_t))
        run.say(*moved_note(spread, flags.step_size_flag))
