"""Whole batches that were framed here are what any reader of Kafka gets from the broker."""

import asyncio

import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from tidemill_contracts.topics import TopicSpec
from tidemill_runtime.kafka import close_client, ensure_topics, open_producer, transaction
from tidemill_runtime.packed import BATCH_BYTES, SENT_BYTES, pack
from tidemill_runtime.settings import ServiceSettings

pytestmark = pytest.mark.anyio
HEADER = b"\x06abc\x04de"  # a name of three bytes and a value of two, with Kafka's lengths
Sent = tuple[bytes | None, bytes | None, int]


def columns(records: list[Sent]) -> tuple[np.ndarray, np.ndarray]:
    """Key, value and number of headers of each record in a buffer."""
    buffer, table = bytearray(b"before"), []
    for key, value, headers in records:
        row = []
        for part in (key, value):
            row += [-1, -1] if part is None else [len(buffer), len(buffer) + len(part)]
            buffer += part or b""
        table.append([*row, len(buffer), headers, len(buffer) + headers * len(HEADER)])
        buffer += HEADER * headers
    return np.frombuffer(buffer, np.uint8), np.array(table, np.int64).reshape(len(table), 7)


async def written(settings: ServiceSettings, records: list[Sent], *, commits: bool = True) -> list[ConsumerRecord]:
    """Through a transaction into a topic of its own, and read again."""
    name = f"{settings.prefix}.packed"
    await ensure_topics(settings.kafka, [TopicSpec(name, 1)])
    producer = await open_producer(settings, transactional_id=name, linger_ms=0)
    try:
        batches = [batch async for batch in pack(*columns(records), transactional=True)]
        if commits:
            async with transaction(producer):
                for batch in batches:
                    await producer.send_batch(batch, name, partition=0)
        else:
            await producer.begin_transaction()
            await (await producer.send_batch(batches[0], name, partition=0))
            await producer.abort_transaction()
    finally:
        await close_client(producer)
    assert sum(batch.record_count() for batch in batches) == len(records)
    return await read(settings, name, len(records) if commits else 0)


async def read(settings: ServiceSettings, name: str, count: int) -> list[ConsumerRecord]:
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka, isolation_level="read_committed",
                                auto_offset_reset="earliest")  # fmt: skip
    await consumer.start()
    place, found = TopicPartition(name, 0), list[ConsumerRecord]()
    try:
        consumer.assign([place])
        async with asyncio.timeout(60):
            while len(found) < count or await consumer.position(place) < await end_of(consumer, place):
                for part in (await consumer.getmany(timeout_ms=500)).values():
                    found += part
    finally:
        await consumer.stop()
    return found


async def end_of(consumer: AIOKafkaConsumer, place: TopicPartition) -> int:
    return int((await consumer.end_offsets([place]))[place])  # a transaction's end shows a moment after its commit


def shown(found: list[ConsumerRecord]) -> list[Sent]:
    assert all(header == ("abc", b"de") for record in found for header in record.headers)
    return [(record.key, record.value, len(record.headers)) for record in found]


@pytest.mark.parametrize(
    "records",
    [
        [(b"k", b"v", 1)],
        [(None, b"v", 0), (b"k", None, 2), (b"", b"", 70), (b"k" * 63, b"v" * 64, 1), (b"k" * 9000, b"v" * 70_000, 0)],
        [(b"%d" % n, b"%d" % n * (n % 900), n % 3) for n in range(3000)],
        [(b"large", b"x" * (BATCH_BYTES + 1), 1), (b"k", b"v", 1), (b"large", b"y" * BATCH_BYTES, 0)],
    ],
    ids=["one", "odd", "many", "large"],
)
async def test_records_come_back_as_they_were(settings: ServiceSettings, records: list[Sent]) -> None:
    assert shown(await written(settings, records)) == records


async def test_batches_are_of_their_transaction(settings: ServiceSettings) -> None:
    assert not await written(settings, [(b"k", b"v", 1)], commits=False)


async def test_batches_have_a_bound_and_nothing_gives_none() -> None:
    made = np.random.default_rng(7)
    buffer, table = columns([(b"%d" % n, made.bytes(1000) if n % 2 else b"x" * 1000, 1) for n in range(6000)])
    batches = [batch async for batch in pack(buffer, table, transactional=False)]
    assert sum(batch.record_count() for batch in batches) == 6000
    assert len(batches) > len(buffer) // BATCH_BYTES + 1, "what could not be compressed was cut"
    assert all(batch.size() <= SENT_BYTES + 100 for batch in batches)
    assert not [batch async for batch in pack(buffer, table[:0], transactional=False)]
