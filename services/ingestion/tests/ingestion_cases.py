"""A source, and records as a raw topic would hold them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from ingestion_stack import PIPELINE

from tidemill_contracts import Envelope, parse_time
from tidemill_contracts.events import Timer, encode
from tidemill_contracts.pipeline import parse_pipeline
from tidemill_ingestion.domain.fields import Issue
from tidemill_ingestion.domain.framing import headers_in
from tidemill_ingestion.domain.outgoing import Sendable
from tidemill_ingestion.domain.source import Event, Source
from tidemill_runtime.columns import OFFSET, KeptRecords, Reader, RecordColumns

NOON = parse_time("2013-01-01T12:00:00Z")
MINUTE = 60_000_000
HOUR = 60 * MINUTE


def sources() -> dict[str, Source]:
    """The sources of the test's pipeline."""
    spec = parse_pipeline(PIPELINE.encode())
    return {name: Source.compile(name, source, spec.partitions) for name, source in spec.sources.items()}


FLIGHTS, WEATHER = sources()["flights"], sources()["weather"]


@dataclass(frozen=True)
class Rec:
    """A record on a raw topic."""

    offset: int
    value: bytes | None = b""
    headers: list[tuple[str, bytes]] = field(default_factory=list)
    key: bytes | None = None
    partition: int = 0
    timestamp: int = NOON // 1000
    topic: str = "tidemill.raw.flights.v1"


def tail_of(partition: int, number: int = 0) -> str:
    """A tail whose events belong to `partition`; another one for each `number`."""
    tails = (f"T{n}" for n in range(1000) if FLIGHTS.partition(f"T{n}".encode()) == partition)
    return [next(tails) for _ in range(number + 1)][-1]


def event(name: str = "e", *, time: str = "2013-01-01T11:00:00Z", delay: float = 1.0, partition: int = 0) -> Event:
    """A valid flight."""
    issues = list[Issue]()
    data = {"tail": tail_of(partition), "at": time, "delay": delay}
    found = FLIGHTS.event(name, None, data, FLIGHTS.context(), "", issues)
    assert found is not None, issues
    return found


def record(offset: int, about: Event, *, partition: int = 0) -> Rec:
    """The record of an event."""
    return Rec(offset, about.data, about.envelope().headers(), about.key, partition)


def timer(offset: int, time_us: int, *, source: str = "flights") -> Rec:
    """The record of a producer's word on progress."""
    envelope = encode(Timer(source=source, time_us=time_us), id=f"t{offset}", source="/t", time_us=time_us)
    return Rec(offset, envelope.data, envelope.headers())


def garbage(offset: int) -> Rec:
    """Bytes without a meaning."""
    return Rec(offset, b"\x00\xff garbage", [("x", b"\xff")], b"\x80")


def envelope(data: bytes, **changes: object) -> Envelope:
    """An envelope around a body that need not be valid."""
    fields = {"id": "e", "type": "test", "source": "/t", "time_us": NOON, "data": data} | changes
    return Envelope(**fields)  # type: ignore[arg-type]  # a test may break any of them


def taken_apart(out: Sendable) -> tuple[bytes | None, dict[bytes, bytes | None]]:
    """Value and headers of a record on its way, read from its bytes."""
    framed = out.framed()
    size, at = _number(framed.body, max(framed.key_bytes, 0))
    value = framed.body[at : at + size] if size >= 0 else None
    count, at = _number(framed.body, at + max(size, 0))
    return value, headers_in(framed.body, at, count, len(framed.body))


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return (value >> 1) ^ -(value & 1), at


def as_columns(records: Sequence[Rec]) -> RecordColumns:
    """Records of one partition as the consumer reads them from the log, their offsets without gaps."""
    batch = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 1 << 30)
    for at, each in enumerate(records):
        batch.append(at, timestamp=each.timestamp, key=each.key, value=each.value, headers=each.headers)
    plain = PartitionRecords(TopicPartition("t", 0), KeptRecords(b""), [], 0, None, None, True, 1)
    found = Reader(TopicPartition(records[0].topic, records[0].partition), bytes(batch.build()), plain).take(None)
    assert found is not None
    found.table[:, OFFSET] += records[0].offset
    return found
