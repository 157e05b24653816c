"""The request of a call: bytes to messages, bounded in size and in number, and what its sender may send further."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from typing import NamedTuple, Protocol

from tidemill_runtime.rpc import frames
from tidemill_runtime.rpc.frames import ErrorCode, StreamFault
from tidemill_runtime.rpc.heads import Head
from tidemill_runtime.rpc.limits import Ledger, Limits
from tidemill_runtime.rpc.packing import unpack
from tidemill_runtime.rpc.status import Code, StatusError

PREFIX = 5
"""Bytes before a message: whether it is packed, and its length."""


class Message(NamedTuple):
    """As it came."""

    raw: bytes
    is_packed: bool


class Reading(Protocol):
    """What a request asks of its connection."""

    @property
    def limits(self) -> Limits: ...

    @property
    def ledger(self) -> Ledger: ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    def write(self, raw: bytes) -> None:
        """Frames that no window holds up."""


class Incoming:
    """The receiving half of a call. `room` is what the peer may still send before it hears of more."""

    __slots__ = (
        "_credit", "_parts", "_reading", "_taker", "_waiting", "began_at", "has_ended", "head", "held", "is_closed",
        "is_streaming", "number", "received", "room",
    )  # fmt: skip

    def __init__(self, reading: Reading, number: int, head: Head) -> None:
        self._reading, self.number, self.head = reading, number, head
        self.room, self.began_at = reading.limits.window, reading.loop.time()
        self._credit = self.held = self.received = 0
        self._parts = bytearray()
        self._waiting: deque[Message] = deque()
        self.has_ended = self.is_closed = self.is_streaming = False
        self._taker: asyncio.Future[None] | None = None

    def begin(self) -> None:
        """A whole request has come."""
        raise NotImplementedError

    def fail(self, code: Code, text: str) -> None:
        """End the call; nothing happens where it is over."""
        raise NotImplementedError

    def receive(self, payload: bytes, *, ended: bool) -> None:
        """Bytes of messages; raises StreamFault."""
        if ended and not self.received and not self.is_streaming and self.head.length is None and _is_one(payload):
            self.has_ended, self.received = True, len(payload)
            self._waiting.append(Message(payload[PREFIX:], payload[0] == 1))
            self.begin()
            return
        self.received += len(payload)
        self._hold(len(payload))
        if not self.is_closed:
            was_midway = bool(self._parts)
            self._parts += payload
            size = len(self._parts)
            self._split()
            if self.is_streaming and (not was_midway or len(self._parts) < size):
                self.began_at = self._reading.loop.time()  # of the message that is not whole yet
        if not self.is_closed:
            self._give_credit(len(payload))
            if ended:
                self.end()

    def _split(self) -> None:
        """Take whole messages off."""
        at, limits, parts = 0, self._reading.limits, self._parts
        while len(parts) - at >= PREFIX:
            size = int.from_bytes(parts[at + 1 : at + PREFIX], "big")
            if parts[at] > 1 or size > limits.message:
                self._refuse(parts[at], size)
                return
            if len(parts) - at - PREFIX < size:
                break
            with memoryview(parts) as view:
                self._waiting.append(Message(bytes(view[at + PREFIX : at + PREFIX + size]), parts[at] == 1))
            at += PREFIX + size
            if len(self._waiting) > 1 and not self.is_streaming:
                self.fail(Code.UNIMPLEMENTED, "the method takes one message")
                return
        del parts[:at]
        self._wake()

    def _refuse(self, flag: int, size: int) -> None:
        if flag > 1:
            self.fail(Code.INTERNAL, "a message begins with 0 or 1")
        else:
            most = self._reading.limits.message
            self.fail(Code.RESOURCE_EXHAUSTED, f"a message may have at most {most} bytes, this one has {size}")

    def end(self) -> None:
        """The peer has said all; raises StreamFault where it has said another length before."""
        self.has_ended = True
        if self.head.length not in {None, self.received}:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR)
        if self._parts:
            self.fail(Code.INTERNAL, "the request ends inside of a message")
        elif not self.is_streaming:
            if not self._waiting:
                self.fail(Code.UNIMPLEMENTED, "the method takes one message")
            else:
                self.begin()
        self._wake()

    @property
    def is_midway(self) -> bool:
        """Whether the peer owes the rest of a message or of a request."""
        return not self.has_ended and (bool(self._parts) or not self.is_streaming)

    def _hold(self, size: int) -> None:
        ledger = self._reading.ledger
        self.held += size
        ledger.held += size
        if ledger.held > self._reading.limits.held:
            self.fail(Code.RESOURCE_EXHAUSTED, "the server holds as many unread bytes as it may")

    def _let_go(self, size: int) -> None:
        self.held -= size
        self._reading.ledger.held -= size

    def _give_credit(self, size: int) -> None:
        """The peer may send as much again, unless too many messages wait."""
        self._credit += size
        if self.has_ended or len(self._waiting) >= self._reading.limits.waiting:
            return
        if self._credit >= self._reading.limits.window // 2:
            self.room += self._credit
            self._reading.write(frames.window_update(self.number, self._credit))
            self._credit = 0

    def _wake(self) -> None:
        if self._taker is not None and not self._taker.done():
            self._taker.set_result(None)

    def take(self) -> Message:
        """The next message, which is there."""
        message = self._waiting.popleft()
        if self.held and self.is_streaming:
            self._let_go(min(self.held, len(message.raw) + PREFIX))
            if not self.is_closed:
                self._give_credit(0)
        return message

    def peek(self) -> Message:
        """The next message, which is there and stays."""
        return self._waiting[0]

    async def message(self) -> bytes:
        """The next message, unpacked; raises StatusError."""
        message = self.take()
        if not message.is_packed:
            return message.raw
        if self.head.encoding == "identity":
            raise StatusError(Code.INTERNAL, "the message is packed, and grpc-encoding does not say how")
        return await unpack(message.raw, self.head.encoding, self._reading.limits.message)

    async def messages(self) -> AsyncGenerator[bytes]:
        """All of them until the peer has said all; raises StatusError."""
        while True:
            while self._waiting:
                yield await self.message()
            if self.has_ended or self.is_closed:
                return
            self._taker = self._reading.loop.create_future()
            await self._taker

    def pad(self, size: int) -> None:
        """Bytes that came for nothing count in the window all the same."""
        self._credit += size

    def drop(self) -> None:
        """Nobody reads it any more."""
        self._let_go(self.held)
        self._parts = bytearray()
        self._waiting.clear()


def _is_one(payload: bytes) -> bool:
    """Whether it is one whole message."""
    size = len(payload) - PREFIX
    return size >= 0 and payload[0] <= 1 and int.from_bytes(payload[1:PREFIX], "big") == size
