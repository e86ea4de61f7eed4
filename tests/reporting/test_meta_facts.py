"""What the meta step did and what steps cost: of summaries and logs by hand, and of a run of the harness."""

import math
import statistics

import pytest
from support.made_runs import outcome_run
from support.runs import end_epoch, small_run, take_step

from reporting.finished_runs import read_runs
from reporting.meta_facts import has_meta_step, moved, step_seconds


def run_with(estimated=None, learned=None, counts=(500, 50, 5, 4), log=(), summary=None, **flags):
    last = {"trace_estimated": estimated, "trace_learned": learned} if estimated else {}
    return outcome_run([0], [0], last=last, log=log, flags=flags, cls_num_list=[*counts], **(summary or {}))


def lines(seconds, first=0):
    return [{"epoch": first + i, "seconds": value} for i, value in enumerate(seconds)]


def test_how_far_the_traces_moved_by_class_and_shot_group():
    runs = [run_with([2.0, 1.0, 4.0, 1.0], [2.2, 1.0, 2.0, 1.5]), run_with([2.0, 1.0, 4.0, 3.0], [2.2, 1.0, 2.0, 1.5])]
    found = moved([run_with(), *runs])  # the first says nothing
    assert (found.runs, found.estimated, found.learned) == (2, [2.0, 1.0, 4.0, 2.0], [2.2, 1.0, 2.0, 1.5])
    assert found.change == [pytest.approx(value) for value in (10, 0, -50, -25)]
    assert found.per_shot == {"many": pytest.approx(10), "medium": 0, "few": -37.5}
    assert (found.median, found.largest) == (statistics.median([10, 0, -50, -25]), 2)


def test_classes_without_a_trace_and_groups_without_classes():
    found = moved([run_with([0.0, None, 4.0], [0.0, 1.0, 5.0], counts=(50, 50, 50))])
    assert [math.isnan(value) for value in found.change] == [True, True, False]
    assert (found.median, found.largest) == (25, 2)
    assert math.isnan(found.per_shot["many"])
    nothing = moved([run_with([0.0], [0.0], counts=(5,))])
    assert math.isnan(nothing.median)
    assert nothing.largest is None
    assert moved([run_with()]) is None


def test_which_runs_have_a_meta_step():
    assert has_meta_step(run_with())  # as all runs of the first versions
    assert has_meta_step(run_with(stage2="metasaug", meta_start=0))
    assert not has_meta_step(run_with(stage2="isda"))
    assert not has_meta_step(run_with(stage2="metasaug", meta_start=1))  # its last epoch is 0


def test_seconds_a_step_leave_out_the_first_epoch_of_each_stage():
    log = lines([90, 10, 20, 12, 80, 40, 48])
    run = run_with(counts=(15, 10), log=log, batch_size=10, meta_start=4)  # 3 steps
    assert step_seconds([run]) == pytest.approx((4, 44 / 3))
    other = run_with(counts=(15, 10), log=lines([50, 6, 9], first=4), batch_size=10, meta_start=4)  # after --stage1
    assert step_seconds([run, other]) == pytest.approx((4, statistics.median([40, 48, 6, 9]) / 3))
    of_two = run_with(counts=(15, 10), log=log, batch_size=10, meta_start=4, summary={"global batch size": 20})
    assert step_seconds([of_two]) == pytest.approx((6, 22))


def test_seconds_that_are_not_known_are_not_guessed():
    log = lines([9, 9, 9])
    without = [{"epoch": e, "train_loss": 1.0} for e in range(3)]
    for silent in (without, [{**line, "seconds": None} for line in log], log[:1], []):
        assert step_seconds([run_with(log=silent, batch_size=10)]) == (None, None)
    assert step_seconds([run_with(log=log)]) == (None, None)  # the size of its batches is not known
    assert step_seconds([run_with(counts=(10,), log=log, batch_size=10, meta_images="train")]) == (None, None)
    assert step_seconds([run_with(counts=(10,), log=log, batch_size=10)]) == (None, 9)


def test_of_a_run_that_the_harness_recorded(tmp_path):
    with small_run(tmp_path, "--meta_start", 2, "--batch-size", 8, steps=lambda _: 2) as run:
        for epoch in run.epochs:
            for _ in run.watch(range(2), "x"):
                take_step(run)
            traces = {"trace_estimated": [1.0, 2.0], "trace_learned": [1.5, 1.0]}
            end_epoch(run, per_class=traces if epoch >= 2 else {}, stage2_from=2)
    (found,) = read_runs([tmp_path])
    assert moved([found]).change == [50, -50]
    seconds = [line["seconds"] / 5 for line in found.log]  # 40 images in batches of 8
    assert step_seconds([found]) == pytest.approx((seconds[1], statistics.median(seconds[3:])))
