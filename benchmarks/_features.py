"""The features service by itself: events as ingestion writes them, one process, and what it emitted, checked."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
from _stack import START_US, apply, get, until
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from numpy.typing import NDArray

from tidemill.stack import Endpoints, Home
from tidemill.stack.environment import Addresses, service_environment
from tidemill.stack.process import free_port
from tidemill_contracts import topic, view_topic
from tidemill_contracts.envelope import Envelope
from tidemill_contracts.events import FeatureVector, Watermark
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_engine.entities import event_mark
from tidemill_engine.windows import Events, Queries, backfill
from tidemill_features.domain.encode import WATERMARK_KEY
from tidemill_features.domain.views import compile_one
from tidemill_features.kafka import partition_of

PARTITIONS = 2
FIELDS = ("price", "size", "spread")
WINDOWS = {"5m": 5, "1h": 12, "24h": 24, "7d": 28}
FUNCTIONS = ("sum", "mean", "min", "max", "last")
STEP_US = 1_000
SOURCE, VIEW = "trades", "by-symbol"
_SAMPLE = 100


def pipeline() -> PipelineSpec:
    """One view keyed by the source's own key: 3 fields, 4 windows, 5 aggregations, 60 features."""
    fields: dict[str, Any] = {"symbol": {"type": "string"}} | {name: {"type": "float"} for name in FIELDS}
    view = {
        "source": SOURCE, "entity": "symbol",
        "windows": {name: {"length": name, "panes": panes} for name, panes in WINDOWS.items()},
        "aggregations": [{"function": function, "field": name} for name in FIELDS for function in FUNCTIONS],
    }  # fmt: skip
    return PipelineSpec.model_validate_json(json.dumps({
        "version": 1, "name": "speed", "partitions": PARTITIONS,
        "sources": {SOURCE: {"key": ["symbol"], "fields": fields, "allowed_lateness": "1s"}},
        "entities": {"symbol": {"key": ["symbol"]}}, "views": {VIEW: view},
        "request": {"fields": fields, "key": "symbol"},
        "label": {"source": SOURCE, "join": "symbol", "expression": "price > 50"},
    }))  # fmt: skip


@dataclass
class Trades:
    """Events in columns, the same for the service, the check and the peer; one every millisecond of event time."""

    count: int
    keys: int
    who: NDArray[np.int64] = field(init=False)
    values: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        made = np.random.default_rng(self.keys)
        rest = made.integers(0, self.keys, max(0, self.count - self.keys))
        self.who = np.concatenate([made.permutation(self.keys), rest])[: self.count]
        price, size = made.integers(1000, 99_999, self.count) / 100, made.integers(1, 500, self.count)
        self.values = np.column_stack([price, size, made.random(self.count)])

    def time_us(self, number: int) -> int:
        """When it happened."""
        return START_US + number * STEP_US

    def body(self, number: int) -> bytes:
        """JSON."""
        price, size, spread = self.values[number].tolist()
        return b'{"price":%r,"size":%r,"spread":%r,"symbol":"S%d"}' % (price, size, spread, self.who[number])

    def of(self, names: Sequence[int]) -> Events:
        """Those of some keys, as the engine's backfill takes them."""
        rows = np.flatnonzero(np.isin(self.who, names))
        return Events(
            [b"S%d" % self.who[row] for row in rows], START_US + rows * STEP_US,
            np.array([event_mark(f"t-{row}") for row in rows], np.uint64), self.values[rows],
        )  # fmt: skip


async def preload(kafka: str, trades: Trades, *, first: int = 0, seqs: list[int] | None = None) -> list[int]:
    """Write events from number `first` on into the source's topic; returns how many lie in each partition."""
    name, seqs = topic("events", SOURCE), seqs or [0] * PARTITIONS
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all", enable_idempotence=True, max_batch_size=200_000,
                                compression_type="zstd")  # fmt: skip
    await producer.start()
    batches = [producer.create_batch() for _ in range(PARTITIONS)]
    try:
        for number in range(first, trades.count):
            key = b"S%d" % trades.who[number]
            partition = partition_of(key, PARTITIONS)
            body = trades.body(number)
            envelope = Envelope(f"t-{number}", "trade", "benchmark", trades.time_us(number), body,
                                origin=(partition, seqs[partition], 0), seq=seqs[partition])  # fmt: skip
            fields = {"timestamp": None, "key": key, "value": body, "headers": envelope.headers()}
            if batches[partition].append(**fields) is None:
                await producer.send_batch(batches[partition], name, partition=partition)
                batches[partition] = producer.create_batch()
                batches[partition].append(**fields)
            seqs[partition] += 1
        for partition, batch in enumerate(batches):
            await (await producer.send_batch(batch, name, partition=partition))
        await producer.flush()
    finally:
        await producer.stop()
    return seqs


