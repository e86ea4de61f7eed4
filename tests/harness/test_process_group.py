"""What processes that talk over gloo exchange, and what happens when one is different or dies."""

import signal

import pytest
from support.places import ROOT
from support.ranks import begin, places, together
from support.runs import small_run

WORKER = f"""
import os, signal, sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "ImageNet_iNat")!r}, {str(ROOT / "tests")!r}]
from pathlib import Path
import torch
from harness import process_group
from harness.errors import UserError, run_main
from harness.evaluation import evaluate
from support.runs import ALONE, end_epoch, small_run, take_step

def own_mistake(group):
    if group.rank == 1:
        raise UserError("x.jpg is cut")
    group.all_gather(torch.ones(2, 3), [2] * group.world_size)

def differing(group):
    group.agree(lambda: group.rank, lambda rank: {{"--lr": 0.1 * (1 + rank)}})

def operations(group):
    parts = [torch.full((2, 3), float(group.rank)), torch.arange(4) + 10 * group.rank]
    group.broadcast(parts)
    assert torch.equal(parts[0], torch.zeros(2, 3)) and torch.equal(parts[1], torch.arange(4)), parts
    assert group.broadcast_object({{"rank": group.rank}}) == {{"rank": 0}}
    assert group.all_reduce(torch.ones(2) * group.rank).tolist() == [3, 3]
    rows = torch.full((group.rank, 2), group.rank)  # 0, 1 and 2 of them
    for sizes in (None, [0, 1, 2]):
        assert group.all_gather(rows, sizes).tolist() == [[1, 1], [2, 2], [2, 2]]
    seen = list(group.with_barriers(range(2 * group.rank), 4))
    assert seen == list(range(2 * group.rank)), seen
    assert group.all_gather_object(group.rank) == list(range(group.world_size))  # nobody is a round behind

def evaluation(group):  # of shares of any length
    for count in (7, 2):
        g = torch.Generator().manual_seed(count)
        logits, target = torch.randn(count, 6, generator=g), torch.randint(0, 6, (count,), generator=g)
        own = group.share(count)
        tested = evaluate(lambda x: x, zip(logits[own].split(1), target[own].split(1)), group)
        expected = evaluate(lambda x: x, [(logits, target)], ALONE)
        torch.testing.assert_close(tuple(tested), tuple(expected), rtol=1e-12, atol=0)

def gone_wrong(group):
    with small_run(Path("wrong"), group=group) as run:
        next(run.epochs)
        take_step(run, float("nan"))
        run.check()

def trouble(group):  # in the third of some steps each process does what its ACT says
    try:
        with small_run(Path("trouble"), group=group) as run:
            next(run.epochs)
            for step in range(4):
                group.all_gather_object(None)
                if step == 2:
                    exec(os.environ["ACT"])
                    began = time.monotonic()
                take_step(run)
    finally:
        Path(f"waited {{group.rank}}").write_text(str(time.monotonic() - began))

def finish(group):
    for _ in range(2):
        with small_run(Path("finished"), "--resume", "auto", group=group) as run:
            for _ in run.epochs:
                take_step(run)
                end_epoch(run)

def main():
    with process_group.process_group(None, True, None, float(os.environ.get("LIMIT", "60"))) as group:
        globals()[sys.argv[1]](group)

run_main(main)
"""


@pytest.fixture
def worker(tmp_path):
    """The worker's script."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    return script


@pytest.mark.parametrize(
    ("function", "first", "second"),
    [
        ("own_mistake", "another process is gone, is stopped or took longer", "worker.py: error: rank 1: x.jpg is cut\n"),
        ("differing", "worker.py: error: rank 1 has --lr 0.2, rank 0 has 0.1: start all with the same flags and data\n", ""),
        ("gone_wrong", "not finite in epoch 0, step 1; nothing was saved yet", ""),
    ],
)
def test_ranks_that_disagree_stop_and_one_line_says_in_what(start, worker, tmp_path, function, first, second):
    """So do those of which one or all make a mistake."""
    (status, _, err), (other, _, other_err) = together(start, 2, worker, function)
    assert (status, other) == (2, 2)
    assert first in err
    assert second in other_err
    assert not list(tmp_path.rglob("*.pth.tar"))


STOP, DIE = "os.kill(os.getpid(), signal.SIGSTOP)", "os._exit(7)"


@pytest.mark.parametrize(
    ("at_fault", "act", "limit"),
    [(0, STOP, 3), (2, STOP, 3), (0, "time.sleep(5)", 3), (1, "time.sleep(8)", 3), (0, DIE, 60), (1, DIE, 60)],
)
def test_all_notice_a_rank_at_fault_and_rank_0_saves(start, worker, tmp_path, at_fault, act, limit):
    """A rank that is stopped goes on when the others have ended, and hears of it."""
    ranks = begin(start, 3, worker, "trouble", each=[{"ACT": act * (k == at_fault)} for k in range(3)], LIMIT=str(limit))
    others = [k for k in range(3) if k != at_fault]
    errs = {k: ranks[k].communicate()[1] for k in others}
    if act == STOP:
        ranks[at_fault].send_signal(signal.SIGCONT)
    errs[at_fault] = ranks[at_fault].communicate()[1]
    assert "Traceback" not in str(errs)
    assert ranks[at_fault].returncode == (7 if act == DIE else 2), errs
    for k in others:
        assert ranks[k].returncode == 2, errs
        told = f"error: {f'rank {k}: ' if k else ''}another process is gone, is stopped or took longer than"
        end = f" --timeout {limit} s over a step: see what it printed, then start again with --resume auto\n"
        assert errs[k].endswith(told + end)  # PyTorch may warn before
        assert float((tmp_path / f"waited {k}").read_text()) < 2 * limit + 5
    if (at_fault, act) != (0, DIE):
        with small_run(tmp_path / "trouble", "--resume auto") as run:
            assert run.meter.steps == 3


@pytest.mark.parametrize(
    ("world", "ranks", "master"),
    [(2, [1], "127.0.0.1"), (3, [0, 0], "127.0.0.1"), (2, [0], "no.such.invalid")],
)
def test_processes_that_cannot_come_together_say_why(start, worker, world, ranks, master):
    common = {**places(world)[0], "LIMIT": "3", "MASTER_ADDR": master}
    processes = [start(worker, "operations", **{**common, "RANK": str(rank)}) for rank in ranks]
    for process in processes:
        assert "did not find each other within --timeout 3 s (" in process.communicate()[1].splitlines()[-1]
        assert process.returncode == 2


@pytest.mark.parametrize("function", ["operations", "evaluation"])
def test_what_processes_exchange_and_shares_of_any_length(start, worker, function):
    assert together(start, 3, worker, function) == [(0, "", "")] * 3


def test_all_processes_leave_a_finished_run(start, worker):
    (first, out, _), second = together(start, 2, worker, "finish")
    assert (first, *second) == (0, 0, "", "")
    assert out.endswith("worker.py: a is finished: see finished/a_summary.json\n")
