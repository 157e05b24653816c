"""Listens for gRPC clients, and stops without breaking off a call."""

import asyncio
import logging
from collections.abc import Mapping
from functools import partial

from tidemill_runtime.http.guard import Guard
from tidemill_runtime.rpc.connection import Connection
from tidemill_runtime.rpc.control import Shared
from tidemill_runtime.rpc.limits import Limits
from tidemill_runtime.rpc.stream import Method

BACKLOG = 2048
_log = logging.getLogger(__name__)


class GrpcServer:
    """Answers calls of `routes`, by their paths (`/package.Service/Method`)."""

    def __init__(
        self, routes: Mapping[str, Method], *, guard: Guard | None = None, limits: Limits | None = None
    ) -> None:
        self.shared = Shared(routes, guard or Guard(), limits or Limits())
        self.port: int | None = None
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int, *, shared: bool = False) -> None:
        """Listen; `shared`: with other processes that have the port too. Raises OSError where the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            partial(Connection, self.shared), host, port, backlog=BACKLOG, reuse_port=shared or None
        )
        self.port = self._server.sockets[0].getsockname()[1]
        _log.info("gRPC listens", extra={"port": self.port})

    async def stop(self, grace_s: float) -> None:
        """Take no more connections, answer the calls under way within this time, and close."""
        if self._server is not None:
            self._server.close()
        connections = self.shared.connections
        for connection in list(connections):
            connection.leave()
        end = asyncio.get_running_loop().time() + grace_s
        while connections and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110 - sets have no event
            await asyncio.sleep(_LOOK_S)
        for connection in list(connections):
            connection.abort()


_LOOK_S = 0.01
