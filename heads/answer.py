"""What a comparison of ways says: which to take, and how sure that is, in at most four sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from harness.metrics import class_accuracy
from heads.choosing import ChosenWay, choose_way, measurable
from heads.folds import FOLDS, MEASURABLE
from heads.ways import WAYS


def answer(found: Sequence[ChosenWay], cls_num_list: Sequence[int], tested: float, images: int) -> list[str]:
    """Return the sentences.

    Parameters
    ----------
    found:
        The ways at their constants, from the simplest on, the first being the baseline.
    tested, images:
        The accuracy of the way to take on the test images, in per cent, the mean over classes, and how many there are.
    """
    taken, baseline = choose_way(found), found[0]
    by_folds = f"{taken.reached} by {FOLDS} folds over the training images"
    test = f"{tested:.1f} % on the {images} test images"
    first = f"Take {WAYS[taken.name].words}: {by_folds}, {test} (means over classes)."
    others = sorted((one for one in found if one is not taken), key=lambda one: -one.score.accuracy)
    single = sum(count == 1 for count in cls_num_list)
    right, rows = (np.bincount(taken.score.target, some, len(cls_num_list)).tolist() for some in (taken.score.right, None))
    by_shot = class_accuracy(right, rows, rows, cls_num_list).per_shot.items()
    shots = ", ".join(f"{shot}-shot {accuracy:.1f} %" for shot, accuracy in by_shot if not math.isnan(accuracy))
    shots += f"; {single} with a single image are not judged by the folds" if single else ""
    if not others:
        return [first, f"Classes by their training images: {shots}."]
    gain, error = others[0].score.gain(taken.score)
    if taken is not baseline:
        over = f"{WAYS[baseline.name].words}, the simplest baseline: {distance_to(taken, baseline)}"
        alike = [one for one in others if not measurable(taken.score, one.score)]
        close = f", but not than {', '.join(WAYS[one.name].words for one in alike)}" if alike else ""
        second = f"It is significantly better than {over}{close}."
    else:
        next_one = f"{WAYS[others[0].name].words} is {distance_to(others[0], taken)}"
        second = f"Nothing is significantly better than this baseline; {next_one}."
    more = []
    if taken is baseline and gain >= 0.05:
        times = math.ceil((MEASURABLE * error / gain) ** 2)
        more = [f"About {times} times as many images would be needed to tell whether those {gain:.1f} points are chance."]
    return [first, second, f"Classes by their training images: {shots}.", *more]


def distance_to(one: ChosenWay, other: ChosenWay) -> str:
    """Return how far a way is above or below another, with half the 95 % interval."""
    gain, error = one.score.gain(other.score)
    if abs(gain) < 0.05:
        return f"level, ± {MEASURABLE * error:.1f} points"
    return f"{abs(gain):.1f} ± {MEASURABLE * error:.1f} points {'lower' if gain < 0 else 'higher'}"
