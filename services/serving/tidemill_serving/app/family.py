"""The workers of one instance among themselves: who listens when, how they are together, whose metrics are whose.

Each listens on a socket of its own in a folder that only this user may enter, and answers one line with one text.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from tidemill_runtime.health import Health
from tidemill_runtime.http import Keys, Route
from tidemill_runtime.service import Listen
from tidemill_serving.api.models import Status, WorkerStatus
from tidemill_serving.api.status import together
from tidemill_serving.app.expositions import labelled
from tidemill_serving.domain.once import Once
from tidemill_serving.process import reserve
from tidemill_serving.settings import Settings
from tidemill_serving.spool import OnceLog, SharedIds, Spool

ASK_S, LOOK_S, PATIENCE_S = 1.0, 0.02, 60.0
LARGEST = 16 * 1024 * 1024
BACKLOG = 2048
_log = logging.getLogger(__name__)


class Family:
    """This process among its siblings; without any, nothing of this takes part in anything."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder, self._own = settings.sockets, settings.worker or 0
        self._is_alone = settings.worker is None or settings.sockets is None
        # Who may ask; what a key has spent is of all workers.
        self.keys = Keys.of(settings, root=None if self._is_alone else settings.root or settings.state)
        if self._is_alone:
            (settings.state / "ids").unlink(missing_ok=True)  # what is answered now would not be in it
        else:
            (settings.state / "left").unlink(missing_ok=True)

    def once(self, spool: Spool) -> Once | None:
        """The log of answers with ids of their own."""
        if self._is_alone:
            return None
        return OnceLog(spool, SharedIds(self._settings.root or self._settings.state), self._own)

    def listener(self, health: Health) -> Listen | None:
        """Opens this worker's part of the port.

        The first worker of a start listens at once, so that probes are answered; all others when they are ready:
        who connects is never given to a worker that would send him away while another would not.
        """
        if self._is_alone:
            return None

        async def listen() -> list[socket.socket]:
            if self._own or self._settings.is_again:
                with suppress(TimeoutError):
                    async with asyncio.timeout(PATIENCE_S):
                        while not health.ready()[0]:  # noqa: ASYNC110 - conditions have no event
                            await asyncio.sleep(LOOK_S)
            opened = reserve(self._settings.host, self._settings.port)
            opened.listen(BACKLOG)
            return [opened]

        return listen

    async def run(self, own: Callable[[], Status]) -> None:
        """Answer siblings and the parent until cancelled."""
        if self._is_alone:
            await asyncio.Event().wait()
        texts: dict[bytes, Callable[[], bytes]] = {
            b"ping\n": lambda: b"pong\n",
            b"status\n": lambda: own().model_dump_json().encode(),
            b"metrics\n": lambda: generate_latest(REGISTRY),
            b"pid\n": lambda: b"%d" % os.getpid(),
        }

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                async with asyncio.timeout(ASK_S):
                    text = texts.get(await reader.readuntil(b"\n"))
                    writer.write(b"" if text is None else text())
                    await writer.drain()
            writer.close()

        path = self._path(self._own)
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(answer, str(path))
        async with server:
            await server.serve_forever()

    async def status(self, own: Status) -> Status:
        """All workers as one; a worker that does not answer is shown as not up."""
        if self._is_alone:
            return own
        numbers = range(self._settings.count)
        raw = await self._ask_all(b"status\n")
        pids = await self._ask_all(b"pid\n")
        found: dict[int, Status] = {self._own: own}
        for number, text in raw.items():
            with suppress(ValidationError):
                found[number] = Status.model_validate_json(text)
        pids[self._own] = b"%d" % os.getpid()
        workers = [
            WorkerStatus(worker=n, up=n in found, pid=int(pids[n]) if pids.get(n, b"").isdigit() else None)
            for n in numbers
        ]
        return together(found, workers)

    def routes(self) -> list[Route]:
        """/metrics of all workers, each sample with its worker; a process without siblings has the usual one."""
        if self._is_alone:
            return []

        async def metrics(_: Request) -> Response:
            texts = await self._ask_all(b"metrics\n") | {self._own: generate_latest(REGISTRY)}
            return Response(labelled(texts), media_type=CONTENT_TYPE_LATEST)

        return [Route(method="GET", path="/metrics", endpoint=metrics, summary="Prometheus metrics of all workers")]

    async def _ask_all(self, what: bytes) -> dict[int, bytes]:
        others = [number for number in range(self._settings.count) if number != self._own]
        answers = await asyncio.gather(*(self._ask(number, what) for number in others))
        return {number: answer for number, answer in zip(others, answers, strict=True) if answer}

    async def _ask(self, number: int, what: bytes) -> bytes:
        try:
            async with asyncio.timeout(ASK_S):
                reader, writer = await asyncio.open_unix_connection(str(self._path(number)))
                try:
                    writer.write(what)
                    await writer.drain()
                    return await _all(reader)
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return b""

    def _path(self, number: int) -> Path:
        assert self._folder is not None  # noqa: S101 - only asked for among siblings
        return self._folder / f"{number}.sock"


async def _all(reader: asyncio.StreamReader) -> bytes:
    """Everything until the other end closes, within bounds."""
    parts, size = list[bytes](), 0
    while size < LARGEST and (part := await reader.read(65_536)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)
