"""Releases under load: 200 swaps at 1,000 requests a second, 50 of them with a SIGKILL of a worker or the registry.

The registry makes each release as a person would ask for it, over HTTP and against an expected epoch. Every answer is
compared with the offline model of the version that it names; what was under way on a killed worker is sent once more
with the same id; in the end each answered id must stand in the log once. Latency counts from when a request was due.
"""

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import numpy as np
import uvloop
from _client import percentile, post
from _cores import listener
from _line import Answer, Line
from _models import PLAIN, entity, fill, offline, vector
from _results import Progress, Result, report, result
from _stack import START_US, get, stack, until, write
from _swaps import model_of, register
from numpy.typing import NDArray
from serving_throughput import isolate, logged

from tidemill.stack import Endpoints
from tidemill_contracts.ids import prediction_id

SWAPS, KILLS = int(os.environ.get("BENCH_SWAPS", "200")), int(os.environ.get("BENCH_KILLS", "50"))
RATE, QUIET_S = float(os.environ.get("BENCH_RATE", "1000")), float(os.environ.get("BENCH_SECONDS", "10"))
WORKERS = int(os.environ.get("BENCH_WORKERS", "2"))
CONNECTIONS, VERSIONS, DISTINCT = 64, 6, 128
LOOK_S = 0.1
"""Between two looks at the status."""
PAUSE_S = 0.02
"""Before a request is sent again, as in the client: where a worker ends, its port takes connections for a moment."""
AT = "2013-01-01T00:00:00Z"


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
        self._idle = [await self._connect() for _ in range(CONNECTIONS)]
        started = time.perf_counter()
        for number in count():
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


class Swaps:
    """Promotes version after version, and kills."""

    def __init__(self, seen: Endpoints, progress: Progress) -> None:
        self._registry, self._serving = (str(seen.services[name].url) for name in ("registry", "serving"))
        self._progress, self._chance = progress, random.Random(7)
        self._status: Any = None
        self.epochs: dict[int, int] = {}
        self.kills: Counter[str] = Counter()
        self.windows: list[tuple[float, float]] = []

    async def promote(self, version: int) -> int:
        """Release a version whatever becomes of the registry meanwhile; returns the epoch."""
        path = f"{self._registry}/v1/pipelines/{PLAIN.name}"
        before = max(self.epochs, default=0)
        body = {"version": version, "at": AT, "expected_epoch": before}
        async with httpx.AsyncClient(timeout=20, verify=False) as client:
            while True:
                with suppress(httpx.TransportError):
                    answer = await client.post(f"{path}/promote", json=body)
                    if answer.status_code == httpx.codes.OK:
                        break
                    if answer.status_code == httpx.codes.CONFLICT:  # the order before this one went through
                        champion = (await client.get(f"{path}/champion")).json()
                        assert (champion["epoch"], champion["members"][0]["version"]) == (before + 1, version)
                        break
                    assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE, answer.text
                await asyncio.sleep(0.05)
        self.epochs[before + 1] = version
        return before + 1

    async def swap(self, number: int, victim: str | None) -> None:
        """One release until every worker answers with it; `victim` dies inside."""
        begun = time.perf_counter()
        order = asyncio.ensure_future(self.promote(1 + number % VERSIONS))
        if victim is not None:
            await asyncio.sleep(self._chance.random() * 0.2)
            await self._kill(victim)
        epoch = await order

        async def answers() -> bool:
            found = None if self._status is None else self._status["pipelines"].get(PLAIN.name)
            return bool(found and found["ready"] and found["epoch"] == epoch)

        await until(answers, f"epoch {epoch} everywhere")
        if victim is not None:
            self.windows.append((begun, time.perf_counter()))
        self._progress.now_and_then(f"{number + 1} swaps, {sum(self.kills.values())} kills")

    async def watch(self) -> None:
        """Look at the status all the time, also without swaps: it costs all workers something."""
        while True:
            self._status = await get(f"{self._serving}/v1/status")
            await asyncio.sleep(LOOK_S)

    async def _kill(self, victim: str) -> None:
        if victim == "registry":
            with suppress(Exception):  # it may still be coming back from the last time
                os.kill(listener(self._registry).pid, signal.SIGKILL)
                self.kills[victim] += 1
            return
        workers = [worker for worker in (await get(f"{self._serving}/v1/status"))["workers"] if worker["up"]]
        os.kill(self._chance.choice(workers)["pid"], signal.SIGKILL)
        self.kills[victim] += 1


