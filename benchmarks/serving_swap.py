"""Releases under load: 200 swaps at 1,000 requests a second, 50 of them with a SIGKILL of a worker or the registry.

The registry makes each release as a person would ask for it, over HTTP and against an expected epoch. Every answer is
compared with the offline model of the version that it names; what was under way on a killed worker is sent once more
with the same id; in the end each answered id must stand in the log once. Latency counts from when a request was due.
Stretches without a swap lie between them, so that what the machine does meanwhile is in both sides of each ratio.
"""

import asyncio
import gc
import json
import os
import random
import signal
import time
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import uvloop
from _client import percentile
from _models import PLAIN, fill, offline, vector
from _results import Progress, Result, report, result
from _stack import START_US, stack, until, write
from _steady import DISTINCT, Load, Shot
from _swaps import model_of, register
from numpy.typing import NDArray
from serving_throughput import isolate, logged

from tidemill.stack import Endpoints
from tidemill_contracts.ids import prediction_id
from tidemill_runtime.priorities import short_turns

SWAPS, KILLS = int(os.environ.get("BENCH_SWAPS", "200")), int(os.environ.get("BENCH_KILLS", "50"))
QUIET_S = float(os.environ.get("BENCH_SECONDS", "1.5"))
WORKERS = int(os.environ.get("BENCH_WORKERS", "2"))
VERSIONS = 6
GROUP = 4
"""Swaps between two stretches of `QUIET_S` without any; the last of a group is the one with a kill."""
WARM_S, SETTLE_S = 4.0, 1.0
"""Before the first stretch, and after a swap with a kill: what is answered then counts for none, and for the kill."""
LOOK_S = 0.1
"""Between two looks at the status."""
AT = "2013-01-01T00:00:00Z"


QUIET, SWAP, KILL, REST = "quiet", "swap", "kill", "rest"
PARTS = {"with swaps": (SWAP, KILL), "with swaps, no kill": (SWAP,), "with swaps and kills": (KILL,)}


class Swaps:
    """Promotes version after version, and kills."""

    def __init__(self, seen: Endpoints, progress: Progress) -> None:
        self._registry, self._serving = (str(seen.services[name].url) for name in ("registry", "serving"))
        self._progress, self._chance = progress, random.Random(7)
        # The load shares this loop: clients are not made anew, and whom to kill is found without looking at everybody.
        self._client = httpx.AsyncClient(timeout=20, verify=False)
        self._supervisor = psutil.Process(seen.processes["registry"].pid or 0).ppid()
        self._status: Any = None
        self.epochs: dict[int, int] = {}
        self.kills: Counter[str] = Counter()
        self.begun: list[float] = []
        self.kinds: list[str] = []

    def now(self, kind: str) -> None:
        """What is due from here on belongs to a stretch of this kind."""
        self.begun.append(time.perf_counter())
        self.kinds.append(kind)

    def of(self, shots: Sequence[Shot], *kinds: str) -> list[Shot]:
        """The requests that were due in stretches of these kinds."""
        return [shot for shot in shots if self.kinds[bisect(self.begun, shot.due) - 1] in kinds]

    async def promote(self, version: int) -> int:
        """Release a version whatever becomes of the registry meanwhile; returns the epoch."""
        path = f"{self._registry}/v1/pipelines/{PLAIN.name}"
        before = max(self.epochs, default=0)
        body = {"version": version, "at": AT, "expected_epoch": before}
        while True:
            with suppress(httpx.TransportError):
                answer = await self._client.post(f"{path}/promote", json=body)
                if answer.status_code == httpx.codes.OK:
                    break
                if answer.status_code == httpx.codes.CONFLICT:  # the order before this one went through
                    champion = (await self._client.get(f"{path}/champion")).json()
                    assert (champion["epoch"], champion["members"][0]["version"]) == (before + 1, version)
                    break
                assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE, answer.text
            await asyncio.sleep(0.05)
        self.epochs[before + 1] = version
        return before + 1

    async def swap(self, number: int, victim: str | None) -> None:
        """One release until every worker answers with it; `victim` dies inside."""
        self.now(KILL if victim else SWAP)
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
            await until(self._has_registry, "the registry is back")  # its start is not to fall into the next stretch
            await asyncio.sleep(SETTLE_S)
        self._progress.now_and_then(f"{number + 1} swaps, {sum(self.kills.values())} kills")

    async def _has_registry(self) -> bool:
        return await self._get(f"{self._registry}/readyz") is not None

    async def _get(self, url: str) -> Any:  # noqa: ANN401 - JSON
        with suppress(httpx.TransportError):
            answer = await self._client.get(url)
            return answer.json() if answer.status_code == httpx.codes.OK else None
        return None

    async def watch(self) -> None:
        """Look at the status all the time, also without swaps: it costs all workers something."""
        while True:
            self._status = await self._get(f"{self._serving}/v1/status")
            await asyncio.sleep(LOOK_S)

    async def _kill(self, victim: str) -> None:
        if victim == "registry":
            os.kill(self._registrys_pid(), signal.SIGKILL)
        else:
            status = self._status or await self._get(f"{self._serving}/v1/status")
            os.kill(self._chance.choice([each for each in status["workers"] if each["up"]])["pid"], signal.SIGKILL)
        self.kills[victim] += 1

    def _registrys_pid(self) -> int:
        for thread in Path(f"/proc/{self._supervisor}/task").iterdir():
            for pid in (thread / "children").read_text("ascii").split():
                if b"tidemill_registry" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return int(pid)
        raise LookupError("no registry runs")


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
    swaps.now(REST)
    await asyncio.sleep(WARM_S)
    begun = time.perf_counter()
    await run(swaps)
    progress.step(f"{SWAPS} swaps in {time.perf_counter() - begun:.0f} s, killed {dict(swaps.kills)}")
    phase["over"] = True
    await work
    watching.cancel()
    return await figures(seen, swaps, load.shots, scores_of(models), progress)


