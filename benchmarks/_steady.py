"""Requests at a rate, each over one of many connections, for benchmarks in which servers come and go."""

import asyncio
import json
import os
import time
from collections.abc import Callable
from itertools import count
from typing import NamedTuple
from urllib.parse import urlsplit

from _client import post
from _line import Answer, Line
from _models import PLAIN, entity
from _stack import until

RATE = float(os.environ.get("BENCH_RATE", "1000"))
CONNECTIONS, DISTINCT = 64, 128
PAUSE_S = 0.02
"""Before a request is sent again, as in the client: where a worker ends, its port takes connections for a moment."""


class Shot(NamedTuple):
    """An answered request: its number, when it was due and how long it took, how often it was sent, the answer."""

    number: int
    due: float
    seconds: float
    sent: int
    status: int
    body: bytes


class Load:
    """Requests at a rate over connections that are made anew when they break."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._url, self._host, self._port = url, parts.hostname or "", parts.port or 80
        self._idle: list[Line] = []
        self._asked: dict[int, tuple[float, int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.shots: list[Shot] = []

    def request(self, number: int) -> bytes:
        """The same number is the same request with the same id."""
        keys = {kind: f"{kind}-{number % DISTINCT}" for kind in ("device", "site", "line")}
        keys["device"] = entity(PLAIN, "plain-device", number % DISTINCT)
        body = {"id": f"swap-{number}", "inputs": {**keys, "at": "2013-01-01T10:00:00Z"}}
        return post(self._url, json.dumps(body).encode())

    async def run(self, over: Callable[[], bool]) -> None:
        """Until it is over and everything is answered."""
        lines = [await self._connect() for _ in range(CONNECTIONS)]
        started = time.perf_counter()
        for number, line in enumerate(lines):  # one that never asked for anything would be closed with 408
            self._asked[number] = started, 1
            line.ask(number, self.request(number), started)
        await until(self._is_done, "a first answer over each connection")
        started = time.perf_counter() - CONNECTIONS / RATE
        for number in count(CONNECTIONS):
            if over():
                break
            due = started + number / RATE
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            self._ask(number, due, 1)
        await until(self._is_done, "all answers")
        for line in self._idle:
            line.close()

    async def _is_done(self) -> bool:
        return not self._asked

    def _ask(self, number: int, due: float, sent: int) -> None:
        self._asked[number] = due, sent
        while self._idle:
            line = self._idle.pop()
            if line.is_open:
                line.ask(number, self.request(number), due)
                return
        self._spawn(number, due)

    def _spawn(self, number: int, due: float, pause: float = 0.0) -> None:
        async def later() -> None:
            await asyncio.sleep(pause)
            (await self._connect()).ask(number, self.request(number), due)

        task = asyncio.ensure_future(later())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> Line:
        loop = asyncio.get_running_loop()
        _, line = await loop.create_connection(lambda: Line(self._answered), self._host, self._port)
        return line

    def _answered(self, line: Line, answer: Answer) -> None:
        found = self._asked.pop(answer.number, None)
        if found is None:
            return  # an idle connection broke after its answer
        due, sent = found
        if not answer.raw and sent == 1:
            self._asked[answer.number] = due, 2
            self._spawn(answer.number, due, PAUSE_S)  # anew: the idle ones may lead to the same dead worker
            return
        self.shots.append(Shot(answer.number, due, answer.seconds, sent, answer.status, answer.body))
        if line.is_open:
            self._idle.append(line)
