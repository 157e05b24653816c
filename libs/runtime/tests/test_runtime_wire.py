"""Connections that ask the same again are read and written together, and come back where they do anything else."""

import asyncio
import random
import socket
from contextlib import AsyncExitStack

import pytest
from direct_peer import TRACE, Client, post, until
from wire_peer import Many, send, several, wired

pytestmark = pytest.mark.anyio


async def test_who_asks_again_is_read_with_others() -> None:
    many = Many()
    async with AsyncExitStack() as stack:
        clients, server = await several(stack, many, 8)
        assert wired(server) == 8
        for number in range(5):
            for place, client in enumerate(clients):
                line = (f"traceparent: {TRACE[:-2]}00",) if place % 2 else ()
                client.writer.write(post(b"x" * (number + 1), *line))
            for place, client in enumerate(clients):
                status, headers, body = await client.answer()
                assert (status, body["body"]) == (200, "x" * (number + 1))
                assert headers["traceparent"] == (TRACE[:-2] + "00" if place % 2 else TRACE)
        assert wired(server) == 8
        assert server.server_state.total_requests == 8 * 7


async def test_what_comes_together_is_taken_together() -> None:
    many = Many()
    async with AsyncExitStack() as stack:
        clients, server = await several(stack, many, 4)
        for number, client in enumerate(clients):
            send(client, post(b"asgi" if number == 2 else b"late"))
        bodies = [(await client.answer())[2] for client in clients]
        assert many.sizes == [4]
        assert [body["via"] for body in bodies] == ["asgi"] * 4
        assert [body["body"] for body in bodies] == ["late", "late", "asgi", "late"]
        assert wired(server) == 0, "whom ASGI has answered the transport reads"


async def test_an_answer_on_its_way_goes_before_the_connection_does() -> None:
    many = Many()
    async with AsyncExitStack() as stack:
        clients, server = await several(stack, many, 2)
        many.free.clear()
        for client in clients:
            send(client, post(b"same"))
        await until(lambda: sum(protocol.waits for protocol in server.server_state.connections) == 2)
        name = clients[0].writer.get_extra_info("sockname")
        [protocol] = [found for found in server.server_state.connections if found.client == name]
        protocol.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")  # with others later
        protocol.shutdown()
        assert (await clients[0].answer())[0] == 200
        assert await clients[0].reader.read() == b""
        many.free.set()
        assert (await clients[1].answer())[2]["body"] == "same"


async def test_a_fault_closes_only_whom_it_meets() -> None:
    many = Many()
    async with AsyncExitStack() as stack:
        clients, _ = await several(stack, many, 3)
        many.fails = True
        for client in clients[:2]:
            send(client, post(b"xxxx"))
        for client in clients[:2]:
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await client.answer()
        many.fails = False
        assert (await clients[2].ask(post(b"on")))["body"] == "on"


@pytest.mark.parametrize("cut", [1, 40, -1])
async def test_parts_go_back_to_the_transport(cut: int) -> None:
    many = Many()
    async with AsyncExitStack() as stack:
        [client], server = await several(stack, many, 1)
        for number in range(6):
            raw = post(b"part %d" % number)
            client.writer.write(raw[:cut])
            await until(lambda: wired(server) == 0)
            client.writer.write(raw[cut:])
            assert (await client.answer())[2]["body"] == f"part {number}"
            assert (await client.ask(post(b"whole")))["body"] == "whole"
        assert wired(server) == 0, "who does so again and again stays there"


async def test_the_last_request_and_the_end_may_come_together() -> None:
    many = Many()
    async with AsyncExitStack() as stack:
        [client], server = await several(stack, many, 1)
        client.writer.write(post(b"last"))
        client.writer.write_eof()
        await client.reader.read()  # whether it is answered is uvicorn's affair; the connection must not stay
        await until(lambda: not server.server_state.connections)


async def test_one_that_goes_while_it_waits_is_forgotten() -> None:
    many = Many()
    async with AsyncExitStack() as stack:
        clients, server = await several(stack, many, 2)
        many.free.clear()
        for client in clients:
            client.writer.write(post(b"x"))
        await until(lambda: sum(protocol.waits for protocol in server.server_state.connections) == 2)
        clients[1].writer.transport.abort()
        await until(lambda: len(server.server_state.connections) == 1)
        many.free.set()
        assert (await clients[0].answer())[2]["body"] == "x"
        assert (await clients[0].ask(post(b"y")))["body"] == "y"


async def test_more_than_was_asked_for_waits_its_turn() -> None:
    many = Many()
    async with AsyncExitStack() as stack:
        [client], _ = await several(stack, many, 1)
        many.free.clear()
        client.writer.write(post(b"first"))
        await until(lambda: bool(many.held and not many.held[-1].done()))
        client.writer.write(post(b"second") + post(b"asgi third"))
        many.free.set()
        bodies = [(await client.answer())[2]["body"] for _ in range(3)]
        assert bodies == ["first", "second", "asgi third"]


async def test_who_does_not_read_gets_everything_in_the_end() -> None:
    many, size, count = Many(), 30_000, 300
    async with AsyncExitStack() as stack:
        [client], server = await several(stack, many, 1)
        [protocol] = server.server_state.connections
        own = protocol.transport.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel's least
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # asyncio types it so
        for number in range(count):
            send(client, post(b"z" * size))
            await until(lambda wanted=number + 3: protocol.server_state.total_requests == wanted)  # type: ignore[misc]
            if protocol._wired < 0:
                break
        assert protocol._wired < 0, "the socket never was full"
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(number + 1):
            assert (await client.answer())[2]["body"] == "z" * size
        assert (await client.ask(post(b"on")))["body"] == "on"


async def test_an_idle_one_is_closed_when_the_server_stops() -> None:
    many = Many()
    async with AsyncExitStack() as stack:
        clients, server = await several(stack, many, 2)
        server.should_exit = True
        for client in clients:
            assert await client.reader.read() == b""


@pytest.mark.parametrize("seed", range(4))
async def test_every_mixture_over_many_connections(seed: int) -> None:
    many, made = Many(), random.Random(seed)

    async def use(client: Client, number: int) -> None:
        for turn in range(30):
            body = made.choice(["asgi", "late", "x", "y" * 300, ""]) + f"{number}.{turn}"
            raw = post(body.encode(), *((f"traceparent: {TRACE}",) if made.random() < 0.5 else ()))
            place = made.choice([len(raw)] * 4 + [made.randrange(1, len(raw))])
            client.writer.write(raw[:place])
            await asyncio.sleep(made.choice([0, 0, 0.001]))
            client.writer.write(raw[place:])
            assert (await client.answer())[2]["body"] == body

    async with AsyncExitStack() as stack:
        clients, server = await several(stack, many, 12)
        await asyncio.gather(*(use(client, number) for number, client in enumerate(clients)))
        assert len(server.server_state.connections) == 12
