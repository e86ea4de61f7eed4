"""Part `features` of the study: linear heads on frozen features, all in this process."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from covariance_rules import RULES
from data_utils import META_STREAM, TRAIN_STREAM, seeded, shuffled_passes
from frozen.head_step import augmented_head_step, head_step, plain_head_step
from harness.errors import UserError
from harness.evaluation import evaluate
from harness.metrics import Accuracy
from harness.text import say
from loss import EstimatorCV, MetaSAugCE, log_prior, share_at_means
from reporting.study_results import (
    CHOICE_COLUMNS,
    CHOSEN,
    RUN_COLUMNS,
    TESTED_FIGURES,
    Line,
    alone,
    constants_of,
    number,
    read_lines,
    write_lines,
)
from reporting.study_tables import choose
from scripts.study_features import Features, FrozenFeatures, read_features
from scripts.study_stops import Stops

PART, LOSS, CHOICE_SEED = "features", "CE", 1
EPOCHS, STAGE2_FROM, BATCH, FACTOR = 30, 20, 128, 0.1  # FACTOR of the rate in stage 2
TRIED = ("lr", "lam", "step_size")  # constants that are chosen
RATES, LAMS, SIZES = ("0.1", "0.03", "0.01", "0.003", "0.001"), ("0.75", "2", "4", "8", "16"), ("0.5", "0.2", "1")


@dataclass(frozen=True)
class Way:
    """What stage 2 does: a choice of --stage2, the rule for Σ̂, --balance, and whether the meta images are trained on.

    With `subtract` the log prior is taken off the logits when testing. With `throughout` stage 1 is no plain one that all
    rows share, but has the loss and the images of stage 2.
    """

    stage2: str
    rule: str = ""
    balance: str = "weights"
    joined: bool = False
    subtract: bool = False
    throughout: bool = False

    @property
    def fixed(self) -> Line:
        """The constants that are not chosen, as far as they are not the usual ones."""
        balance = "" if self.balance == "weights" else self.balance
        given = {"stage2_lr": f"{FACTOR:g}", "meta_lr": "0.1" if self.rule == "published" else "", "balance": balance}
        given["meta_images"] = "train" if self.joined else ""
        return {key: value for key, value in given.items() if value}


WAYS = {
    "plain": Way("none"),
    "plain_subtracted": Way("none", subtract=True),
    "prior": Way("reweight", balance="prior"),
    "prior_throughout": Way("reweight", balance="prior", throughout=True),
    "reweight": Way("reweight"),
    "isda": Way("isda"),
    "published": Way("metasaug", "published"),
    "relative": Way("metasaug", "relative"),
    "relative_prior": Way("metasaug", "relative", "prior"),
    "joined_plain_subtracted": Way("none", joined=True, subtract=True),
    "joined_prior": Way("reweight", balance="prior", joined=True),
    "joined_prior_throughout": Way("reweight", balance="prior", joined=True, throughout=True),
    "joined_reweight": Way("reweight", joined=True),
    "joined_isda": Way("isda", joined=True),
    "joined_relative": Way("metasaug", "relative", joined=True),
}


def sgd(model: nn.Module, rate: float) -> torch.optim.SGD:
    """Return the optimizer of a head."""
    return torch.optim.SGD(model.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)


def shuffled(data: Features, seed: int, epoch: int) -> Iterator[Features]:
    """Yield the batches of an epoch."""
    features, target = data
    for index in torch.randperm(len(target), generator=seeded(seed, TRAIN_STREAM, epoch)).split(BATCH):
        yield features[index], target[index]


@dataclass(frozen=True)
class Trained:
    """A head after stage 2, the augmentation's share after its first epoch, and processor seconds a step."""

    model: nn.Linear
    share: float | None
    step_seconds: float


