"""Ten thousand idle connections, heads that drip, bodies that are too large: memory is bounded, neighbours go on."""

import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from serving_cases import inputs
from serving_child import HEAD_S, Child, child
from serving_edge import PATH
from serving_stack import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]
BODY = json.dumps({"inputs": inputs()}).encode()
MIB = 1024 * 1024
Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def post(length: int, *lines: str, path: str = PATH) -> bytes:
    head = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json", f"content-length: {length}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n"


class Neighbour:
    """Asks one good request after the other on a kept connection, and on a new one every now and then."""

    def __init__(self, server: Child) -> None:
        self._server, self.answers, self._is_over = server, 0, False

    async def run(self) -> None:
        while not self._is_over:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
            for _ in range(20):
                writer.write(post(len(BODY)) + BODY)
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200"), head
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
                await reader.readexactly(int(length.partition(b": ")[2]))
                self.answers += 1
            writer.close()

    def stop(self) -> None:
        self._is_over = True

    async def until_more(self, count: int = 100) -> None:
        wanted = self.answers + count
        await until(lambda: self.answers >= wanted, f"{count} more answers to the neighbour")


@asynccontextmanager
async def beside(server: Child) -> AsyncIterator[Neighbour]:
    """A neighbour who must be answered all the time."""
    neighbour = Neighbour(server)
    running = asyncio.ensure_future(neighbour.run())
    await neighbour.until_more(20)
    try:
        yield neighbour
        await neighbour.until_more(20)
    finally:
        neighbour.stop()
    await running
    assert server.is_alive


async def opened(server: Child, count: int, sent: bytes = b"") -> list[Wire]:
    wires = list[Wire]()
    for _ in range(count):
        wire = await asyncio.open_connection("127.0.0.1", server.port)
        if sent:
            wire[1].write(sent)
        wires.append(wire)
    return wires


async def closed(wires: list[Wire]) -> None:
    """Wait until the server has closed all of them."""

    async def end(wire: Wire) -> None:
        try:
            while await wire[0].read(65536):
                pass
        except ConnectionError:
            pass
        wire[1].close()

    async with asyncio.timeout(120):
        await asyncio.gather(*map(end, wires))


async def idle(server: Child, count: int) -> None:
    async with beside(server) as neighbour:
        await neighbour.until_more()  # what the first answers cost, compiled code above all, is not the connections'
        before = server.memory_mib
        wires = await opened(server, count)
        try:
            await neighbour.until_more()
            assert server.memory_mib < before + 40 + count / 40  # 25 KiB for each
        finally:
            await closed(wires)
        await neighbour.until_more()


async def test_idle_connections_are_closed_and_neighbours_answered() -> None:
    with child(connections=100) as server:
        await idle(server, 250)


@pytest.mark.chaos
async def test_ten_thousand_idle_connections() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with child() as server:
        await idle(server, min(10_000, soft - 500))


async def drip(server: Child, count: int) -> None:
    started = time.monotonic()
    async with beside(server) as neighbour:
        wires = await opened(server, count, b"POST / HTTP/1.1\r\nhost: x\r\n")
        ended = asyncio.ensure_future(closed(wires))
        while not ended.done():
            for _, writer in wires:
                if not writer.is_closing():
                    writer.write(b"x: y\r\n")
            await neighbour.until_more(5)
        await ended
    assert time.monotonic() - started > HEAD_S


@pytest.mark.chaos
async def test_a_thousand_heads_that_drip() -> None:
    with child() as server:
        await drip(server, 1000)


async def too_much(wire: Wire, piece: Callable[[], bytes], count: int) -> bytes:
    """Send pieces until the server has enough; the beginning of its answer."""
    reader, writer = wire
    try:
        for _ in range(count):
            writer.write(piece())
            await writer.drain()
    except ConnectionError:
        pass
    try:
        return await reader.read(200)
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.chaos
@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_of_64_mib(chunked: bool) -> None:
    part = b" " * 65536
    piece = b"%x\r\n%b\r\n" % (len(part), part) if chunked else part
    head = post(64 * MIB)
    if chunked:
        head = head.replace(b"content-length: %d" % (64 * MIB), b"transfer-encoding: chunked")
    with child() as server:
        before = server.memory_mib
        peak = before
        async with beside(server):
            wires = await opened(server, 20, head)
            sending: list[Awaitable[bytes]] = [too_much(wire, lambda: piece, 1024) for wire in wires]
            for answer in await asyncio.gather(*sending):
                assert answer == b"" or answer.startswith(b"HTTP/1.1 413")
                peak = max(peak, server.memory_mib)
        assert peak < before + 64


@pytest.mark.chaos
async def test_bodies_that_never_come_are_given_up() -> None:
    with child() as server:
        before = server.memory_mib
        async with beside(server):
            wires = await opened(server, 500, post(1_000_000) + b" " * 10)
            wires += await opened(server, 500, post(1_000_000))
            await closed(wires)
        assert server.memory_mib < before + 64