async def run(swaps: Swaps) -> None:
    """All swaps, in groups behind a stretch without any."""
    victims = ["registry", "worker"] if WORKERS > 1 else ["registry"]
    every = SWAPS // KILLS if KILLS else SWAPS + 1
    for number in range(1, SWAPS + 1):
        if number % GROUP == 1:
            swaps.now(QUIET)
            await asyncio.sleep(QUIET_S)
        victim = victims[number // every % len(victims)] if number % every == 0 else None
        await swaps.swap(number, victim)
    swaps.now(QUIET)
    await asyncio.sleep(QUIET_S)


async def figures(
    seen: Endpoints, swaps: Swaps, shots: list[Shot], table: NDArray[np.float64], progress: Progress
) -> list[Result]:
    """What came of it; the log is read too."""
    bad = Counter(shot.status for shot in shots if shot.status != httpx.codes.OK)
    why = Counter(shot.body.decode(errors="replace")[:160] for shot in shots if shot.status != httpx.codes.OK)
    progress.step(f"{len(shots):,} requests, not answered: {dict(bad)} {dict(why.most_common(3)) or ''}")
    ids = [str(prediction_id(PLAIN.name, f"swap-{s.number}")) for s in shots if s.status == httpx.codes.OK]
    await logged(seen, PLAIN, ids, progress)
    parts = {name: swaps.of(shots, *kinds) for name, kinds in PARTS.items()}
    progress.step(", ".join(f"{name}: {len(part):,}" for name, part in parts.items()))

    def p99(of: Sequence[Shot]) -> float:
        return 1000 * percentile(sorted(s.seconds for s in of), 0.99) if of else np.nan

    plain = p99(swaps.of(shots, QUIET))
    ratios = [
        result(f"p99 {name}", p99(part), "ms", target=1.2 * plain, peer=("without swaps", plain))
        for name, part in parts.items()
        if part
    ]
    return [
        result("swaps", len(swaps.epochs) - 1, "swaps"),
        result("kills", sum(swaps.kills.values()), "kills"),
        result("requests", len(shots), "requests"),
        result("not 2xx", sum(bad.values()), "requests", target=1),
        result("sent once more", sum(s.sent > 1 for s in shots), "requests"),
        result("not of the version they name", check(shots, swaps.epochs, table), "answers", target=1),
        result("p99 without swaps", plain, "ms"),
        *ratios,
    ]


if __name__ == "__main__":
    os.environ["TIDEMILL_SERVING_WORKERS"] = str(WORKERS)
    # The load stands for other machines: neither what starts beside it nor its own memory of answers may delay it.
    short_turns()
    gc.disable()
    assert START_US
    with stack("registry", "serving") as running:
        report("serving-swap", uvloop.run(measure(running)))
