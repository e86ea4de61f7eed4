"""Constants of a way, and the way itself, chosen by folds over the training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from operator import gt, lt
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.drawing import HELDOUT_SHARE, split_meta
from datasets.drawn_sets import Sets
from datasets.examples import class_counts
from harness.errors import UserError
from harness.process_group import Group
from harness.progress import progress
from harness.text import say
from heads.backbone import make_head
from heads.batches import Batches, RowViews, parted
from heads.feature_scale import feature_scale
from heads.folds import MEASURABLE, Score, done_between, fold_numbers, kept, score_file, scored
from heads.head_training import begin_epoch, make_task, take_step
from heads.own_flags import OwnFlags
from heads.own_sources import Source
from heads.ways import WAYS, Constants, begin_head, constants_of, few_threads, fit_into
from loss import logit_adjustment

TRIED_AT_ONCE = 2  # values tried before a direction is given up


@dataclass(frozen=True)
class ChosenWay:
    """A way with its constants, and what the folds said of it."""

    name: str
    constants: Constants
    score: Score

    @property
    def words(self) -> str:
        """The way and its constants."""
        return ", ".join([WAYS[self.name].words, *(f"--{key} {value}" for key, value in self.constants.items())])

    @property
    def reached(self) -> str:
        """The accuracy, with half its 95 % interval."""
        return f"{self.score.accuracy:.1f} ± {MEASURABLE * self.score.error:.1f} %"


def sides(values: tuple[Any, ...], current: Any, nonnegative: bool) -> list[list[list[Any]]]:
    """Return what is tried beside the current value: lower numbers downwards and higher ones upwards, or words.

    Each side is a list of values that are tried at once.
    """
    if isinstance(current, str):
        return [[[value for value in values if value != current and (value != "sqrt" or nonnegative)]]]
    lower, higher = (sorted(value for value in values if compare(value, current)) for compare in (lt, gt))
    return [parted(lower[::-1], TRIED_AT_ONCE), parted(higher, TRIED_AT_ONCE)]


def choose_way(found: Sequence[ChosenWay]) -> ChosenWay:
    """Return the way to take: the first, the simplest, unless another is significantly better than it.

    Of those that are, the most accurate, unless one before it is not significantly worse.
    """
    better = [one for one in found[1:] if measurable(one.score, found[0].score)]
    if not better:
        return found[0]
    best = max(better, key=lambda one: one.score.accuracy)
    return next(one for one in better if not measurable(best.score, one.score))


def measurable(score: Score, other: Score) -> bool:
    """Return whether an accuracy is above another's with 95 % confidence."""
    gain, error = score.gain(other)
    return gain > MEASURABLE * error and gain > 0


