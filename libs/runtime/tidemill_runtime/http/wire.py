"""Connections whose clients ask the same again and again: read and written many at a time, by compiled code.

Such a connection is taken from the loop's transport while only one request is under way on it. From then on one call
reads all that have something and recognises their heads, one call refuses those for whom there is no time, and one
sends the answers of a tick. Whatever is not one whole request of a known head (parts, other heads, more than was asked
for, the end) goes back to the transport with the bytes that were read: what is unusual has one way only.
"""

import asyncio
import logging
import os
import platform
import select
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, Protocol

import numpy as np

from tidemill_runtime.http.heads import Head, Reply, Take
from tidemill_runtime.http.takers import Taker, Takers
from tidemill_runtime.http.together import Asked
from tidemill_runtime.http.wire_compiled import (
    BODY,
    COLUMNS,
    CONTEXT,
    DIGITS,
    EACH,
    EDGE,
    END,
    HEAD,
    MOST,
    OTHER,
    SOCKET,
    START,
    TRACE,
    Lines,
    drain,
    push,
    put_context,
    refuse,
)  # fmt: skip
from tidemill_runtime.known import Bytes, Ints

ROOM = 4096
"""Connections at a time; others stay with their transports."""
_WORDS = 3 if platform.machine() in {"x86_64", "AMD64"} else 4
"""32-bit words of a `struct epoll_event`, packed on x86-64 only."""
_log = logging.getLogger(__name__)


class Asking(Reply, Protocol):
    """A connection's protocol."""

    transport: Any
    waits: bool
    """Whether it waits for an answer."""

    def asked(self, take: Take, data: bytes, body: int, trace: str | None) -> None:
        """A whole request of a known head, and who takes it; its body begins at `body`."""

    def returned(self, data: bytes) -> None:
        """It is the transport's again; this was read and is not such a request (empty: it has ended or broken)."""

    def unsent(self, data: bytes) -> None:
        """It is the transport's again, which shall send this."""

    def refused(self, count: int) -> None:
        """So many requests of its server were refused."""


