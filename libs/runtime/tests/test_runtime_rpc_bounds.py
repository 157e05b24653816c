"""How gRPC's port begins and ends: stopping, sharing, and what all connections together may hold."""

import asyncio

import pytest
from rpc_peer import HELLO, PATIENCE_S, data, framed, head, served

from tidemill_runtime.http.guard import Bounds, Guard
from tidemill_runtime.rpc import Code, GrpcServer, Limits
from tidemill_runtime.rpc import frames as f
from tidemill_runtime.rpc.frames import ErrorCode

pytestmark = pytest.mark.anyio
LARGE = bytes(1_500_000)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


async def test_a_stop_answers_what_is_under_way_and_takes_nothing_new() -> None:
    async with served() as server:
        idle, peer = await server.peer(), await server.peer()
        peer.send(head(1, path="/t.T/Slow"), data(1, framed(b"a")))
        await peer.settle()
        await idle.settle()
        stopping = asyncio.ensure_future(server.server.stop(PATIENCE_S))
        assert (await peer.until(f.GOAWAY)).code is ErrorCode.NO_ERROR
        asked = await peer.until(f.PING)
        peer.send(head(3), data(3, framed(b"late")))
        assert (await peer.outcome(3)).messages == [b"late"], "it was sent before the order to leave was read"
        peer.send(f.frame(f.PING, f.ACK, 0, asked.payload))
        assert int.from_bytes((await peer.until(f.GOAWAY)).payload[:4], "big") == 3
        peer.send(head(5), data(5, framed(b"never")))
        assert (await peer.outcome(5)).reset is ErrorCode.REFUSED_STREAM
        server.release.set()
        assert (await peer.outcome(1)).messages == [b"a"]
        assert await peer.next() is None
        idle.send(f.frame(f.PING, f.ACK, 0, (await idle.until(f.PING)).payload))
        await idle.until(f.GOAWAY)
        await stopping
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await server.peer()


async def test_servers_may_share_a_port() -> None:
    async with served() as first:
        other = GrpcServer(first.server.shared.routes)
        port = first.server.port
        assert port is not None
        await first.server.stop(0)
        await first.server.start("127.0.0.1", port, shared=True)
        await other.start("127.0.0.1", port, shared=True)
        peers = [await first.peer() for _ in range(40)]
        for peer in peers:
            assert (await peer.call(1)).status == 0
        assert first.server.shared.connections
        assert other.shared.connections
        await other.stop(0)
        for _ in range(10):
            assert (await (await first.peer()).call(1)).status == 0


async def test_what_is_held_of_all_connections_is_bounded() -> None:
    async with served(Limits(held=1_000_000)) as server:
        first, second = await server.peer(), await server.peer()
        first.send(head(1), data(1, framed(LARGE)[:900_000], ended=False))
        await first.settle()
        second.send(head(1), data(1, framed(LARGE)[:200_000], ended=False))
        assert (await second.outcome(1)).status == Code.RESOURCE_EXHAUSTED
        assert (await second.call(3)).status == 0
        first.send(f.reset(1, ErrorCode.CANCEL))
        await first.settle()
        assert server.server.shared.ledger.held == 0


async def test_calls_of_one_connection_and_of_all_are_bounded() -> None:
    async with served(Limits(streams=3, calls=4, share=1)) as server:
        first, second = await server.peer(), await server.peer()
        calls = [head(n, path="/t.T/Slow") + data(n, framed(b"")) for n in range(1, 8, 2)]
        first.send(*calls)
        assert (await first.outcome(7)).reset is ErrorCode.REFUSED_STREAM
        second.send(*calls[:2])
        assert (await second.outcome(3)).status == Code.RESOURCE_EXHAUSTED
        third = await server.peer()
        assert (await third.call(1)).status == 0, "it has its share"
        server.release.set()
        assert (await second.outcome(1)).status == 0


async def test_the_guard_looks_after_connections() -> None:
    async with served() as server:
        server.server.shared.guard = Guard(Bounds(connections=16, head_s=0.2, whole_s=0.4))
        chat = head(1, path="/t.T/Chat") + data(1, framed(b"a"), ended=False)
        patient = [await server.peer(HELLO), await server.peer(HELLO + chat)]
        silent = [await server.peer(b""), await server.peer(HELLO + head(1)), await server.peer(HELLO + chat)]
        silent[2].send(data(1, framed(b"b")[:3], ended=False))
        assert (await silent[0].until(f.GOAWAY)).code is ErrorCode.NO_ERROR
        for peer in silent[1:]:
            while await peer.next() is not None:
                pass
        for peer in patient:
            assert (await peer.call(3)).status == 0, "who may be silent is left in peace"
        many = [await server.peer() for _ in range(17)]
        await many[-1].settle()
        assert server.server.shared.guard.shed > 0
        assert len(server.server.shared.connections) <= 16
