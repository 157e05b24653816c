"""A load that is never the bottleneck: prepared requests over raw connections, answers kept as bytes, read afterwards.

Closed loop: every connection asks again as soon as it has its answer. Open loop: each request is due at its time and
its latency counts from there, whatever became of those before it, so that a stall counts for all who waited in it.
"""

import asyncio
import select
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from urllib.parse import urlsplit

import numpy as np
from _line import Answer
from _rush_loop import (
    ASKED,
    END,
    FREE,
    FULL,
    LEAST_ROOM,
    NS,
    NUMBER,
    OPEN,
    ROOM,
    SILENT,
    START,
    TAKEN,
    TOLD,
    WORDS,
    Kept,
    Lines,
    drive,
    listen,
)

GREETED = 2000
"""Connections per second that ask for the first time."""
ANSWERS, ARENA = 2_000_000, 2 << 30
"""The most answers of one load, and their bytes; memory is taken only as it fills."""


class Rush:
    """What came of a load: the answers in the order of their coming, and the seconds that it took.

    `first` are those of the first request of each connection, which are sent slowly and do not count.
    """

    def __init__(self, url: str, requests: Sequence[bytes]) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "", parts.port or 80
        self._requests = np.frombuffer(b"".join(requests), dtype=np.uint8)
        self._bounds = np.concatenate([[0], np.cumsum([len(each) for each in requests])])
        self.first: list[Answer] = []
        self.answers: list[Answer] = []
        self.seconds = 0.0

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return sum(answer.raw[9:12] == b"200" for answer in self.answers) / self.seconds

    def latencies(self) -> list[float]:
        """Seconds of the good answers."""
        return [answer.seconds for answer in self.answers if answer.raw[9:12] == b"200"]

    async def closed(self, connections: int, seconds: float) -> "Rush":
        """Ask over all connections for some time."""
        return await asyncio.to_thread(self._run, connections, 0.0, seconds)

    async def open(
        self, connections: int, rate: float, seconds: float, *, begins: Callable[[], None] = lambda: None
    ) -> "Rush":
        """Each request at its time; those that find no idle connection wait for one, and their latency grows.

        `begins` is called, in another thread, when what counts begins.
        """
        return await asyncio.to_thread(self._run, connections, rate, seconds, begins)

    def _run(self, connections: int, rate: float, seconds: float, begins: Callable[[], None] = lambda: None) -> "Rush":
        with ExitStack() as opened:
            sockets = [opened.enter_context(connected(self._address)) for _ in range(connections)]
            events = opened.enter_context(select.epoll())
            lines = self._lines(events.fileno(), sockets)
            listen(lines)
            # Each has asked once before it counts: what a server does for a new connection is another measurement.
            self.first, _ = self._drive(lines, float(GREETED), connections / GREETED, in_turn=True)
            begins()
            self.answers, self.seconds = self._drive(lines, float(rate), float(seconds), in_turn=False)
        return self

    def _drive(self, lines: Lines, rate: float, seconds: float, *, in_turn: bool) -> tuple[list[Answer], float]:
        kept = Kept(
            np.empty(ARENA, dtype=np.uint8),
            np.empty((ANSWERS, 5), dtype=np.int64),
            np.zeros(4, dtype=np.int64),
            np.arange(len(lines.fds)),
        )
        kept.counters[FREE] = len(lines.fds)
        state, took = drive(lines, kept, rate, seconds, int(in_turn))
        assert state != FULL, f"more than {ANSWERS:,} answers or {ARENA:,} bytes"
        assert state != SILENT, "some requests were never answered"
        rows = kept.table[: kept.counters[TOLD], [NUMBER, TAKEN, START, END]].tolist()
        arena = kept.arena
        return [Answer(number, taken / NS, arena[start:end].tobytes()) for number, taken, start, end in rows], took / NS

    def _lines(self, epoll: int, sockets: Sequence[socket.socket]) -> Lines:
        states = np.zeros((len(sockets), 6), dtype=np.int64)
        states[:, ASKED], states[:, OPEN] = -1, 1
        return Lines(
            epoll=epoll,
            fds=np.array([each.fileno() for each in sockets]),
            states=states,
            buffers=np.empty((len(sockets), max(LEAST_ROOM, ROOM // len(sockets))), dtype=np.uint8),
            requests=self._requests,
            bounds=self._bounds,
            event=np.zeros(WORDS, dtype=np.uint32),
        )


def connected(address: tuple[str, int]) -> socket.socket:
    """A connection that never blocks."""
    line = socket.create_connection(address)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line.setblocking(False)  # noqa: FBT003 - the name says what is set
    return line