class Heads:
    """Trains heads on the features of a cell; the plain stage 1 is trained once a seed and rate."""

    def __init__(self, features: FrozenFeatures, stops: Stops) -> None:
        self.features, self.stops = features, stops
        self.after_stage1: dict[tuple[int, str, Way], tuple[nn.Linear, dict[str, object]]] = {}

    def counts(self, way: Way) -> list[int]:
        """Return the images of each class that stage 2 trains on."""
        counts = self.features.counts
        return self.features.joined[1].bincount(minlength=len(counts)).tolist() if way.joined else counts

    def data(self, way: Way) -> Features:
        """Return what stage 2 trains on."""
        return self.features.joined if way.joined else self.features.train

    def stage1(self, seed: int, lr: str, way: Way) -> tuple[nn.Linear, torch.optim.SGD]:
        """Return a head after stage 1, and its optimizer at the rate of stage 2."""
        first = way if way.throughout else WAYS["plain"]
        if (seed, lr, first) not in self.after_stage1:
            torch.manual_seed(seed)
            model = nn.Linear(self.features.train[0].shape[1], len(self.features.counts))
            optimizer, criterion = sgd(model, float(lr)), MetaSAugCE(self.counts(first), balance=first.balance)
            estimator = EstimatorCV(model.in_features, model.out_features, diagonal=True)
            step = stepper(first, model, criterion, estimator, optimizer, 0.0, float(lr))
            for epoch in range(STAGE2_FROM):
                self.stops.check()
                for batch in shuffled(self.data(first), seed, epoch):
                    step(batch, batch, 0.0)
            self.after_stage1[seed, lr, first] = model, optimizer.state_dict()
        kept, state = copy.deepcopy(self.after_stage1[seed, lr, first])
        optimizer = sgd(kept, float(lr))
        optimizer.load_state_dict(state)
        optimizer.param_groups[0]["lr"] = float(lr) * FACTOR
        return kept, optimizer

    def train(self, way: Way, constants: Mapping[str, str], seed: int) -> Trained:
        """Train a head: stage 1, and stage 2 in this way with these constants (lr, lam, step_size)."""
        model, optimizer = self.stage1(seed, constants["lr"], way)
        criterion = MetaSAugCE(self.counts(way), balance=way.balance)
        estimator = EstimatorCV(model.in_features, model.out_features, diagonal=True)
        lam, rate, share = float(constants.get("lam", 0)), float(constants["lr"]) * FACTOR, None
        step = stepper(way, model, criterion, estimator, optimizer, float(constants.get("step_size", 0.1)), rate)
        data, (meta, meta_target) = self.data(way), self.features.meta
        passes_of_meta = shuffled_passes(len(meta_target), BATCH, seeded(seed, META_STREAM))
        began, steps = time.process_time(), 0
        for epoch in range(STAGE2_FROM, EPOCHS):
            self.stops.check()
            lam_t = lam * epoch / EPOCHS
            for batch in shuffled(data, seed, epoch):
                index = next(passes_of_meta)
                step(batch, (meta[index], meta_target[index]), lam_t)
                steps += 1
            if epoch == STAGE2_FROM:
                share = share_at_means(model, estimator, lam_t)
        return Trained(model, share, (time.process_time() - began) / steps)

    def tested(self, way: Way, model: nn.Linear, data: Features) -> Accuracy:
        """Return the accuracies of a head on some images."""
        prior = log_prior(self.counts(way)).float() if way.subtract else 0.0
        batches = zip(data[0].split(1000), data[1].split(1000), strict=True)
        return evaluate(lambda features: model(features) - prior, batches).accuracy(self.features.counts)


def stepper(
    way: Way, model: nn.Linear, criterion: MetaSAugCE, estimator: EstimatorCV, optimizer: torch.optim.SGD, step_size: float,
    rate: float,
) -> Callable[[Features, Features, float], object]:  # fmt: skip
    """Return what takes a step on a batch, given a meta batch and λ_t."""

    def step(batch: Features, meta_batch: Features, lam_t: float) -> object:
        if way.stage2 == "metasaug":
            return head_step(
                model, criterion, estimator, optimizer, batch, meta_batch,
                lam_t=lam_t, virtual_lr=rate, meta_lr=step_size, rule=RULES[way.rule],
            )  # fmt: skip
        if way.stage2 == "none":
            return plain_head_step(model, optimizer, batch)
        return augmented_head_step(model, criterion, estimator, optimizer, batch, lam_t=lam_t)

    return step


def grid(row: str, isda: Mapping[str, str]) -> Iterator[list[Line]]:
    """Yield the constants to try in rounds; those of the second round go with the best ones of the first.

    All rates and λ are tried together; with a meta step, which costs more, those beside the ones that were chosen for ISDA.
    The sizes of the relative rule's step come after them.
    """
    way = WAYS[row]
    rates, lams = list(RATES), list(LAMS) if way.stage2 in ("isda", "metasaug") else []
    if way.stage2 == "metasaug":
        rates, lams = beside(RATES, isda["lr"]), beside(LAMS, isda["lam"])
    first = {"step_size": SIZES[0]} if way.rule == "relative" else {}
    yield [{"lr": rate, **lam, **first} for rate in rates for lam in ([{"lam": lam} for lam in lams] or [{}])]
    if first:
        yield [{"step_size": size} for size in SIZES[1:]]


def beside(values: Sequence[str], centre: str) -> list[str]:
    """Return a value and its neighbours."""
    at = values.index(centre)
    return list(values[max(at - 1, 0) : at + 2])


@dataclass(frozen=True)
class HeadCell:
    """A set at an imb_factor, and the folder of its files."""

    images: Path
    imb_factor: str
    workdir: Path

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.images.name}-{self.imb_factor}"

    def file(self, name: str) -> Path:
        """Return one of its files: tried.csv, choices.csv or runs.csv."""
        return self.workdir / self.name / name

    def line(self, row: str, seed: int, constants: Mapping[str, str]) -> Line:
        """Return the CSVs' columns that say which run it is."""
        cell = {"part": PART, "dataset": self.images.name, "imb_factor": self.imb_factor}
        return {**cell, "loss": LOSS, "row": row, "seed": str(seed), **WAYS[row].fixed, **constants}


