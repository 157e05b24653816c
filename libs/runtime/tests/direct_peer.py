"""A server of requests that are answered without ASGI, and a raw client of it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import Any

import uvicorn

from tidemill_runtime.http.direct import direct_protocol
from tidemill_runtime.http.heads import Direct, Reply, Take

TRACE = f"00-{'c' * 32}-{'d' * 16}-01"


class Echo:
    """Takes POSTs under /direct; holds its answers while `holds` is set, and leaves bodies that begin with `asgi`.

    Bodies that begin with `late` are taken and declined afterwards.
    """

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.free.set()
        self.held: list[asyncio.Task[None]] = []

    def find(self, path: str, headers: Mapping[str, str]) -> Take | None:
        return partial(self._take, headers.get("x-name", "")) if path.startswith("/direct") else None

    def _take(self, name: str, body: bytes, trace: str | None, reply: Reply) -> bool:
        if body.startswith(b"asgi"):
            return False
        self.held.append(asyncio.ensure_future(self._answer(name, body, trace, reply)))
        return True

    async def _answer(self, name: str, body: bytes, trace: str | None, reply: Reply) -> None:
        await self.free.wait()
        if body.startswith(b"late"):
            reply.decline()
        elif body == b"no":
            reply.refuse(b"503 Service Unavailable\r\nretry-after: 1\r\ncontent-type: a/b\r\n", b"{}")
        else:
            reply.answer(json.dumps({"via": "direct", "name": name, "body": body.decode()}).encode(), trace or TRACE)


async def asgi(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's own types are dictionaries
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    raw = json.dumps({"via": "asgi", "body": body.decode()}).encode()
    headers = [(b"content-length", b"%d" % len(raw))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": raw})


async def until(condition: Callable[[], bool]) -> None:
    """Poll a condition for at most ten seconds."""
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await self.reader.readexactly(int(headers["content-length"]))
        status = int(head[0].split()[1])
        return status, headers, json.loads(body) if status == 200 else body

    async def ask(self, raw: bytes) -> Any:  # noqa: ANN401 - JSON
        self.writer.write(raw)
        return (await self.answer())[2]


@asynccontextmanager
async def serving(echo: Direct) -> AsyncIterator[tuple[Client, uvicorn.Server]]:
    config = uvicorn.Config(
        asgi, host="127.0.0.1", port=0, http=direct_protocol(echo), ws="none", lifespan="off", log_config=None,
        access_log=False, timeout_graceful_shutdown=5,
    )  # fmt: skip
    server = uvicorn.Server(config)
    server.capture_signals = nullcontext  # type: ignore[method-assign, assignment]
    running = asyncio.ensure_future(server.serve())
    await until(lambda: server.started)
    client = Client(*await asyncio.open_connection("127.0.0.1", server.servers[0].sockets[0].getsockname()[1]))
    yield client, server
    client.writer.close()
    server.should_exit = True
    await running


def post(body: bytes, *lines: str, path: str = "/direct") -> bytes:
    head = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body
