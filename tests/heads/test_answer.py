"""The sentences of a comparison, their numbers computed here."""

import math

import pytest
from support.levels import level

from heads.answer import answer
from heads.choosing import ChosenWay

LOGISTIC, LDA, ISDA = "logistic regression minus the log prior", "discriminant analysis, shrunk, equal priors", "ISDA"
NAMES = ("logistic", "lda", "isda")


def ahead(more):
    """The distance in points, and half its interval, where `more` rows are right besides, of 100 in two equal classes."""
    told = f"± {1.96 * half(more / 100):.1f} points"
    return f"{abs(more):.1f} {told} {'higher' if more > 0 else 'lower'}" if more else f"level, {told}"


def half(share):
    """The standard error in points of the mean over two classes of 50 rows, a share of which is right."""
    return 100 * math.sqrt(100 * abs(share) * (1 - abs(share)) / 98 * 2 / 50) / 2


def taken(words, right, tested="50.0"):
    reached = f"{right:.1f} ± {1.96 * half(right / 100):.1f} %"
    folds = "by 5 folds over the training images"
    return f"Take {words}: {reached} {folds}, {tested} % on the 7 test images (means over classes)."


TIMES = math.ceil((1.96 * half(0.01)) ** 2)
SHOTS = "Classes by their training images: many-shot {0:.1f} %, few-shot {0:.1f} %."
NOTHING = "Nothing is significantly better than this baseline;"
BETTER = f"It is significantly better than {LOGISTIC}, the simplest baseline: "


@pytest.mark.parametrize(
    ("levels", "tested", "lines"),
    [
        ([50], 61.26, [taken(LOGISTIC, 50, "61.3"), SHOTS.format(50)]),
        ([50, 40, 51], 50, [
            taken(LOGISTIC, 50), f"{NOTHING} {ISDA} is {ahead(1)}.", SHOTS.format(50),
            f"About {TIMES} times as many images would be needed to tell whether those 1.0 points are chance.",
        ]),
        ([50, 40, 48], 50, [
            taken(LOGISTIC, 50), f"{NOTHING} {ISDA} is {ahead(-2)}.", SHOTS.format(50),
        ]),
        ([50, 52, 60], 50, [taken(ISDA, 60), f"{BETTER}{ahead(10)}.", SHOTS.format(60)]),
        ([50, 60, 80], 50, [taken(ISDA, 80), f"{BETTER}{ahead(30)}.", SHOTS.format(80)]),
        ([50, 60, 62], 70.0, [
            taken(LDA, 60, "70.0"),
            f"{BETTER}{ahead(10)}, but not than {ISDA}.", SHOTS.format(60),
        ]),
    ],
)  # fmt: skip
def test_what_is_said(levels, tested, lines):
    found = [ChosenWay(name, {"C": 3.0}, level(right)) for name, right in zip(NAMES, levels, strict=False)]
    said = answer(found, [150, 10], tested, 7)
    assert said == lines
    assert len(said) <= 4
