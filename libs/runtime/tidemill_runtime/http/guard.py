"""Connections are bounded in number and in patience, so that who holds many of them harms nobody else.

A head must end, a body must come and an answer must be read in time. When there are as many connections as may be,
those that never asked for anything make room, then those that have been silent for longest; nobody who is being
answered is cut off for a newcomer. All of it is found out by looking at the connections once in a while: a request
pays nothing for it.

Who sent nothing is told nothing: a 408 would be taken for the answer to a request that is on its way, where a
connection that closes makes a client send it again. Nobody is closed while something of his lies here unread.
"""

import asyncio
import fcntl
import logging
import resource
import termios
from collections.abc import Collection
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LONGEST_HEAD = 64 * 1024
"""Bytes, beyond those that came with its first ones."""
SWEEP_S = 1.0
RESERVED_FILES = 256
"""Of those that this process may open: for Kafka, the log, models."""
SHARE = 20
"""When room is made, for one in so many at once: looking for it costs as much for one."""
BARREN_S = 0.05
"""Where no room was found, it is not looked for again for so long."""
TOLD_EVERY_S = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Connections at a time, and seconds for a head, for a whole request, and for reading an answer."""

    connections: int = 10_000
    head_s: float = 10.0
    whole_s: float = 75.0
    answer_s: float = 30.0

    def affordable(self) -> "Bounds":
        """With no more connections than this process may open files for."""
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if most == resource.RLIM_INFINITY:
            return self
        room = max(16, most - RESERVED_FILES)
        return Bounds(
            connections=min(self.connections, room), head_s=self.head_s, whole_s=self.whole_s, answer_s=self.answer_s
        )


class Connection(Protocol):
    """What the guard asks a connection."""

    @property
    def has_asked(self) -> bool:
        """Whether a head of a request has ever come to its end."""

    def idle_s(self, now: float) -> float | None:
        """For how long nothing has happened here, by the loop's clock; None while something of a request is here."""

    def overdue(self, now: float, bounds: Bounds) -> HTTPStatus | None:
        """What it is closed with if its time is up."""

    def dismiss(self, status: HTTPStatus) -> bool:
        """Say so and close; False: something has come meanwhile, and it stays."""


