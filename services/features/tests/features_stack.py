"""The service as a process against a real Kafka and Postgres: what goes in, what comes out, and how it dies."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import httpx
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from features_cases import (
    PARTITIONS,
    FakeRecord,
    Stream,
    pipeline,
    source_record,
    timer_record,
)
from features_reader import Reader

from tidemill_contracts.events import PipelineApplied, encode
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_contracts.topics import (
    Family,
    TopicSpec,
    control_topics,
    pipeline_topics,
    source_topics,
    topic,
    view_topic,
    view_topics,
)
from tidemill_runtime.kafka import ensure_topics
from tidemill_runtime.settings import ServiceSettings

DEADLINE_S = 150.0
START_S = 600.0
"""The first process on a machine compiles."""


def say(text: str) -> None:
    """What a long test has measured, for those who run it with `-s`."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


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
class Stack:
    """Where the service lives in this test."""

    kafka: str
    postgres: str
    prefix: str
    folder: Path
    spec: PipelineSpec
    producer: AIOKafkaProducer
    environment: Mapping[str, str] = field(default_factory=dict)
    extra_us: int = 0

    @property
    def settings(self) -> ServiceSettings:
        """What the service's own clients are told."""
        return ServiceSettings(
            kafka=self.kafka, postgres=self.postgres, artifacts=str(self.folder / "artifacts"), state=self.folder,
            prefix=self.prefix,
        )  # fmt: skip

    GARBAGE: ClassVar[Sequence[FakeRecord]] = (
        FakeRecord(b"\xff\x00garbage", []),
        FakeRecord(None, [("ce_specversion", b"1.0")], b"key"),
        FakeRecord(b"{}", [("ce_specversion", b"9"), ("ce_id", b"\xff")]),
        FakeRecord(b"[1,2]", [("tm_view", b"x" * 16), ("ce_type", b"nothing"), ("tm_origin", b"::")][1:]),
        FakeRecord(b"", [("tm_seq", b"99999999999999999999999999")]),
    )

    def topic(self, family: Family, name: str) -> str:
        return topic(family, name, prefix=self.prefix)

    def view_topic(self, view: str) -> str:
        return view_topic("features", view, self.spec.view_version(view), prefix=self.prefix)

    async def send(self, name: str, records: Sequence[FakeRecord]) -> None:
        """Write records to their partitions, in order."""
        for start in range(0, len(records), 5000):
            sent = [
                await self.producer.send(name, r.value, key=r.key, partition=r.partition, headers=r.headers)
                for r in records[start : start + 5000]
            ]
            await asyncio.gather(*sent)

    async def send_garbage(self, name: str) -> None:
        """What nobody can read, into every partition."""
        await self.send(name, [replace(record, partition=n % PARTITIONS) for n, record in enumerate(self.GARBAGE)])

    async def log(self, name: str) -> AsyncIterator[bytes | None]:
        """Values of all committed records of a topic, partition after partition.

        A commit is answered before every partition has its marker, so the last stable offset may still lie before
        records that are committed: what is read goes to the end that writers see.
        """
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.kafka, isolation_level="read_committed", auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            places = [TopicPartition(name, p) for p in sorted(consumer.partitions_for_topic(name) or {0})]
            consumer.assign(places)
            ends = await self._ends(places)
            for place in places:
                while await consumer.position(place) < ends[place]:
                    for record in (await consumer.getmany(place, timeout_ms=100)).get(place, []):
                        yield record.value
        finally:
            await consumer.stop()

    async def _ends(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Where partitions end, open transactions included."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.kafka, isolation_level="read_uncommitted")
        await consumer.start()
        try:
            return dict(await consumer.end_offsets(list(places)))
        finally:
            await consumer.stop()

    async def send_events(self, stream: Stream, *, until_us: int | None = None, part: slice = slice(None)) -> None:
        """A slice of each source partition's events; then progress, where given."""
        records = [source_record(e) for events in stream.by_partition.values() for e in events[part]]
        if until_us is not None:
            records += [timer_record(until_us, p) for p in stream.by_partition]
        await self.send(self.topic("events", "departures"), records)

    async def apply(self, spec: PipelineSpec, revision: int = 1) -> None:
        """Announce a pipeline."""
        body = PipelineApplied(
            pipeline=spec.name, revision=revision, digest=spec.digest(), spec=spec.model_dump(mode="json")
        )
        envelope = encode(body, id=f"{spec.name}-{revision}", source="test", time_us=0)
        await self.producer.send_and_wait(
            topic("pipelines", prefix=self.prefix), envelope.data, key=spec.name.encode(), headers=envelope.headers()
        )

    @asynccontextmanager
    async def reading(self, view: str) -> AsyncIterator[Reader]:
        """A replica that is kept up to date while the body runs."""
        reader = Reader()
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.kafka, isolation_level="read_committed", auto_offset_reset="earliest",
            enable_auto_commit=False, fetch_max_wait_ms=20,
        )  # fmt: skip
        consumer.assign([TopicPartition(self.view_topic(view), p) for p in range(PARTITIONS)])
        await consumer.start()

        async def follow() -> None:
            while True:
                for records in (await consumer.getmany(timeout_ms=50)).values():
                    for record in records:
                        reader.take(record)

        task = asyncio.create_task(follow())
        try:
            yield reader
        finally:
            task.cancel()
            await asyncio.wait({task})
            await consumer.stop()

    def start(self, instance: str = "0", **environment: str) -> "Process":
        """The service as a process of its own."""
        return Process(self, instance, {**self.environment, **environment})


