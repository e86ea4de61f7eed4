"""The sentences of a verdict and its details, see `verdicts`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from harness.metrics import FEW, MANY, PER_CLASS_MEAN, SHOTS, percent, shot_of
from reporting.comparisons import (
    FEWEST_IMAGES,
    MOST_NEEDED,
    RESAMPLES,
    ROUNDING,
    Gap,
    at_common_seeds,
    figures_by_seed,
    gap,
    needed,
    same_test_set,
)  # fmt: skip
from reporting.finished_runs import FinishedRun
from reporting.phrases import amount, amounts, in_a_row, points, quoted, seed_words
from reporting.rankings import Groups, Ranking, mean_figure, not_told_apart, ranked

PLAIN = "plain cross-entropy"
MOST_CHANGED = 3  # classes
IN_WORDS = {"acc1": "overall", PER_CLASS_MEAN: "in the mean over classes"}
SHOT_WORDS = {"few": f"fewer than {FEW} training images", "medium": f"{FEW} to {MANY} training images"}
ALONE = ("Each of these comparisons is made on its own: among several equal groups, the highest stands out from some other "
         "one in more than 5 % of cases.")  # fmt: skip
COMMON_SEEDS = "train each with at least two common seeds (--seed)"


def class_means(runs: Sequence[FinishedRun]) -> np.ndarray:
    """Return the mean accuracy of each class over the runs (C,), nan where a run has no test images of it."""
    return np.mean([[math.nan if x is None else x for x in run.summary["last"]["per_class"]] for run in runs], axis=0)


def plain_training(run: FinishedRun) -> bool:
    """Whether a run is of plain cross-entropy, by its flags or since it never came to its stage 2."""
    return (run.flags.get("stage2") == "none" or run.is_plain("last")) and not run.flags.get("logit_adjust")


def about(title: str, groups: Groups) -> list[str]:
    """Return what was compared, on which data."""
    runs = [run for own in groups.values() for run in own]
    if not runs:
        return []
    seeds = {name: seeds_of(own) for name, own in groups.items()}
    several = len(set(seeds.values())) > 1
    count = amount(len(groups), "group")
    if not several:
        own = next(iter(seeds.values()))
        count += f" with {seed_words(own)}" + " each" * (len(groups) > 1 and bool(own))
    counts = runs[0].summary["cls_num_list"]
    classes = f"{amount(len(counts), 'class')} with {amounts(counts, 'training image')} each"
    tested = test_images(runs)
    images = "" if tested is None else f", and tested on {amount(int(tested.sum()), 'image')}"
    compared = f"{'Compared' if len(groups) > 1 else 'Looked at'}: {count} ({amount(len(runs), 'run')})"
    sentence = f"{compared}, trained on {quoted(title)}, {classes}{images}."
    if not several:
        return [sentence]
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, own in seeds.items():
        alike.setdefault(own, []).append(name)
    parts = [(quoted(names[0]) + " has " if len(names) == 1 else f"{len(names)} groups have ") + seed_words(own)
             for own, names in alike.items()]  # fmt: skip
    return [sentence, f"{in_a_row(parts, len(parts))}; two groups are compared by the seeds that both have."]


def cautions(groups: Groups) -> list[str]:
    """Return what a reader should know before the figures: classes without test images, groups without a stage 2."""
    found = []
    runs = [run for own in groups.values() for run in own]
    names = runs[0].class_names if runs else []
    untested = [name for k, name in enumerate(names) if any(run.summary["last"]["per_class"][k] is None for run in runs)]
    if untested:
        words = in_a_row(map(quoted, untested), len(untested))
        have = "has" if len(untested) == 1 else "have"
        found.append(f"{amount(len(untested), 'class')} {have} no test images and {'is' if have == 'has' else 'are'} in no "
                     f"mean: {words}.")  # fmt: skip
    early = [name for name, own in groups.items() if all(run.flags.get("stage2") != "none" and run.is_plain("last")
                                                        for run in own)]  # fmt: skip
    if early:
        whose = in_a_row(map(quoted, early), len(early))
        found.append(f"{whose} did not come to stage 2: {'it is' if len(early) == 1 else 'they are'} plain cross-entropy.")
    return found


def without_comparison(title: str, groups: Groups, only: Ranking | None) -> list[str]:
    """Return why there is no comparison, and what to do."""
    if only is None:
        return ["No run has an accuracy, so nothing can be said." if groups else f"There are no runs on {quoted(title)}."]
    figure = f"{percent(only.means[only.first])} % {IN_WORDS[only.key]}"
    if len(groups) > 1:
        return [f"{quoted(only.first)} alone has an accuracy, {figure}, so nothing can be said by comparison."]
    return [f"{quoted(only.first)} reaches {figure}. It is the only group, so nothing can be said by comparison: "
            "train another one with the same seeds, two or more."]  # fmt: skip


def short_verdict(groups: Groups, main: Ranking, reference: str) -> tuple[list[str], list[Gap | None]]:
    """Return what to take, whether it is better than the reference and the next, at few-shot classes, and what would decide.

    These are four sentences at most; beside them are the differences that were looked at.
    """
    best, second, where = main.first, main.others[0], IN_WORDS[main.key]
    gap, plain = main.first_minus[reference], all(map(plain_training, groups[reference]))
    called = quoted(reference) + f", {PLAIN}" * (plain and PLAIN not in reference)
    reached = {name: f"{percent(mean)} %" for name, mean in main.means.items()}
    if gap is not None and gap.beyond_chance and gap.mean > 0:
        word = "best" if main.first_is_best else "highest"
        told = [f"Take {quoted(best)}, {word} {where} with {reached[best]}."]
    elif plain and gap is not None:
        told = [f"Take {called}, which reaches {reached[reference]} {where}: {quoted(best)}, highest with {reached[best]}, "
                "is not shown to be better."]  # fmt: skip
    else:
        told = [f"{quoted(best)} is highest {where} with {reached[best]}, but not shown to be better than {called}."]
    compared = list(dict.fromkeys([reference, second]))
    distances = [distance(main.first_minus[name], main.means[best] - main.means[name], called if name == reference
                          else quoted(name)) for name in compared]  # fmt: skip
    told.append(f"{quoted(best)} is {'; and '.join(distances)}.")
    few, looked_at = few_shot_sentence(groups, best, reference)
    undecided = [name for name in compared if (own := main.first_minus[name]) is None or not own.beyond_chance]
    decides = [what_decides(groups, main, undecided[0])] if undecided else []
    return [*told, *few, *decides], looked_at


def few_shot_sentence(groups: Groups, best: str, reference: str) -> tuple[list[str], list[Gap | None]]:
    """Return how far the best is above the reference on few-shot classes; where there are none, on medium-shot ones."""
    shot = next((shot for shot in reversed(SHOTS[1:]) if {best, reference} <= {*ranked(groups, shot)}), None)
    tested = np.flatnonzero(~np.isnan(class_means(groups[best]))).tolist()
    own = [k for k in tested if shot_of(groups[best][0].summary["cls_num_list"][k]) == shot]
    if shot is None or len(own) == len(tested):
        return [], []
    found = gap(groups[best], groups[reference], shot)
    figures = [mean_figure(groups[name], shot) for name in (best, reference)]
    classes = f"only {shot}-shot class" if len(own) == 1 else amount(len(own), f"{shot}-shot class")
    told = distance(found, figures[0] - figures[1], quoted(reference))
    return [f"On the {classes} ({SHOT_WORDS[shot]}) {quoted(best)} is {told}: it reaches {percent(figures[0])} %."], [found]


def what_decides(groups: Groups, main: Ranking, other: str) -> str:
    """Return how many seeds or test images would tell the first from another group, if their difference stays as it is."""
    found, between = main.first_minus[other], f"between {quoted(main.first)} and {quoted(other)}"
    if found is None:
        return f"Nothing decides {between} yet, for {lack(groups[main.first], groups[other])}: {COMMON_SEEDS}."
    if abs(found.mean) < ROUNDING:
        return f"As they are level, no number of seeds would decide {between}."
    if found.same_at_every_seed:
        return f"As no seed changes their difference, other test images alone could decide {between}."
    number = needed(found)
    what = f"{'seeds' if found.method == 'seeds' else 'test images'}"
    if number is None:
        return f"Not even {MOST_NEEDED[found.method]:,} {what} would decide {between}, if their difference stays as it is."
    return f"About {number - found.number:,} more {what} would decide {between}, if their difference stays as it is."


def doubts(groups: Groups, main: Ranking) -> list[str]:
    """Return the groups that are not told apart from the first, and those that cannot be compared with it."""
    if main.first_is_best:
        return []
    others, close, who = main.others, not_told_apart(main), quoted(main.first)
    better = [name for name, own in main.first_minus.items() if own is not None and own.beyond_chance and own.mean > 0]
    behind = [name for name, own in main.first_minus.items() if own is not None and own.beyond_chance and own.mean < 0]
    unknown = [name for name, own in main.first_minus.items() if own is None]
    parts, found = [], list[str]()
    if better:
        parts.append(f"is better than {len(better):,} of the other {amount(len(others), 'group')} beyond chance")
    if close:
        parts.append(f"cannot be told apart from {some(close, others)}")
    if parts:
        found.append(f"{who} {', but '.join(parts)}.")
    if better:
        found.append(ALONE)
    if behind:  # its mean is the highest by seeds that these do not have
        found.append(f"At the seeds that both have, {in_a_row(map(quoted, behind), len(behind))} did better, beyond chance.")
    if unknown:
        reasons = dict.fromkeys(lack(groups[main.first], groups[name]) for name in unknown)
        found.append(f"Whether {who} differs by more than chance from {some(unknown, others)} cannot be said: "
                     f"{'; or '.join(reasons)}. To be able to say it, {COMMON_SEEDS}.")  # fmt: skip
    return found


def some(names: Sequence[str], others: Sequence[str]) -> str:
    """Return the names of some of the others in words."""
    return "any other group" if len(names) == len(others) > 1 else in_a_row(map(quoted, names), len(names))


def lack(first: Sequence[FinishedRun], second: Sequence[FinishedRun]) -> str:
    """Return why two groups cannot be compared."""
    common = len(figures_by_seed(first, "acc1").keys() & figures_by_seed(second, "acc1").keys())
    if not common:
        return "no seed is common to both, and what the seed changes could not be told from what the method does"
    first, second = at_common_seeds(first, second)
    seeds = "only one seed is common to both"
    if any(run.tested is None for run in (*first, *second)):
        return f"{seeds}, and predictions of the test images are missing"
    if not same_test_set(first, second):
        return f"{seeds}, and their test images differ"
    return f"{seeds}, and fewer than {FEWEST_IMAGES} test images are too few for a bootstrap"


def distance(found: Gap | None, difference: float, whom: str) -> str:
    """Return for instance: 1.50 points above “isda” (95 % interval 0.50 to 2.50), beyond chance.

    Without an interval it is the difference of the means.
    """
    if found is None:
        return f"{above(difference, whom)}; whether by chance cannot be said"
    if found.same_at_every_seed:
        says = "" if abs(found.mean) < ROUNDING else ", so the seeds say nothing of chance"
        return f"{above(found.mean, whom)} at each common seed{says}"
    chance = "the chance of the test images" if found.method == "images" else "chance"
    beyond = f"{'' if found.beyond_chance else 'not '}beyond {chance}"
    if found.common is not None:  # the means of the table are over seeds that only one of them has, too
        whom += f" at {seed_words(found.common)}, which both have"
    return f"{above(found.mean, whom)} (95 % interval {points(found.low)} to {points(found.high)}), {beyond}"


def above(difference: float, whom: str) -> str:
    """Return for instance: 1.50 points above “isda”."""
    if abs(difference) < ROUNDING:
        return f"level with {whom}"
    return f"{points(abs(difference))} points {'above' if difference > 0 else 'below'} {whom}"


def class_sentences(groups: Groups, best: str, reference: str, change: np.ndarray) -> list[str]:
    """Return how many classes are better and worse than with the reference, which most, and what an image weighs."""
    runs, there = groups[best], np.flatnonzero(~np.isnan(change))
    if not len(there):
        return []
    better, worse = there[change[there] > ROUNDING], there[change[there] < -ROUNDING]
    same = len(there) - len(better) - len(worse)
    number_better, number_worse, number_same = (f"{n:,}" if n else "none" for n in (len(better), len(worse), same))
    found = [f"Class by class, means over all runs: with {quoted(best)} instead of {quoted(reference)} the accuracy of "
             f"{number_better} of {amount(len(there), 'class')} is higher, of {number_worse} lower, of {number_same} the "
             "same."]  # fmt: skip
    for word, own in (("Most gained", better), ("Most lost", worse)):
        most = own[np.argsort(-np.abs(change[own]), kind="stable")][:MOST_CHANGED]
        if len(most):
            found.append(f"{word}: {'; '.join(changed(runs[0], k, float(change[k])) for k in most.tolist())}.")
    images = test_images([run for own in groups.values() for run in own])
    if images is not None:
        per_class = images[images > 0].tolist()
        one = [100 / count for count in (max(per_class), min(per_class))]
        weighs = " to ".join(dict.fromkeys(points(x, 1).removesuffix(".0") for x in one))
        weighs += " point" if weighs == "1" else " points"
        found.append(f"A class has {amounts(per_class, 'test image')}, so one image more or less in one run is "
                     f"{weighs} of its accuracy: small changes of single classes may be chance.")  # fmt: skip
    return found


def changed(run: FinishedRun, k: int, change: float) -> str:
    """Return a class with the points that it gained or lost and its training images."""
    count = run.summary["cls_num_list"][k]
    return f"{quoted(run.class_names[k])} by {points(abs(change), 1)} points ({amount(count, 'training image')})"


def method_sentences(looked_at: Iterable[Gap | None]) -> list[str]:
    """Return where the intervals come from, and what they do not say."""
    there = [own for own in looked_at if own is not None]
    seeds = sorted({own.number for own in there if own.method == "seeds"})
    images = sorted({own.number for own in there if own.method == "images"})
    sentences = []
    if seeds:
        sentences.append(f"95 % intervals: paired differences over {amounts(seeds, 'common seed')}, Student's t. "
                         "They do not cover the choice of the test images.")  # fmt: skip
    if images:
        whose = "Where there are no two common seeds, or the difference is the same at each" if seeds else "95 % intervals"
        sentences.append(f"{whose}: bootstrap over {amounts(images, 'test image')}, {RESAMPLES:,} resamples. They say "
                         f"nothing of other seeds; for that, {COMMON_SEEDS}.")  # fmt: skip
    return sentences


def test_images(runs: Iterable[FinishedRun]) -> np.ndarray | None:
    """Return the number of test images of each class (C,), None if it is not known or not the same for all runs."""
    found = [(run.tested.target, len(run.summary["cls_num_list"])) for run in runs if run.tested is not None]
    counts = [np.bincount(target, minlength=classes) for target, classes in found]
    same = all(np.array_equal(count, counts[0]) for count in counts)
    return counts[0] if counts and same and counts[0].any() else None


def seeds_of(runs: Sequence[FinishedRun]) -> tuple[str, ...]:
    """Return the seeds that are known, in order."""
    seeds = [run.summary.get("flags", {}).get("seed") for run in runs]
    return tuple(sorted((str(seed) for seed in seeds if seed is not None), key=lambda word: (len(word), word)))
