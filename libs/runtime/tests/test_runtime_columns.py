"""Records as columns are the records that aiokafka reads, whatever the compression, transactions and cuts of polls."""

import pytest
from aiokafka import AIOKafkaProducer, ConsumerRecord, TopicPartition

from tidemill_contracts.topics import TopicSpec
from tidemill_runtime.columns import RecordColumns, join
from tidemill_runtime.consumer import ColumnsBy
from tidemill_runtime.kafka import close_client, ensure_topics, open_consumer, open_producer
from tidemill_runtime.settings import ServiceSettings
from tidemill_testkit.topics import NotText, Sent, write_batch

pytestmark = pytest.mark.anyio
COUNT = 400


def sent(number: int) -> Sent:
    headers = [("n", b"%d" % number), ("é", b""), ("nothing", None)][: number % 4]
    value = None if number % 11 == 5 and number % 7 else b"v" * number
    return None if number % 7 == 0 else b"k%d" % number, value, headers  # type: ignore[return-value]


async def fill(settings: ServiceSettings, name: str) -> None:
    """Batches of every compression, then a transaction, one that is aborted, and one more."""
    await ensure_topics(settings.kafka, [TopicSpec(name, 1)])
    for compression in (None, "gzip", "snappy", "lz4", "zstd"):
        producer = AIOKafkaProducer(bootstrap_servers=settings.kafka, compression_type=compression, linger_ms=50)
        await producer.start()
        for number in range(COUNT):
            key, value, headers = sent(number)
            await producer.send(name, value, key, headers=headers, partition=0)
        await producer.stop()
    transactional = await open_producer(settings, transactional_id=name)
    for number, commits in enumerate((True, False, True)):
        await transactional.begin_transaction()
        await transactional.send_and_wait(name, b"transaction %d" % number, partition=0)
        await (transactional.commit_transaction() if commits else transactional.abort_transaction())
    await close_client(transactional)


async def read(
    settings: ServiceSettings,
    name: str,
    *,
    columns: ColumnsBy | None,
    isolation: str = "read_committed",
    start: int = 0,
    most: int = 5000,
) -> list[ConsumerRecord]:
    consumer = await open_consumer(settings, columns=columns, isolation=isolation)
    place, found = TopicPartition(name, 0), list[ConsumerRecord]()
    try:
        consumer.assign([place])
        consumer.seek(place, start)
        end = (await consumer.end_offsets([place]))[place]
        while await consumer.position(place) < end:
            for records in (await consumer.getmany(place, timeout_ms=500, max_records=most)).values():
                assert isinstance(records, RecordColumns) is (columns is not None)
                assert 0 < len(records) <= most
                assert records[-1] == list(records)[-1]
                found += records
    finally:
        await close_client(consumer)
    return found


def bare(records: list[ConsumerRecord]) -> list[tuple[object, ...]]:
    return [(r.offset, r.timestamp, r.key, r.value, r.headers, r.serialized_value_size) for r in records]


@pytest.mark.parametrize("loop", ["compiled", "plain"])
@pytest.mark.parametrize("isolation", ["read_committed", "read_uncommitted"])
async def test_columns_are_the_records(settings: ServiceSettings, isolation: str, loop: ColumnsBy) -> None:
    name = f"{settings.prefix}.all"
    await fill(settings, name)
    expected = await read(settings, name, columns=None, isolation=isolation)
    assert len(expected) == 5 * COUNT + (2 if isolation == "read_committed" else 3)
    assert bare(await read(settings, name, columns=loop, isolation=isolation)) == bare(expected)
    for start, most in ((0, 37), (777, 5000)):
        found = await read(settings, name, columns=loop, isolation=isolation, start=start, most=most)
        assert bare(found) == bare(expected[start:])


@pytest.mark.parametrize("loop", ["compiled", "plain"])
async def test_a_record_that_nobody_can_read_comes_empty_and_its_neighbours_whole(
    settings: ServiceSettings, loop: ColumnsBy
) -> None:
    name = f"{settings.prefix}.poison"
    await ensure_topics(settings.kafka, [TopicSpec(name, 1)])
    await write_batch(settings, name, [sent(1), (b"k", b"v", [(NotText("x"), b"2")]), sent(3)])
    found = await read(settings, name, columns=loop)
    assert [(r.offset, r.key, r.value, len(r.headers)) for r in found] == [
        (0, b"k1", b"v", 1), (1, None, None, 0), (2, b"k3", b"vvv", 3),
    ]  # fmt: skip


async def test_joined_columns_are_the_records_one_behind_the_other(settings: ServiceSettings) -> None:
    name = f"{settings.prefix}.joined"
    await ensure_topics(settings.kafka, [TopicSpec(name, 1)])
    await write_batch(settings, name, [sent(number) for number in range(30)])
    consumer = await open_consumer(settings, columns="plain")
    try:
        place = TopicPartition(name, 0)
        consumer.assign([place])
        records = (await consumer.getmany(place, timeout_ms=5000))[place]
    finally:
        await close_client(consumer)
    parts = [records[:7], records[7:8], records[8:]]
    assert bare(list(join(parts))) == bare(list(records))
