"""The embedded stack in a temporary folder with only the services that a benchmark needs, and the example pipeline."""

import asyncio
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import httpx
import numpy as np
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tidemill.stack import Endpoints, Service, Stack
from tidemill_contracts import Envelope, topic
from tidemill_contracts.events import Member, PipelineApplied, Released, ReleaseReason, encode
from tidemill_contracts.pipeline import PipelineSpec, load_pipeline
from tidemill_contracts.topics import control_topics, pipeline_topics, source_topics, view_topics
from tidemill_engine.learn.boosting import fit_lightgbm
from tidemill_runtime.artifacts import Artifacts
from tidemill_runtime.kafka import ensure_topics

CARRIERS = ("AA", "B6", "DL", "EV", "MQ", "UA", "US", "WN")
PIPELINE = Path(__file__).parent.parent / "pipelines" / "flight-delay.yaml"
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # topics that are new have no leader for a moment
START_US = 1_357_000_000_000_000


@contextmanager
def stack(*names: str) -> Iterator[Endpoints]:
    """Kafka, Postgres and the named services; everything is stopped and deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="tm", ignore_cleanup_errors=True) as folder:
        services = [Service(name=name, command=(sys.executable, "-m", f"tidemill_{name}")) for name in names]
        running = Stack(Path(folder), services=services)
        seen = running.start()
        try:
            yield seen
        finally:
            running.stop()


class Cpu:
    """Processor time that the processes of the stack use from now on: on a shared machine it says more than rates."""

    def __init__(self, seen: Endpoints) -> None:
        self._pids = {name: process.pid for name, process in seen.processes.items() if process.pid is not None}
        self._before = self._now()

    def used(self) -> dict[str, float]:
        """Seconds by process; Postgres with its sessions."""
        return {name: seconds - self._before.get(name, 0.0) for name, seconds in self._now().items()}

    def _now(self) -> dict[str, float]:
        return {name: _cpu_seconds(psutil.Process(pid)) for name, pid in self._pids.items()}


def _cpu_seconds(process: psutil.Process) -> float:
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system
    return total


async def until(condition: Callable[[], Awaitable[bool]], what: str, *, deadline_s: float = 60.0) -> None:
    """Poll every 20 ms; raises TimeoutError naming what did not come true."""
    end = time.monotonic() + deadline_s
    while not await condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {deadline_s:g} s: {what}")
        await asyncio.sleep(0.02)


def pipeline() -> PipelineSpec:
    """The example pipeline, on two partitions."""
    return load_pipeline(PIPELINE).model_copy(update={"partitions": 2})


async def apply(seen: Endpoints, spec: PipelineSpec) -> None:
    """What the registry does with a pipeline file: topics, then the event."""
    wanted = [*control_topics(), *pipeline_topics(spec.name, spec.partitions)]
    for name in spec.sources:
        wanted += source_topics(name, spec.partitions)
    for view in spec.views:
        wanted += view_topics(view, spec.view_version(view), spec.partitions, rows_of=spec.views[view].source)
    await ensure_topics(seen.kafka, wanted)
    event = PipelineApplied(pipeline=spec.name, revision=1, digest=spec.digest(), spec=spec.model_dump(mode="json"))
    envelope = encode(event, id="apply-1", source="benchmark", time_us=START_US)
    await write(seen.kafka, topic("pipelines"), [(spec.name.encode(), envelope, 0)])


async def release(seen: Endpoints, spec: PipelineSpec) -> None:
    """What trainer and registry do: a forest of the pipeline's own size, and the release that names it."""
    features = list(spec.feature_names())
    made = np.random.default_rng(7)
    rows = made.normal(size=(4000, len(features))).astype(np.float32)
    labels = (rows[:, 0] + made.normal(size=len(rows)) > 0).astype(np.float64)
    forest = fit_lightgbm(rows, labels, {"num_iterations": 100, "num_leaves": 31, "max_bin": 63}, 7)
    digest = Artifacts(seen.artifacts).put(forest.to_onnx(features))
    event = Released(
        pipeline=spec.name, epoch=1, members=[Member(name="champion", model=digest, version=1)],
        views={view: spec.view_version(view) for view in spec.views}, features=features, spec=spec.digest(),
        policy=spec.policy_digest(), at_us=START_US, reason=ReleaseReason(kind="first", event_id=UUID(int=1)),
    )  # fmt: skip
    envelope = encode(event, id="release-1", source="benchmark", time_us=START_US)
    await write(seen.kafka, topic("releases"), [(spec.name.encode(), envelope, 0)])


async def write(kafka: str, name: str, records: Sequence[tuple[bytes, Envelope, int]]) -> None:
    """Write (key, envelope, partition), acknowledged."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all", linger_ms=5)
    await producer.start()
    try:
        await asyncio.gather(*[
            await producer.send(name, envelope.data, key=key, partition=partition, headers=envelope.headers())
            for key, envelope, partition in records
        ])  # fmt: skip
    finally:
        await producer.stop()


class Topic:
    """Reads one topic from outside, beside the services."""

    def __init__(self, kafka: str, name: str, partitions: int) -> None:
        self._tps = [TopicPartition(name, p) for p in range(partitions)]
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=kafka, enable_auto_commit=False, auto_offset_reset="earliest",
            isolation_level="read_committed",
        )  # fmt: skip

    async def __aenter__(self) -> Self:
        await self._consumer.start()
        self._consumer.assign(self._tps)
        self._consumer.pause(*self._tps)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def end(self) -> int:
        """The sum of the partitions' ends."""
        return sum((await self._consumer.end_offsets(self._tps)).values())

    async def headers(self, name: str, *, event_type: str | None = None) -> Counter[str]:
        """How often each value of a header stands in the topic, in records of one CloudEvents type."""
        ends = await self._consumer.end_offsets(self._tps)
        self._consumer.resume(*self._tps)
        found: Counter[str] = Counter()
        for tp in self._tps:
            self._consumer.seek(tp, 0)
        while any([await self._consumer.position(tp) < ends[tp] for tp in self._tps]):
            for records in (await self._consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    headers = dict(record.headers)
                    if event_type is None or headers["ce_type"].decode() == event_type:
                        found[headers[name].decode()] += 1
        self._consumer.pause(*self._tps)
        return found


async def get(url: str) -> Any:  # noqa: ANN401 - JSON
    """A JSON answer, or None while there is none."""
    # Certificates are of no use here, and to load them would hold up a load on the same loop for 20 ms.
    async with httpx.AsyncClient(timeout=10, verify=False) as client:
        try:
            answer = await client.get(url)
        except httpx.TransportError:
            return None
        return answer.json() if answer.status_code == 200 else None


def departure(number: int, *, flight: str, tag: str | None = None, start_us: int = START_US) -> dict[str, Any]:
    """A plausible event of the source `departures`; `tag` makes destination and tail its own."""
    at = np.datetime64(start_us + number * 100_000, "us").astype("datetime64[ms]")
    when = f"{at}Z"
    return {
        "id": f"{flight}-departed",
        "data": {
            "flight": flight, "origin": ("EWR", "JFK", "LGA")[number % 3], "dest": tag or f"D{number % 103}",
            "carrier": CARRIERS[number % len(CARRIERS)], "tail": tag or f"N{number * 7919 % 4000}",
            "distance": float(100 + number % 4000), "scheduled": when, "scheduled_arrival": number % 1440,
            "departed": when, "dep_delay": float(number % 97 - 12), "dep_late": number % 5 == 0,
        },
    }  # fmt: skip
