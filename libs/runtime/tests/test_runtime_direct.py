"""Requests of known heads are answered without ASGI; everything else, and every odd form of them, goes on as before."""

import asyncio
import random

import pytest
from direct_peer import TRACE, Client, Echo, post, serving, until

from tidemill_runtime.http.heads import KNOWN_HEADS, Heads

pytestmark = pytest.mark.anyio


@pytest.fixture
async def echo() -> Echo:
    return Echo()


async def test_the_same_head_again_is_answered_directly(echo: Echo) -> None:
    async with serving(echo) as (client, server):
        for body in ("one", "two", "three"):
            assert await client.ask(post(body.encode())) == {"via": "direct", "name": "", "body": body}
        assert (await client.ask(post(b"asgi, please")))["via"] == "asgi"
        assert (await client.ask(post(b"four")))["via"] == "direct"
        assert server.server_state.total_requests == 5


async def test_a_head_means_what_it_says(echo: Echo) -> None:
    async with serving(echo) as (client, _):
        for name in ("a", "b", "a"):
            assert (await client.ask(post(b"x", f"X-Name: {name}")))["name"] == name


@pytest.mark.parametrize("size", [1, 3, 50, 90])
async def test_parts_are_put_together(echo: Echo, size: int) -> None:
    async with serving(echo) as (client, _):
        raw = post(b"0123456789" * 20)
        for start in range(0, len(raw), size):
            client.writer.write(raw[start : start + size])
            await client.writer.drain()
            await asyncio.sleep(0)
        assert (await client.answer())[2]["body"] == "0123456789" * 20


async def test_requests_that_do_not_wait_are_answered_in_their_order(echo: Echo) -> None:
    async with serving(echo) as (client, _):
        client.writer.write(b"".join(post(b"%d" % number) for number in range(5)))
        assert [(await client.answer())[2]["body"] for _ in range(5)] == list("01234")
        echo.free.clear()
        for number in range(3):
            client.writer.write(post(b"%d" % number))
            await asyncio.sleep(0.01)
        echo.free.set()
        assert [(await client.answer())[2]["body"] for _ in range(3)] == list("012")


@pytest.mark.parametrize(
    "raw",
    [
        b"POST /direct HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        b"POST /direct HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nexpect: 100-wait\r\n\r\nhi",
        b"POST /direct HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi",
        b"POST /direct HTTP/1.0\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi",
        b"POST /dir%65ct HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi",
        b"POST /direct HTTP/1.1\r\nhost: x\r\nhost: y\r\ncontent-length: 2\r\n\r\nhi",
        b"POST /direct HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ntraceparent: 00-0-0-0\r\n\r\nhi",
        b"POST /direct HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nx-long: " + b"y" * 5000 + b"\r\n\r\nhi",
    ],
)
async def test_odd_heads_go_the_long_way(echo: Echo, raw: bytes) -> None:
    async with serving(echo) as (client, _):
        assert await client.ask(raw) == {"via": "asgi", "body": "hi"}


@pytest.mark.parametrize("line", ["content-length: 2", "content-length: 3", "transfer-encoding: chunked", "bad header"])
async def test_a_head_with_two_meanings_is_refused(echo: Echo, line: str) -> None:
    async with serving(echo) as (client, _):
        client.writer.write(post(b"hi", line))
        status, _, _ = await client.answer()
        assert status == 400
        assert not echo.held


async def test_a_trace_context_comes_along_and_is_no_new_head(echo: Echo) -> None:
    async with serving(echo) as (client, _):
        for digit in "1234":
            trace = f"00-{digit * 32}-{'d' * 16}-01"
            client.writer.write(post(b"x", f"traceparent: {trace}", "x-name: n"))
            status, headers, body = await client.answer()
            assert (status, headers["traceparent"], body["via"], body["name"]) == (200, trace, "direct", "n")
        twice = await client.ask(post(b"x", f"traceparent: {TRACE}", f"traceparent: {TRACE}"))
        assert twice["via"] == "asgi"


async def test_a_refusal_has_its_status_and_headers(echo: Echo) -> None:
    async with serving(echo) as (client, _):
        client.writer.write(post(b"no"))
        status, headers, body = await client.answer()
        assert (status, headers["retry-after"], headers["content-type"]) == (503, "1", "a/b")
        assert body == b"{}"
        assert (await client.ask(post(b"yes")))["via"] == "direct"


async def test_what_is_declined_late_is_answered_by_asgi_in_its_turn(echo: Echo) -> None:
    async with serving(echo) as (client, _):
        echo.free.clear()
        client.writer.write(post(b"late"))
        await until(lambda: bool(echo.held))
        client.writer.write(post(b"x") + post(b"late again"))
        echo.free.set()
        assert [(await client.answer())[2]["body"] for _ in range(3)] == ["late", "x", "late again"]
        assert (await client.ask(post(b"late")))["via"] == "asgi"
        assert (await client.ask(post(b"y")))["via"] == "direct"


@pytest.mark.parametrize("way", ["direct", "asgi"])
async def test_who_waits_is_answered_before_the_server_stops(echo: Echo, way: str) -> None:
    async with serving(echo) as (client, server):
        echo.free.clear()
        last = {"direct": "last", "asgi": "late"}[way]
        client.writer.write(post(last.encode()))
        await until(lambda: bool(echo.held))
        server.should_exit = True
        await until(lambda: not server.servers[0].sockets)
        echo.free.set()
        _, headers, body = await client.answer()
        assert (body["body"], body["via"], headers["connection"]) == (last, way, "close")
        assert await client.reader.read() == b""


async def test_who_has_gone_is_forgotten(echo: Echo) -> None:
    async with serving(echo) as (client, server):
        echo.free.clear()
        client.writer.write(post(b"x"))
        await until(lambda: bool(echo.held))
        client.writer.close()
        await until(lambda: not server.server_state.connections)
        echo.free.set()
        await asyncio.gather(*echo.held)


@pytest.mark.parametrize("seed", range(6))
async def test_every_mixture_is_answered_in_order(echo: Echo, seed: int) -> None:
    made = random.Random(seed)
    bodies = [made.choice(["asgi", "late", "x", "y" * 300, ""]) + str(number) for number in range(60)]
    chunked = b"POST /direct HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
    raws = [
        chunked % (len(body), body.encode()) if made.random() < 0.2 else post(body.encode(), f"x-name: {number % 3}")
        for number, body in enumerate(bodies)
    ]
    raw, place = b"".join(raws), 0
    async with serving(echo) as (client, _):
        answers = asyncio.ensure_future(_answers(client, len(bodies)))
        while place < len(raw):
            size = made.choice([1, 20, 100, 150, 500, 5000])
            client.writer.write(raw[place : place + size])
            place += size
            await asyncio.sleep(made.choice([0, 0, 0.001]))
        assert await answers == bodies


async def _answers(client: Client, count: int) -> list[str]:
    return [(await client.answer())[2]["body"] for _ in range(count)]


async def test_the_memory_of_heads_is_bounded(echo: Echo) -> None:
    heads = Heads(echo)
    for number in range(KNOWN_HEADS + 10):
        heads.find(b"POST /direct HTTP/1.1\r\nhost: x\r\nx-name: %d\r\ncontent-length: 1" % number)
    assert len(heads._known) <= KNOWN_HEADS
