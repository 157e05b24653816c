"""What a connection sends: frames at once, messages as far as the peer's windows and its reading let them."""

import asyncio
from typing import TYPE_CHECKING, cast

from tidemill_runtime.rpc import frames, status
from tidemill_runtime.rpc.frames import END_HEADERS, END_STREAM, ConnectionFault, ErrorCode
from tidemill_runtime.rpc.incoming import PREFIX
from tidemill_runtime.rpc.limits import Ledger, Limits
from tidemill_runtime.rpc.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

_GOOD_END = b"".join((len(status.GOOD).to_bytes(3, "big"), bytes((frames.HEADERS, END_HEADERS | END_STREAM))))
_GOOD_HEAD = b"".join((len(status.HEADERS_BLOCK).to_bytes(3, "big"), bytes((frames.HEADERS, END_HEADERS))))
_WHOLE_DATA = bytes((frames.DATA, 0))
_FORGET = b"\x20"
"""The table of the answers' headers has no room: it was never used."""


class Outflow:
    """The sending half of one connection."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limits: Limits, ledger: Ledger, ended: "Callable[[Stream], None]"
    ) -> None:
        self.loop, self.limits, self.ledger, self.ended = loop, limits, ledger, ended
        self.transport: asyncio.Transport | None = None
        self.window, self.stream_window = frames.DEFAULT_WINDOW, frames.DEFAULT_WINDOW
        self.is_paused = False
        self.progress_at = 0.0
        self.blocked: dict[int, Stream] = {}
        self._frame = frames.DEFAULT_FRAME
        self._before = b""
        self._out: list[bytes] = []
        self._flush_now: Callable[[], None] = self.flush

    def write(self, raw: bytes) -> None:
        """Send before the next turn of the loop is over, with all else that is sent in this one."""
        if not self._out:
            self.loop.call_soon(self._flush_now)
        self._out.append(raw)

    def flush(self) -> None:
        """Send what has come together."""
        out, self._out = self._out, []
        if out and self.transport is not None and not self.transport.is_closing():
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))

    def whole(self, stream: Stream, message: bytes) -> bool:
        """A whole answer, if nothing is in its way."""
        size = len(message) + PREFIX
        room = min(self.window, stream.window, self._frame)
        if size > room or self.is_paused or self._before or self.blocked or not stream.has_ended:
            return False
        self.window -= size
        number = stream.number.to_bytes(4, "big")
        self.write(b"".join((
            _GOOD_HEAD, number, status.HEADERS_BLOCK, size.to_bytes(3, "big"), _WHOLE_DATA, number, b"\0",
            len(message).to_bytes(4, "big"), message, _GOOD_END, number, status.GOOD,
        )))  # fmt: skip
        return True

    def block(self, raw: bytes) -> bytes:
        """A block of headers, with what the peer must hear before the next one."""
        before, self._before = self._before, b""
        return before + raw

    def pump(self, stream: Stream) -> None:
        """Send what the stream has to send as far as there is room."""
        if stream.is_closed:
            self.blocked.pop(stream.number, None)
            return
        if not stream.is_headed:
            stream.is_headed = True
            self.write(frames.frame(frames.HEADERS, END_HEADERS, stream.number, self.block(status.HEADERS_BLOCK)))
        outgoing = stream.outgoing
        while outgoing and not self.is_paused:
            size = min(len(outgoing), self.window, stream.window, self._frame)
            if size <= 0:
                break
            self.window -= size
            stream.window -= size
            self.write(frames.frame(frames.DATA, 0, stream.number, bytes(outgoing[:size])))
            del outgoing[:size]
            self.progress_at = self.loop.time()
            if len(self._out) >= _AT_ONCE:
                self.flush()  # which may tell that the peer does not read
        if outgoing:
            self._wait(stream)
        else:
            self.blocked.pop(stream.number, None)
            stream.drained()

    def _wait(self, stream: Stream) -> None:
        if not self.blocked:
            self.progress_at = self.loop.time()
        self.blocked[stream.number] = stream

    def pump_all(self) -> None:
        """There may be room again."""
        for stream in list(self.blocked.values()):
            if self.is_paused or self.window <= 0:
                return
            self.pump(stream)
            if stream.number in self.blocked:  # after those that have waited for as long
                self.blocked[stream.number] = self.blocked.pop(stream.number)

    def widen(self, increment: int) -> None:
        """WINDOW_UPDATE of the connection; raises ConnectionFault."""
        if not increment:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a window grows by one byte at least")
        self.window += increment
        if self.window > frames.LARGEST_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the window is too large")
        if self.blocked:
            self.pump_all()

    def heed(self, key: int, value: int, streams: dict[int, Stream]) -> None:
        """A setting of the peer's; raises ConnectionFault."""
        if key == frames.TABLE_SIZE and value < frames.DEFAULT_TABLE:
            self._before = _FORGET
        elif key == frames.MOST_FRAME:
            self._frame = min(value, _LARGEST)
        elif key == frames.INITIAL_WINDOW:
            change, self.stream_window = value - self.stream_window, value
            for stream in streams.values():
                stream.window += change
                if stream.window > frames.LARGEST_WINDOW:
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the window of a stream is too large")
            self.pump_all()

    def pause(self) -> None:
        """The peer does not read."""
        self.is_paused = True

    def resume(self) -> None:
        """It does again."""
        self.is_paused = False
        self.pump_all()

    def attach(self, transport: asyncio.BaseTransport) -> None:
        """Before anything is sent."""
        self.transport = cast("asyncio.Transport", transport)


_AT_ONCE = 16
_LARGEST = 256 * 1024
"""Of a frame: several streams share the connection."""
