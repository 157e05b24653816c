"""Reading and writing whole topics in tests."""

from collections.abc import Sequence

from aiokafka import ConsumerRecord, TopicPartition

from tidemill_runtime.kafka import close_client, open_consumer, open_producer, partitions_of
from tidemill_runtime.settings import ServiceSettings

Sent = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes]]]


async def read_topic(
    settings: ServiceSettings, topic: str, *, isolation: str = "read_committed"
) -> dict[int, list[ConsumerRecord]]:
    """All records that are readable now, by partition, in offset order."""
    count = (await partitions_of(settings.kafka, [topic]))[topic]
    tps = [TopicPartition(topic, partition) for partition in range(count)]
    consumer = await open_consumer(settings, isolation=isolation)
    found: dict[int, list[ConsumerRecord]] = {partition: [] for partition in range(count)}
    try:
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            for tp, records in (await consumer.getmany(timeout_ms=50)).items():
                found[tp.partition] += records
    finally:
        await close_client(consumer)
    return found


async def write_topic(
    settings: ServiceSettings, topic: str, records: Sequence[Sent], *, partition: int | None = None
) -> None:
    """Write (key, value, headers) records in order and wait until the broker has all of them."""
    producer = await open_producer(settings)
    try:
        for key, value, headers in records:
            await producer.send(topic, value, key=key, partition=partition, headers=list(headers))
        await producer.flush()
    finally:
        await close_client(producer)
