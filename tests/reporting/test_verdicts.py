"""Verdicts in words, against slow references that look at every pair by themselves."""

import math
import re
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from support.made_runs import guesses, made_run

from harness.metrics import PER_CLASS_MEAN
from reporting.comparisons import Gap, needed
from reporting.phrases import amount, in_a_row, points
from reporting.verdicts import judge

COUNTS = (500, 300, 60, 30, 10, 5)
SET = "cifar10, imb_factor 0.01"
INTERVAL = re.compile(
    r"([\d.]+) points (above|below) “(.)”[^(]*\(95 % interval (−?[\d.]+) to (−?[\d.]+)\), (not )?beyond chance"
)


def group(overall, few=None, **other):
    """A run a seed, of overall and few-shot accuracies by seed."""
    few = overall if few is None else few
    return [made_run(f"s{seed}", seed, figures={"acc1": value, "few": few[seed], "many": 50.0, "medium": 40.0,
                                               "per_class": [value] * 4 + [few[seed]] * 2}, counts=COUNTS, **other)
            for seed, value in overall.items()]  # fmt: skip


def seeds(*values):
    return dict(enumerate(values, 1))


def slow_interval(first, second, key):
    """The interval over common seeds, None where they say nothing."""
    figures = [{run.summary["flags"]["seed"]: run.summary["last"][key] for run in runs} for runs in (first, second)]
    differences = [figures[0][seed] - figures[1][seed] for seed in figures[0] if seed in figures[1]]
    if len(differences) < 2 or max(differences) - min(differences) < 1e-9:
        return None
    half = stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences)
    return statistics.fmean(differences) - half, statistics.fmean(differences) + half


def slow_winner(groups, key):
    """The group that is above every other by each pair's interval."""
    for name, own in groups.items():
        found = [slow_interval(own, other, key) for rival, other in groups.items() if rival != name]
        if found and all(interval and interval[0] > 1e-6 for interval in found):
            highest = max(groups, key=lambda n: statistics.fmean(run.summary["last"][key] for run in groups[n]))
            return name if highest == name else None
    return None


def said(verdict, *words):
    """The sentences with all of these words in them, of the verdict and of its details."""
    return [sentence for sentence in (*verdict.sentences, *verdict.details) if all(word in sentence for word in words)]


def claims(verdict):
    """The sentences that say that something is better than something else."""
    told = [re.sub("not beyond chance|may be chance|not shown to be better", "", sentence)
            for sentence in (*verdict.sentences, *verdict.details)]  # fmt: skip
    return [sentence for sentence in told if re.search(r"\bbest\b|\bbetter\b|beyond chance", sentence)]


def test_equal_runs():
    verdict = judge(SET, {"a": group(seeds(50.0, 51.0, 52.0)), "b": group(seeds(50.0, 51.0, 52.0))})
    assert (verdict.best, verdict.reference, verdict.beyond) == ("a", "b", {})
    assert claims(verdict) == []
    assert verdict.sentences == [
        "“a” is highest overall with 51.00 %, but not shown to be better than “b”.",
        "“a” is level with “b” at each common seed.",
        "On the 2 few-shot classes (fewer than 20 training images) “a” is level with “b” at each common seed: it reaches "
        "51.00 %.", "As they are level, no number of seeds would decide between “a” and “b”.",
    ]  # fmt: skip
    assert said(verdict, "“a” cannot be told apart from “b”")
    assert (verdict.gained, verdict.lost, verdict.same) == ([], [], [0, 1, 2, 3, 4, 5])
    assert said(verdict, "of none of 6 classes is higher, of none lower, of 6 the same")


def test_a_clear_winner():
    groups = {"plain": group(seeds(40.0, 41.1, 40.4), stage2="none"), "near": group(seeds(50.0, 50.5, 51.2)),
              "clear": group(seeds(60.0, 61.0, 60.5), seeds(30.0, 32.0, 31.0))}  # fmt: skip
    verdict = judge(SET, groups)
    assert (verdict.best, verdict.reference) == ("clear", "plain")
    assert verdict.beyond["acc1"] == "clear" == slow_winner(groups, "acc1")
    (low, high), near, few = (slow_interval(groups["clear"], groups[name], key)
                              for name, key in (("plain", "acc1"), ("near", "acc1"), ("plain", "few")))  # fmt: skip
    assert verdict.sentences == [
        "Take “clear”, best overall with 60.50 %.",
        f"“clear” is 20.00 points above “plain”, plain cross-entropy (95 % interval {low:.2f} to {high:.2f}), beyond chance"
        f"; and 9.93 points above “near” (95 % interval {near[0]:.2f} to {near[1]:.2f}), beyond chance.",
        "On the 2 few-shot classes (fewer than 20 training images) “clear” is 9.50 points below “plain” (95 % interval "
        f"−{-few[0]:.2f} to −{-few[1]:.2f}), beyond chance: it reaches 31.00 %.",
    ]  # fmt: skip
    assert not said(verdict, "told apart from “near”")
    assert (verdict.gained, verdict.lost) == ([0, 1, 2, 3], [4, 5])
    assert said(verdict, "of 4 of 6 classes is higher, of 2 lower, of none the same")
    assert said(verdict, "Most gained: “0” by 20.0 points (500 training images); “1” by 20.0 points")
    assert said(verdict, "Most lost: “4” by 9.5 points (10 training images); “5” by 9.5 points (5 training images).")
    assert verdict.details[-1].startswith("95 % intervals: paired differences over 3 common seeds, Student's t.")


