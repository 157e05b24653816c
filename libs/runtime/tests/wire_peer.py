"""A service that takes requests together, and many connections to it."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from direct_peer import Client, Echo, post, serving

from tidemill_runtime.http.heads import Direct, Reply, Take
from tidemill_runtime.http.together import Asked
from tidemill_runtime.http.wire_compiled import (
    BODY,
    START,
)

AROUND = b"503 Full\r\ntraceparent: ", b"\r\nretry-after: 1\r\n"


class Many(Echo):
    """As `Echo`; of requests that come together the last `room` are held, the others refused with `refusal`."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.fails, self.room, self.refusal = False, 1 << 30, b"full"
        self.takes: dict[str, Take] = {}

    def find(self, path: str, headers: Mapping[str, str]) -> Take | None:
        assert "host" in headers
        if not path.startswith("/direct"):
            return None
        return self.takes.setdefault(path, _Together(self))


class _Together:
    def __init__(self, many: Many) -> None:
        self._many = many

    def __call__(self, body: bytes, trace: str | None, reply: Reply) -> bool:
        return self._many._take("", body, trace, reply)

    def together(self, asked: Asked) -> Sequence[int]:
        many = self._many
        many.sizes.append(len(asked))
        if many.fails:
            raise ValueError
        if len(asked) > many.room:
            asked.refuse(len(asked) - many.room, AROUND, many.refusal)
        left = []
        for place, context in enumerate(asked.contexts()):
            data = asked.data(place)
            body = data[asked.places[place][BODY] - asked.places[place][START] :]
            asked.replies[place].taken(data)
            if not many._take("", body, context, asked.replies[place]):
                left.append(place)
        return left


async def several(stack: AsyncExitStack, direct: Direct, count: int) -> tuple[list[Client], Any]:
    """So many connections of one server, each of which has asked twice: heads of four bytes' bodies are known."""
    first, server = await stack.enter_async_context(serving(direct))
    port = server.servers[0].sockets[0].getsockname()[1]
    clients = [first]
    for _ in range(count - 1):
        clients.append(Client(*await asyncio.open_connection("127.0.0.1", port)))
        stack.callback(clients[-1].writer.close)
    for client in clients:
        for body in (b"once", b"more"):
            assert (await client.ask(post(body)))["via"] == "direct"
    return clients, server


def send(client: Client, raw: bytes) -> None:
    """Without a turn of the loop."""
    assert os.write(client.writer.get_extra_info("socket").fileno(), raw) == len(raw)


def wired(server: Any) -> int:  # noqa: ANN401 - uvicorn's
    return sum(protocol._wired >= 0 for protocol in server.server_state.connections)
