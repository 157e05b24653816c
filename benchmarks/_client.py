"""A bare HTTP/1.1 client on the event loop: preformatted requests, one at a time per connection.

It shares the machine with what it measures, so it does nothing that is not needed: no parsing beyond the status line
and the length, no objects per header, bodies kept as bytes.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast
from urllib.parse import urlsplit

_END = b"\r\n\r\n"
_LENGTH = b"content-length: "


class Sample(NamedTuple):
    """One answer: number of the request, intended and real time of sending, time of the answer (monotonic seconds)."""

    number: int
    due: float
    sent: float
    done: float
    status: int
    body: bytes


def post(url: str, body: bytes, *, content_type: str = "application/json") -> bytes:
    """The bytes of a request."""
    parts = urlsplit(url)
    head = (
        f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: {content_type}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection(asyncio.Protocol):
    """One connection; `ask` again only after the answer. A connection that breaks answers with status 0."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._missing = -1
        self._answered: Callable[[int, bytes], None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The loop's call."""
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, request: bytes, answered: Callable[[int, bytes], None]) -> None:
        """Send the request; `answered` is called with status and body."""
        self._answered = answered
        assert self._transport is not None
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """The loop's call."""
        self._parts.append(data)
        if self._missing < 0:
            joined = b"".join(self._parts)
            end = joined.find(_END)
            if end < 0:
                return
            self._parts = [joined]
            self._missing = end + len(_END) + _length(joined[:end]) - len(joined)
        else:
            self._missing -= len(data)
        if self._missing <= 0:
            whole = b"".join(self._parts)
            self._parts, self._missing = [], -1
            self._finish(int(whole[9:12]), whole[whole.find(_END) + len(_END) :])

    def connection_lost(self, _error: Exception | None) -> None:
        """The loop's call."""
        self._finish(0, b"connection lost")

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def _finish(self, status: int, body: bytes) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(status, body)


def _length(head: bytes) -> int:
    at = head.lower().find(_LENGTH)
    return int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0


async def connect(url: str, count: int) -> list[Connection]:
    """Open connections to the server of a URL."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(Connection, parts.hostname or "", parts.port or 80) for _ in range(count)]
    return [protocol for _, protocol in made]


async def ask(connection: Connection, request: bytes) -> tuple[int, bytes]:
    """One request by itself."""
    done: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
    connection.ask(request, lambda status, body: done.set_result((status, body)))
    return await done


class Load:
    """Sends requests and keeps the samples. With a rate each is due at its time whatever became of those before it."""

    def __init__(
        self,
        connections: Sequence[Connection],
        requests: Sequence[bytes],
        *,
        rate: float | None = None,
        told: Callable[[Sample], None] | None = None,
    ) -> None:
        """`rate` is requests per second, counted from `run`; None sends the next as soon as a connection is free."""
        self.samples: list[Sample] = []
        self._idle, self._requests, self._rate, self._told = deque(connections), requests, rate, told
        self._queue: deque[tuple[int, float]] = deque()
        self._complete = asyncio.Event()

    async def run(self) -> list[Sample]:
        """Send everything and wait for all answers."""
        start, sent = time.monotonic(), 0
        while sent < len(self._requests):
            due = len(self._requests) if self._rate is None else int((time.monotonic() - start) * self._rate) + 1
            for number in range(sent, min(due, len(self._requests))):
                self._queue.append((number, start if self._rate is None else start + number / self._rate))
            sent = max(sent, min(due, len(self._requests)))
            self._drain()
            # Not every millisecond where less is due: that took a twentieth of a core from what is measured.
            rest = 0.0 if self._rate is None else start + sent / self._rate - time.monotonic()
            await asyncio.sleep(max(0.001, rest))
        await self._complete.wait()
        return self.samples

    def _drain(self) -> None:
        while self._queue and self._idle:
            number, due = self._queue.popleft()
            self._send(self._idle.popleft(), number, due)

    def _send(self, connection: Connection, number: int, due: float) -> None:
        sent = time.monotonic()

        def answered(status: int, body: bytes) -> None:
            sample = Sample(number, sent if self._rate is None else due, sent, time.monotonic(), status, body)
            self.samples.append(sample)
            self._idle.append(connection)
            if self._told is not None:
                self._told(sample)
            if len(self.samples) == len(self._requests):
                self._complete.set()
            self._drain()

        connection.ask(self._requests[number], answered)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of all values lie, by the nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]