def test_a_winner_overall_that_loses_on_few_shot_classes():
    groups = {"b": group(seeds(50.0, 50.5, 51.2), seeds(40.0, 42.0, 41.0)),
              "a": group(seeds(60.0, 61.0, 60.5), seeds(30.0, 31.0, 31.0))}  # fmt: skip
    verdict = judge(SET, groups)
    assert {key: verdict.beyond.get(key) for key in ("acc1", "few")} == {"acc1": "a", "few": "b"}
    assert slow_winner(groups, "few") == "b"
    low, high = slow_interval(groups["b"], groups["a"], "few")
    assert said(verdict, "On the 2 few-shot classes (fewer than 20 training images) “a” is 10.33 points below “b” (95 % "
                f"interval −{high:.2f} to −{low:.2f}), beyond chance: it reaches 30.67 %.")  # fmt: skip
    unsure = {**groups, "b": group(seeds(50.0, 50.5, 51.2), seeds(40.0, 62.0, 21.0))}
    verdict = judge(SET, unsure)
    assert "few" not in verdict.beyond
    assert said(verdict, "few-shot classes", "“a” is 10.33 points below “b”", "not beyond chance")


def test_one_seed_without_predictions():
    verdict = judge(SET, {"a": group({1: 50.0}), "b": group({1: 60.0}), "c": group({1: 55.0})})
    assert (verdict.best, verdict.beyond) == ("b", {})
    assert claims(verdict) == []
    assert said(verdict, "“b” is highest overall with 60.00 %, but not shown to be better than “c”.")
    assert said(verdict, "“b” is 5.00 points above “c”; whether by chance cannot be said.")
    assert said(verdict, "Nothing decides between “b” and “c” yet, for only one seed is common to both, and predictions")
    (sentence,) = said(verdict, "Whether “b” differs by more than chance from any other group cannot be said")
    assert "only one seed is common to both, and predictions of the test images are missing" in sentence
    assert "train each with at least two common seeds" in sentence
    assert not said(verdict, "95 %")


def test_one_seed_with_predictions():
    draw = np.random.default_rng(0)
    target = np.repeat(np.arange(6), (50, 50, 50, 50, 40, 60))
    shares = {"a": 0.9, "b": 0.5, "c": 0.48}
    groups = {name: [made_run(name, 1, COUNTS, tested=(target, guesses(target, share, draw, 6)))]
              for name, share in shares.items()}  # fmt: skip
    verdict = judge(SET, groups)
    assert verdict.best == verdict.beyond["acc1"] == verdict.beyond[PER_CLASS_MEAN] == verdict.beyond["few"] == "a"
    assert said(verdict, "Take “a”, best in the mean over classes with ")
    assert said(verdict, "“a” is ", "beyond the chance of the test images")
    assert said(verdict, "tested on 300 images")
    assert said(verdict, "A class has 40 to 60 test images, so one image more or less in one run is 1.7 to 2.5 points")
    assert verdict.details[-1].startswith("95 % intervals: bootstrap over 100 to 300 test images, 2,000 resamples.")
    assert "nothing of other seeds" in verdict.details[-1]
    close = judge(SET, {name: groups[name] for name in "bc"})
    assert close.beyond == {}
    assert claims(close) == []
    assert said(close, "cannot be told apart")
    assert said(close, "test images would decide between “c” and “b”, if their difference stays as it is.")
    other = [made_run("d", 1, COUNTS, tested=(target[::-1], target[::-1]))]
    assert said(judge(SET, {**groups, "d": other}), "only one seed is common to both, and their test images differ")
    few = {name: [made_run(name, 1, (9, 8), tested=([0, 1], guess))] for name, guess in (("a", [0, 1]), ("b", [1, 0]))}
    assert said(judge(SET, few), "100.00 points above “b”; whether", "cannot be said")
    assert said(judge(SET, few), "fewer than 30 test images are too few")