@dataclass
class Folds:
    """Scores of ways on a training set whose features lie in memory: `rows` (N, A) are those of `sets.trained`.

    They lie in `folder`, a file each: what is there is not computed again, and several processes share the work. `about` is
    what they depend on besides the way, its constants and its steps, of plain types.
    """

    flags: OwnFlags
    sets: Sets
    rows: np.ndarray
    group: Group
    folder: Path
    about: object

    def choose(self, name: str, known: Mapping[str, ChosenWay] = {}) -> ChosenWay:
        """Return a way at the constants that folds choose; those that the user gave stay.

        One constant after the other is moved from its usual value to another if that improves, see `Score.improves`; numbers
        go on in a direction until TRIED_AT_ONCE of them do not. `known` are ways that were chosen already.
        """
        way, constants = WAYS[name], constants_of(name)
        if way.after is not None:
            constants |= (known.get(way.after) or self.choose(way.after, known)).constants
        open_names, own = self.flags.by_folds.split(), self.flags.constants
        constants |= {key: own[key] for key in constants if key in own and key not in open_names}
        [score] = self.scores(name, [constants])
        best = ChosenWay(name, constants, score)
        for key in (key for key in way.tried if key in open_names):
            for side in sides(way.tried[key], best.constants[key], self.nonnegative):
                for values in side:
                    candidates: list[Constants] = [{**best.constants, key: value} for value in values]
                    before = best
                    for candidate, found in zip(candidates, self.scores(name, candidates), strict=True):
                        best = ChosenWay(name, candidate, found) if found.improves(best.score) else best
                    if best is before:
                        break
        return best

    @cached_property
    def nonnegative(self) -> bool:
        """Whether square roots of the features can be taken."""
        return bool(self.rows.min() >= 0)

    def scores(self, name: str, candidates: Sequence[Constants]) -> list[Score]:
        """Return the score of a way at each of these constants, as they are there or computed."""
        flags = self.flags
        steps = [] if WAYS[name].fit else [flags.binding(), flags.epochs, flags.batch_size * self.group.world_size]
        files = [score_file(self.folder, [self.about, [name, constants, *steps]]) for constants in candidates]
        works = [partial(kept, file, partial(self.score, name, each)) for file, each in zip(files, candidates, strict=True)]
        found = done_between(works, say if self.group.main else str)
        shown = dict(progress(found, len(works), f"folds of {WAYS[name].words}", shown=self.group.main))
        return [shown[i] for i in range(len(works))]

    def score(self, name: str, constants: Constants) -> Score:
        """Return the score of a way at these constants."""
        target = self.sets.trained.targets
        folds = fold_numbers(target)
        logits = np.zeros((len(target), len(self.sets.cls_num_list)), np.float32)
        for fold in range(folds.max() + 1):
            trained, left_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            logits[left_out] = self.logits(name, constants, trained, left_out)
        there = folds >= 0
        return scored(logits[there].astype(np.float64), target[there])

    def logits(self, name: str, constants: Constants, trained: np.ndarray, left_out: np.ndarray) -> np.ndarray:
        """Return what a head of the rows `trained` says of those that were left out, (M, C)."""
        way, images = WAYS[name], self.sets.trained.subset(trained)
        counts, scale = class_counts(images), feature_scale(self.rows[trained], str(constants["transform"]))
        features, tested = (scale(torch.from_numpy(self.rows[rows]).float()) for rows in (trained, left_out))
        head, target = make_head(len(counts), self.flags.seed, tested.shape[1]), torch.from_numpy(images.targets)
        if way.fit is not None:
            fit_into(head, way.fit, features, target, constants)
            with torch.no_grad():
                return (head(tested) - logit_adjustment(counts, way.flags.get("logit_adjust", 0.0))).numpy()
        flags = replace(self.flags, **constants)
        begin_head(name, head, features, target, constants)
        index, _ = split_meta(images.targets, flags.num_meta, len(counts), HELDOUT_SHARE)
        sets = Sets(images, images.subset(index), images, counts, [])
        task = make_task(flags, sets, head, self.group)
        scale = scale.to(self.group.device)
        parts = {
            "train": RowViews([self.rows[trained]], target, scale),
            "meta": RowViews([self.rows[trained[index]]], torch.from_numpy(sets.meta.targets), scale),
        }
        batches = Batches(parts, self.group, task.batch_size, flags.test_batch_size, flags.seed)
        train, meta = batches.drawn("train"), batches.drawn("meta")
        for epoch in range(flags.epochs):
            lam_t = begin_epoch(flags, task, epoch)
            with few_threads(task.batch_size * tested.shape[1] * len(counts)):
                for batch in islice(train, task.steps):
                    take_step(flags, task, batch, meta, epoch, lam_t)
        with torch.no_grad():
            return task.classify(tested.to(self.group.device)).cpu().numpy()


def open_folds(flags: OwnFlags, source: Source, rows: np.ndarray, group: Group) -> Folds:
    """Return the folds of a training set, whose scores lie beside the run's other files."""
    trained = source.sets.trained
    if max(source.sets.stage2_counts) < 2:
        raise UserError("no class has two training images, so cross-validation is impossible: give all constants, see --way")
    about = [trained.digest(), trained.content, source.weights, source.facts()]
    return Folds(flags, source.sets, rows, group, flags.folder / "folds", about)
