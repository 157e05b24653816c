"""One call on its connection: its messages come in, its answer goes out, and either may end it at any time."""

import asyncio
import time
from collections.abc import Mapping
from typing import Protocol

from tidemill_runtime import telemetry
from tidemill_runtime.rpc import frames, status
from tidemill_runtime.rpc.frames import END_STREAM, ErrorCode
from tidemill_runtime.rpc.heads import Head
from tidemill_runtime.rpc.incoming import PREFIX, Incoming, Reading
from tidemill_runtime.rpc.status import Code
from tidemill_runtime.rpc.watching import NO_MODEL, CallSpan, Watched

DRAINED = 64 * 1024
"""Bytes of answers that may wait for the peer before a stream's next one is made."""


class Wire(Reading, Protocol):
    """What a call asks of its connection."""

    def whole(self, stream: "Stream", message: bytes) -> bool:
        """Send headers, the one message and trailers, if there is room for them."""

    def pump(self, stream: "Stream") -> None:
        """Send what waits in the stream, as far as there is room, and the rest when there is."""

    def block(self, raw: bytes) -> bytes:
        """A block of headers as it goes out now."""

    def ended(self, stream: "Stream") -> None:
        """The call is over."""


class Method(Protocol):
    """What is done with the calls of one path."""

    is_streaming: bool

    def begin(self, call: "Stream") -> None:
        """A call with its whole request has come; a streaming one as soon as it has a head."""


class Stream(Incoming):
    """One call. `window` is what the peer lets us send."""

    __slots__ = (
        "_code", "_method", "_span", "_started", "_timer", "_watched", "_watcher", "_wire", "context", "is_headed",
        "model", "outgoing", "task", "trailers", "window",
    )  # fmt: skip

    def __init__(self, wire: Wire, number: int, head: Head, window: int) -> None:
        super().__init__(wire, number, head)
        self._wire, self.window = wire, window
        self._method: Method | None = None
        self._watched: Watched | None = None
        self._code, self._started, self.model = Code.CANCELLED, 0.0, NO_MODEL
        self.context: str | None = None
        self._span: CallSpan | None = None
        self.is_headed, self.outgoing, self.trailers = False, bytearray(), b""
        self.task: asyncio.Task[None] | None = None
        self._watcher: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def metadata(self) -> Mapping[str, str]:
        """The call's headers."""
        return self.head.metadata

    def watch(self, watched: Watched) -> None:
        """Count the call when it is over, under the `model` that its method may set.

        `context` is from here on that of its span; None where spans are not exported.
        """
        self._watched, self._started = watched, time.perf_counter()
        if telemetry.enabled():
            self.context, self._span = watched.begin(self.metadata.get("traceparent"))

    def open(self, method: Method) -> None:
        """The head has come."""
        self._method, self.is_streaming = method, method.is_streaming
        if self.head.timeout_s is not None:
            self._timer = self._wire.loop.call_later(self.head.timeout_s, self._expire)
        if method.is_streaming:
            method.begin(self)

    def begin(self) -> None:
        """See `Incoming`."""
        if self._method is not None:
            self._method.begin(self)

    def _expire(self) -> None:
        self.outgoing.clear()  # nobody waits for it
        self.fail(Code.DEADLINE_EXCEEDED, "the deadline has passed")

    def answer(self, message: bytes) -> None:
        """The one answer; nothing happens where the call is over."""
        if self.is_closed:
            return
        self._code = Code.OK
        if not self.is_headed and self._wire.whole(self, message):
            self.close()
            return
        self._say(message)
        self._finish(status.GOOD)

    def fail(self, code: Code, text: str) -> None:
        """End the call; nothing happens where it is over."""
        if not self.is_closed:
            self._code = code
            self._finish(status.trailers(code, text))

    async def send(self, message: bytes) -> None:
        """One of several answers; waits while the peer has not read those before it."""
        if self.is_closed:
            return
        self._say(message)
        while len(self.outgoing) > DRAINED and not self.is_closed:
            self._watcher = self._wire.loop.create_future()
            await self._watcher

    def succeed(self) -> None:
        """There are no more answers."""
        if not self.is_closed:
            self._code = Code.OK
            self._finish(status.GOOD)

    def _say(self, message: bytes) -> None:
        self.outgoing += b"\0" + len(message).to_bytes(PREFIX - 1, "big")
        self.outgoing += message
        self._wire.pump(self)

    def _finish(self, trailers: bytes) -> None:
        self.trailers = trailers
        if not self.outgoing:
            self.write_trailers()
            return
        self._stop_task()  # the rest goes out without it

    def drained(self) -> None:
        """Everything that waited has been sent."""
        if self._watcher is not None and not self._watcher.done():
            self._watcher.set_result(None)
        if self.trailers:
            self.write_trailers()

    def write_trailers(self) -> None:
        """The last of it: everything before has been sent."""
        block = self._wire.block(self.trailers if self.is_headed else b"\x88" + _TYPE + self.trailers)
        self._wire.write(frames.frame(frames.HEADERS, frames.END_HEADERS | END_STREAM, self.number, block))
        if not self.has_ended:
            self._wire.write(frames.reset(self.number, ErrorCode.NO_ERROR))
        self.close()

    def close(self) -> None:
        """It is over, in whatever way."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.drop()
        self._stop_task()
        if self._watched is not None:
            self._watched.count(self.model, self._code, self._started)
            if self._span is not None:
                self._span.end(self._code)
        self._wire.ended(self)

    def _stop_task(self) -> None:
        if self._watcher is not None and not self._watcher.done():
            self._watcher.set_result(None)
        if self.task is not None and self.task is not asyncio.current_task(self._wire.loop):
            self.task.cancel()


_TYPE = status.literal(b"content-type", b"application/grpc")