def test_classes_whose_means_differ_by_rounding_are_the_same():
    """The same accuracies at other seeds, so that they are added in another order."""
    verdict = judge(SET, {"a": group(seeds(0.1, 0.2, 0.3)), "b": group(seeds(0.3, 0.2, 0.1)), "c": group({9: 0.0})})
    assert 0.1 + 0.2 + 0.3 != 0.3 + 0.2 + 0.1
    assert (verdict.best, verdict.reference) == ("a", "b")
    assert (verdict.gained, verdict.lost, verdict.same) == ([], [], [0, 1, 2, 3, 4, 5])


def test_a_tie_of_some_groups():
    groups = {"c": group(seeds(1.0, 2.0)), "a": group(seeds(60.0, 50.0)), "b": group(seeds(50.0, 60.0))}
    verdict = judge(SET, groups)
    assert (verdict.best, verdict.reference, verdict.beyond) == ("a", "b", {})
    assert said(verdict, "“a” is highest overall with 55.00 %, but not shown to be better than “b”.")
    assert said(verdict, "As they are level, no number of seeds would decide between “a” and “b”.")
    assert not said(verdict, "is best")


def test_unequal_seeds():
    groups = {"a": group(seeds(50.0, 52.0, 51.0, 80.0)), "b": group({1: 51.0, 2: 53.1, 3: 52.0}), "c": group({9: 10.0})}
    verdict = judge(SET, groups)
    assert said(verdict, "“a” has seeds 1, 2, 3 and 4, “b” has seeds 1, 2 and 3 and “c” has seed 9; two groups are "
                "compared by the seeds that both have.")  # fmt: skip
    low, high = slow_interval(groups["b"], groups["a"], "acc1")
    assert low > 0
    assert said(verdict, "“a” is 1.03 points below “b” at seeds 1, 2 and 3, which both have "
                f"(95 % interval −{high:.2f} to −{low:.2f}), beyond chance.")  # fmt: skip
    assert said(verdict, "At the seeds that both have, “b” did better, beyond chance.")
    assert said(verdict, "from “c” cannot be said: no seed is common to both")
    assert verdict.beyond == {}


def test_differences_that_are_the_same_at_every_seed():
    groups = {"a": group(seeds(51.0, 52.0)), "b": group(seeds(50.0, 51.0))}
    verdict = judge(SET, groups)
    assert claims(verdict) == []
    assert said(verdict, "1.00 points above “b” at each common seed, so the seeds say nothing of chance.")
    assert said(verdict, "As no seed changes their difference, other test images alone could decide between “a” and “b”.")
    assert said(verdict, "cannot be told apart from “b”")


def test_the_method_of_every_interval_is_named():
    """Overall the seeds differ, on the few-shot class they do not: there test images are drawn anew."""
    target, place = np.repeat(np.arange(3), (100, 100, 40)), np.concatenate([np.arange(n) for n in (100, 100, 40)])
    groups = {
        name: [made_run(name, seed, tested=(target, np.where(place < np.array([right, 0, few])[target], target, 1)))
               for seed, right in enumerate(rights, 1)]
        for name, rights, few in (("a", (80, 84, 83), 30), ("b", (60, 66, 61), 10))
    }  # fmt: skip
    verdict = judge(SET, groups)
    assert said(verdict, "few-shot class", "“a” is 50.00 points above “b” (95 % interval ")
    assert said(verdict, "95 % intervals: paired differences over 3 common seeds")
    assert said(verdict, "the same at each: bootstrap over 40 test images, 2,000 resamples")
    assert len(said(judge(SET, {"a": group(seeds(50.0, 51.0)), "b": group(seeds(40.0, 42.0))}), "bootstrap")) == 0


def test_a_comparison_of_many_settings_says_that_each_stands_by_itself():
    """Equal settings, of which the highest is so often beyond chance of another: the sentence says no less than that."""
    values = np.random.default_rng(0).normal(50, 1, (400, 5, 3))
    own = {name: group(seeds(*map(float, value))) for name, value in zip("abcde", values[0], strict=True)}
    best = values.mean(axis=2).argmax(axis=1)
    gaps = values[np.arange(400), best][:, None] - values
    half = stats.t.ppf(0.975, 2) * stats.sem(gaps, axis=2)
    beyond = (gaps.mean(axis=2) > half) & (np.arange(5) != best[:, None])
    assert beyond.any(axis=1).mean() > 0.15
    assert (beyond.sum(axis=1) == 4).mean() < 0.05  # "best" is claimed no more often
    own["a"], own["e"] = group(seeds(60.0, 62.0, 61.0)), group(seeds(59.9, 62.0, 61.2))
    alone = "Each of these comparisons is made on its own"
    assert said(judge(SET, own), alone)
    assert not said(judge(SET, {name: own[name] for name in "be"}), alone)  # one comparison


