"""A load that is never the bottleneck: prepared requests over raw connections, answers kept as bytes, read afterwards.

Closed loop: every connection asks again as soon as it has its answer. Open loop: each request is due at its time and
its latency counts from there, whatever became of those before it, so that a stall counts for all who waited in it.
"""

import asyncio
import gc
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast
from urllib.parse import urlsplit

_END, _LENGTH = b"\r\n\r\n", b"content-length: "
TICK_S = 0.0005


class Answer(NamedTuple):
    """Number of the request in its list, seconds from its due time to its end, and the whole HTTP answer."""

    number: int
    seconds: float
    raw: bytes

    @property
    def status(self) -> int:
        """0 where the connection broke."""
        return int(self.raw[9:12]) if self.raw else 0

    @property
    def body(self) -> bytes:
        """Without the head."""
        return self.raw[self.raw.find(_END) + len(_END) :]


class Line(asyncio.Protocol):
    """One connection with at most one request under way."""

    __slots__ = ("_answered", "_buffer", "_due", "_number", "_transport", "_whole", "is_open")

    def __init__(self, answered: Callable[["Line", Answer], None]) -> None:
        self._answered = answered
        self._buffer, self._whole = b"", 0
        self._number, self._due = -1, 0.0
        self._transport: asyncio.Transport | None = None
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The loop's call."""
        self._transport, self.is_open = cast("asyncio.Transport", transport), True

    def ask(self, number: int, request: bytes, due: float) -> None:
        """Send a request."""
        self._number, self._due = number, due
        assert self._transport is not None
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """The loop's call."""
        if self._buffer:
            data = self._buffer + data
        if not self._whole:
            end = data.find(_END)
            if end >= 0:
                at = data.find(_LENGTH, 0, end)
                self._whole = end + len(_END) + int(data[at + len(_LENGTH) : data.index(b"\r", at)])
        if not self._whole or len(data) < self._whole:
            self._buffer = data
            return
        self._buffer, self._whole = b"", 0
        self._answered(self, Answer(self._number, time.perf_counter() - self._due, data))

    def connection_lost(self, _error: Exception | None) -> None:
        """The loop's call: a request under way is answered with nothing."""
        was, self.is_open = self.is_open, False
        if was and self._number >= 0:
            self._answered(self, Answer(self._number, time.perf_counter() - self._due, b""))

    def close(self) -> None:
        """Hang up; nothing is under way."""
        self.is_open = False
        if self._transport is not None:
            self._transport.close()


class Rush:
    """What came of a load: the answers in the order of their coming, and the seconds that it took."""

    def __init__(self, url: str, requests: Sequence[bytes]) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._requests = requests
        self.answers: list[Answer] = []
        self.seconds = 0.0
        self._next = 0

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return sum(answer.raw[9:12] == b"200" for answer in self.answers) / self.seconds

    def latencies(self) -> list[float]:
        """Seconds of the good answers."""
        return [answer.seconds for answer in self.answers if answer.raw[9:12] == b"200"]

    async def closed(self, connections: int, seconds: float) -> "Rush":
        """Ask over all connections for some time."""
        started = time.perf_counter()
        end, busy, done = started + seconds, 0, asyncio.Event()

        def answered(line: Line, answer: Answer) -> None:
            nonlocal busy
            self.answers.append(answer)
            now = time.perf_counter()
            if now < end and line.is_open:
                line.ask(*self._take(), now)
                return
            busy -= 1
            if not busy:
                done.set()

        lines = await self._connect(connections, answered)
        gc.disable()
        busy = len(lines)
        for line in lines:
            line.ask(*self._take(), time.perf_counter())
        await done.wait()
        return self._finish(started, lines)

    async def open(self, connections: int, rate: float, seconds: float) -> "Rush":
        """Each request at its time; those that find no idle connection wait for one, and their latency grows."""
        idle: deque[Line] = deque()
        waiting: deque[float] = deque()
        count, done = int(rate * seconds), asyncio.Event()

        def answered(line: Line, answer: Answer) -> None:
            self.answers.append(answer)
            if waiting and line.is_open:
                line.ask(*self._take(), waiting.popleft())
            elif line.is_open:
                idle.append(line)
            if len(self.answers) == count:
                done.set()

        lines = await self._connect(connections, answered)
        idle.extend(lines)
        gc.disable()
        started, sent = time.perf_counter(), 0
        while sent < count:
            due = min(count, int((time.perf_counter() - started) * rate) + 1)
            for number in range(sent, due):
                if idle:
                    idle.popleft().ask(*self._take(), started + number / rate)
                else:
                    waiting.append(started + number / rate)
            sent = max(sent, due)
            await asyncio.sleep(TICK_S)
        await done.wait()
        return self._finish(started, lines)

    def _take(self) -> tuple[int, bytes]:
        number = self._next
        self._next = number + 1 if number + 1 < len(self._requests) else 0
        return number, self._requests[number]

    async def _connect(self, count: int, answered: Callable[[Line, Answer], None]) -> list[Line]:
        loop = asyncio.get_running_loop()
        made = []
        for _ in range(count):
            _, line = await loop.create_connection(lambda: Line(answered), self._host, self._port)
            made.append(line)
        return made

    def _finish(self, started: float, lines: list[Line]) -> "Rush":
        self.seconds = time.perf_counter() - started
        gc.enable()
        for line in lines:
            line.close()
        return self
