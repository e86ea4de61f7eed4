"""Constants and ways that folds choose, from scores of a table and on made-up rows."""

import shlex
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from support.image_lists import ALONE
from support.levels import level

from datasets.drawn_sets import Sets
from datasets.image_lists import image_list
from heads.backbone import make_head
from heads.choosing import ChosenWay, Folds
from heads.folds import fold_numbers
from heads.own_flags import parse_own

CLASSES = 3


class Table(Folds):
    """Scores of a table: how many of 100 rows are right at the values of one constant, 50 at those that it does not have."""

    def scores(self, name, candidates):
        key, levels = self.table
        self.asked += [constants[key] for constants in candidates]
        return [level(levels.get(constants[key], 50)) for constants in candidates]


def choose(name, key, levels, more="", known=MappingProxyType({}), least=0.0):
    """The value that is chosen, and those that were asked for."""
    flags = parse_own(shlex.split(f"--features x.npz --way {name} {more}"))
    folds = Table(flags, None, np.array([[least]]), ALONE, None, None)
    folds.table, folds.asked = (key, levels), []
    return folds.choose(name, known).constants, folds.asked


@pytest.mark.parametrize(
    ("levels", "more", "value", "asked"),
    [
        ({3: 51, 100: 51}, "", 10, [10, 3, 1, 30, 100]),  # the usual one, and two in each direction
        ({100: 60, 3000: 90}, "", 100, [10, 3, 1, 30, 100, 300, 1000]),  # what lies beyond is not seen
        ({1: 60, 0.1: 70, 30: 64, 100: 76}, "", 100, [10, 3, 1, 0.3, 0.1, 30, 100, 300, 1000]),
        ({30: 90}, "--C 1", 1, [1]),
    ],
)
def test_numbers_go_on_in_a_direction_until_two_do_not_improve(levels, more, value, asked):
    constants, found = choose("logistic", "C", levels, f"{more} --transform none")
    assert (constants, found) == ({"transform": "none", "C": value}, asked)


@pytest.mark.parametrize(("least", "value"), [(0.0, "sqrt"), (-1e-3, "standard")])
def test_square_roots_are_only_tried_where_there_are_some(least, value):
    constants, asked = choose("nearest_mean", "transform", {"sqrt": 90, "standard": 80}, least=least)
    assert constants == {"transform": value}
    assert ("sqrt" in asked) == (value == "sqrt")


def test_constants_of_the_way_before_are_taken_over():
    known = {"logistic": ChosenWay("logistic", {"transform": "unit", "C": 300.0}, level(1))}
    constants, asked = choose("isda", "lam", {1.0: 90}, known=known)
    assert (constants, asked) == ({"transform": "unit", "C": 300, "lam": 1}, [0.5, 0.25, 0.1, 1, 2])
    constants, _ = choose("metasaug", "C", {100: 90}, "--lam 3")  # which are chosen first, and at last stay
    assert constants == {"transform": "none", "C": 100, "lam": 3, "meta_step_size": 0.5, "lr": 0.01}
    assert choose("isda", "C", {}, "--C 7", known=known)[0]["C"] == 7


class Recorded(Folds):
    """Keeps what was said of each row (N, C)."""

    def logits(self, name, constants, trained, left_out):
        assert not {*trained} & {*left_out}
        self.said[left_out] = found = super().logits(name, constants, trained, left_out)
        return found


def made_up():
    generator = np.random.default_rng(0)
    target = generator.permutation(np.repeat(np.arange(CLASSES), (35, 17, 8)))
    rows = generator.normal(0, 2, (CLASSES, 8))[target] + generator.normal(0, 1, (60, 8))
    return rows.astype(np.float32), target


@pytest.mark.parametrize("name", ["logistic", "lda", "isda", "metasaug"])
def test_what_is_said_of_a_row_that_is_left_out_does_not_depend_on_it(name, tmp_path):
    rows, target = made_up()
    folds = fold_numbers(target)
    row = next(i for i in range(59) if folds[i] == folds[i + 1] and target[i] != target[i + 1])
    swapped, moved = target.copy(), rows.copy()
    swapped[[row, row + 1]] = target[[row + 1, row]]  # neighbours, so that the folds stay
    moved[row] += 3

    def said(rows, target):
        flags = parse_own(shlex.split("--features x.npz --no-cuda --way metasaug --C 3 --transform standard --epochs 2"))
        images = image_list(Path("x"), map(str, range(60)), target, list("abc"), "a list")
        sets = Sets(images, images, images, np.bincount(target).tolist(), [])
        folds = Recorded(flags, sets, rows, ALONE, tmp_path, "rows")
        folds.said = np.full((60, CLASSES), np.nan)
        folds.score(name, flags.constants)
        return folds.said

    before, same = said(rows, target), folds == folds[row]
    stays = (said(rows, swapped) == before).all(axis=1), (said(moved, target) == before).all(axis=1)
    assert np.array_equal(stays[0], same)  # the control: others change
    assert np.array_equal(stays[1], same & (np.arange(60) != row))


def test_steps_decay_as_the_penalty_of_logistic_regression():
    """Its loss, |W|² / 2 + C / A of the sum over rows, has the minimum of their mean with a decay of A / (C N)."""
    flags = parse_own(shlex.split("--features x.npz --way metasaug --C 10"))
    weight, bias = flags.decayed(make_head(CLASSES, 0, 8), 8, 60)
    assert (weight["weight_decay"], bias["weight_decay"]) == (8 / (10 * 60), 0)
