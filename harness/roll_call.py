"""Which of several processes is at fault when they no longer come together: each can be asked, also while it is busy.

A collective that fails does not say why: gloo closes all connections, whoever failed, and a process with work of its own is
as silent there as a dead one. So every process listens at an address of its own, and is asked only when something failed.
The connection to a dead one is refused by its kernel, however busy the others are. A stopped one takes it and says nothing.
A live one answers, by a thread, how long it has been waiting. Who knows the answer tells it to all before it leaves, so that
those who come later do not take the ones that left for the cause.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

GRACE = 5.0  # seconds for an answer, or less where --timeout is short
LONGEST = 100_000  # characters of a message
GONE, SILENT = "gone", "silent"
Answer = str | float  # GONE, SILENT, or for how many seconds a process has been waiting for the others
Address = tuple[str, int, str]  # host, port, and the word by which it knows its own run


class RollCall:
    """One process's part: its address, what it answers, and what it was told.

    Attributes
    ----------
    waiting_since:
        When the collective that it is in began; None between two.
    leaving:
        Whether it takes part no more.
    told:
        What is wrong, in the words of the first who found out.
    """

    def __init__(self, rank: int, master: tuple[str, int], timeout: float) -> None:
        self.rank, self.timeout, self.grace = rank, timeout, min(GRACE, timeout / 3)
        self.waiting_since: float | None = None
        self.leaving = False
        self.told: str | None = None
        self.addresses: list[Address | None] = []
        family, _, _, _, place = socket.getaddrinfo(*master, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as toward:
            toward.connect(place)  # sends nothing, but says by which of this machine's addresses the others see it
            host = toward.getsockname()[0]
        self._listener = socket.create_server((host, 0), family=family, backlog=1024)
        self.address = host, int(self._listener.getsockname()[1]), secrets.token_hex(8)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def meet(self, addresses: Sequence[Address]) -> None:
        """Take the addresses of all, in the order of the ranks; one that cannot be reached is never held to be gone."""
        self.addresses = list(addresses)
        answers = self._ask_all(self.timeout)
        self.addresses = [None if answers.get(rank) in (GONE, SILENT) else each for rank, each in enumerate(addresses)]

    def verdict(self) -> str | None:
        """Ask the others why a collective failed, and tell them; None if all wait and none came late."""
        # To ask this process itself, too, has its thread read first what others told it until now.
        self._ask(self.rank, self.grace)
        if self.told is None:
            answers = self._ask_all(self.grace)
            answers[self.rank] = self._ask(self.rank, self.grace)
            if self.told is None:
                self.told = whose_fault(answers, self.timeout)
                if self.told is not None:
                    self._ask_all(self.grace, self.told)
        return self.told

    def close(self) -> None:
        """Listen no more."""
        self._ask(self.rank, self.grace, "close")  # wakes the thread
        self._thread.join(self.grace)
        self._listener.close()

    def _ask_all(self, seconds: float, told: str = "") -> dict[int, Answer]:
        others = [rank for rank in range(len(self.addresses)) if rank != self.rank]
        with ThreadPoolExecutor(min(32, len(others) or 1)) as pool:
            return dict(zip(others, pool.map(lambda rank: self._ask(rank, seconds, told), others), strict=True))

    def _ask(self, rank: int, seconds: float, told: str = "") -> Answer:
        """Return the answer of a process; who only wants to tell it something does not wait for one."""
        address = self.address if rank == self.rank else self.addresses[rank]
        if address is None:
            return SILENT
        host, port, word = address
        try:
            with socket.create_connection((host, port), seconds) as connection:
                connection.sendall(f"{word} {told}\n".encode())
                if told:
                    return SILENT
                with connection.makefile(encoding="utf-8") as stream:
                    answered, _, answer = stream.readline(LONGEST).partition(" ")
            return float(answer) if answered == word and answer.strip() != GONE else GONE
        except (ConnectionError, ValueError):  # refused, or cut off before the answer; a number from a stranger
            return GONE
        except OSError:  # no answer in time, or no way there
            return SILENT

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, suppress(OSError, ValueError):  # who asked is gone, or is a stranger
                connection.settimeout(self.grace)
                with connection.makefile(encoding="utf-8") as stream:
                    word, _, told = stream.readline(LONGEST).rstrip("\n").partition(" ")
                if word != self.address[2]:
                    continue
                if told == "close":
                    return
                self.told = self.told or told or None
                connection.sendall(f"{word} {self._state()}\n".encode())

    def _state(self) -> Answer:
        if self.leaving:
            return GONE
        return 0.0 if self.waiting_since is None else time.monotonic() - self.waiting_since


def whose_fault(answers: Mapping[int, Answer], timeout: float) -> str | None:
    """Return what the answers of all processes say: who is gone, else who is silent, else who came too late."""
    gone, silent = ([rank for rank, answer in answers.items() if answer == kind] for kind in (GONE, SILENT))
    waited = {rank: answer for rank, answer in answers.items() if isinstance(answer, float)}
    if gone:
        verb, printed = ("is", "it") if len(gone) == 1 else ("are", "they")
        return f"{named(gone, len(answers))} {verb} gone: see what {printed} printed, then start again"
    if silent:
        stopped = "see whether the process is stopped or its machine cannot be reached"
        return f"{named(silent, len(answers))} did not answer within --timeout {timeout:g} s: {stopped}, then start again"
    if max(waited.values()) < 0.9 * timeout:  # nobody waited so long: the fault is another
        return None
    late = [rank for rank, seconds in waited.items() if seconds == min(waited.values())]
    late_by = f"took longer than --timeout {timeout:g} s over a step"
    return f"{named(late, len(answers))} {late_by}: find out why or raise it, then start again"


def named(ranks: Sequence[int], world_size: int) -> str:
    """Return the ranks in words."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, sorted(ranks)))} of {world_size}"