class Running:
    """One process of the service."""

    def __init__(self, seen: Endpoints, folder: Path, *, instance: str = "0") -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / f"features-{instance}.log"
        shared = Addresses(kafka=seen.kafka, postgres=seen.postgres, artifacts=seen.artifacts)
        environment = service_environment(Home.at(folder / "home"), "features", port, shared)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tidemill_features"],
                env=environment | _own() | {"TIDEMILL_INSTANCE": instance},
                stderr=log,
            )

    async def parts(self) -> list[dict[str, Any]]:
        """Status of the view's partitions that it owns."""
        assert self.process.poll() is None, self._log.read_text()[-2000:]
        status = await get(f"{self.url}/v1/status")
        return [part for view in (status or {"views": []})["views"] for part in view["partitions"]]

    async def has_read(self, ends: Sequence[int]) -> bool:
        """Whether every event is in its state."""
        parts = await self.parts()
        return {str(p): end - 1 for p, end in enumerate(ends)} == {
            source: seq for part in parts for source, seq in part["positions"].items()
        }

    def cpu_s(self) -> float:
        """Processor seconds so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def stop(self) -> None:
        """SIGTERM; everything is stored."""
        self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()


def _own() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("TIDEMILL_")}


@contextmanager
def features(seen: Endpoints, folder: Path | None = None) -> Iterator[Running]:
    """The service while the body runs."""
    with TemporaryDirectory(prefix="tmf", ignore_cleanup_errors=True) as own:
        running = Running(seen, folder or Path(own))
        try:
            yield running
        finally:
            running.stop()


async def warmed(seen: Endpoints) -> None:
    """Have the loops compiled, once for all later starts: that may take longer than what is measured."""
    with features(seen) as running:

        async def is_ready() -> bool:
            assert running.process.poll() is None
            return bool(await running.parts())

        await until(is_ready, "the service is ready", deadline_s=600)


async def applied(seen: Endpoints) -> PipelineSpec:
    """The pipeline, announced, with its topics."""
    spec = pipeline()
    await apply(seen, spec)
    return spec


async def emitted(kafka: str) -> AsyncIterator[ConsumerRecord]:
    """All committed records of the view's topic."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, isolation_level="read_committed", enable_auto_commit=False,
                                auto_offset_reset="earliest")  # fmt: skip
    await consumer.start()
    tps = [TopicPartition(view_topic("features", VIEW, pipeline().view_version(VIEW)), p) for p in range(PARTITIONS)]
    try:
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)
        while any([await consumer.position(tp) < ends[tp] for tp in tps]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    yield record
    finally:
        await consumer.stop()


@dataclass
class Found:
    """What a reader of the view's topic found."""

    vectors: int = 0
    latest: dict[bytes, bytes] = field(default_factory=dict)
    marks: list[tuple[int, Watermark]] = field(default_factory=list)

    def rate(self) -> float:
        """Events per second between the first and the last transaction, by the records' own times."""
        first = {mark.partition: mark for _, mark in reversed(self.marks)}
        last = {mark.partition: mark for _, mark in self.marks}
        seconds = (self.marks[-1][0] - self.marks[0][0]) / 1000
        return (sum(_seq(mark) for mark in last.values()) - sum(_seq(mark) for mark in first.values())) / seconds


def _seq(mark: Watermark) -> int:
    return mark.positions[str(mark.partition)]


async def read_back(kafka: str) -> Found:
    """Everything that was emitted."""
    found = Found()
    async for record in emitted(kafka):
        if record.key == WATERMARK_KEY:
            found.marks.append((record.timestamp, Watermark.read(record.value)))
        else:
            found.vectors += 1
            found.latest[record.key] = record.value
    found.marks.sort(key=lambda mark: mark[0])
    return found


def check(found: Found, trades: Trades, spec: PipelineSpec) -> None:
    """Every event counts once in its key's last vector; a sample of keys is the backfill, bit for bit."""
    names = spec.views[VIEW].feature_names(VIEW)
    column = names.index(f"{VIEW}.size_sum_7d")
    vectors = {key: FeatureVector.read(value) for key, value in found.latest.items()}
    assert len(vectors) == len(np.unique(trades.who)), (len(vectors), len(np.unique(trades.who)))
    assert sum(vector.values[column] or 0.0 for vector in vectors.values()) == trades.values[:, 1].sum()
    sample = np.random.default_rng(1).choice(np.unique(trades.who), _SAMPLE, replace=False).tolist()
    keys = [b"S%d" % name for name in sample]
    at_us = np.array([vectors[key].at_us for key in keys]) + 1
    expected = backfill(compile_one(spec, VIEW, "tidemill").plan, trades.of(sample), Queries(keys, at_us))
    online = np.array([[np.nan if v is None else v for v in vectors[key].values] for key in keys])
    assert online.tobytes() == expected.tobytes()


async def wait_for(running: Running, ends: Sequence[int], *, deadline_s: float = 600) -> None:
    """Until all events are in the state and told."""

    async def is_done() -> bool:
        return await running.has_read(ends)

    await until(is_done, "all events are read", deadline_s=deadline_s)