def test_one_group_and_none():
    verdict = judge(SET, {"a": group(seeds(50.0, 52.0))})
    assert (verdict.best, verdict.reference, verdict.beyond) == ("a", None, {})
    assert (verdict.gained, verdict.lost, verdict.same) == (None, None, None)
    assert said(verdict, "“a” reaches 51.00 % overall", "nothing can be said", "train another one with the same seeds")
    assert judge(SET, {}).sentences == [f"There are no runs on “{SET}”."]


def test_the_reference_is_the_baseline_else_plain_cross_entropy_else_the_second():
    groups = {"low": group(seeds(1.0, 2.0)), "plain": group(seeds(10.0, 11.0), stage2="none"),
              "second": group(seeds(20.0, 21.0)), "best": group(seeds(30.0, 31.0))}  # fmt: skip
    assert judge(SET, groups).reference == "plain"
    assert judge(SET, groups, "low").reference == "low"
    assert judge(SET, groups, "best").reference == judge(SET, groups, "unknown").reference == "plain"
    assert judge(SET, {name: runs for name, runs in groups.items() if name != "plain"}).reference == "second"
    assert judge(SET, {name: groups[name] for name in ("low", "plain")}).reference == "low"
    adjusted = {**groups, "plain": group(seeds(10.0, 11.0), stage2="none", logit_adjust=1.0)}
    assert judge(SET, adjusted).reference == "second"


def test_groups_that_are_plain_by_accident():
    groups = {"late": group(seeds(10.0, 11.0), meta_start=300), "best": group(seeds(30.0, 31.0))}
    verdict = judge(SET, groups)
    assert verdict.reference == "late"
    assert said(verdict, "“late” did not come to stage 2: it is plain cross-entropy.")


def test_classes_without_test_images_are_named_and_in_no_count():
    names = ["ant", "<b>", "$c", "日本", "e|f", "ז"]
    target = np.repeat([0, 1, 2, 4], 20)
    groups = {name: [made_run(name, seed, COUNTS, tested=(target, np.where(np.arange(80) % 20 < right, target, 5)),
                              class_names=names) for seed in (1, 2)] for name, right in (("a", 15), ("b", 10))}  # fmt: skip
    verdict = judge(SET, groups)
    assert said(verdict, "2 classes have no test images and are in no mean: “日本” and “ז”.")
    assert (verdict.gained, verdict.lost, verdict.same) == ([0, 1, 2, 4], [], [])
    assert said(verdict, "of 4 of 4 classes is higher")
    assert said(verdict, "On the only few-shot class (fewer than 20 training images)")
    assert said(verdict, "A class has 20 test images", "is 5 points")
    assert said(verdict, "Most gained: “ant” by 25.0 points (500 training images); “<b>”")


def test_medium_shot_classes_where_none_is_few_shot_and_nothing_where_all_are():
    counts, shots = (500, 60), {"few": None, "medium": 30.0, "many": 50.0}
    groups = {name: [made_run(str(s), s, counts, {"acc1": value + s, **shots, "medium": value + 2 * s}) for s in (1, 2, 3)]
              for name, value in (("a", 20.0), ("b", 21.0))}  # fmt: skip
    assert said(judge(SET, groups), "On the only medium-shot class (20 to 100 training images)")
    alike = {name: [made_run(str(s), s, (9, 8), {"acc1": value, "few": value}) for s in (1, 2)]
             for name, value in (("a", 20.0), ("b", 21.0))}  # fmt: skip
    assert not said(judge(SET, alike), "few-shot")


def test_of_many_groups_five_are_named():
    groups = {f"g{k}": group(seeds(50.0 + (k % 3) * 0.1, 51.0, 52.0 - (k % 2))) for k in range(18)}
    groups["top"] = group(seeds(50.0, 52.0, 53.0))
    groups["low"] = group(seeds(10.0, 12.0, 13.1))
    (sentence,) = said(judge(SET, groups), "“top” is better than", "cannot be told apart")
    assert sentence.startswith("“top” is better than 1 of the other 19 groups beyond chance, but cannot be")
    assert sentence.endswith(" and 13 more.")
    assert sentence.count("“g") == 5


