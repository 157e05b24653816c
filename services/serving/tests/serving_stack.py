"""The service as a process against a real Kafka: what is written for it, what it answers, and how it dies."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from serving_cases import T0_US

from tidemill_contracts.envelope import Envelope, read_envelope
from tidemill_contracts.events import FeatureVector, PipelineApplied, Released, Watermark, encode
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_contracts.topics import Family, control_topics, pipeline_topics, topic, view_topic, view_topics
from tidemill_runtime.artifacts import Artifacts
from tidemill_runtime.kafka import end_offsets, ensure_topics
from tidemill_runtime.settings import ServiceSettings
from tidemill_serving.domain.replica import WATERMARK_KEY

DEADLINE_S = 120.0


async def until(condition: Callable[[], Awaitable[bool] | bool], what: str, *, deadline_s: float = DEADLINE_S) -> None:
    """Poll a condition; raises AssertionError naming it when it does not come true in time."""
    end = time.monotonic() + deadline_s
    while True:
        found = condition()
        if found is True or (not isinstance(found, bool) and await found):
            return
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        await asyncio.sleep(0.02)


@dataclass
class Process:
    """One serving process."""

    environment: dict[str, str]
    port: int
    logs: Path
    child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it is ready later."""
        with self.logs.open("ab") as logs:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "tidemill_serving"], env=os.environ | self.environment, stderr=logs
            )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end."""
        assert self.child is not None
        self.child.send_signal(number)
        return self.child.wait(60)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Stack:
    """Topics of one pipeline, the producer that fills them, and the service."""

    kafka: str
    prefix: str
    folder: Path
    spec: PipelineSpec
    producer: AIOKafkaProducer
    process: Process
    client: httpx.AsyncClient
    revisions: dict[str, int] = field(default_factory=dict)

    @property
    def artifacts(self) -> Artifacts:
        return Artifacts(self.folder / "artifacts")

    @property
    def settings(self) -> ServiceSettings:
        """For clients of Kafka."""
        return ServiceSettings(
            kafka=self.kafka, postgres="postgresql:///none", artifacts="/none", state=self.folder, prefix=self.prefix
        )

    async def write(self, name: str, envelope: Envelope, *, key: str | bytes, partition: int = 0) -> None:
        """One record, acknowledged."""
        raw = key if isinstance(key, bytes) else key.encode()
        await self.producer.send_and_wait(name, envelope.data, key=raw, partition=partition, headers=envelope.headers())

    async def apply(self, spec: PipelineSpec, revision: int = 1) -> None:
        """What the registry does with a pipeline file."""
        event = PipelineApplied(
            pipeline=spec.name, revision=revision, digest=spec.digest(), spec=spec.model_dump(mode="json")
        )
        envelope = encode(event, id=f"apply-{revision}", source="test", time_us=T0_US)
        await self.write(topic("pipelines", prefix=self.prefix), envelope, key=spec.name)

    async def vector(self, view: str, entity: str, values: Sequence[float | None], *, revision: int = 1) -> None:
        """One entity's vector in partition 0."""
        event = FeatureVector(
            view=view, version=self.spec.view_version(view), entity=entity, at_us=T0_US, revision=revision,
            values=list(values), positions={"0": revision},
        )  # fmt: skip
        envelope = encode(event, id=f"{view}-{entity}-{revision}", source="test", time_us=T0_US)
        await self.write(view_topic("features", view, event.version, prefix=self.prefix), envelope, key=entity)

    async def watermark(self, time_us: int, *, views: Sequence[str] | None = None) -> None:
        """The watermark of every partition of the views."""
        for view in views or list(self.spec.views):
            for partition in range(self.spec.partitions):
                event = Watermark(view=view, partition=partition, watermark_us=time_us)
                envelope = encode(event, id=f"{view}-{partition}-{time_us}", source="test", time_us=time_us)
                name = view_topic("features", view, self.spec.view_version(view), prefix=self.prefix)
                await self.write(name, envelope, key=WATERMARK_KEY, partition=partition)

    async def release(self, event: Released) -> None:
        """What the registry does with a release."""
        envelope = encode(event, id=f"release-{event.epoch}", source="test", time_us=T0_US)
        await self.write(topic("releases", prefix=self.prefix), envelope, key=event.pipeline)

    async def status(self) -> dict[str, Any]:
        """The pipeline's part of the status; empty while there is none."""
        try:
            answer = await self.client.get("/v1/status")
        except httpx.TransportError:
            return {}
        found: dict[str, Any] = answer.json()["pipelines"].get(self.spec.name, {})
        return found

    async def until_status(self, **wanted: object) -> dict[str, Any]:
        """Wait for values in the status."""
        seen: dict[str, Any] = {}

        async def holds() -> bool:
            seen.update(await self.status())
            return all(seen.get(name) == value for name, value in wanted.items())

        await until(holds, f"status {wanted}")
        return seen

    async def predict(self, inputs: dict[str, Any], **fields: object) -> httpx.Response:
        """One instance."""
        return await self.client.post(f"/v1/predict/{self.spec.name}", json={"inputs": inputs, **fields})

    async def logged(self, family: Family = "predictions") -> list[tuple[int, Envelope]]:
        """(partition, envelope) of everything in the pipeline's log, or in another topic."""
        name = topic(family, self.spec.name if family == "predictions" else None, prefix=self.prefix)
        return [(partition, envelope) for partition, envelope in await read_all(self.kafka, name)]


