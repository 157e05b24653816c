"""The calls of one connection: heads and data to their streams. Every peer is taken for hostile.

What is remembered of it is bounded (`limits`), and what it does not pay for with a call it may not do too often.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

from tidemill_runtime.rpc import frames, status
from tidemill_runtime.rpc.control import Control, Shared
from tidemill_runtime.rpc.frames import ConnectionFault, ErrorCode, StreamFault
from tidemill_runtime.rpc.heads import Head, Heads
from tidemill_runtime.rpc.status import Code
from tidemill_runtime.rpc.stream import Stream

_NUMBER = 0x7FFFFFFF


class _Block(NamedTuple):
    """A header block that goes on in the next frame."""

    stream: int
    flags: int
    parts: list[bytes]
    is_circular: bool


class Session(Control):
    """Takes frames; raises ConnectionFault for what ends the connection."""

    def __init__(self, shared: Shared, loop: asyncio.AbstractEventLoop, close: Callable[[], None]) -> None:
        super().__init__(shared, loop, close)
        self._heads, self._block = Heads(shared.limits.head), _NONE
        self._room, self._is_set = shared.limits.shared_window, False
        self._by_kind: tuple[Callable[[int, int, bytes], None], ...] = (
            self._data, self._headers, self.priority, self.rst_stream, self.settings, self.push_promise, self.ping,
            self.goaway, self.window_update, self._continuation,
        )  # fmt: skip

    @property
    def is_in_block(self) -> bool:
        """Whether the rest of a header block must come."""
        return self._block is not _NONE

    def read(self, data: bytes, at: int) -> int:
        """Heed every whole frame from `at` on; where the rest begins."""
        size, handlers = len(data), self._by_kind
        while size - at >= frames.HEAD:
            length = int.from_bytes(data[at : at + 3], "big")
            if length > frames.DEFAULT_FRAME:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "the frame is too large")
            end = at + frames.HEAD + length
            if end > size:
                break
            kind, number = data[at + 3], int.from_bytes(data[at + 5 : at + 9], "big") & _NUMBER
            if (self._block is not _NONE and kind != frames.CONTINUATION) or not self._is_set:
                self._expect(kind)
            try:
                if kind < len(handlers):
                    handlers[kind](data[at + 4], number, data[at + 9 : end])
                else:
                    self.odd.pay(self.loop.time())  # of an extension that is not known here
            except StreamFault as fault:
                self.fault(number, fault.code)
            at = end
        return at

    def _expect(self, kind: int) -> None:
        if self._block is not _NONE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block must go on in the next frame")
        if kind != frames.SETTINGS:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is SETTINGS")
        self._is_set = True

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        if not number % 2:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client's stream has an odd number")
        block, is_circular = frames.unprioritised(flags, frames.unpadded(flags, payload), number)
        if flags & frames.END_HEADERS:
            self._head(number, flags, block, is_circular=is_circular)
        else:
            self._block = _Block(number, flags, [block], is_circular)

    def _continuation(self, flags: int, number: int, payload: bytes) -> None:
        found, limits = self._block, self.limits
        if found is _NONE or found.stream != number:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a CONTINUATION of nothing")
        found.parts.append(payload)
        if len(found.parts) > limits.continuations or sum(map(len, found.parts)) > limits.head:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "the head of a call is too large")
        if flags & frames.END_HEADERS:
            self._block = _NONE
            self._head(number, found.flags, b"".join(found.parts), is_circular=found.is_circular)

    def _head(self, number: int, flags: int, block: bytes, *, is_circular: bool) -> None:
        if number <= self.last:
            self._trailers(number, flags, block)
            return
        self.last = number
        head = self._heads.read(block)
        if is_circular:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR)
        if self.is_last or len(self.streams) >= self.limits.streams:
            self.resets.pay(self.loop.time())
            raise StreamFault(ErrorCode.REFUSED_STREAM)
        stream = self.streams[number] = Stream(self.out, number, head, self.out.stream_window)
        self.shared.ledger.calls += 1
        self._begin(stream, head)
        if flags & frames.END_STREAM and not stream.is_closed:
            stream.end()

    def _begin(self, stream: Stream, head: Head) -> None:
        if head.status != HTTPStatus.OK:
            block = self.out.block(status.plain(head.status, "this port speaks gRPC"))
            flags = frames.END_HEADERS | frames.END_STREAM
            self.out.write(frames.frame(frames.HEADERS, flags, stream.number, block))
            stream.close()
            return
        stream.watch(self.shared.watched.get(head.path, self.shared.unmatched))
        if head.error is not None:
            stream.fail(head.error.code, head.error.text)
        elif self.shared.ledger.calls > self.limits.calls and len(self.streams) > self.limits.share:
            stream.fail(Code.RESOURCE_EXHAUSTED, "the server has as many calls under way as it may")
        elif (method := self.shared.routes.get(head.path)) is None:
            stream.fail(Code.UNIMPLEMENTED, "there is no such method")
        else:
            stream.open(method)

    def _trailers(self, number: int, flags: int, block: bytes) -> None:
        self._heads.skip(block)
        stream = self.streams.get(number)
        if stream is None:
            self._stray(number, flags)
        elif stream.has_ended:
            raise StreamFault(ErrorCode.STREAM_CLOSED)
        elif not flags & frames.END_STREAM:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR)
        else:
            stream.end()

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        size, limits = len(payload), self.limits
        self._room -= size
        if self._room < limits.shared_window // 2:
            self._give_room()
        stream = self.streams.get(number)
        if stream is None:
            frames.unpadded(flags, payload)
            self._stray(number, flags)
            return
        if stream.has_ended:
            raise StreamFault(ErrorCode.STREAM_CLOSED)
        stream.room -= size
        if stream.room < 0:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR)
        if flags & frames.PADDED:
            payload = frames.unpadded(flags, payload)
            stream.pad(size - len(payload))
        if not payload and not flags & frames.END_STREAM:
            self.odd.pay(self.loop.time())
        stream.receive(payload, ended=bool(flags & frames.END_STREAM))

    def _give_room(self) -> None:
        if self._room < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more was sent than the window has")
        size = self.limits.shared_window - self._room
        self._room += size
        self.out.write(frames.window_update(0, size))

    def _stray(self, number: int, flags: int) -> None:
        """DATA or HEADERS of a stream that is no more, or never was."""
        if number == 0 or number > self.last:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the stream was never opened")
        if number in self.early:
            if flags & frames.END_STREAM:
                del self.early[number]
            return
        self.odd.pay(self.loop.time())
        raise StreamFault(ErrorCode.STREAM_CLOSED)


_NONE = _Block(0, 0, [], is_circular=False)
