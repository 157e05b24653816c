"""Reading and writing whole topics in tests."""

from collections.abc import Sequence

from aiokafka import AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

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


class NotText(str):
    """The name of a header that is not UTF-8, as other clients may write it."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """Bytes that no text has."""
        del encoding, errors
        return b"\xff\xfe"


async def write_batch(settings: ServiceSettings, topic: str, records: Sequence[Sent], *, partition: int = 0) -> None:
    """Write records in one batch; the names of headers may be NotText, which aiokafka itself would refuse."""
    builder = _DefaultRecordBatchBuilderPy(
        magic=2, compression_type=0, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=1_000_000,
    )  # fmt: skip
    for number, (key, value, headers) in enumerate(records):
        builder.append(number, None, key, value, list(headers))
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka, acks="all")
    await producer.start()
    try:
        batch = producer.create_batch()
        batch._builder, batch._relative_offset = builder, len(records)  # noqa: SLF001 - there is no other way in
        await (await producer.send_batch(batch, topic, partition=partition))
    finally:
        await close_client(producer)