class Guard:
    """Looks after the connections of one server."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = (bounds or Bounds()).affordable()
        self.refused = self.shed = self.timed_out = 0
        self._sweeping: asyncio.TimerHandle | None = None
        self._told_at = self._barren_until = -1.0

    def admit(
        self, loop: asyncio.AbstractEventLoop, connections: Collection[Connection], newest: Connection
    ) -> bool:  # fmt: skip
        """Whether there is room for the newest of the connections; others may have been closed for it."""
        if self._sweeping is None:
            self._sweeping = loop.call_later(SWEEP_S, self._sweep, loop, connections)
        if len(connections) <= self.bounds.connections:
            return True
        now = loop.time()
        if now < self._barren_until or not (found := self._oldest(now, connections, newest)):
            self.refused += 1
            self._barren_until = max(self._barren_until, now + BARREN_S)
            return False
        closed = sum(connection.dismiss(HTTPStatus.REQUEST_TIMEOUT) for connection in found)
        self.shed += closed
        if now - self._told_at > TOLD_EVERY_S:
            self._told_at = now
            _log.warning("more than %d connections: %d idle ones were closed", self.bounds.connections, closed)
        return True

    def _oldest(self, now: float, connections: Collection[Connection], newest: Connection) -> list[Connection]:
        """Those to close for newcomers."""
        silent = [(found, found.idle_s(now)) for found in connections if found is not newest]
        idle = [(found.has_asked, -seconds, found) for found, seconds in silent if seconds is not None]
        idle.sort(key=lambda entry: entry[:2])
        return [found for _, _, found in idle[: max(1, self.bounds.connections // SHARE)]]

    def _sweep(self, loop: asyncio.AbstractEventLoop, connections: Collection[Connection]) -> None:
        now = loop.time()
        for found in list(connections):
            if (status := found.overdue(now, self.bounds)) is not None:
                self.timed_out += found.dismiss(status)
        self._sweeping = loop.call_later(SWEEP_S, self._sweep, loop, connections) if connections else None


def has_unread(transport: asyncio.BaseTransport) -> bool:
    """Whether bytes have arrived that nobody has read."""
    nothing = bytes(4)
    try:
        return fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, nothing) != nothing
    except (OSError, ValueError):  # closed meanwhile
        return False


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol under a guard."""

    guard: Guard

    def __init__(self, *args: Any, **settings: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*args, **settings)
        self._is_midway = self._is_in_head = self._has_asked = False
        self._head_bytes = 0
        self._opened_at = self._began_at = self._heard_at = self.loop.time()
        self._paused_at: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """The loop's call."""
        super().connection_made(transport)
        others: Any = self.connections
        if not self.guard.admit(self.loop, others, self):
            self.dismiss(HTTPStatus.SERVICE_UNAVAILABLE)

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        cycle: Any = self.cycle  # None before uvicorn's first
        return bool(self.pipeline) or not (cycle is None or cycle.response_complete)

    def idle_s(self, now: float) -> float | None:
        """See `Connection`."""
        is_here = self._is_midway or self.is_busy or self._paused_at is not None or self.transport.is_closing()
        return None if is_here else now - self._heard_at

    def overdue(self, now: float, bounds: Bounds) -> HTTPStatus | None:
        """See `Connection`. A connection that has been answered once is uvicorn's to close when it is idle."""
        if self._paused_at is not None:
            late = now - self._paused_at > bounds.answer_s
        elif self._is_midway:
            late = now - self._began_at > (bounds.head_s if self._is_in_head else bounds.whole_s)
        else:
            late = not self.is_busy and not self.has_asked and now - self._opened_at > bounds.head_s
        return HTTPStatus.REQUEST_TIMEOUT if late else None

    @property
    def has_asked(self) -> bool:
        """Whether a head of a request has ever come to its end."""
        return self._has_asked

    def dismiss(self, status: HTTPStatus) -> bool:
        """See `Connection`; who does not read is cut off."""
        if self.transport.is_closing():
            return True
        if self._paused_at is not None or self.is_busy:
            self.transport.abort()
            return True
        if status is HTTPStatus.REQUEST_TIMEOUT and not self._is_midway:
            if has_unread(self.transport):
                return False
            self.transport.close()
            return True
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-length: 0\r\nconnection: close\r\n"
        again = "retry-after: 1\r\n" if status is HTTPStatus.SERVICE_UNAVAILABLE else ""
        self.transport.write(f"{head}{again}\r\n".encode())
        self.transport.close()
        return True

    def timeout_keep_alive_handler(self) -> None:
        """The call of uvicorn's timer; what has come is read next, and sets it anew."""
        if not has_unread(self.transport):
            super().timeout_keep_alive_handler()

    def data_received(self, data: bytes) -> None:
        """The loop's call."""
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > LONGEST_HEAD:
                self._is_in_head = self._is_midway = False
                self.dismiss(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if not self.transport.is_closing():
            super().data_received(data)

    def on_message_begin(self) -> None:
        """The parser's call."""
        self._is_midway = self._is_in_head = True
        self._head_bytes, self._began_at = 0, self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The parser's call."""
        self._is_in_head, self._has_asked = False, True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The parser's call."""
        super().on_message_complete()
        self._is_midway = False

    def on_response_complete(self) -> None:
        """The call of uvicorn."""
        self._heard_at = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The loop's call: the client does not read."""
        self._paused_at = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """The loop's call: the client reads again."""
        self._paused_at = None
        super().resume_writing()


def guarded_protocol(guard: Guard) -> type[HttpToolsProtocol]:
    """The protocol class of one server without a shorter way."""
    return type("BoundGuardedProtocol", (GuardedProtocol,), {"guard": guard})
