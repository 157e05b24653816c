"""How long an accepted event takes until a prediction reads it: RATE (2,000) events per second through the whole path.

Every batch holds one event whose destination and tail are nobody else's. From its 202 on, one poller asks for
predictions of the oldest of such entities, in one request every twenty milliseconds; an event counts as readable with
the first answer in which both views know its entity, so the figures contain the poller's own interval.
"""

import asyncio
import json
import os
import time
from typing import Any

import _hops
import uvloop
from _client import Load, Sample, ask, connect, percentile, post
from _peers import produce_and_read
from _results import Progress, Result, cpu_results, report, result
from _stack import Cpu, Topic, apply, departure, get, pipeline, release, stack, until

from tidemill.stack import Endpoints
from tidemill_contracts import topic
from tidemill_contracts.pipeline import PipelineSpec

SOURCE = "departures"
RATE = int(os.environ.get("RATE", "2000"))
BATCH, SECONDS, WARM_UP_S, CONNECTIONS = 100, 20, 8, 8
POLL_S, AT_ONCE = 0.02, 8
OWN_VIEWS = frozenset({"destination-departures", "aircraft-departures"})


class Freshness:
    """Sends batches at a fixed rate, and asks serving for the entities of those that were accepted."""

    def __init__(self, seen: Endpoints, spec: PipelineSpec, progress: Progress) -> None:
        self._spec, self._progress = spec, progress
        self._events = f"{seen.services['ingestion'].url}/v1/events/{SOURCE}"
        self._predict = f"{seen.services['serving'].url}/v1/predict/{spec.name}"
        self._status = f"{seen.services['ingestion'].url}/v1/status"
        self._waiting: dict[int, float] = {}
        self._inputs: dict[int, dict[str, Any]] = {}
        self.sent = self._batches = 0
        self.waits: list[float] = []

    async def ready(self) -> None:
        """Until one batch has come all the way."""
        connection = (await connect(self._events, 1))[0]

        async def takes() -> bool:
            made = self._batch()
            status, _ = await ask(connection, made)
            if status == 202:
                self._waiting[self._batches - 1] = time.monotonic()
            return status == 202

        await until(takes, "a first batch is taken")
        connection.close()

    async def run(self, seconds: float) -> list[float]:
        """The waits of a run, in seconds."""
        self.waits = []
        base = self._batches
        made = [self._batch() for _ in range(int(seconds * RATE / BATCH))]
        connections = await connect(self._events, CONNECTIONS)

        def told(sample: Sample) -> None:
            assert sample.status == 202, sample
            self._waiting[base + sample.number] = sample.done
            self._progress.now_and_then(f"{len(self.waits)} of {len(made)} batches readable")

        await Load(connections, made, rate=RATE / BATCH, told=told).run()
        for connection in connections:
            connection.close()

        async def is_over() -> bool:
            return not self._waiting

        await until(is_over, "the last batch is readable", deadline_s=30)
        return self.waits

    async def poll(self) -> None:
        """Ask until cancelled."""
        connection = (await connect(self._predict, 1))[0]
        while True:
            asked = list(self._waiting)[:AT_ONCE]
            if asked:
                await self._look(connection, asked)
            await asyncio.sleep(POLL_S)

    async def check(self, applied: Topic) -> None:
        """Every accepted event is applied, once."""
        counts = (await get(self._status))["sources"][SOURCE]
        assert (counts["applied"], counts["late"], counts["duplicates"]) == (self.sent, 0, 0), counts
        found = await applied.headers("ce_id")
        assert (len(found), set(found.values())) == (self.sent, {1})
        self._progress.step(f"checked: {self.sent:,} accepted = distinct = applied")

    async def _look(self, connection: Any, asked: list[int]) -> None:  # noqa: ANN401 - a _client.Connection
        body = json.dumps({"instances": [{"inputs": self._inputs[number]} for number in asked]}).encode()
        status, answer = await ask(connection, post(self._predict, body))
        now = time.monotonic()
        if status != 200:
            return
        for number, prediction in zip(asked, json.loads(answer)["predictions"], strict=True):
            if not OWN_VIEWS.intersection(prediction["defaulted"]):
                self.waits.append(max(0.0, now - self._waiting.pop(number)))

    def _batch(self) -> bytes:
        number, first = self._batches, self.sent
        tag = f"b{number}"
        events = [departure(first, flight=f"B-{first}", tag=tag)]
        events += [departure(n, flight=f"B-{n}") for n in range(first + 1, first + BATCH)]
        data = events[0]["data"]
        self._inputs[number] = {name: data[name] for name in self._spec.request.fields}
        self.sent, self._batches = first + BATCH, number + 1
        return post(self._events, json.dumps(events).encode())


async def measure(seen: Endpoints) -> list[Result]:
    """All figures."""
    progress, spec = Progress(), pipeline()
    progress.step("the stack runs; a forest is trained")
    await apply(seen, spec)
    await release(seen, spec)
    freshness = Freshness(seen, spec, progress)
    await freshness.ready()
    poller = asyncio.ensure_future(freshness.poll())
    try:
        await freshness.run(WARM_UP_S)
        progress.step(f"{RATE:,} events/s in batches of {BATCH} for {SECONDS} s")
        cpu, before = Cpu(seen), await _hops.read(seen)
        waits = await freshness.run(SECONDS)
        used = cpu_results(cpu.used(), RATE * SECONDS, "event")
        for line in _hops.table(before, await _hops.read(seen)):
            progress.step(line)
    finally:
        poller.cancel()
    async with Topic(seen.kafka, topic("events", SOURCE), spec.partitions) as applied:
        await freshness.check(applied)
    progress.step("a bare producer and consumer on the same broker")
    bare = await produce_and_read(seen.kafka, spec.partitions, batch=BATCH, rate=RATE / BATCH, seconds=8)
    waits_ms = [1000 * wait for wait in waits]
    return [
        result("accepted to readable p99", percentile(waits_ms, 0.99), "ms", target=200,
               peer=("bare Kafka, one hop", 1000 * percentile(bare, 0.99))),
        result("accepted to readable p50", percentile(waits_ms, 0.5), "ms", target=60,
               peer=("bare Kafka, one hop", 1000 * percentile(bare, 0.5))),
        result("accepted to readable, longest", max(waits_ms), "ms"),
        *used,
    ]  # fmt: skip


if __name__ == "__main__":
    with stack("ingestion", "features", "serving") as running:
        report("freshness", uvloop.run(measure(running)))
