"""gRPC's port against what no good client sends: the connection or the stream ends with its code, all others go on."""

import random
from collections.abc import Iterator

import pytest
from rpc_peer import HEAD, HELLO, block, data, framed, head, served

from tidemill_runtime.rpc import Limits
from tidemill_runtime.rpc import frames as f
from tidemill_runtime.rpc.frames import ErrorCode

pytestmark = pytest.mark.anyio
PROTOCOL, SIZE, FLOW = ErrorCode.PROTOCOL_ERROR, ErrorCode.FRAME_SIZE_ERROR, ErrorCode.FLOW_CONTROL_ERROR
CALM, COMPRESSION, CLOSED = ErrorCode.ENHANCE_YOUR_CALM, ErrorCode.COMPRESSION_ERROR, ErrorCode.STREAM_CLOSED


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def headers(raw: bytes, flags: int = f.END_HEADERS, stream: int = 1) -> bytes:
    return f.frame(f.HEADERS, flags, stream, raw)


def other(*fields: tuple[str, str], without: str = "") -> bytes:
    pairs = [(name, value) for name, value in HEAD.items() if name != without]
    return headers(block([*pairs, *fields]))


WORD = (1).to_bytes(4, "big")
TOO_WIDE = f.window_update(0, f.LARGEST_WINDOW)
BOMB = b"\x40\x01a\x7f\xa1\x1e" + bytes(4000) + b"\xbe" * 8
"""One header of 4,000 bytes into the table, and then eight times that one."""
LONG = block([("a", "b" * 120)] * 100)
CONNECTION: dict[str, tuple[bytes, ErrorCode]] = {
    "a frame too large": (b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", SIZE),
    "DATA of no stream": (data(0, b""), PROTOCOL),
    "DATA of an idle stream": (data(1, b"a"), PROTOCOL),
    "more padding than DATA": (head(1) + f.frame(f.DATA, f.PADDED, 1, b"\x05abc"), PROTOCOL),
    "padding without a length": (head(1) + f.frame(f.DATA, f.PADDED, 1), SIZE),
    "HEADERS of no stream": (head(0), PROTOCOL),
    "HEADERS of a server's stream": (head(2), PROTOCOL),
    "more padding than HEADERS": (headers(b"\x09a", f.PADDED | f.END_HEADERS), PROTOCOL),
    "no room for the priority": (headers(b"\0\0\0", f.PRIORITISED | f.END_HEADERS), SIZE),
    "a header block of noise": (headers(b"\xff" * 12), COMPRESSION),
    "an index of no entry": (headers(b"\xfe"), COMPRESSION),
    "index 0": (headers(b"\x80"), COMPRESSION),
    "a string that is cut off": (headers(b"\0\x7fabc"), COMPRESSION),
    "a number without an end": (headers(b"\x7f" + b"\xff" * 200), COMPRESSION),
    "a table too large": (headers(b"\x3f\xe2\x1f"), COMPRESSION),
    "a header bomb": (headers(BOMB), CALM),
    "a head that is too long": (headers(LONG, 0) + f.frame(f.CONTINUATION, 0, 1, LONG), CALM),
    "PING inside of a head": (headers(b"\x83", 0) + f.frame(f.PING, 0, 0, bytes(8)), PROTOCOL),
    "another's CONTINUATION": (headers(b"\x83", 0) + f.frame(f.CONTINUATION, 4, 3, b""), PROTOCOL),
    "a CONTINUATION of nothing": (f.frame(f.CONTINUATION, 4, 1, b""), PROTOCOL),
    "many CONTINUATIONs": (headers(b"", 0) + f.frame(f.CONTINUATION, 0, 1) * 20, CALM),
    "PRIORITY of no stream": (f.frame(f.PRIORITY, 0, 0, bytes(5)), PROTOCOL),
    "RST_STREAM of no stream": (f.frame(f.RST_STREAM, 0, 0, WORD), PROTOCOL),
    "RST_STREAM of an idle stream": (f.frame(f.RST_STREAM, 0, 1, WORD), PROTOCOL),
    "RST_STREAM of three bytes": (head(1) + f.frame(f.RST_STREAM, 0, 1, b"abc"), SIZE),
    "SETTINGS of a stream": (f.frame(f.SETTINGS, 0, 1), PROTOCOL),
    "SETTINGS of five bytes": (f.frame(f.SETTINGS, 0, 0, bytes(5)), SIZE),
    "SETTINGS that acknowledge with some": (f.frame(f.SETTINGS, f.ACK, 0, bytes(6)), SIZE),
    "ENABLE_PUSH 2": (f.settings({f.ENABLE_PUSH: 2}), PROTOCOL),
    "a window of 2^31": (f.settings({f.INITIAL_WINDOW: 2**31}), FLOW),
    "frames of 100 bytes": (f.settings({f.MOST_FRAME: 100}), PROTOCOL),
    "frames of 2^24 bytes": (f.settings({f.MOST_FRAME: 2**24}), PROTOCOL),
    "PUSH_PROMISE": (f.frame(f.PUSH_PROMISE, 4, 1, WORD), PROTOCOL),
    "PING of a stream": (f.frame(f.PING, 0, 1, bytes(8)), PROTOCOL),
    "PING of seven bytes": (f.frame(f.PING, 0, 0, bytes(7)), SIZE),
    "GOAWAY of a stream": (f.frame(f.GOAWAY, 0, 1, bytes(8)), PROTOCOL),
    "GOAWAY of four bytes": (f.frame(f.GOAWAY, 0, 0, bytes(4)), SIZE),
    "WINDOW_UPDATE by nothing": (f.window_update(0, 0), PROTOCOL),
    "WINDOW_UPDATE of an idle stream": (f.window_update(1, 1), PROTOCOL),
    "WINDOW_UPDATE of three bytes": (f.frame(f.WINDOW_UPDATE, 0, 0, b"abc"), SIZE),
    "a window above its limit": (TOO_WIDE, FLOW),
    "a stream's window above its limit": (
        f.settings({f.INITIAL_WINDOW: 0}) + head(1) + f.window_update(1, 2**31 - 1) + f.settings({f.INITIAL_WINDOW: 9}),
        FLOW,
    ),
    "a flood of PING": (f.frame(f.PING, 0, 0, bytes(8)) * 1500, CALM),
    "a flood of SETTINGS": (f.settings({}) * 1500, CALM),
    "a flood of PRIORITY": (f.frame(f.PRIORITY, 0, 1, bytes(5)) * 1500, CALM),
    "a flood of what is not known": (f.frame(99, 0, 0) * 1500, CALM),
    "a flood of empty DATA": (head(1) + f.frame(f.DATA, 0, 1) * 1500, CALM),
    "a flood of padding": (head(1) + f.frame(f.DATA, f.PADDED, 1, b"\0") * 1500, CALM),
    "a rapid reset": (b"".join(head(n) + f.reset(n, ErrorCode.CANCEL) for n in range(1, 8001, 2)), CALM),
    "a flood of calls above the limit": (b"".join(head(n, path="/t.T/Slow") for n in range(1, 8001, 2)), CALM),
    "a flood of late DATA": (head(1) + data(1, framed(b"")) + data(1, b"") * 1500, CALM),
}  # fmt: skip
TRAILERS = headers(block([("a", "b")]), f.END_HEADERS | f.END_STREAM)
STREAM: dict[str, tuple[bytes, ErrorCode]] = {
    "DATA behind the end": (head(1, path="/t.T/Slow") + data(1, framed(b"a")) + data(1, b"b"), CLOSED),
    "HEADERS behind the end": (head(1, path="/t.T/Slow") + data(1, framed(b"a")) + TRAILERS, CLOSED),
    "HEADERS in the middle": (head(1) + head(1), PROTOCOL),
    "a name in capitals": (other(("Name", "a")), PROTOCOL),
    "a name of nothing": (other(("", "a")), PROTOCOL),
    "a pseudo-header behind others": (other((":path", "/a")), PROTOCOL),
    "an unknown pseudo-header": (headers(block([(":status", "200"), *HEAD.items()])), PROTOCOL),
    "no path": (other(without=":path"), PROTOCOL),
    "an empty path": (head(1, path=""), PROTOCOL),
    "no scheme": (other(without=":scheme"), PROTOCOL),
    "a header of HTTP/1": (other(("connection", "close")), PROTOCOL),
    "te other than trailers": (head(1, te="gzip"), PROTOCOL),
    "another content-length": (head(1, content_length="9") + data(1, framed(b"a")), PROTOCOL),
    "a content-length of letters": (head(1, content_length="a"), PROTOCOL),
    "PRIORITY of four bytes": (head(1) + f.frame(f.PRIORITY, 0, 1, bytes(4)), SIZE),
    "a stream that depends on itself": (head(1) + f.frame(f.PRIORITY, 0, 1, WORD + b"\0"), PROTOCOL),
    "a head that depends on itself": (
        headers(WORD + b"\0" + block(HEAD), f.PRIORITISED | f.END_HEADERS), PROTOCOL
    ),
    "a stream's WINDOW_UPDATE by nothing": (head(1) + f.window_update(1, 0), PROTOCOL),
    "a stream's window above its limit": (head(1) + f.window_update(1, f.LARGEST_WINDOW), FLOW),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CONNECTION))
