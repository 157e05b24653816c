"""gRPC's port as good clients use it: messages of any size both ways, windows, deadlines, taking back, stopping."""

import gzip
import logging
import zlib
from collections.abc import AsyncIterator
from functools import partial

import hpack
import pytest
from rpc_peer import HEAD, PATIENCE_S, Outcome, block, data, framed, head, served

from tidemill_runtime.rpc import Code, Limits
from tidemill_runtime.rpc import frames as f
from tidemill_runtime.rpc.frames import ErrorCode
from tidemill_testkit.waiting import until

pytestmark = pytest.mark.anyio
LARGE = bytes(range(256)) * 8000


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


async def test_calls_over_one_connection_are_answered_each() -> None:
    async with served() as server:
        peer = await server.peer()
        peer.send(*(head(n) + data(n, framed(b"%d" % n)) for n in range(1, 400, 2)))
        for number in range(1, 400, 2):
            assert await peer.outcome(number) == Outcome([b"%d" % number], 0)


@pytest.mark.parametrize("indexed", [True, False])
async def test_heads_may_lean_on_the_table_in_every_way(*, indexed: bool) -> None:
    """The second block is indices alone; a third changes what these mean."""
    encoder = hpack.Encoder()
    async with served() as server:
        peer = await server.peer()
        for number in range(1, 40, 2):
            more = {"x-number": str(number // (8 if indexed else 1))}
            raw = encoder.encode([*(HEAD | more).items()])
            peer.send(f.frame(f.HEADERS, f.END_HEADERS, number, raw), data(number, framed(b"a")))
            assert (await peer.outcome(number)).messages == [b"a"]


async def test_a_known_head_is_read_again_once_the_table_has_changed() -> None:
    def taught(path: str) -> bytes:
        """A head whose path, `te` and `content-type` go into the table: the newest three entries."""
        fields = {":path": path, "te": "trailers", "content-type": "application/grpc"}
        return b"\x83\x86" + b"".join(b"\x40" + block({name: value})[1:] for name, value in fields.items())

    known = b"\x83\x86\xc0\xbf\xbe"
    found = []
    async with served() as server:
        peer = await server.peer()
        for number, raw in enumerate((taught("/t.T/Echo"), known, known, taught("/t.T/None"), known, known)):
            stream = 2 * number + 1
            peer.send(f.frame(f.HEADERS, f.END_HEADERS, stream, raw), data(stream, framed(b"a")))
            found.append((await peer.outcome(stream)).status)
    assert found == [0, 0, 0, *[Code.UNIMPLEMENTED] * 3]


async def test_what_is_still_on_its_way_when_a_call_is_refused_is_let_pass() -> None:
    async with served(Limits(message=1000)) as server:
        peer = await server.peer()
        peer.send(head(1), data(1, framed(bytes(2000))[:500], ended=False))
        assert (await peer.outcome(1)).status == Code.RESOURCE_EXHAUSTED
        peer.send(data(1, b"a", ended=False) * 1500, data(1, b"a"))
        assert (await peer.call(3)).status == 0


@pytest.mark.parametrize("path", ["/t.T/Echo", "/t.T/Chat"])
@pytest.mark.parametrize("size", [1, 3, 1000, 100_000])
async def test_a_message_may_come_in_parts_of_any_size(path: str, size: int) -> None:
    raw = framed(LARGE[: max(size * 20, 50)])
    parts = [raw[at : at + size] for at in range(0, len(raw), size)]
    async with served() as server:
        peer = await server.peer()
        peer.send(head(1, path=path), *(data(1, part, ended=False) for part in parts), data(1, b""))
        assert await peer.outcome(1) == Outcome([raw[5:]], 0)


async def test_padding_priorities_and_continuations_say_nothing() -> None:
    raw = block(HEAD)
    async with served() as server:
        peer = await server.peer()
        flags = f.PADDED | f.PRIORITISED
        peer.send(
            f.frame(f.HEADERS, flags, 1, b"\x03" + bytes(5) + raw[:20] + bytes(3)),
            f.frame(f.CONTINUATION, 0, 1, raw[20:30]), f.frame(f.CONTINUATION, f.END_HEADERS, 1, raw[30:]),
            f.frame(f.DATA, f.PADDED | f.END_STREAM, 1, b"\x09" + framed(b"hello") + bytes(9)), f.frame(77, 3, 1, b"x"),
        )  # fmt: skip
        assert await peer.outcome(1) == Outcome([b"hello"], 0)


async def test_large_answers_wait_for_windows() -> None:
    async with served() as server:
        peer = await server.peer(f.PREFACE + f.settings({f.INITIAL_WINDOW: 10}))
        peer.send(head(1, path="/t.T/Large"), data(1, framed(b"300000")), head(3), data(3, framed(b"b" * 30)))
        got = 0
        while got < 10:
            got += len((await peer.until(f.DATA)).payload)
        await peer.settle()
        assert sum(len(frame.payload) for frame in peer.seen if frame.kind == f.DATA and frame.stream == 1) == 10
        peer.send(f.settings({f.INITIAL_WINDOW: 100_000}))
        assert (await peer.outcome(3)).status == 0, "it does not wait for the large one"
        peer.send(f.window_update(1, 300_000), f.window_update(0, 300_000))
        await peer.until(f.HEADERS)
        sent = sum(len(frame.payload) for frame in peer.seen if frame.kind == f.DATA and frame.stream == 1)
        assert sent == 300_005


async def test_who_does_not_read_holds_nobody_up_and_nothing_grows() -> None:
    async with served() as server:
        deaf, good = await server.peer(), await server.peer()
        deaf.send(head(1, path="/t.T/Many"), data(1, framed(b"")))
        await until(lambda: server.made > 10, "answers are made")
        for number in range(1, 200, 2):
            assert (await good.call(number)).status == 0
        assert server.made < 1000, "it waits with the next ones"
        assert len((await deaf.outcome(1)).messages) == 1000


async def test_a_stream_takes_messages_while_it_gives_answers() -> None:
    async with served() as server:
        peer = await server.peer()
        peer.send(head(1, path="/t.T/Chat"))
        for number in range(5):
            peer.send(data(1, framed(b"%d" % number), ended=False))
            assert (await peer.until(f.DATA)).payload == framed(b"%d" % number)
        peer.send(data(1, b""))
        assert (await peer.outcome(1)).status == 0


@pytest.mark.parametrize("path", ["/t.T/Echo", "/t.T/Slow", "/t.T/Chat"])
@pytest.mark.parametrize("packing", ["gzip", "deflate"])
async def test_messages_may_be_packed(path: str, packing: str) -> None:
    pack = partial(gzip.compress, mtime=0) if packing == "gzip" else zlib.compress
    async with served(Limits(message=len(LARGE))) as server:
        server.release.set()
        peer = await server.peer()
        for number, raw in ((1, b"hello"), (3, LARGE)):
            peer.send(head(number, path=path, grpc_encoding=packing), data(number, framed(pack(raw), packed=True)))
            assert (await peer.outcome(number)).status == 0
        bomb = pack(bytes(len(LARGE) + 1))
        peer.send(head(5, path=path, grpc_encoding=packing), data(5, framed(bomb, packed=True)))
        assert (await peer.outcome(5)).status == Code.RESOURCE_EXHAUSTED
        for number, broken in enumerate((pack(b"hello") + b"more", pack(b"hello")[:-2], b"nonsense", b"")):
            stream = 7 + 2 * number
            peer.send(head(stream, path=path, grpc_encoding=packing), data(stream, framed(broken, packed=True)))
            assert (await peer.outcome(stream)).status == Code.INTERNAL


REFUSED: dict[str, tuple[bytes, Code]] = {
    "no such method": (head(1, path="/t.T/None") + data(1, framed(b"")), Code.UNIMPLEMENTED),
    "a message above the limit": (head(1) + data(1, b"\0\0\x10\0\0", ended=False), Code.RESOURCE_EXHAUSTED),
    "two messages": (head(1) + data(1, framed(b"a") * 2), Code.UNIMPLEMENTED),
    "no message": (head(1) + data(1, b""), Code.UNIMPLEMENTED),
    "no message in a head": (head(1, ended=True), Code.UNIMPLEMENTED),
    "half a message": (head(1) + data(1, framed(b"abc")[:-1]), Code.INTERNAL),
    "half a message in a stream": (head(1, path="/t.T/Chat") + data(1, framed(b"abc")[:-1]), Code.INTERNAL),
    "a flag of 2": (head(1) + data(1, b"\x02\0\0\0\0"), Code.INTERNAL),
    "another encoding": (head(1, grpc_encoding="snappy") + data(1, framed(b"")), Code.UNIMPLEMENTED),
    "packed without an encoding": (head(1) + data(1, framed(b"", packed=True)), Code.INTERNAL),
    "a timeout of words": (head(1, grpc_timeout="soon") + data(1, framed(b"")), Code.INTERNAL),
    "a timeout of nine digits": (head(1, grpc_timeout="123456789S") + data(1, framed(b"")), Code.INTERNAL),
    "a timeout that is over": (head(1, path="/t.T/Slow", grpc_timeout="1n") + data(1, b"\0", ended=False),
                               Code.DEADLINE_EXCEEDED),
    "GET": (head(1, method="GET", ended=True), Code.INTERNAL),
    "JSON": (head(1, content_type="application/json") + data(1, b"{}"), Code.INTERNAL),
    "a fault of ours": (head(1, path="/t.T/Broken") + data(1, framed(b"")), Code.INTERNAL),
    "a fault of ours in a task": (head(1, path="/t.T/Later") + data(1, framed(b"")), Code.INTERNAL),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
async def test_what_is_refused_says_why_and_the_connection_goes_on(name: str) -> None:
    said, code = REFUSED[name]
    async with served(Limits(message=1 << 19)) as server:
        peer = await server.peer()
        peer.send(said)
        found = await peer.outcome(1)
        assert (found.status, bool(found.text)) == (code, True)
        assert await peer.call(3) == Outcome([b"hello"], 0)
        assert "ZeroDivision" not in found.text


async def test_a_deadline_ends_the_call_and_its_work() -> None:
    async with served() as server:
        peer = await server.peer()
        assert (await peer.call(1, path="/t.T/Slow", grpc_timeout="20m")).status == Code.DEADLINE_EXCEEDED
        await until(lambda: server.cancelled == 1, "the work has ended", timeout_s=PATIENCE_S)
        server.release.set()
        assert (await peer.call(3, path="/t.T/Slow", grpc_timeout="50S")).status == 0


@pytest.mark.parametrize("how", ["taken back", "gone"])
async def test_what_nobody_waits_for_ends(how: str) -> None:
    async with served() as server:
        peer = await server.peer()
        peer.send(*(head(n, path="/t.T/Slow") + data(n, framed(b"")) for n in range(1, 21, 2)))
        await peer.settle()
        if how == "gone":
            await peer.close()
        else:
            peer.send(*(f.reset(n, ErrorCode.CANCEL) for n in range(1, 21, 2)))
        await until(lambda: server.cancelled == 10, "the work has ended", timeout_s=PATIENCE_S)
        assert server.server.shared.ledger.calls == 0


async def test_a_client_may_have_no_table() -> None:
    async with served() as server:
        peer = await server.peer()
        peer.send(f.settings({f.TABLE_SIZE: 0}))
        for number in (1, 3):
            assert (await peer.call(number)).status == 0
        blocks = [frame.payload for frame in peer.seen if frame.kind == f.HEADERS]
        assert [raw[0] == 0x20 for raw in blocks] == [True, False, False, False]


@pytest.fixture(autouse=True)
async def no_surprises(caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Nothing is logged as a failure but where there is one."""
    yield
    bad = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not bad or "fault of ours" in request.node.name or "guard" in request.node.name
