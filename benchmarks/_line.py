"""One connection of a load whose requests differ as it runs: prepared bytes out, the answer's bytes back."""

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple, cast

_END, _LENGTH = b"\r\n\r\n", b"content-length: "


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
