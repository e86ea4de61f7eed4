"""Heads that are trained in memory to choose constants: no files, and the plain stage 1 is trained once for each rate."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import islice
from typing import Any

from frozen.backbone import make_head
from frozen.feature_tables import CachedFeatures
from frozen.head_training import HeadTask, head_task, take_step
from frozen.own_flags import OwnFlags
from frozen.own_sources import Source
from harness.evaluation import evaluate
from harness.process_group import Group


class Trials:
    """Trains heads on the same features by the recipe of train_own.py, with flags that differ in how they are trained.

    `source` must have held-out images; `check` is called before each epoch, and may raise.
    """

    def __init__(self, flags: OwnFlags, source: Source, group: Group, check: Callable[[], object] = lambda: None) -> None:
        self.source, self.group, self.check = source, group, check
        self.features: CachedFeatures = source.batches(flags, group, flags.batch_size * group.world_size)[0]
        self.after_stage1: dict[tuple[float, int, int], tuple[dict[str, Any], dict[str, Any]]] = {}

    def train(self, flags: OwnFlags) -> HeadTask:
        """Train a head to its end."""
        sets = self.source.sets
        head = make_head(len(sets.cls_num_list), flags.seed, self.source.features)
        task = head_task(flags, sets, head, self.group, flags.stages, flags.logit_adjust)
        start, key = 0, (flags.lr, flags.seed, flags.meta_start)
        if key in self.after_stage1:
            start, (weights, state) = flags.meta_start, self.after_stage1[key]
            task.head.load_state_dict(weights)
            task.optimizer.load_state_dict(copy.deepcopy(state))
        batches, meta = self.features.train(start * task.steps), self.features.meta()
        for epoch in range(start, flags.epochs):
            self.check()
            for batch in islice(batches, task.steps):
                take_step(flags, task, batch, meta, epoch)
            if epoch + 1 == flags.meta_start:
                kept = task.head.state_dict(), task.optimizer.state_dict()
                self.after_stage1[key] = copy.deepcopy(kept)
        return task

    def heldout(self, flags: OwnFlags) -> float:
        """Return the accuracy of a head on the held-out images, in per cent, the mean over classes."""
        task = self.train(flags)
        tested = evaluate(task.classify, self.features.test("heldout"), self.group)
        return tested.accuracy(self.source.sets.cls_num_list).mean_over_classes
