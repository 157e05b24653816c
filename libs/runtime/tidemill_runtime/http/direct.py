"""Requests that are answered without ASGI: whole POSTs of known heads go straight to the service and back.

A client on a kept connection sends the same head again and again. A head is read once, by the parser that reads all
others; whoever sends the same bytes again means the same. Whatever is not such a request goes on to uvicorn and ASGI,
with the same answer: heads that are new in every request, bodies in chunks, requests that wait behind others.
"""

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tidemill_runtime.http.bodies import READ_TIMEOUT_S
from tidemill_runtime.http.guard import Guard, GuardedProtocol, has_unread
from tidemill_runtime.http.heads import END, OTHER, Direct, Head, Heads, Take
from tidemill_runtime.http.wire import Wire
from tidemill_runtime.http.wire_compiled import EACH
from tidemill_runtime.telemetry import is_traceparent

if TYPE_CHECKING:
    from asyncio import TimerHandle

_TRACE = b"\r\ntraceparent: "
_TRACE_LENGTH = len(_TRACE) + 55
MISSES, LARGEST = 3, EACH // 2
"""A connection is read with others (`wire`) unless that failed so often, or its requests have more bytes."""


class DirectProtocol(GuardedProtocol):
    """uvicorn's protocol with a shorter way for heads that are known."""

    heads: Heads
    wire: Wire

    def __init__(self, *args: Any, **settings: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*args, **settings)
        self.waits = self._is_lost = self._is_last = False
        self._asked, self._parts = b"", bytearray()
        self._expected: Head | None = None
        self._whole, self._wired, self._misses = 0, -1, 0
        self._patience: TimerHandle | None = None
        self._dated: tuple[object, bytes] = (None, b"")

    def data_received(self, data: bytes) -> None:
        """The loop's call."""
        cycle: Any = self.cycle  # None before uvicorn's first
        if self.waits or self.flow.write_paused:
            self._parts += data  # asked before it was answered: in its turn
            self.flow.pause_reading()
        elif self._expected is not None:
            self._go_on(data)
        elif self._is_midway or self.pipeline or not (cycle is None or cycle.response_complete):
            super().data_received(data)  # something of a request is in uvicorn's hands
        else:
            self._begin(data)

    def _begin(self, data: bytes) -> None:
        """At the beginning of a request."""
        end = data.find(END) if data.startswith(b"POST ") else -1
        trace, head = None, data[:end]
        at = head.find(_TRACE) if end > 0 else -1
        if at > 0:
            text = head[at + len(_TRACE) : at + _TRACE_LENGTH].decode("latin-1")
            after = head[at + _TRACE_LENGTH :]
            if is_traceparent(text) and (not after or after.startswith(b"\r\n")):
                trace, head = text, head[:at] + after
        found = self.heads.find(head) if end > 0 else OTHER
        whole = end + len(END) + found.size
        if found.take is None or len(data) > whole:
            super().data_received(data)
        elif len(data) < whole:
            self._parts += data
            self._expected, self._whole = found, whole
            self._patience = self.loop.call_later(READ_TIMEOUT_S, self._lose_patience)
        else:
            self.waits, self._asked = True, data
            if self.timeout_keep_alive_task is not None and self._misses < MISSES and whole <= LARGEST:
                self._wired = self.wire.enter(self, head, found)
            if not found.take(data[end + len(END) :], trace, self):
                self.decline()

    def asked(self, take: Take, data: bytes, body: int, trace: str | None) -> None:
        """See `wire.Asking`."""
        self.waits, self._asked = True, data
        if not take(data[body:], trace, self):
            self.decline()

    def taken(self, data: bytes) -> None:
        """See `heads.Reply`."""
        self._asked = data

    def returned(self, data: bytes) -> None:
        """See `wire.Asking`."""
        self._wired = -1
        if data:
            self.data_received(data)
        self._misses += self._wired < 0  # else it was a head that has been learnt now

    def unsent(self, data: bytes) -> None:
        """See `wire.Asking`."""
        self._wired = -1
        self.transport.write(data)

    def refused(self, count: int) -> None:
        """See `wire.Asking`."""
        self.server_state.total_requests += count

    def _unwire(self, *, is_lost: bool = False) -> None:
        """Have it from the transport again."""
        if self._wired >= 0:
            self.wire.leave(self._wired, waits=self.waits, is_lost=is_lost)
            self._wired = -1

    def decline(self) -> None:
        """Let the way behind answer what was asked."""
        self._unwire()
        self.waits = False
        if self._is_lost or self.transport.is_closing():
            return
        asked, self._asked = self._asked, b""
        super().data_received(asked)
        if self._is_last:
            super().shutdown()
        self._behind()

    def _go_on(self, data: bytes) -> None:
        """A body that comes in parts."""
        self._parts += data
        if len(self._parts) < self._whole:
            return
        self._expected = None
        self._rest()
        self._begin(self._parted())

    def _lose_patience(self) -> None:
        """The body does not come: the way behind knows what to say."""
        self._expected = None
        self._rest()
        if not self._is_lost:
            super().data_received(self._parted())

    def _parted(self) -> bytes:
        data = bytes(self._parts)
        self._parts.clear()
        return data

    def _rest(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def front(self) -> bytes:
        """See `heads.Reply`."""
        return b"HTTP/1.1 200 OK\r\n%bcontent-type: application/json\r\n%bcontent-length: " % (
            self._date(), self._closing(),
        )  # fmt: skip

    def answer(self, body: bytes, traceparent: str) -> None:
        """Send 200 and a JSON body."""
        self.send(b"%b%d\r\ntraceparent: %b\r\n\r\n%b" % (self.front(), len(body), traceparent.encode(), body))

    def refuse(self, head: bytes, body: bytes) -> None:
        """Send another status."""
        self.send(b"HTTP/1.1 %b%b" % (head, self.refusal(body)))

    def _date(self) -> bytes:
        default = self.server_state.default_headers
        if self._dated[0] is not default:
            self._dated = default, b"".join(b"%b: %b\r\n" % pair for pair in default)
        return self._dated[1]

    def _closing(self) -> bytes:
        return b"connection: close\r\n" if self._is_last else b""

    def refusal(self, body: bytes) -> bytes:
        """See `heads.Reply`."""
        return b"content-length: %d\r\n%b%b\r\n%b" % (len(body), self._date(), self._closing(), body)

    def flush(self) -> None:
        """See `heads.Reply`."""
        self.wire.flush()

    def send(self, raw: bytes) -> None:
        """See `heads.Reply`."""
        if self._is_last:
            self._unwire()
        self.waits, self._asked = False, b""
        if self._wired >= 0:
            self.wire.answer(self._wired, self, raw)
            self.server_state.total_requests += 1
            self._heard_at = self.loop.time()
            return
        if self._is_lost or self.transport.is_closing():
            return
        self.transport.write(raw)
        self.server_state.total_requests += 1
        self._heard_at = self.loop.time()
        if self._is_last:
            self.transport.close()
            return
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        self._behind()

    def _behind(self) -> None:
        """What was sent before its turn."""
        if not self._parts or self.waits or self.flow.write_paused:
            return
        self.flow.resume_reading()
        if self._expected is not None:
            self._go_on(b"")
        else:
            self.data_received(self._parted())

    def resume_writing(self) -> None:
        """The loop's call: the client reads again."""
        super().resume_writing()
        self._behind()

    @property
    def is_busy(self) -> bool:
        """See `GuardedProtocol`; a body that comes in parts has its own patience."""
        return self.waits or self._expected is not None or super().is_busy

    @property
    def has_asked(self) -> bool:
        """See `GuardedProtocol`; the timer of a kept connection is set with its first answer."""
        return self._has_asked or self.timeout_keep_alive_task is not None

    @property
    def _answered_at(self) -> float:
        """When the last answer left."""
        return self._heard_at if self._wired < 0 else max(self._heard_at, self.wire.heard_at(self._wired))

    def idle_s(self, now: float) -> float | None:
        """See `GuardedProtocol`."""
        seconds = super().idle_s(now)
        return None if seconds is None else min(seconds, now - self._answered_at)

    def timeout_keep_alive_handler(self) -> None:
        """Answers do not move the timer, which would cost more than they do: it looks at when the last one left."""
        left = self._answered_at + self.timeout_keep_alive - self.loop.time()
        if self.waits or self._expected is not None or left > 0 or has_unread(self.transport):
            again = left if left > 0 else self.timeout_keep_alive
            self.timeout_keep_alive_task = self.loop.call_later(again, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def connection_lost(self, exc: Exception | None) -> None:
        """The loop's call."""
        self._is_lost = True
        self._unwire(is_lost=True)
        self._rest()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server stops: what is under way is answered first."""
        if self._expected is not None:
            self._lose_patience()
        self._is_last = True
        if not self.waits:
            self._unwire()
            super().shutdown()


def direct_protocol(direct: Direct, guard: Guard | None = None) -> type[HttpToolsProtocol]:
    """The protocol class of one server."""
    bound = {"heads": Heads(direct), "guard": guard or Guard(), "wire": Wire()}
    return type("BoundDirectProtocol", (DirectProtocol,), bound)