async def test_what_breaks_the_connection_ends_it_and_no_other(name: str) -> None:
    said, code = CONNECTION[name]
    async with served() as server:
        good, bad = await server.peer(), await server.peer()
        assert (await good.call(1)).status == 0
        bad.send(said)
        assert (await bad.until(f.GOAWAY)).code is code
        assert await bad.next() is None, "it is closed"
        assert (await good.call(3)).messages == [b"hello"]


@pytest.mark.parametrize("name", list(STREAM))
async def test_what_breaks_a_stream_ends_it_alone(name: str) -> None:
    said, code = STREAM[name]
    async with served() as server:
        peer = await server.peer()
        peer.send(said)
        assert (await peer.until(f.RST_STREAM)).code is code
        assert (await peer.call(3)).messages == [b"hello"]


@pytest.mark.parametrize(
    "hello",
    [b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", f.PREFACE + f.frame(f.PING, 0, 0, bytes(8))],
)  # fmt: skip
async def test_what_is_not_http_2_is_told_so(hello: bytes) -> None:
    async with served() as server:
        peer = await server.peer(hello)
        assert (await peer.until(f.GOAWAY)).code is PROTOCOL
        assert await peer.next() is None


async def test_windows_hold_what_nobody_reads() -> None:
    limits = Limits(window=64 * 1024, shared_window=256 * 1024, waiting=4)
    async with served(limits) as server:
        peer = await server.peer()
        peer.send(head(1, path="/t.T/Deaf"), data(1, framed(bytes(10_000)) * 12, ended=False))
        assert (await peer.until(f.RST_STREAM)).code is FLOW
        await peer.settle()
        assert server.server.shared.ledger.held == 0


def conversations(count: int) -> Iterator[bytes]:
    """Good conversations of several calls with some bytes that are not."""
    dice = random.Random(7)
    calls = [head(n) + data(n, framed(b"hello" * n)) for n in range(1, 9, 2)]
    good = HELLO + f.window_update(0, 1000) + b"".join(calls) + f.frame(f.PING, 0, 0, bytes(8))
    for _ in range(count):
        raw = bytearray(good)
        for _ in range(dice.randint(1, 6)):
            at = dice.randrange(len(raw))
            match dice.randrange(3):
                case 0:
                    raw[at] = dice.randrange(256)
                case 1:
                    del raw[at : at + dice.randint(1, 12)]
                case _:
                    raw[at:at] = dice.randbytes(dice.randint(1, 12))
        yield bytes(raw)


async def test_mutated_conversations_leave_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    async with served() as server:
        good = await server.peer()
        for number, raw in enumerate(conversations(600)):
            bad = await server.peer(raw)
            if number % 2:
                await bad.next()
            await bad.close()
            if not number % 50:
                assert (await good.call(2 * number + 1)).status == 0
    assert not caplog.records