def choose_row(cell: HeadCell, row: str, heads: Callable[[], Heads]) -> None:
    """Train a row's candidates, as far as that was not done before, and write down the best one on held-out images."""
    way, lines = WAYS[row], list[Line]()
    before = read_lines(cell.file("tried.csv"), CHOICE_COLUMNS)
    isda = choices_of(cell).get("joined_isda" if way.joined else "isda", {})
    if way.stage2 == "metasaug" and not isda:
        raise UserError(f"{cell.name}: the constants of {row} are tried beside those of ISDA, which come first: see --rows")
    for candidates in grid(row, isda):
        best = choose(lines) if lines else {}
        for constants in candidates:
            whole = {**{key: best[key] for key in TRIED if best.get(key)}, **constants}
            line = cell.line(row, CHOICE_SEED, whole)
            found = next((old for old in before if old["row"] == row and constants_of(old) == constants_of(line)), None)
            if found is None:
                one = heads().train(way, whole, CHOICE_SEED)
                heldout = heads().tested(way, one.model, heads().features.heldout).mean_over_classes
                found = {**line, "heldout_acc1": number(heldout), "share": number(one.share), "chosen": ""}
                before.append(found)
                write_lines(cell.file("tried.csv"), CHOICE_COLUMNS, before)
            lines.append(found)
    best = choose(lines)
    chosen = [{**line, "chosen": CHOSEN if line is best else ""} for line in lines]
    write_lines(cell.file("choices.csv"), CHOICE_COLUMNS, [*read_lines(cell.file("choices.csv"), CHOICE_COLUMNS), *chosen])
    words = " ".join(f"{key} {best[key]}" for key in TRIED if best.get(key))
    say(f"{cell.name} {row}: held-out accuracy {float(best['heldout_acc1']):.2f} at {words}, the best of {len(lines)}")


def choices_of(cell: HeadCell) -> dict[str, Line]:
    """Return the chosen constants of the rows whose choice is written down."""
    lines = read_lines(cell.file("choices.csv"), CHOICE_COLUMNS)
    return {line["row"]: {key: line[key] for key in TRIED if line[key]} for line in lines if line["chosen"] == CHOSEN}


def test_row(cell: HeadCell, row: str, seed: int, constants: Line, heads: Callable[[], Heads]) -> None:
    """Train a row with its chosen constants and test it, if that was not done before."""
    before = read_lines(cell.file("runs.csv"), RUN_COLUMNS)
    if any(line["row"] == row and line["seed"] == str(seed) for line in before):
        return
    one = heads().train(WAYS[row], constants, seed)
    figures = heads().tested(WAYS[row], one.model, heads().features.test).figures()
    heldout = heads().tested(WAYS[row], one.model, heads().features.heldout).mean_over_classes
    seen = {"heldout_acc1": number(heldout), "step_seconds": number(one.step_seconds), "share": number(one.share)}
    line = {**cell.line(row, seed, constants), **{key: number(figures[key]) for key in TESTED_FIGURES}, **seen}
    write_lines(cell.file("runs.csv"), RUN_COLUMNS, [*before, line])
    say(f"{cell.name} {row} seed {seed}: accuracy {figures['acc1']:.2f}")


def study(
    cells: Sequence[HeadCell], seeds: Iterable[int], rows: Sequence[str], only: str | None, backbone: str, stops: Stops
) -> Iterator[HeadCell]:
    """Do all the work that is left, cell by cell; yield when there is something new for the results."""
    seeds, rows = list(seeds), [row for row in WAYS if row in rows]
    for cell in cells:
        with alone(cell.file(""), cell.name):
            yield from study_cell(cell, seeds, rows, only, cache(partial(read_heads, cell, backbone, stops)))


def read_heads(cell: HeadCell, backbone: str, stops: Stops) -> Heads:
    """Read a cell's images, and have their features computed or read."""
    return Heads(read_features(cell.images, cell.imb_factor, backbone, cell.workdir / "features", stops), stops)


def study_cell(
    cell: HeadCell, seeds: Sequence[int], rows: Sequence[str], only: str | None, heads: Callable[[], Heads]
) -> Iterator[HeadCell]:
    """Do the work that is left of a cell."""
    for row in rows if only != "test" else ():
        if row not in choices_of(cell):
            choose_row(cell, row, heads)
    yield cell
    chosen = choices_of(cell)
    if only != "choose" and not chosen:
        raise UserError(f"no constants are chosen yet for {cell.name}: leave --only out first")
    for seed in seeds if only != "choose" else ():
        for row in rows:
            if row in chosen:
                test_row(cell, row, seed, chosen[row], heads)
        yield cell


def collected(cell: HeadCell) -> tuple[list[Line], list[Line]]:
    """Return the lines of a cell in both CSVs, runs in the order of the rows."""
    order = list(WAYS)
    runs = sorted(read_lines(cell.file("runs.csv"), RUN_COLUMNS), key=lambda line: (order.index(line["row"]), line["seed"]))
    return runs, read_lines(cell.file("choices.csv"), CHOICE_COLUMNS)
