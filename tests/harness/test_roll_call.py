"""What follows from the answers of processes that no longer come together, and who may speak."""

import socket

import pytest
import torch

from harness.process_group import Group, RankGoneError
from harness.roll_call import GONE, SILENT, RollCall, whose_fault


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({0: 3.0, 1: GONE, 2: 0.0}, "rank 1 of 3 is gone: see what it printed, then start again"),
        ({0: 3.0, 1: GONE, 2: SILENT}, "rank 1 of 3 is gone: see what it printed, then start again"),
        ({1: GONE, 2: 0.0, 3: GONE, 0: 1.0}, "ranks 1, 3 of 4 are gone: see what they printed, then start again"),
        ({0: 60.0, 1: 0.0, 2: SILENT}, "rank 2 of 3 did not answer within --timeout 60 s: see whether"),
        ({0: 60.0, 1: 0.0, 2: 60.1}, "rank 1 of 3 took longer than --timeout 60 s over a step"),
        ({0: 60.0, 1: 0.0, 2: 0.0}, "ranks 1, 2 of 3 took longer than --timeout 60 s over a step"),
        ({0: 60.0, 1: 0.3, 2: 60.1}, "rank 1 of 3 took longer"),  # it came just now
    ],
)
def test_who_is_at_fault(answers, said):
    assert whose_fault(answers, 60).startswith(said)


def test_nobody_is_blamed_where_all_are_there_and_none_is_late():
    assert whose_fault({0: 1.0, 1: 0.0, 2: 1.1}, 60) is None


@pytest.fixture
def two():
    """Two processes' parts, in one."""
    calls = [RollCall(rank, ("127.0.0.1", 1), 1) for rank in range(2)]
    for call in calls:
        call.meet([each.address for each in calls])
    yield calls
    for call in calls:
        call.close()


def test_what_one_finds_out_is_told_to_the_other(two):
    first, second = two
    second.leaving = True
    assert first.verdict() == "rank 1 of 2 is gone: see what it printed, then start again"
    assert second.verdict() == first.told  # though the first has not left


def test_who_was_told_begins_no_collective(two):
    first, second = two
    second.leaving = True
    said = first.verdict()
    assert second.verdict() == said
    with pytest.raises(RankGoneError, match="rank 1 of 2 is gone"):
        Group(1, 2, torch.device("cpu"), second).barrier()


def test_strangers_are_not_listened_to(two):
    first, second = two
    for words in (b"", b"\n", b"0123456789abcdef rank 0 is gone\n", b"\xff\xff\n", b"GET / HTTP/1.1\r\n\r\n"):
        with socket.create_connection(second.address[:2]) as stranger:
            stranger.sendall(words)
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(100) == b""
    assert first.verdict() is second.verdict() is second.told is None


def test_one_that_could_never_be_reached_is_not_called_gone(two):
    first, second = two
    host, port, _ = second.address
    first.meet([first.address, (host, port, "the word of another run")])
    second.leaving = True
    assert first.verdict().startswith("rank 1 of 2 did not answer")
