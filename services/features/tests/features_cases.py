"""A small pipeline, records and shuffles that the tests of this service share."""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from numpy.typing import NDArray

from tidemill_contracts.envelope import Envelope, Headers
from tidemill_contracts.events import Timer, encode
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_engine.windows import Events, Queries, backfill
from tidemill_features.domain.aggregate import ViewPartition
from tidemill_features.domain.marks import Marks
from tidemill_features.domain.partition import AggregatePartition
from tidemill_features.domain.views import View, compile_program
from tidemill_runtime.columns import KeptRecords, Reader, RecordColumns

HOUR_US = 3_600_000_000
START_US = 400_000 * HOUR_US
PARTITIONS = 3
END_US = START_US + 30 * HOUR_US


def pipeline(name: str = "late", partitions: int = PARTITIONS, **view: str) -> PipelineSpec:
    """Departures keyed by flight; one view by that key, one by carrier, one by route with a filter."""
    windows = {"1h": {"length": "1h", "panes": 12}, "1d": {"length": "24h", "panes": 12}}
    counts: list[dict[str, Any]] = [
        {"function": "count"}, {"function": "mean", "field": "delay"}, {"function": "sum", "field": "delay"},
        {"function": "max", "field": "delay"}, {"function": "last", "field": "delay", "all_time": True},
    ]  # fmt: skip
    base = {"source": "departures", "windows": windows, "aggregations": counts}
    return PipelineSpec.model_validate_json(
        json.dumps(
            {
                "version": 1,
                "name": name,
                "partitions": partitions,
                "sources": {"departures": {"key": ["flight"], "fields": FIELDS, "allowed_lateness": "10m"}},
                "entities": {
                    "flight": {"key": ["flight"]},
                    "carrier": {"key": ["carrier"]},
                    "route": {"key": ["origin", "dest"]},
                },
                "views": {
                    "by-flight": base | {"entity": "flight"},
                    "by-carrier": base | {"entity": "carrier"} | view,
                    "by-route": base | {"entity": "route", "where": "delay > 0"},
                },
                "request": {"fields": FIELDS, "key": "flight"},
                "label": {"source": "departures", "join": "flight", "expression": "delay > 15"},
            }
        )
    )  # fmt: skip


FIELDS = {
    "flight": {"type": "string"},
    "carrier": {"type": "string", "required": False},
    "origin": {"type": "string"},
    "dest": {"type": "string"},
    "delay": {"type": "float", "required": False},
}


@dataclass
class FakeRecord:
    """A consumed record."""

    value: bytes | None
    headers: Headers
    key: bytes | None = None
    topic: str = "t"
    partition: int = 0
    offset: int = 0


@dataclass
class Departure:
    """An event of the source, and where it lies."""

    id: str
    time_us: int
    body: dict[str, Any]
    partition: int = 0
    seq: int = 0


@dataclass
class Stream:
    """Events of a source as they lie in its partitions."""

    by_partition: dict[int, list[Departure]] = field(default_factory=dict)

    @property
    def all(self) -> list[Departure]:
        return [event for events in self.by_partition.values() for event in events]


def departures(count: int, *, seed: int = 1, partitions: int = PARTITIONS, step_us: int = 20_000_000) -> Stream:
    """Events in event time, out of order by up to ten minutes, dealt to partitions by flight."""
    chance = random.Random(seed)
    stream = Stream({p: [] for p in range(partitions)})
    newest = dict.fromkeys(range(partitions), 0)
    for n in range(count):
        flight = chance.randrange(40)
        partition = flight % partitions
        time_us = START_US + n * step_us - chance.randrange(600_000_000)
        time_us = max(time_us, newest[partition] - 600_000_000)  # what ingestion lets through
        newest[partition] = max(newest[partition], time_us)
        body = {
            "flight": f"F{flight}", "carrier": chance.choice(["AA", "UA", "é", None]),
            "origin": chance.choice(["EWR", "JFK"]), "dest": chance.choice(["LAX", "SFO", "ORD"]),
            "delay": chance.choice([None, chance.uniform(-30, 300), float(chance.randrange(9))]),
        }  # fmt: skip
        events = stream.by_partition[partition]
        events.append(Departure(f"e{n}", time_us, body, partition, len(events)))
    return stream


def source_record(event: Departure, offset: int = 0) -> FakeRecord:
    """The event as ingestion writes it."""
    envelope = Envelope(
        event.id, "departure", "test", event.time_us, json.dumps(event.body).encode(),
        origin=(event.partition, event.seq, 0), seq=event.seq, traceparent=f"00-{event.seq + 1:032x}-{1:016x}-01",
    )  # fmt: skip
    key = event.body["flight"].encode()
    return FakeRecord(envelope.data, envelope.headers(), key, partition=event.partition, offset=offset)


def as_columns(records: Sequence[FakeRecord]) -> RecordColumns:
    """Records of one partition as the consumer reads them from a batch of Kafka's."""
    batch = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 1 << 30)
    for at, record in enumerate(records):
        batch.append(at, timestamp=0, key=record.key, value=record.value, headers=record.headers)
    plain = PartitionRecords(TopicPartition("t", 0), KeptRecords(b""), [], 0, None, None, True, 1)
    found = Reader(TopicPartition("t", records[0].partition), bytes(batch.build()), plain).take(None)
    assert found is not None
    return found


def timer_record(time_us: int, partition: int, offset: int = 0) -> FakeRecord:
    """Progress of a source partition."""
    envelope = encode(Timer(source="departures", time_us=time_us), id=f"t{time_us}", source="test", time_us=time_us)
    return FakeRecord(envelope.data, envelope.headers(), None, partition=partition, offset=offset)


def views(spec: PipelineSpec | None = None) -> dict[str, View]:
    """The compiled views of the pipeline by name."""
    program = compile_program([spec or pipeline()], "tm")
    assert not program.refused
    return {view.name: view for view in program.views}


def fresh(view: View, partition: int) -> AggregatePartition:
    """A partition without history."""
    return AggregatePartition([ViewPartition.restored(view, partition, Marks(), [])])


def expected(
    view: View, events: Iterable[Departure], keys: Sequence[bytes], at_us: Sequence[int]
) -> NDArray[np.float64]:
    """What the engine's backfill gives for keys just after `at_us`: events at that very time count."""
    rows = [row for event in events if (row := view.read(event.id, event.time_us, event.body)) is not None]
    columns = Events(
        [row.key for row in rows],
        np.array([row.time_us for row in rows], np.int64),
        np.array([row.mark for row in rows], np.uint64),
        np.array([row.values for row in rows], np.float64).reshape(len(rows), len(view.plan.fields)),
    )
    return backfill(view.plan, columns, Queries(keys, np.array(at_us, np.int64) + 1))