async def read_all(kafka: str, name: str) -> list[tuple[int, Envelope]]:
    """All committed records of a topic at this moment."""
    ends = await end_offsets(kafka, name)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka, enable_auto_commit=False, auto_offset_reset="earliest",
        isolation_level="read_committed",
    )  # fmt: skip
    await consumer.start()
    try:
        consumer.assign([TopicPartition(name, partition) for partition in sorted(ends)])
        out = []
        for tp in sorted(consumer.assignment()):
            while await consumer.position(tp) < ends[tp.partition]:
                batch = await consumer.getmany(tp, timeout_ms=200)
                out += [(tp.partition, read_envelope(r.headers, r.value)) for r in batch.get(tp, [])]
        return out
    finally:
        await consumer.stop()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def process_of(kafka: str, prefix: str, folder: Path, **more: str) -> Process:
    """The service in a folder, not yet running; `more` goes into its environment."""
    port = free_port()
    environment = {
        "TIDEMILL_KAFKA": kafka, "TIDEMILL_POSTGRES": "postgresql://nobody@127.0.0.1:1/none", "TIDEMILL_PREFIX": prefix,
        "TIDEMILL_ARTIFACTS": str(folder / "artifacts"), "TIDEMILL_STATE": str(folder / "state"),
        "TIDEMILL_PORT": str(port), "TIDEMILL_SNAPSHOT_EVERY_S": "0.2", "TIDEMILL_DEGRADED_AFTER_S": "1",
        "TIDEMILL_SANDBOX_CPU_S": "2",
    }  # fmt: skip
    return Process(environment | more, port, folder / "serving.log")


@asynccontextmanager
async def open_stack(kafka: str, prefix: str, folder: Path, spec: PipelineSpec, **more: str) -> AsyncIterator[Stack]:
    """Topics and a started service, which is stopped at the end. The pipeline is applied, nothing is released."""
    views = [
        item
        for view in spec.views
        for item in view_topics(view, spec.view_version(view), spec.partitions, rows_of=None, prefix=prefix)
    ]
    pipeline = pipeline_topics(spec.name, spec.partitions, prefix=prefix)
    await ensure_topics(kafka, [*control_topics(prefix=prefix), *views, *pipeline])
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all", enable_idempotence=True, linger_ms=0)
    await producer.start()
    process = process_of(kafka, prefix, folder, **more)
    async with httpx.AsyncClient(base_url=process.url, timeout=20) as client:
        stack = Stack(kafka, prefix, folder, spec, producer, process, client)
        process.start()
        try:
            await stack.apply(spec)
            yield stack
        finally:
            if process.child is not None and process.child.poll() is None:
                process.stop(signal.SIGKILL)
            if process.logs.exists():  # shown where a test fails
                sys.stderr.write(f"the end of serving's log:\n{process.logs.read_text(errors='replace')[-8000:]}\n")
            await producer.stop()
