"""Reads whole topics: committed records only, repeats dropped by their origin or id."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiokafka import TopicPartition

from tidemill_contracts import Envelope, EnvelopeError, read_envelope
from tidemill_runtime.consumer import SteadyConsumer
from tidemill_runtime.errors import Later
from tidemill_runtime.kafka import close_client, end_offsets

_DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class Record:
    """A record with its envelope; None where the headers are not a CloudEvent."""

    partition: int
    offset: int
    key: bytes | None
    envelope: Envelope | None
    size: int


async def read_topic(bootstrap: str, topic: str) -> AsyncGenerator[Record, None]:
    """Every committed record of a topic up to its end as of now, by partition; nothing when it does not exist."""
    async for batch in _batches(bootstrap, topic):
        for record in batch:
            yield _record(record)


class Named(NamedTuple):
    """What is counted of an event; `is_caused`: it names the event that caused it."""

    type: str
    id: str
    is_caused: bool


async def read_ids(bootstrap: str, topic: str) -> AsyncGenerator[list[Named], None]:
    """Of the events of a topic, as `read_topic` finds them, in lists: for counting many."""
    async for batch in _batches(bootstrap, topic):
        yield [found for record in batch if (found := _named(record.headers)) is not None]


async def _batches(bootstrap: str, topic: str) -> AsyncIterator[list[Any]]:
    try:
        ends = await end_offsets(bootstrap, topic)
    except Later:
        return
    consumer = SteadyConsumer(
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        for partition, end in sorted(ends.items()):
            place = TopicPartition(topic, partition)
            consumer.assign([place])
            consumer.seek(place, 0)
            deadline, at = asyncio.get_running_loop().time() + _DEADLINE_S, 0
            while at < end:
                async with asyncio.timeout_at(deadline):
                    batch = await consumer.getmany(place, timeout_ms=200, max_records=10_000)
                    at = await consumer.position(place)
                yield batch.get(place, [])
    finally:
        await close_client(consumer)


def _named(headers: Iterable[tuple[str, bytes]]) -> Named | None:
    fields = dict(headers)
    try:
        kind, identity = fields["ce_type"].decode(), fields["ce_id"].decode()
    except (KeyError, AttributeError, UnicodeDecodeError):
        return None
    if fields.get("ce_specversion") != b"1.0" or not kind or not identity:
        return None
    return Named(kind, identity, "ce_causationid" in fields)


def _record(record: Any) -> Record:  # noqa: ANN401 - aiokafka ships no types
    try:
        envelope = read_envelope(record.headers, record.value)
    except EnvelopeError:
        envelope = None
    return Record(record.partition, record.offset, record.key, envelope, len(record.value or b""))


def body(record: Record) -> dict[str, Any]:
    """The JSON body of a record; empty where there is none."""
    try:
        parsed = json.loads(record.envelope.data) if record.envelope is not None else {}
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}
