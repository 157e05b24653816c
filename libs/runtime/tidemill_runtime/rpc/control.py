"""What a connection's frames say of the connection itself, and of streams as a whole; data and heads are elsewhere."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from tidemill_runtime.http.guard import Connection as Guarded
from tidemill_runtime.http.guard import Guard
from tidemill_runtime.rpc import frames
from tidemill_runtime.rpc.frames import ConnectionFault, ErrorCode, StreamFault
from tidemill_runtime.rpc.limits import Ledger, Limits, Toll
from tidemill_runtime.rpc.outflow import Outflow
from tidemill_runtime.rpc.watching import Watched

if TYPE_CHECKING:
    from tidemill_runtime.rpc.stream import Method, Stream

MOST_EARLY = 1024
"""Streams that ended before their requests did, and are remembered so that the rest of these is let pass."""
_SECOND = b"tidemill"
"""The PING behind the first GOAWAY: who answers it has read that, and opens no more streams."""
_LEAST_GOAWAY = 8


class Lasting(Guarded, Protocol):
    """A connection that can be ended."""

    def leave(self) -> None:
        """Answer what is under way and what is on its way, and then close."""

    def abort(self) -> None:
        """Nobody waits any longer."""


@dataclass(slots=True)
class Shared:
    """What the connections of one server have in common."""

    routes: Mapping[str, "Method"]
    guard: Guard
    limits: Limits = field(default_factory=Limits)
    ledger: Ledger = field(default_factory=Ledger)
    connections: set[Lasting] = field(default_factory=set)
    watched: Mapping[str, Watched] = field(init=False)
    unmatched: Watched = field(init=False)

    def __post_init__(self) -> None:
        self.watched, self.unmatched = {path: Watched(path) for path in self.routes}, Watched("unmatched")


class Control:
    """The streams of one connection, and the frames that carry nothing for them.

    `close` is called once nothing is left to be said.
    """

    def __init__(self, shared: Shared, loop: asyncio.AbstractEventLoop, close: Callable[[], None]) -> None:
        now = loop.time()
        self.shared, self.limits, self.loop = shared, shared.limits, loop
        self.out = Outflow(loop, shared.limits, shared.ledger, self._ended)
        self._close = close
        self.odd = Toll(shared.limits.odd, "frames that carry nothing", now)
        self.resets = Toll(shared.limits.resets, "calls that were taken back", now)
        self.streams: dict[int, Stream] = {}
        self.early: dict[int, None] = {}
        self.last, self.is_leaving, self.is_last = 0, False, False

    def _ended(self, stream: "Stream") -> None:
        """The call's."""
        if self.streams.pop(stream.number, None) is None:
            return
        self.out.blocked.pop(stream.number, None)
        self.shared.ledger.calls -= 1
        if not stream.has_ended:
            self.early[stream.number] = None
            if len(self.early) > MOST_EARLY:
                del self.early[next(iter(self.early))]
        if self.is_last and not self.streams:
            self._close()

    def fault(self, number: int, code: ErrorCode) -> None:
        """End one stream for what the peer has done."""
        self.out.write(frames.reset(number, code))
        stream = self.streams.get(number)
        if stream is not None:
            stream.close()

    def leave(self) -> None:
        """Answer what is under way and what is on its way, and then close."""
        if not self.is_leaving:
            self.is_leaving = True
            self.out.write(frames.goaway(frames.LAST_STREAM, ErrorCode.NO_ERROR))
            self.out.write(frames.frame(frames.PING, 0, 0, _SECOND))

    def _leave_at_last(self) -> None:
        self.is_last = True
        self.out.write(frames.goaway(self.last, ErrorCode.NO_ERROR))
        if not self.streams:
            self._close()

    def priority(self, _flags: int, number: int, payload: bytes) -> None:
        """PRIORITY: not heeded."""
        _of_stream(number)
        self.odd.pay(self.loop.time())
        frames.read_priority(payload, number)

    def rst_stream(self, _flags: int, number: int, payload: bytes) -> None:
        """RST_STREAM: the call is taken back."""
        _of_stream(number)
        frames.read_word(payload)
        if number > self.last:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the stream was never opened")
        self.resets.pay(self.loop.time())
        self.early.pop(number, None)
        stream = self.streams.get(number)
        if stream is not None:
            stream.has_ended = True  # no more comes of it
            stream.close()

    def settings(self, flags: int, number: int, payload: bytes) -> None:
        """SETTINGS."""
        _of_connection(number)
        if flags & frames.ACK:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement has no settings")
            return
        self.odd.pay(self.loop.time())
        for key, value in frames.read_settings(payload):
            self.out.heed(key, value, self.streams)
        self.out.write(_HEEDED)

    def push_promise(self, _flags: int, _number: int, _payload: bytes) -> None:
        """PUSH_PROMISE."""
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client cannot push")

    def ping(self, flags: int, number: int, payload: bytes) -> None:
        """PING."""
        _of_connection(number)
        data = frames.read_ping(payload)
        if not flags & frames.ACK:
            self.odd.pay(self.loop.time())
            self.out.write(frames.frame(frames.PING, frames.ACK, 0, data))
        elif self.is_leaving and not self.is_last and data == _SECOND:
            self._leave_at_last()

    def goaway(self, _flags: int, number: int, payload: bytes) -> None:
        """GOAWAY: the peer opens no more streams."""
        _of_connection(number)
        if len(payload) < _LEAST_GOAWAY:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a GOAWAY has eight bytes at least")
        if not self.is_last:
            self._leave_at_last()

    def window_update(self, _flags: int, number: int, payload: bytes) -> None:
        """WINDOW_UPDATE."""
        increment = frames.read_increment(payload)
        if number == 0:
            self.out.widen(increment)
            return
        stream = self.streams.get(number)
        if stream is None:
            if number > self.last:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the stream was never opened")
            return
        if not increment:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR)
        stream.window += increment
        if stream.window > frames.LARGEST_WINDOW:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR)
        if stream.outgoing:
            self.out.pump(stream)


def _of_stream(number: int) -> None:
    if number == 0:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the frame belongs to a stream")


def _of_connection(number: int) -> None:
    if number != 0:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the frame belongs to no stream")


_HEEDED = frames.frame(frames.SETTINGS, frames.ACK, 0)