class Wire:
    """The connections of one server that are read together, by their descriptors."""

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._askers: dict[int, Asking] = {}
        self._takers = Takers()
        self._lines = Lines.of(256)
        self._events, self._rows = np.zeros((MOST, _WORDS), np.uint32), np.empty((ROOM, COLUMNS), np.int64)
        self._arena = np.empty(MOST * EACH, np.uint8)
        self._view = memoryview(self._arena)  # type: ignore[arg-type]  # numpy's arrays are buffers
        self._out: list[tuple[int, Asking, bytes]] = []
        self._waiting = 0
        self._is_reading = self._is_due = False
        self._warm_up()

    def _warm_up(self) -> None:
        """Compile, or load from the cache, before there is traffic."""
        drain(-1, self._events, (self._arena, self._rows), self._takers.table, self._lines)
        nothing, text = np.empty(0, np.int64), np.empty(CONTEXT, np.uint8)
        push(nothing, np.zeros(1, np.int64), np.frombuffer(b"", np.uint8), nothing)
        digits = np.zeros(DIGITS, np.uint8)
        put_context(text, 0, self._arena, -1, digits)
        refuse(self._rows[:0], self._arena, (text, 0), digits, nothing)

    def enter(self, asker: Asking, head: bytes, found: Head) -> int:
        """Take a connection on which a request of this head waits to be answered; its descriptor, or -1: it stays."""
        transport = asker.transport
        is_free = len(self._askers) < ROOM and not transport.is_closing() and not transport.get_write_buffer_size()
        if not is_free or found.take is None or not self._takers.learn(head, found.size, found.take):
            return -1
        descriptor: int = transport.get_extra_info("socket").fileno()
        transport.pause_reading()
        if self._epoll is None:
            self._epoll = select.epoll()
            asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._read)
        try:
            self._epoll.register(descriptor, EDGE)
        except OSError:  # the system watches as many as it may
            transport.resume_reading()
            return -1
        if descriptor >= len(self._lines.waits):
            self._lines = self._lines.grown(2 * descriptor)
        self._lines.waits[descriptor], self._lines.heard[descriptor] = True, -np.inf
        self._askers[descriptor] = asker
        self._waiting += 1
        return descriptor

    def heard_at(self, descriptor: int) -> float:
        """When a connection was refused last, by the loop's clock."""
        return float(self._lines.heard[descriptor])

    def leave(self, descriptor: int, *, waits: bool, is_lost: bool = False) -> None:
        """Give a connection back to its transport; `is_lost`: that has closed it."""
        if self._out and not is_lost:
            self._push()  # what it was answered goes before what its transport sends
            if descriptor not in self._askers:
                return  # that did not take all of it
        asker = self._askers.pop(descriptor)
        self._waiting -= waits
        if not is_lost:  # else the descriptor may be another's by now, and the kernel has forgotten this one
            assert self._epoll is not None  # noqa: S101 - it holds the descriptor
            self._epoll.unregister(descriptor)
            if not asker.transport.is_closing():
                asker.transport.resume_reading()
        if not self._askers and self._epoll is not None and not self._is_reading:
            self._close()

    def _close(self) -> None:
        """Nobody is here."""
        assert self._epoll is not None  # noqa: S101 - asked before
        asyncio.get_running_loop().remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._epoll = None

    def answer(self, descriptor: int, asker: Asking, raw: bytes) -> None:
        """Send what a request waits for, with others of the same tick."""
        self._waiting -= 1
        self._out.append((descriptor, asker, raw))
        if self._is_reading:
            return
        if not self._waiting:
            self._push()
        elif not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._push)

    def flush(self) -> None:
        """Send now what has come together: whoever answered it counts that as a part of answering."""
        if self._out and not self._is_reading:
            self._push()

    def _read(self) -> None:
        """The loop's call: somebody has something to say."""
        self.flush()
        if self._epoll is None:
            return  # the last one has left
        read = self._arena, self._rows
        count = drain(self._epoll.fileno(), self._events, read, self._takers.table, self._lines)
        self._is_reading = True
        try:
            self._tell_all(self._rows[:count])
        finally:
            self._is_reading = False
        self.flush()
        if not self._askers:
            self._close()

    def _tell_all(self, rows: Ints) -> None:
        """What was read goes to those who take it, or back to the transport.

        First all that come together: until they have been told no connection is closed, so that each descriptor still
        is whose it was.
        """
        tell, is_known = list[tuple[Asking, Callable[[], object]]](), rows[:, HEAD] != OTHER
        for taker, own in self._takers.apart(rows[is_known]):
            tell += self._offer(taker, own)
        for row in rows[~is_known].tolist():
            asker = self._askers.get(row[SOCKET])
            if asker is not None:
                self.leave(row[SOCKET], waits=asker.waits)
                tell.append((asker, partial(asker.returned, bytes(self._view[row[START] : row[END]]))))
        for asker, call in tell:
            self._tell(asker, call)

    def _offer(self, taker: Taker, rows: Ints) -> list[tuple[Asking, Callable[[], object]]]:
        """Requests that one takes; what is left to tell."""
        asked = Asked(self._arena, self._view, rows, self)
        left: Sequence[int] = range(len(rows))
        if taker.together is not None and len(rows) > 1:
            try:
                left = taker.together.together(asked)
            except Exception:  # noqa: BLE001 - see `_tell`
                _log.exception("requests that came together fail")
                return [(asker, asker.transport.abort) for asker in self._waiting_of(asked) if asker.waits]
        if not left:
            return []
        contexts, askers = asked.contexts(), self._waiting_of(asked)
        tell = list[tuple[Asking, Callable[[], object]]]()
        for place in left:
            row = asked.places[place]
            call = partial(askers[place].asked, taker.take, asked.data(place), row[BODY] - row[START], contexts[place])
            tell.append((askers[place], call))
        return tell

    def _waiting_of(self, asked: Asked) -> Sequence[Asking]:
        askers: Any = asked.replies  # who is here is an asker
        return askers  # type: ignore[no-any-return]

    def wait(self, rows: Ints) -> Sequence[Reply]:
        """See `together.Crowd`."""
        sockets = rows[:, SOCKET]
        askers = [self._askers[descriptor] for descriptor in sockets.tolist()]
        for asker in askers:
            asker.waits = True
        self._lines.waits[sockets] = True
        self._waiting += len(askers)
        return askers

    def refuse(self, rows: Ints, head: tuple[bytes, bytes], body: bytes) -> None:
        """See `together.Crowd`."""
        if not len(rows):
            return
        any_one = self._askers[int(rows[0, SOCKET])]
        before = b"HTTP/1.1 %b" % head[0]
        whole = b"%b%b%b%b" % (before, bytes(CONTEXT), head[1], any_one.refusal(body))
        text: Bytes = np.frombuffer(bytearray(whole), np.uint8)
        digits: Bytes = np.frombuffer(os.urandom(len(rows) * DIGITS // 2).hex().encode(), np.uint8)
        sent = np.empty(len(rows), np.int64)
        refuse(rows, self._arena, (text, len(before)), digits, sent)
        self._lines.heard[rows[:, SOCKET]] = asyncio.get_running_loop().time()
        any_one.refused(len(rows))
        for place in np.flatnonzero(sent < len(text)).tolist():
            put_context(text, len(before), self._arena, rows[place, TRACE], digits[place * DIGITS :])
            self._give_back(int(rows[place, SOCKET]), text[max(int(sent[place]), 0) :].tobytes())

    def _give_back(self, descriptor: int, unsent: bytes) -> None:
        """A connection whose socket does not take all that it is sent."""
        asker = self._askers[descriptor]
        self.leave(descriptor, waits=asker.waits)
        asker.unsent(unsent)

    @staticmethod
    def _tell(asker: Asking, tell: Callable[[], object]) -> None:
        try:
            tell()
        except Exception:  # noqa: BLE001 - a fault over one request must not reach those beside it
            _log.exception("a connection fails; those beside it go on")
            asker.transport.abort()

    def _push(self) -> None:
        """Send what has come together."""
        self._is_due, askers = False, self._askers
        out = [
            entry for entry in self._out if askers.get(entry[0]) is entry[1] and not entry[1].transport.is_closing()
        ]  # fmt: skip
        self._out = []
        if not out:
            return
        numbers, _, raws = zip(*out, strict=True)
        descriptors, sent = np.array(numbers, np.int64), np.empty(len(out), np.int64)
        bounds = np.fromiter(accumulate(map(len, raws), initial=0), np.int64, len(out) + 1)
        push(descriptors, bounds, np.frombuffer(b"".join(raws), np.uint8), sent)
        self._lines.waits[descriptors] = False
        for place in np.flatnonzero(sent < np.diff(bounds)).tolist():
            self._give_back(numbers[place], raws[place][max(int(sent[place]), 0) :])
