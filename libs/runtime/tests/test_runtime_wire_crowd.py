"""Many connections at once: all are read together, and those for whom there is no time are refused together."""

import asyncio
import select
import socket
from contextlib import AsyncExitStack

import numpy as np
import pytest
from direct_peer import post, until
from wire_peer import Many, send, several, wired

from tidemill_runtime.http.wire_compiled import (
    COLUMNS,
    EACH,
    EDGE,
    END,
    HEAD,
    MOST,
    OTHER,
    SOCKET,
    Lines,
    drain,
)
from tidemill_runtime.known import Known
from tidemill_runtime.telemetry import is_traceparent

pytestmark = pytest.mark.anyio


async def test_more_than_the_system_tells_at_a_time_is_taken_together() -> None:
    many, count = Many(), MOST + 44
    async with AsyncExitStack() as stack:
        clients, server = await several(stack, many, count)
        assert wired(server) == count
        for number, client in enumerate(clients):
            send(client, post(b"%04d" % number))
        assert [(await client.answer())[2]["body"] for client in clients] == [f"{n:04}" for n in range(count)]
        assert many.sizes == [count]


async def test_who_waited_longest_is_refused_with_others_in_a_trace_of_its_own() -> None:
    many = Many()
    async with AsyncExitStack() as stack:
        clients, server = await several(stack, many, 6)
        many.room, before = 2, server.server_state.total_requests
        parents = [None, f"00-{'1' * 32}-{'d' * 16}-00", f"00-{'2' * 32}-{'d' * 16}-01", None]
        for number, client in enumerate(clients):
            parent = dict(enumerate(parents)).get(number)
            send(client, post(b"as %d" % number, *([] if parent is None else [f"traceparent: {parent}"])))
        contexts = []
        for client in clients[:4]:
            status, headers, body = await client.answer()
            assert (status, body) == (503, b"full")
            assert (headers["retry-after"], "date" in headers) == ("1", True)
            contexts.append(headers["traceparent"])
        assert all(map(is_traceparent, contexts))
        assert len({context[36:52] for context in contexts}) == 4
        assert contexts[0][3:35] != contexts[3][3:35]
        assert [context[-2:] for context in contexts] == ["01", "00", "01", "01"]
        assert [context[3:35] for context in contexts[1:3]] == ["1" * 32, "2" * 32]
        assert [(await client.answer())[2]["body"] for client in clients[4:]] == ["as 4", "as 5"]
        assert server.server_state.total_requests == before + 6
        many.room = 6
        assert (await clients[0].ask(post(b"again")))["via"] == "direct"
        assert wired(server) == 6


async def test_who_is_refused_is_not_idle() -> None:
    many = Many()
    async with AsyncExitStack() as stack:
        clients, server = await several(stack, many, 2)
        many.room, now = 0, asyncio.get_running_loop().time
        for protocol in server.server_state.connections:
            protocol._heard_at -= 60  # when it was answered last
        asked_at = now()
        for client in clients:
            send(client, post(b"same"))
        for client in clients:
            assert (await client.answer())[0] == 503
        for protocol in server.server_state.connections:
            assert protocol.idle_s(now()) <= now() - asked_at
            protocol.timeout_keep_alive_handler()
            assert not protocol.transport.is_closing()


def test_who_says_more_while_others_are_read_goes_back_with_what_was_read() -> None:
    known, lines, raw = Known[int](), Lines.of(64), post(b"body")
    head = raw[: raw.index(b"\r\n\r\n")]
    assert known.learn(head, 4, 0)
    events, rows, arena = np.zeros((4, 3), np.uint32), np.zeros((8, COLUMNS), np.int64), np.zeros(8 * EACH, np.uint8)
    with select.epoll() as epoll:
        pairs = [socket.socketpair() for _ in range(3)]
        for near, far in pairs:
            epoll.register(near.fileno(), EDGE)
            far.send(raw)
        descriptors = [near.fileno() for near, _ in pairs]
        lines.rows[descriptors[2]] = 1  # as if it had been told of before
        lines.waits[descriptors[0]] = True
        count = drain(epoll.fileno(), events, (arena, rows), known.table, lines)
        assert rows[:count, SOCKET].tolist() == descriptors[:2]
        assert rows[:count, HEAD].tolist() == [OTHER, OTHER], "the one waits, the other was told of twice"
        assert rows[:count, END].tolist() == [len(raw), 2 * len(raw)]
        assert pairs[2][0].recv(1024) == raw, "what comes late is left for the transport"
        for near, far in pairs:
            near.close()
            far.close()


async def test_who_does_not_read_gets_every_refusal_in_the_end() -> None:
    many = Many()
    many.refusal = b"z" * 30_000
    async with AsyncExitStack() as stack:
        clients, server = await several(stack, many, 2)
        many.room, asked = 0, 0
        for protocol in server.server_state.connections:
            own = protocol.transport.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel's least
        for client in clients:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # asyncio types it so
        while wired(server) == 2 and asked < 300:
            asked += 1
            for client in clients:
                send(client, post(b"same"))
            await until(lambda wanted=4 + 2 * asked: server.server_state.total_requests == wanted)  # type: ignore[misc]
        assert wired(server) < 2, "the socket never was full"
        for client in clients:
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]
            for _ in range(asked):
                assert (await client.answer())[2] == many.refusal
        assert [(await client.ask(post(b"on")))["body"] for client in clients] == ["on", "on"]
