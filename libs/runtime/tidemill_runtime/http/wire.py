"""Connections whose clients ask the same again and again: read and written many at a time, by compiled code.

Such a connection is taken from the loop's transport while only one request is under way on it. From then on one call
reads all that have something and recognises their heads, and one call sends the answers of a tick. Whatever is not one
whole request of a known head (parts, other heads, more than was asked for, the end) goes back to the transport with the
bytes that were read: what is unusual has one way only.
"""

import asyncio
import logging
import platform
import select
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, Protocol

import numpy as np

from tidemill_runtime.http.heads import Asked, Head, Reply, Take, Together
from tidemill_runtime.http.wire_compiled import COLUMNS, EACH, EDGE, MOST, SOCKET, drain, push
from tidemill_runtime.known import Known

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


class Wire:
    """The connections of one server that are read together, by their descriptors."""

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._askers: dict[int, Asking] = {}
        self._known = Known[Take]()
        self._events, self._rows = np.zeros((MOST, _WORDS), np.uint32), np.empty((MOST, COLUMNS), np.int64)
        self._arena = np.empty(MOST * EACH, np.uint8)
        self._view = memoryview(self._arena)  # type: ignore[arg-type]  # numpy's arrays are buffers
        self._out: list[tuple[int, Asking, bytes]] = []
        self._waiting = 0
        self._is_reading = self._is_due = False
        self._warm_up()

    def _warm_up(self) -> None:
        """Compile, or load from the cache, before there is traffic."""
        drain(-1, self._events, self._arena, self._rows, self._known.table)
        nothing = np.empty(0, np.int64)
        push(nothing, np.zeros(1, np.int64), np.frombuffer(b"", np.uint8), nothing)

    def enter(self, asker: Asking, head: bytes, found: Head) -> int:
        """Take a connection on which a request of this head waits to be answered; its descriptor, or -1: it stays."""
        transport = asker.transport
        is_free = len(self._askers) < ROOM and not transport.is_closing() and not transport.get_write_buffer_size()
        if not is_free or found.take is None or not self._known.learn(head, found.size, found.take):
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
        self._askers[descriptor] = asker
        self._waiting += 1
        return descriptor

    def leave(self, descriptor: int, *, waits: bool, is_lost: bool = False) -> None:
        """Give a connection back to its transport; `is_lost`: that has closed it."""
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
        assert self._epoll is not None  # noqa: S101 - the loop watches it
        count = drain(self._epoll.fileno(), self._events, self._arena, self._rows, self._known.table)
        self._is_reading = True
        try:
            self._tell_all(self._rows[:count].tolist())
        finally:
            self._is_reading = False
        if self._out and not self._is_due:
            self._push()
        if not self._askers:
            self._close()

    def _tell_all(self, rows: list[list[int]]) -> None:
        """What was read goes to those who take it, or back to the transport."""
        groups: dict[Take, list[int]] = {}  # heads differ in their lengths alone as a rule
        takes = self._known.found
        for place, (descriptor, start, end, number, _, _) in enumerate(rows):
            asker = self._askers.get(descriptor)
            if asker is None:
                continue  # closed for another one of these
            if number >= 0 and not asker.waits:
                groups.setdefault(takes[number], []).append(place)
            else:
                self.leave(descriptor, waits=asker.waits)
                self._tell(asker, partial(asker.returned, bytes(self._view[start:end])))
        for take, places in groups.items():
            self._ask(take, places)

    def _ask(self, take: Take, places: Sequence[int]) -> None:
        """Requests that one takes."""
        rows = self._rows[places]
        askers = [self._askers.get(descriptor) for descriptor in rows[:, SOCKET].tolist()]
        if None in askers:
            places = [place for place, asker in zip(places, askers, strict=True) if asker is not None]
            rows = self._rows[places]
        there = [asker for asker in askers if asker is not None]
        for asker in there:
            asker.waits = True
        self._waiting += len(there)
        asked, left = Asked(self._arena, self._view, rows, there), list[int]()
        try:
            left += take.together(asked) if len(there) > 1 and isinstance(take, Together) else range(len(there))
        except Exception:  # noqa: BLE001 - see `_tell`
            _log.exception("requests that came together fail")
            for asker in there:
                if asker.waits:
                    asker.transport.abort()
        contexts = asked.contexts() if left else []
        for place in left:
            _, start, _, _, _, body = asked.places[place]
            context = contexts[place]
            self._tell(there[place], partial(there[place].asked, take, asked.data(place), body - start, context))

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
        descriptors, _, raws = zip(*out, strict=True)
        bounds = np.fromiter(accumulate(map(len, raws), initial=0), np.int64, len(out) + 1)
        sent = np.empty(len(out), np.int64)
        push(np.array(descriptors, np.int64), bounds, np.frombuffer(b"".join(raws), np.uint8), sent)
        for place in np.flatnonzero(sent < np.diff(bounds)).tolist():
            descriptor, asker, raw = out[place]
            self.leave(descriptor, waits=asker.waits)
            asker.unsent(raw[max(int(sent[place]), 0) :])
