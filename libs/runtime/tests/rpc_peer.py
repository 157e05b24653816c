"""A gRPC client that speaks frame by frame, and may say what no good client says."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import hpack

from tidemill_runtime.rpc import GrpcServer, Limits, Method, Quick, Streaming, Unary
from tidemill_runtime.rpc import frames as f
from tidemill_runtime.rpc.stream import Stream
from tidemill_testkit.waiting import until

PATIENCE_S = 30.0
HELLO = f.PREFACE + f.settings({f.INITIAL_WINDOW: 2**30}) + f.window_update(0, 2**30)
HEAD = {
    ":method": "POST", ":scheme": "http", ":path": "/t.T/Echo", ":authority": "test", "te": "trailers",
    "content-type": "application/grpc",
}  # fmt: skip


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> f.ErrorCode:
        """Of RST_STREAM or GOAWAY."""
        at = 4 if self.kind == f.GOAWAY else 0
        return f.ErrorCode(int.from_bytes(self.payload[at : at + 4], "big"))


class Outcome(NamedTuple):
    """How a call went. `status` is None where it has no trailers; `reset`: how the stream was ended otherwise."""

    messages: list[bytes]
    status: int | None
    text: str = ""
    reset: f.ErrorCode | None = None


def block(fields: Mapping[str, str] | list[tuple[str, str]]) -> bytes:
    """A header block that leaves the table as it is."""
    pairs = list(fields.items()) if isinstance(fields, Mapping) else fields
    return b"".join(
        b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode() for name, value in pairs
    )


def head(stream: int, *, ended: bool = False, **changes: str) -> bytes:
    """HEADERS of a call; `path` and so on, `_` for `-`."""
    names = {name: f":{name}" for name in ("path", "method")}
    fields = HEAD | {names.get(name, name.replace("_", "-")): value for name, value in changes.items()}
    return f.frame(f.HEADERS, f.END_HEADERS | ended, stream, block(fields))


def framed(message: bytes, *, packed: bool = False) -> bytes:
    """A message as gRPC frames it."""
    return bytes((packed,)) + len(message).to_bytes(4, "big") + message


def data(stream: int, payload: bytes, *, ended: bool = True) -> bytes:
    """DATA frames."""
    parts = [payload[at : at + f.DEFAULT_FRAME] for at in range(0, len(payload), f.DEFAULT_FRAME)] or [b""]
    ends = [ended and at == len(parts) - 1 for at in range(len(parts))]
    return b"".join(f.frame(f.DATA, int(end), stream, part) for part, end in zip(parts, ends, strict=True))


class Peer:
    """One connection. What it reads is kept until it is asked for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._decoder = hpack.Decoder()
        self.seen: list[Frame] = []

    def send(self, *raw: bytes) -> None:
        """At once."""
        self._writer.write(b"".join(raw))

    async def next(self) -> Frame | None:
        """The next frame; None: the connection has been closed."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                raw = await self._reader.readexactly(f.HEAD)
                payload = await self._reader.readexactly(int.from_bytes(raw[:3], "big"))
            except (asyncio.IncompleteReadError, ConnectionError):
                return None
        found = Frame(raw[3], raw[4], int.from_bytes(raw[5:9], "big"), payload)
        self.seen.append(found)
        return found

    async def until(self, kind: int, *, ack: bool = False) -> Frame:
        """The next frame of a kind."""
        while (found := await self.next()) is not None:
            if found.kind == kind and bool(found.flags & f.ACK) >= ack:
                return found
        raise AssertionError(f"closed before a frame of kind {kind}: {self.seen[-5:]}")

    async def outcome(self, stream: int) -> Outcome:
        """Read until the call is over."""
        body, found = bytearray(), dict[str, str]()
        while (got := await self.next()) is not None:
            if got.stream != stream:
                continue
            if got.kind == f.RST_STREAM:
                return Outcome(split(body), None, reset=got.code)
            if got.kind == f.DATA:
                body += got.payload
            if got.kind == f.HEADERS:
                found |= {str(name): str(value) for name, value in self._decoder.decode(got.payload)}
                if got.flags & f.END_STREAM:
                    break
        status = found.get("grpc-status")
        return Outcome(split(body), None if status is None else int(status), found.get("grpc-message", ""))

    async def call(self, stream: int, message: bytes = b"hello", **changes: str) -> Outcome:
        """A whole call."""
        self.send(head(stream, ended=False, **changes), data(stream, framed(message)))
        return await self.outcome(stream)

    async def settle(self) -> None:
        """Everything that was sent before has been read."""
        self.send(f.frame(f.PING, 0, 0, b"settle!!"))
        await self.until(f.PING, ack=True)

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


def split(body: bytes | bytearray) -> list[bytes]:
    """The messages in the DATA of an answer."""
    found, at = [], 0
    while at < len(body):
        end = at + 5 + int.from_bytes(body[at + 1 : at + 5], "big")
        found.append(bytes(body[at + 5 : end]))
        at = end
    return found


class Served:
    """A server with a few methods, and what became of them."""

    def __init__(self, limits: Limits) -> None:
        self.release, self.cancelled = asyncio.Event(), 0
        routes: dict[str, Method] = {
            "/t.T/Echo": Quick(self._echo), "/t.T/Slow": Unary(self._held), "/t.T/Chat": Streaming(self._chat),
            "/t.T/Deaf": Streaming(self._deaf), "/t.T/Large": Unary(self._large), "/t.T/Many": Streaming(self._many),
            "/t.T/Broken": Quick(self._broken), "/t.T/Later": Unary(self._fails),
        }  # fmt: skip
        self.server = GrpcServer(routes, limits=limits)
        self.made, self.peers = 0, list[Peer]()

    @staticmethod
    def _echo(message: bytes, call: Stream) -> None:
        call.answer(message)

    @staticmethod
    def _broken(_message: bytes, _call: Stream) -> None:
        raise ZeroDivisionError

    @staticmethod
    async def _fails(_message: bytes, _call: Stream) -> bytes:
        raise ZeroDivisionError

    async def _held(self, message: bytes, _call: Stream) -> bytes:
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return message

    @staticmethod
    async def _large(message: bytes, _call: Stream) -> bytes:
        return bytes(int(message))

    @staticmethod
    async def _chat(messages: AsyncIterator[bytes], _call: Stream) -> AsyncGenerator[bytes]:
        async for message in messages:
            yield message

    async def _many(self, messages: AsyncIterator[bytes], _call: Stream) -> AsyncGenerator[bytes]:
        async for _ in messages:
            for self.made in range(1, 1001):
                yield bytes(10_000)

    async def _deaf(self, _messages: AsyncIterator[bytes], _call: Stream) -> AsyncGenerator[bytes]:
        await self.release.wait()
        yield b""

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is left of any call."""
        ledger = self.server.shared.ledger
        return (ledger.calls, ledger.held, len(self.server.shared.connections)) == (0, 0, 0)

    async def peer(self, hello: bytes = HELLO) -> Peer:
        """A new connection."""
        assert self.server.port is not None
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.server.port))
        self.peers.append(peer)
        peer.send(hello)
        return peer


@asynccontextmanager
async def served(limits: Limits | None = None) -> AsyncIterator[Served]:
    """A server; afterwards nothing of any call may be left."""
    found = Served(limits or Limits())
    await found.server.start("127.0.0.1", 0)
    try:
        yield found
    finally:
        for peer in found.peers:
            await peer.close()
        await found.server.stop(0.0)
        await until(lambda: found.is_at_rest, "nothing is left of any call", timeout_s=PATIENCE_S)
