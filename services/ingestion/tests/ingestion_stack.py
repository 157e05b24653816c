"""A real ingestion service in a process of its own, on a real broker and a database of the test's own."""

import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
from aiokafka import ConsumerRecord

from tidemill_contracts import dead_letters, topic
from tidemill_contracts.events import PipelineApplied, encode
from tidemill_contracts.pipeline import parse_pipeline
from tidemill_contracts.topics import control_topics, source_topics
from tidemill_runtime.kafka import ensure_topics
from tidemill_runtime.settings import ServiceSettings
from tidemill_testkit.processes import Worker
from tidemill_testkit.settings import environment
from tidemill_testkit.topics import Sent, read_topic, write_topic
from tidemill_testkit.waiting import until

PIPELINE = """
version: 1
name: delays
partitions: 3
sources:
  flights:
    key: [tail]
    time: at
    allowed_lateness: 1h
    fields:
      tail: {type: string, max_length: 12}
      at: {type: timestamp}
      delay: {type: float, min: -100, max: 5000}
      seats: {type: integer, required: false}
      carrier: {type: category, values: [AA, UA], required: false}
      cancelled: {type: boolean, required: false}
  weather:
    key: [origin, station]
    fields:
      origin: {type: string}
      station: {type: integer}
      wind: {type: float}
request:
  fields: {tail: {type: string}}
  key: tail
label: {source: flights, join: tail, expression: delay > 15}
"""


def flight(number: int, *, delay: float = 1.0, minute: int | None = None, prefix: str = "f") -> dict[str, Any]:
    """A valid event of the source `flights`; seven tails over three partitions."""
    at = f"2013-01-01T10:{(number if minute is None else minute) % 60:02d}:00Z"
    return {"id": f"{prefix}-{number}", "data": {"tail": f"N{number % 7}", "at": at, "delay": delay}}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Running:
    """One service process and how to talk to it and to its topics."""

    settings: ServiceSettings
    port: int = field(default_factory=free_port)
    worker: Worker | None = None

    def start(self, **env: str) -> None:
        """Start the process; its state is what the last one left."""
        known = environment(self.settings) | {
            "TIDEMILL_PORT": str(self.port), "TIDEMILL_SERVICE": "ingestion", "TIDEMILL_LOG_LEVEL": "WARNING",
            "TIDEMILL_INGESTION_ARCHIVE_SECONDS": "0.5",
        }  # fmt: skip
        self.worker = Worker("tidemill_ingestion", env=known | env)

    def kill(self) -> None:
        """SIGKILL whatever runs."""
        if self.worker is not None and self.worker.running:
            self.worker.kill()

    def client(self) -> httpx.AsyncClient:
        """An HTTP client of the service."""
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=30.0)

    async def ready(self, source: str = "flights") -> None:
        """Return when readiness says so and a reader of the source has joined its group."""

        async def check() -> bool:
            assert self.worker is not None
            assert self.worker.running, "the service ended"
            with suppress(httpx.TransportError):
                answer = await client.get("/readyz")
                return answer.status_code == 200 and f".{source}" in answer.text
            return False

        async with self.client() as client:
            await until(check, "readiness", timeout_s=40, every_s=0.05)

    async def status(self, source: str = "flights") -> dict[str, Any]:
        """The source's part of /v1/status."""
        async with self.client() as client:
            answer = await client.get("/v1/status")
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()["sources"][source]
            return found

    async def counted(self, *, source: str = "flights", timeout_s: float = 30.0, **counts: int) -> None:
        """Return when the status shows these counts."""

        async def check() -> bool:
            found = await self.status(source)
            return all(found[name] == number for name, number in counts.items())

        await until(check, f"{source}: {counts}", timeout_s=timeout_s, every_s=0.05)

    def topic(self, family: str, source: str = "flights") -> str:
        """The name of a topic; `dlq` for the dead letters of the raw one."""
        if family == "dlq":
            return dead_letters(topic("raw", source, prefix=self.settings.prefix))
        return topic(family, source, prefix=self.settings.prefix)  # type: ignore[arg-type]  # any family

    async def records(self, family: str, source: str = "flights") -> list[ConsumerRecord]:
        """Everything on a topic, by partition and offset."""
        found = await read_topic(self.settings, self.topic(family, source))
        return [record for partition in sorted(found) for record in found[partition]]

    async def produce(self, records: Sequence[Sent], *, partition: int | None = None, source: str = "flights") -> None:
        """Write to the raw topic as any Kafka client may."""
        await write_topic(self.settings, self.topic("raw", source), records, partition=partition)


async def apply_pipeline(settings: ServiceSettings, text: str = PIPELINE) -> None:
    """What the registry does: topics, then the pipeline on the compacted topic."""
    spec = parse_pipeline(text.encode())
    wanted = [s for name in spec.sources for s in source_topics(name, spec.partitions, prefix=settings.prefix)]
    await ensure_topics(settings.kafka, [*control_topics(prefix=settings.prefix), *wanted])
    event = PipelineApplied(
        pipeline=spec.name, revision=1, digest=spec.digest(), spec=json.loads(spec.model_dump_json())
    )
    envelope = encode(event, id="p1", source="/test", time_us=0)
    record: Sent = (spec.name.encode(), envelope.data, envelope.headers())
    await write_topic(settings, topic("pipelines", prefix=settings.prefix), [record])


@asynccontextmanager
async def running(settings: ServiceSettings) -> AsyncIterator[Running]:
    """A ready service with the test's pipeline, killed at the end."""
    await apply_pipeline(settings)
    found = Running(settings)
    found.start()
    try:
        await found.ready()
        yield found
    finally:
        found.kill()
