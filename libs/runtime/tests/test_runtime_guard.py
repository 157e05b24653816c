"""Who holds connections without asking, asks without an end or does not read is closed, and nobody else suffers."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from http import HTTPStatus
from typing import Any

import pytest
import uvicorn

from tidemill_runtime.http import guard as guards
from tidemill_runtime.http.guard import LONGEST_HEAD, Bounds, Guard, guarded_protocol
from tidemill_testkit.waiting import until

pytestmark = pytest.mark.anyio
ASK = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
LARGE = 8 * 1024 * 1024
Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]
OPENED: list[Wire] = []


async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's own types are dictionaries
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message.get("more_body", False)
    size = LARGE if scope["path"] == "/large" else 2
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
    await send({"type": "http.response.body", "body": b"o" * size})


@asynccontextmanager
async def serving(bounds: Bounds) -> AsyncIterator[tuple[Guard, int]]:
    guard = Guard(bounds)
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, http=guarded_protocol(guard), ws="none", lifespan="off", log_config=None,
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    server.capture_signals = nullcontext  # type: ignore[method-assign, assignment]
    running = asyncio.ensure_future(server.serve())
    await until(lambda: server.started, "the server listens")
    guard.known = server.server_state.connections  # type: ignore[attr-defined]
    try:
        yield guard, server.servers[0].sockets[0].getsockname()[1]
    finally:
        while OPENED:
            OPENED.pop()[1].close()
        server.should_exit = True
        await running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "SWEEP_S", 0.02)


async def connect(port: int, sent: bytes = b"") -> Wire:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    OPENED.append((reader, writer))
    writer.write(sent)
    return reader, writer


async def answered(wire: Wire, sent: bytes = ASK) -> bool:
    """Whether a request on it is answered with 200."""
    wire[1].write(sent)
    return (await wire[0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200") and await wire[0].readexactly(2) == b"oo"


async def end(wire: Wire) -> bytes:
    """Everything until the server closes."""
    async with asyncio.timeout(30):
        try:
            return await wire[0].read()
        except ConnectionError:
            return b"reset"


@pytest.mark.parametrize(
    ("sent", "last"),
    [
        (b"GET / HTT", b"408"), (ASK[:-2], b"408"), (ASK + b"GET / HTT", b"408"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc", b""),  # under way: only the connection can tell
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", b""),
    ],
)  # fmt: skip
async def test_who_does_not_go_on_is_closed(sent: bytes, last: bytes) -> None:
    async with serving(Bounds(head_s=0.3, whole_s=0.3)) as (guard, port):
        assert last in await end(await connect(port, sent))
        assert guard.timed_out == 1


async def test_who_says_nothing_is_told_nothing_that_could_be_taken_for_an_answer() -> None:
    async with serving(Bounds(head_s=0.3)) as (guard, port):
        assert await end(await connect(port)) == b""
        assert guard.timed_out == 1


async def test_what_has_come_when_the_time_is_up_is_answered() -> None:
    async with serving(Bounds(head_s=0.0)) as (guard, port):
        known: Any = guard.known  # type: ignore[attr-defined]
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setblocking(False)
            await until(lambda: known, "the connection is there")
            assert guard._sweeping is not None
            guard._sweeping.cancel()  # it is looked at by hand, in the moment between coming and being read
            for ask in (
                lambda: guard._sweep(asyncio.get_running_loop(), known),
                lambda: next(iter(known)).dismiss(HTTPStatus.REQUEST_TIMEOUT),
                lambda: next(iter(known)).timeout_keep_alive_handler(),
            ):
                client.send(ASK)
                ask()
                answer = b""
                while not answer.endswith(b"oo"):
                    answer += await asyncio.get_running_loop().sock_recv(client, 1000)
                assert answer.startswith(b"HTTP/1.1 200")
        assert guard.timed_out == 0


async def test_a_head_that_drips_is_cut_off_though_it_never_pauses() -> None:
    async with serving(Bounds(head_s=0.4)) as (_, port):
        reader, writer = await connect(port, b"GET / HTTP/1.1\r\n")
        closed = asyncio.ensure_future(reader.read())
        async with asyncio.timeout(30):
            while not closed.done():
                writer.write(b"x: y\r\n")
                await asyncio.sleep(0.01)
        assert b"408" in closed.result()


async def test_a_head_without_an_end_is_refused_by_its_size() -> None:
    async with serving(Bounds()) as (_, port):
        reader, writer = await connect(port, b"GET / HTTP/1.1\r\nx: ")
        for _ in range(40):
            writer.write(b"y" * (LONGEST_HEAD // 8))
            await asyncio.sleep(0)
        last = await end((reader, writer))
        assert last == b"reset" or b" 431 " in last  # what was sent too much may overtake the answer


async def test_who_does_not_read_is_cut_off() -> None:
    async with serving(Bounds(answer_s=0.2)) as (guard, port):
        wire = await connect(port, ASK.replace(b"/ ", b"/large ", 1))
        await until(lambda: guard.timed_out, "the server gives up")
        assert len(await end(wire)) < LARGE


async def test_one_who_asks_and_reads_in_time_is_never_closed() -> None:
    async with serving(Bounds(head_s=0.3, whole_s=0.3, answer_s=0.3)) as (guard, port):
        wire, silent = await connect(port), await connect(port)
        while not guard.timed_out:
            assert await answered(wire)
        assert await end(silent) == b""
        assert await answered(wire)
        assert guard.timed_out == 1


async def test_silent_connections_make_room_and_those_that_ask_stay() -> None:
    async with serving(Bounds(connections=20, head_s=60)) as (guard, port):
        kept = [await connect(port) for _ in range(4)]
        for wire in kept:
            assert await answered(wire)
        silent = [await connect(port) for _ in range(16)]
        for _ in range(10):
            newcomer = await connect(port)
            assert await answered(newcomer)
        assert guard.shed >= 10
        assert guard.refused == 0
        for wire in kept:
            assert await answered(wire)
        assert await end(silent[0]) == b""


async def test_where_nobody_is_silent_a_newcomer_is_told_to_come_again() -> None:
    async with serving(Bounds(connections=16)) as (guard, port):
        begun = [await connect(port, b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n") for _ in range(16)]
        known = guard.known  # type: ignore[attr-defined]
        await until(lambda: sum(found.is_busy for found in known) == 16, "all are under way", timeout_s=30)
        refused = await end(await connect(port))
        assert refused.startswith(b"HTTP/1.1 503")
        assert b"retry-after" in refused
        assert guard.refused == 1
        begun[0][1].write(b"123456789")
        assert (await begun[0][0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")


def test_no_more_connections_than_files() -> None:
    assert 16 <= Bounds(connections=10**9).affordable().connections < 10**9