def scores_of(models: Sequence[bytes]) -> NDArray[np.float64]:
    """Score of each version for each distinct request [V, N]."""
    rows = np.array([vector(PLAIN, "plain-device", number) for number in range(DISTINCT)], np.float64)
    return np.stack([offline(model, rows) for model in models])


def check(shots: Sequence[Shot], epochs: dict[int, int], table: NDArray[np.float64]) -> int:
    """Answers that are not what the version they name gives, or name another version than their epoch has."""
    wrong = 0
    for shot in shots:
        if shot.status == httpx.codes.OK:
            answer: dict[str, Any] = json.loads(shot.body)
            expected = table[answer["version"] - 1, shot.number % DISTINCT]
            wrong += epochs[answer["epoch"]] != answer["version"] or bool(abs(answer["score"] - expected) > 1e-6)
    return wrong


async def measure(seen: Endpoints) -> list[Result]:
    """All figures."""
    progress, models = Progress(), [model_of(PLAIN, seed) for seed in range(1, VERSIONS + 1)]
    progress.step(f"the stack runs with {WORKERS} workers; {VERSIONS} forests are trained")
    isolate(seen)  # the workers share a core
    await register(seen, PLAIN, models, write)
    await fill(seen, PLAIN)
    swaps = Swaps(seen, progress)
    watching = asyncio.ensure_future(swaps.watch())
    await swaps.swap(0, None)
    load, phase = Load(f"{seen.services['serving'].url}/v1/predict/{PLAIN.name}"), {"over": False}
    work = asyncio.ensure_future(load.run(lambda: phase["over"]))
    await asyncio.sleep(QUIET_S)
    begun = time.perf_counter()
    victims = ["registry", "worker"] if WORKERS > 1 else ["registry"]
    every = SWAPS // KILLS if KILLS else SWAPS + 1
    for number in range(1, SWAPS + 1):
        victim = victims[number // every % len(victims)] if number % every == 0 else None
        await swaps.swap(number, victim)
    ended = time.perf_counter()
    progress.step(f"{SWAPS} swaps in {ended - begun:.0f} s, killed {dict(swaps.kills)}")
    await asyncio.sleep(QUIET_S)
    phase["over"] = True
    await work
    watching.cancel()
    return await figures(seen, swaps, load.shots, (begun, ended), scores_of(models), progress)


async def figures(  # noqa: PLR0913 - what was seen
    seen: Endpoints, swaps: Swaps, shots: list[Shot], during: tuple[float, float], table: NDArray[np.float64],
    progress: Progress,
) -> list[Result]:  # fmt: skip
    """What came of it; the log is read too."""
    bad = Counter(shot.status for shot in shots if shot.status != httpx.codes.OK)
    why = Counter(shot.body.decode(errors="replace")[:160] for shot in shots if shot.status != httpx.codes.OK)
    progress.step(f"{len(shots):,} requests, not answered: {dict(bad)} {dict(why.most_common(3)) or ''}")
    ids = [str(prediction_id(PLAIN.name, f"swap-{s.number}")) for s in shots if s.status == httpx.codes.OK]
    await logged(seen, PLAIN, ids, progress)
    quiet = [s for s in shots if s.due > shots[0].due + 2 and not during[0] <= s.due <= during[1]]
    inside = [s for s in shots if during[0] <= s.due <= during[1]]
    calm = [s for s in inside if not any(a <= s.due <= b + 1 for a, b in swaps.windows)]

    def p99(of: Sequence[Shot]) -> float:
        return 1000 * percentile(sorted(s.seconds for s in of), 0.99)

    plain = p99(quiet)
    return [
        result("swaps", len(swaps.epochs) - 1, "swaps"),
        result("kills", sum(swaps.kills.values()), "kills"),
        result("requests", len(shots), "requests"),
        result("not 2xx", sum(bad.values()), "requests", target=1),
        result("sent once more", sum(s.sent > 1 for s in shots), "requests"),
        result("not of the version they name", check(shots, swaps.epochs, table), "answers", target=1),
        result("p99 without swaps", plain, "ms"),
        result("p99 with swaps", p99(inside), "ms", target=1.2 * plain, peer=("without swaps", plain)),
        result("p99 with swaps, no kill near", p99(calm), "ms", target=1.2 * plain, peer=("without swaps", plain)),
    ]


if __name__ == "__main__":
    os.environ["TIDEMILL_SERVING_WORKERS"] = str(WORKERS)
    assert START_US
    with stack("registry", "serving") as running:
        report("serving-swap", uvloop.run(measure(running)))