figures = st.sampled_from([40.0, 40.5, 41.0, 42.0, 50.0, 60.0])
runs_by_seed = st.dictionaries(st.integers(1, 4), st.tuples(figures, figures), min_size=1, max_size=4)


@given(st.lists(runs_by_seed, min_size=1, max_size=4))
def test_no_winner_is_claimed_whose_interval_has_0_in_it(drawn):
    groups = {name: group({s: pair[0] for s, pair in own.items()}, {s: pair[1] for s, pair in own.items()})
              for name, own in zip("abcd", drawn, strict=False)}  # fmt: skip
    verdict = judge(SET, groups)
    for key in ("acc1", "few"):
        assert verdict.beyond.get(key) == slow_winner(groups, key)
    assert {*verdict.beyond} <= {"acc1", "few"}
    means = {name: statistics.fmean(run.summary["last"]["acc1"] for run in own) for name, own in groups.items()}
    assert means[verdict.best] == pytest.approx(max(means.values()))
    assert len(verdict.sentences) <= 4
    for sentence in verdict.sentences:
        taken = re.match(r"Take “(.)”, (best|highest) overall", sentence)
        if taken:
            assert slow_interval(groups[taken[1]], groups[verdict.reference], "acc1")[0] > 0
            assert (taken[2] == "best") == (slow_winner(groups, "acc1") == taken[1])
        for found in INTERVAL.finditer(sentence):
            low, high = (float(end.replace("−", "-")) for end in found.groups()[3:5])
            key = "few" if sentence.startswith("On the") else "acc1"
            subject = re.search(r"“(.)” is", sentence[: found.start()])
            name = subject[1] if subject else verdict.best
            assert slow_interval(groups[name], groups[found[3]], key) == pytest.approx((low, high), abs=0.006)
            assert (found[6] is None) == (low > 0 or high < 0)
            mean = float(found[1]) * (1 if found[2] == "above" else -1)
            assert mean == pytest.approx((low + high) / 2, abs=0.011)
    if not any(slow_interval(first, second, key) for key in ("acc1", "few") for one, first in groups.items()
               for other, second in groups.items() if one != other):  # fmt: skip
        assert claims(verdict) == []


@pytest.mark.parametrize(("first", "second"), [((50.0, 52.0, 51.5), (50.4, 50.1, 51.0)), ((50.0, 50.9), (50.2, 50.4))])
def test_as_many_more_seeds_as_are_named_would_decide(first, second):
    """If their differences have the same mean and deviation; one seed fewer would not, nor would more images than asked."""
    plain = group(seeds(*second), stage2="none")
    (sentence,) = said(judge(SET, {"plain": plain, "a": group(seeds(*first))}), "would decide")
    more = int(re.match(r"About (\d+) more seeds would decide between “a” and “plain”, if", sentence)[1])
    gaps = np.subtract(first, second)

    def low(number):
        return abs(gaps.mean()) - stats.t.ppf(0.975, number - 1) * np.std(gaps, ddof=1) / math.sqrt(number)

    assert low(len(gaps) + more) > 0 >= low(len(gaps) + more - 1)


def test_as_many_test_images_as_would_decide_are_named():
    found = Gap(1.0, -1.0, 2.5, "images", 100)  # twice as near to 0 with four times the images
    assert needed(found) == 401
    assert needed(-found) == 401
    assert needed(Gap(0.001, -9.0, 9.0, "images", 100)) is needed(Gap(0.001, -9.0, 9.002, "seeds", 3)) is None


def test_plain_cross_entropy_is_to_be_taken_where_nothing_is_shown_to_be_better():
    verdict = judge(SET, {"a": group(seeds(50.0, 53.0)), "plain": group(seeds(50.5, 51.0), stage2="none")})
    assert verdict.sentences[0] == (
        "Take “plain”, plain cross-entropy, which reaches 50.75 % overall: “a”, highest with 51.50 %, is not shown to be "
        "better."
    )
    assert verdict.best == "a"


def test_pieces_of_sentences():
    assert [in_a_row("abc"[:n], n) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert in_a_row(map(str, range(17)), 17) == "0, 1, 2, 3, 4 and 12 more"
    assert in_a_row("abcdef", 6) == "a, b, c, d, e and 1 more"
    assert [amount(1, "class"), amount(8142, "class"), amount(2, "run")] == ["1 class", "8,142 classes", "2 runs"]
    assert [points(x) for x in (1.005, -0.5, 0.0, 0.004, -0.00002)] == ["1.00", "−0.50", "0.00", "0.004", "−0.00002"]
    assert points(math.pi, 1) == "3.1"
