"""Unary gRPC calls that are never the bottleneck: prepared frames over raw connections, answers kept as bytes.

Closed loop: each connection has so many calls under way, and another one as soon as one is answered. Any server will
do: windows are opened wide once, and the server's own are kept to.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple, cast

import hpack

from tidemill_runtime.rpc import frames as f

_WIDE = 2**31 - 1
_END = f.END_HEADERS


class Called(NamedTuple):
    """Number of the message in its list, the answer's DATA, and the block of its trailers."""

    number: int
    body: bytes
    trailers: bytes


class Calls(asyncio.Protocol):
    """One connection."""

    def __init__(self, path: str, messages: Sequence[bytes], together: int, end: float) -> None:
        head = {
            ":method": "POST", ":scheme": "http", ":path": path, ":authority": "127.0.0.1", "te": "trailers",
            "content-type": "application/grpc", "user-agent": "grpc-python/1.85.3 grpc-c/57.0.0 (linux; chttp2)",
            "grpc-accept-encoding": "identity, deflate, gzip",
        }  # fmt: skip
        encoder = hpack.Encoder()
        self._first = encoder.encode([*head.items()])
        self._head = encoder.encode(
            [*head.items()]
        )  # indices alone, which is what clients send from their second call on
        self._messages = [b"\0" + len(message).to_bytes(4, "big") + message for message in messages]
        self._together, self._end, self._window = together, end, f.DEFAULT_WINDOW
        self._stream, self._number, self._waiting, self._rest = 1, 0, 0, b""
        self._under_way: dict[int, tuple[int, list[bytes]]] = {}
        self._decoder = hpack.Decoder()
        self._transport: asyncio.Transport | None = None
        self.answered: list[Called] = []
        self.done = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The loop's call: all calls that are to be under way."""
        self._transport = cast("asyncio.Transport", transport)
        hello = f.PREFACE + f.settings({f.INITIAL_WINDOW: _WIDE}) + f.window_update(0, _WIDE - f.DEFAULT_WINDOW)
        self._transport.write(hello + b"".join([self._ask() for _ in range(self._together)]))

    def _ask(self) -> bytes:
        number, message = self._number, self._messages[self._number]
        if len(message) > self._window:
            self._waiting += 1
            return b""
        self._window -= len(message)
        self._number = number + 1 if number + 1 < len(self._messages) else 0
        head, self._first = self._first or self._head, b""
        stream, self._stream = self._stream, self._stream + 2
        self._under_way[stream] = number, []
        return f.frame(f.HEADERS, _END, stream, head) + f.frame(f.DATA, f.END_STREAM, stream, message)

    def data_received(self, data: bytes) -> None:
        """The loop's call."""
        data, at, out = self._rest + data, 0, list[bytes]()
        while len(data) - at >= f.HEAD:
            end = at + f.HEAD + int.from_bytes(data[at : at + 3], "big")
            if end > len(data):
                break
            out.append(
                self._heed(data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9]), data[at + 9 : end])
            )
            at = end
        self._rest = data[at:]
        if self._transport is not None and (said := b"".join(out)):
            self._transport.write(said)

    def _heed(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        """What is to be said to a frame."""
        if kind == f.DATA:
            self._under_way[stream][1].append(payload)
        elif kind == f.HEADERS and flags & f.END_STREAM:
            number, parts = self._under_way.pop(stream)
            self.answered.append(Called(number, b"".join(parts), payload))
            if time.perf_counter() < self._end:
                return self._ask()
            if not self._under_way:
                self.done.set()
        elif kind in {f.SETTINGS, f.PING} and not flags & f.ACK:
            return f.frame(kind, f.ACK, 0, payload if kind == f.PING else b"")
        elif kind == f.WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload)
            waiting, self._waiting = self._waiting, 0
            return b"".join([self._ask() for _ in range(waiting)])
        elif kind in {f.GOAWAY, f.RST_STREAM}:
            raise AssertionError(f"the server ends it: {payload!r}")
        return b""

    def connection_lost(self, _error: Exception | None) -> None:
        """The loop's call."""
        self.done.set()

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()


async def closed(
    port: int, path: str, messages: Sequence[bytes], seconds: float, *, shape: tuple[int, int]
) -> list[Called]:
    """Calls for some seconds; `shape` is how many connections, and calls under way over each."""
    loop, end = asyncio.get_running_loop(), time.perf_counter() + seconds
    count, together = shape
    lines = []
    for _ in range(count):
        _, line = await loop.create_connection(lambda: Calls(path, messages, together, end), "127.0.0.1", port)
        lines.append(line)
    for line in lines:
        async with asyncio.timeout(seconds + 60):
            await line.done.wait()
        line.close()
    return [called for line in lines for called in line.answered]