class Process:
    """One instance of the service."""

    def __init__(self, stack: Stack, instance: str, environment: Mapping[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = stack.folder / f"{instance}-{self.port}.log"
        asleep = "SLEEP_BEFORE_WRITE" in environment
        program = [str(Path(__file__).with_name("features_sleeper.py"))] if asleep else ["-m", "tidemill_features"]
        own = {
            "TIDEMILL_KAFKA": stack.kafka, "TIDEMILL_POSTGRES": stack.postgres, "TIDEMILL_PREFIX": stack.prefix,
            "TIDEMILL_ARTIFACTS": str(stack.folder / "artifacts"), "TIDEMILL_STATE": str(stack.folder / instance),
            "TIDEMILL_PORT": str(self.port), "TIDEMILL_INSTANCE": instance,
        }  # fmt: skip
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *program], env={**os.environ, **own, **environment}, stderr=log
            )

    async def ready(self) -> None:
        """Wait until it says so."""
        async with httpx.AsyncClient() as client:

            async def is_ready() -> bool:
                assert self._process.poll() is None, self.log.read_text()
                try:
                    return (await client.get(f"{self.url}/readyz")).status_code == 200
                except httpx.TransportError:
                    return False

            await until(is_ready, "the service is ready", deadline_s=START_S)

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient() as client:
            return await client.get(self.url + path, timeout=10)

    def wake(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def is_asleep(self) -> bool:
        """Whether a signal has stopped it."""
        return psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._process.send_signal(signal.SIGCONT)
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


async def create_restless(kafka: str, specs: Sequence[TopicSpec]) -> None:
    """Create compacted topics that roll and compact as soon as the broker looks at them."""
    configs = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.001"}
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(s.name, s.partitions, -1, {}, configs) for s in specs if s.compacted])
    finally:
        await admin.close()


@asynccontextmanager
async def open_stack(
    kafka: str, postgres: str, prefix: str, folder: Path, *, restless: bool = False, partitions: int = PARTITIONS
) -> AsyncIterator[Stack]:
    """Topics made (`restless`: those of vectors compact at once), pipeline announced, nothing running yet."""
    spec = pipeline(partitions=partitions)
    specs = [*control_topics(prefix=prefix), *pipeline_topics(spec.name, spec.partitions, prefix=prefix)]
    for source in spec.sources:
        specs += source_topics(source, spec.partitions, prefix=prefix)
    for view in spec.views:
        rows_of = spec.views[view].source if spec.is_repartitioned(view) else None
        specs += view_topics(view, spec.view_version(view), spec.partitions, rows_of=rows_of, prefix=prefix)
    if restless:
        await create_restless(kafka, [s for s in specs if ".features." in s.name])
    await ensure_topics(kafka, specs)
    producer = AIOKafkaProducer(bootstrap_servers=kafka, enable_idempotence=True, linger_ms=2)
    await producer.start()
    try:
        stack = Stack(kafka, postgres, prefix, folder, spec, producer)
        await stack.apply(spec)
        yield stack
    finally:
        await producer.stop()
