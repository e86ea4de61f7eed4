"""The same head from 1, 2 and 3 processes that talk over gloo, and what happens when one is different or dies."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT

from process_group import Group, disagreement, shard_sizes

STEPS, CLASSES, SIZE = 20, 9, 12
WORKER = f"""
import os, sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "ImageNet_iNat")!r}]
import torch
from errors import run_main
from head_step import head_step
from loss import EstimatorCV, MetaSAugCE
from process_group import process_group

CLASSES, SIZE, STEPS = {CLASSES}, {SIZE}, {STEPS}

def sizes_of(count, world, t):  # uneven shards, now and then an empty one
    if world == 1:
        return [count]
    first = [0, count // 2, 2 * count // 3, 1][t % 4]
    return [first, count - first] if world == 2 else [first, (count - first) // 3, count - first - (count - first) // 3]

def train(group, dtype, together):
    torch.set_default_dtype(dtype)
    g = torch.Generator().manual_seed(7)
    def draw(count, classes):
        z = torch.randn(count, SIZE, generator=g, dtype=torch.float64).abs().to(dtype)
        return z, torch.randint(0, classes, (count,), generator=g).sort().values  # sorted: classes absent on a rank
    head = torch.nn.Linear(SIZE, CLASSES)
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64).to(dtype))
    counts = [200 // (c + 1) for c in range(CLASSES)]
    criterion, estimator = MetaSAugCE(counts), EstimatorCV(SIZE, CLASSES, diagonal=True)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    losses = []
    for t in range(STEPS):
        batches = []
        for whole in (draw(11 + t % 3, CLASSES - 1), draw(7, CLASSES)):
            sizes = sizes_of(len(whole[1]), group.world, t)
            assert sum(sizes) == len(whole[1]) and len(sizes) == group.world, sizes
            start = sum(sizes[: group.rank])
            part = tuple(x[start : start + sizes[group.rank]] for x in whole)
            batches.append(tuple(group.gather(x, sizes) for x in part) if together else part)
        if not together and 0 in (len(batches[0][1]), len(batches[1][1])):
            continue  # a rank of its own has nothing to learn from
        result = head_step(head, criterion, estimator, optimizer, *batches, ratio=t / STEPS, virtual_lr=0.05, meta_lr=0.3)
        losses += [result.loss_virtual, result.loss_meta, result.loss]
    return {{"weight": head.weight.detach(), "bias": head.bias.detach(), "losses": torch.stack(losses),
            "covariance": estimator.covariance, "mean": estimator.mean, "count": estimator.count}}

def parity(group):
    torch.set_num_threads(1)
    out = {{f"{{dtype}}, together {{together}}": train(group, dtype, together)
           for dtype in (torch.float64, torch.float32) for together in (True, False)}}
    torch.save(out, f"outcome_{{group.world}}_{{group.rank}}.pt")

def death(group):
    group.gather(torch.ones(2, 3), [2] * group.world)
    print("ready", flush=True)
    if group.rank == 1:
        os._exit(7)
    group.gather(torch.ones(2, 3), [2] * group.world)

def own_mistake(group):
    from errors import UserError
    if group.rank == 1:
        raise UserError("x.jpg is cut")
    group.gather(torch.ones(2, 3), [2] * group.world)

def spread(group):
    parts = [torch.full((2, 3), float(group.rank)), torch.arange(4) + 10 * group.rank]
    group.spread(parts)
    assert torch.equal(parts[0], torch.zeros(2, 3)) and torch.equal(parts[1], torch.arange(4)), parts

def in_step(group):
    seen = list(group.in_step(range(2 * group.rank), 4))
    assert seen == list(range(2 * group.rank)), seen
    assert group.objects(group.rank) == list(range(group.world))  # nobody is a round behind

def differing(group):
    group.agree(lambda: group.rank, lambda rank: {{"--lr": 0.1 * (1 + rank)}})

def main():
    with process_group(None, True, None, float(os.environ.get("LIMIT", "60"))) as group:
        globals()[sys.argv[1]](group)

run_main(main)
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def launch(tmp_path):
    """Run the worker's function on `world` processes at once; return (status, stdout, stderr) of each."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)

    def call(function, world, ranks=None, **variables):
        base = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
        processes = [
            subprocess.Popen(
                [sys.executable, script, function], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env={**base, "RANK": str(r), "LOCAL_RANK": str(r), "OMP_NUM_THREADS": "1", **variables},
            )
            for r in (range(world) if ranks is None else ranks)
        ]  # fmt: skip
        outs = [p.communicate(timeout=120) for p in processes]
        return [(p.returncode, *out) for p, out in zip(processes, outs, strict=True)]

    return call


def relative(ours, expected):
    return float((ours - expected).norm() / expected.norm())


def test_heads_statistics_and_losses_do_not_depend_on_the_number_of_processes(launch, tmp_path):
    outcomes = {}
    for world in (1, 2, 3):
        for status, _, err in launch("parity", world):
            assert status == 0, err
        outcomes[world] = [torch.load(tmp_path / f"outcome_{world}_{r}.pt", weights_only=True) for r in range(world)]
    for dtype, tolerance in (("torch.float64", 1e-10), ("torch.float32", 1e-5)):
        expected = outcomes[1][0][f"{dtype}, together True"]
        assert int(expected["count"].sum()) > 200
        for world in (2, 3):
            for outcome in outcomes[world]:
                for key, value in expected.items():
                    assert relative(outcome[f"{dtype}, together True"][key], value) <= tolerance, (world, key)
            # The control: each rank with its own batch, statistics and weights.
            alone = [outcome[f"{dtype}, together False"] for outcome in outcomes[world]]
            for key in ("weight", "covariance", "mean", "count"):
                assert all(relative(outcome[key], expected[key]) > 1e-3 for outcome in alone), (world, key)
                assert not torch.equal(alone[0][key], alone[1][key])


def test_a_rank_that_dies_is_named_and_the_others_stop_in_time(launch):
    start = time.monotonic()
    (status, _, err), (dead, _, _) = launch("death", 2)
    assert dead == 7
    assert status == 2
    assert "rank 1 of 2 is gone" in err
    assert len(err.strip().splitlines()) == 1, err
    assert time.monotonic() - start < 60


def test_a_mistake_of_one_rank_stops_the_others_which_name_it(launch):
    (first, _, first_err), (second, _, second_err) = launch("own_mistake", 2)
    assert (first, second) == (2, 2)
    assert second_err.strip() == "worker.py: error: rank 1: x.jpg is cut"
    assert "rank 1 of 2 is gone" in first_err


def test_ranks_that_disagree_stop_and_one_line_says_in_what(launch):
    (first, _, first_err), (second, _, second_err) = launch("differing", 2)
    assert (first, second) == (2, 2)
    assert first_err.strip() == (
        "worker.py: error: rank 1 has --lr 0.2, rank 0 has 0.1: start all with the same flags and data"
    )
    assert second_err == ""


def test_a_process_that_waits_in_vain_says_so(launch):
    ((status, _, err),) = launch("parity", 2, ranks=[1], LIMIT="3")
    assert status == 2
    assert "did not find each other within 3 s" in err


def test_shares_cover_everything_once():
    device = torch.device("cpu")
    for count in range(12):
        for world in range(1, 6):
            groups = [Group(rank, world, device) for rank in range(world)]
            rows = [i for group in groups for i in range(count)[group.share(count)]]
            assert rows == list(range(count))
            assert shard_sizes(count, world) == [len(range(count)[group.share(count)]) for group in groups]
            assert max(shard_sizes(count, world)) - min(shard_sizes(count, world)) <= 1


def test_the_first_mistake_and_the_first_difference_are_said():
    assert disagreement([(None, {"a": "1"}), (None, {"a": "1"})]) is None
    assert disagreement([("x", {}), ("x", {})]) == "x"
    assert disagreement([(None, {"a": "1"}), ("x", {})]) == "rank 1: x"
    assert "rank 2 has a 3, rank 0 has 1" in disagreement([(None, {"a": "1"}), (None, {"a": "1"}), (None, {"a": "3"})])


def test_one_process_needs_no_launcher_and_no_network():
    group = Group(0, 1, torch.device("cpu"))
    rows = torch.arange(6).view(3, 2)
    assert group.gather(rows, [3]) is rows
    assert group.total(rows) is rows
    assert group.objects("a") == ["a"]
    assert group.agree(lambda: 5, lambda _: {}) == 5
    assert json.dumps(group.main) == "true"


@pytest.mark.parametrize("function", ["spread", "in_step"])
def test_values_are_spread_and_shares_of_any_length_are_taken_in_step(launch, function):
    for status, _, err in launch(function, 3):
        assert status == 0, err
