"""Events over HTTP into the log: accepted, durable and applied, in batches and one by one."""

import asyncio
import json
import time
from collections.abc import Sequence

import uvloop
from _client import Load, Sample, ask, connect, percentile, post
from _peers import produce_batches, produce_single
from _results import Progress, Result, cpu_results, report, result
from _stack import Cpu, Topic, apply, departure, get, pipeline, stack, until

from tidemill.stack import Endpoints
from tidemill_contracts import topic
from tidemill_contracts.pipeline import PipelineSpec

SOURCE = "departures"
BATCH, BATCHED_EVENTS, SINGLE_EVENTS, WARM_UP = 500, 80_000, 16_000, 4_000
BATCH_CONNECTIONS, SINGLE_CONNECTIONS = 4, 32


class Ingest:
    """The runs of this benchmark against one stack."""

    def __init__(self, seen: Endpoints, spec: PipelineSpec, applied: Topic, progress: Progress) -> None:
        self._url = f"{seen.services['ingestion'].url}/v1/events/{SOURCE}"
        self._status = f"{seen.services['ingestion'].url}/v1/status"
        self._applied, self._progress, self._spec = applied, progress, spec
        self._sent: list[str] = []

    async def ready(self) -> None:
        """Until an event is taken and applied."""
        request = post(self._url, json.dumps(self._events(1)).encode())

        async def takes() -> bool:
            connection = (await connect(self._url, 1))[0]
            status, _ = await ask(connection, request)
            connection.close()
            return status == 202

        async def is_applied() -> bool:
            return await self._applied.end() == 1

        await until(takes, "a first event is taken")
        await until(is_applied, "a first event is applied")

    async def batched(self, count: int) -> tuple[float, list[Sample]]:
        """Seconds until `count` events in batches are applied, and the samples."""
        bodies = [json.dumps(self._events(BATCH)).encode() for _ in range(count // BATCH)]
        return await self._run([post(self._url, body) for body in bodies], BATCH_CONNECTIONS, count)

    async def single(self, count: int) -> tuple[float, list[Sample]]:
        """The same with one event in a request."""
        bodies = [json.dumps(event).encode() for event in self._events(count)]
        return await self._run([post(self._url, body) for body in bodies], SINGLE_CONNECTIONS, count)

    async def check(self) -> None:
        """Every accepted id is applied, once, and the service's own counts say the same."""
        found = await self._applied.headers("ce_id")
        wanted = set(self._sent)
        assert len(wanted) == len(self._sent)
        assert set(found) == wanted, f"{len(wanted - set(found))} events missing"
        assert set(found.values()) == {1}, "an event was applied twice"
        counts = (await get(self._status))["sources"][SOURCE]
        seen = {name: counts[name] for name in ("accepted", "applied", "duplicates", "refused", "late")}
        assert seen == {
            "accepted": len(wanted), "applied": len(wanted), "duplicates": 0, "refused": 0, "late": 0,
        }, seen  # fmt: skip
        self._progress.step(f"checked: {len(wanted):,} accepted = distinct = applied")

    def _events(self, count: int) -> list[dict[str, object]]:
        first = len(self._sent)
        events = [departure(number, flight=f"UA-{number}") for number in range(first, first + count)]
        self._sent += [event["id"] for event in events]
        return events

    async def _run(self, requests: Sequence[bytes], width: int, count: int) -> tuple[float, list[Sample]]:
        base = await self._applied.end()
        connections = await connect(self._url, width)
        started = time.monotonic()
        load = asyncio.ensure_future(Load(connections, requests).run())

        async def is_applied() -> bool:
            done = await self._applied.end() - base
            self._progress.now_and_then(f"{done:,} of {count:,} applied")
            return done >= count

        await until(is_applied, "everything is applied", deadline_s=120)
        seconds = time.monotonic() - started
        samples = await load
        for connection in connections:
            connection.close()
        refused = [sample for sample in samples if sample.status != 202]
        assert not refused, refused[0]
        return seconds, samples


async def measure(seen: Endpoints) -> list[Result]:
    """All figures."""
    progress, spec = Progress(), pipeline()
    progress.step("the stack runs")
    await apply(seen, spec)
    async with Topic(seen.kafka, topic("events", SOURCE), spec.partitions) as applied:
        ingest = Ingest(seen, spec, applied, progress)
        await ingest.ready()
        await ingest.batched(WARM_UP)
        progress.step(f"batches of {BATCH} over {BATCH_CONNECTIONS} connections")
        cpu = Cpu(seen)
        batched_s, batched = await ingest.batched(BATCHED_EVENTS)
        batched_cpu = cpu_results(cpu.used(), BATCHED_EVENTS, "batched event")
        progress.step(f"single events over {SINGLE_CONNECTIONS} connections")
        cpu = Cpu(seen)
        single_s, single = await ingest.single(SINGLE_EVENTS)
        single_cpu = cpu_results(cpu.used(), SINGLE_EVENTS, "single event")
        await ingest.check()
    progress.step("a bare producer on the same broker")
    bare_batched = await produce_batches(seen.kafka, spec.partitions, BATCHED_EVENTS, BATCH, BATCH_CONNECTIONS)
    bare_single = await produce_single(seen.kafka, spec.partitions, SINGLE_EVENTS, SINGLE_CONNECTIONS)
    return [
        result("batched events applied", BATCHED_EVENTS / batched_s, "events/s", target=5000,
               peer=("bare aiokafka, acks=all", bare_batched)),
        result("batched events accepted", BATCHED_EVENTS / _span(batched), "events/s"),
        result("batch of 500: answer p99", 1000 * percentile([s.done - s.sent for s in batched], 0.99), "ms"),
        result("single events applied", SINGLE_EVENTS / single_s, "events/s", target=1000,
               peer=("bare aiokafka, acks=all", bare_single)),
        result("single events accepted", SINGLE_EVENTS / _span(single), "events/s"),
        result("single event: answer p99", 1000 * percentile([s.done - s.sent for s in single], 0.99), "ms"),
        *batched_cpu, *single_cpu,
    ]  # fmt: skip


def _span(samples: Sequence[Sample]) -> float:
    return max(sample.done for sample in samples) - min(sample.sent for sample in samples)


if __name__ == "__main__":
    with stack("ingestion") as running:
        report("ingest", uvloop.run(measure(running)))
