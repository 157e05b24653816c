"""Reading dead letters where they lie."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from tidemill_ingestion.domain.letters import Letter
from tidemill_runtime.errors import Later
from tidemill_runtime.kafka import close_client, open_consumer, partitions_of
from tidemill_runtime.settings import ServiceSettings

TIMEOUT_S = 10.0


class Letters:
    """Dead-letter topics by name; every method raises Later when Kafka does not answer within ten seconds."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings

    async def newest(self, topic: str, limit: int) -> list[Letter] | None:
        """The newest `limit` letters of each partition, in order; None when there is no such topic."""
        async with self._reader() as consumer:
            partitions = await self._partitions(consumer, topic)
            if not partitions:
                return None
            ends = await consumer.end_offsets(partitions)
            starts = await consumer.beginning_offsets(partitions)
            found = []
            for tp in partitions:
                found += await _newest(consumer, tp, range(starts[tp], ends[tp]), limit)
        return [_letter(record) for record in found]

    async def one(self, topic: str, partition: int, offset: int) -> Letter | None:
        """The letter at a position, or None."""
        async with self._reader() as consumer:
            tp = TopicPartition(topic, partition)
            if tp not in await self._partitions(consumer, topic):
                return None
            start, end = (await consumer.beginning_offsets([tp]))[tp], (await consumer.end_offsets([tp]))[tp]
            found = await _read(consumer, tp, offset, offset + 1) if start <= offset < end else []
        return _letter(found[0]) if found and found[0].offset == offset else None

    async def _partitions(self, consumer: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
        if topic not in await consumer.topics():
            return []
        count = (await partitions_of(self._settings.kafka, [topic], timeout_s=TIMEOUT_S))[topic]
        return [TopicPartition(topic, partition) for partition in range(count)]

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[AIOKafkaConsumer]:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                consumer = await open_consumer(self._settings, deadline_s=TIMEOUT_S)
                try:
                    yield consumer
                finally:
                    await close_client(consumer)
        except (KafkaError, TimeoutError) as error:
            raise Later(f"Kafka: {error!r}") from error


async def _newest(consumer: AIOKafkaConsumer, tp: TopicPartition, offsets: range, limit: int) -> list[ConsumerRecord]:
    """So many as there are; transactions leave offsets without a record."""
    start, step = offsets.stop, limit
    found: list[ConsumerRecord] = []
    while start > offsets.start and len(found) < limit:
        start, step = max(offsets.start, offsets.stop - step), 4 * step
        found = await _read(consumer, tp, start, offsets.stop)
    return found[-limit:]


async def _read(consumer: AIOKafkaConsumer, tp: TopicPartition, start: int, end: int) -> list[ConsumerRecord]:
    consumer.assign([tp])
    consumer.seek(tp, start)
    found: list[ConsumerRecord] = []
    while await consumer.position(tp) < end:
        for records in (await consumer.getmany(tp, timeout_ms=100, max_records=end - start)).values():
            found += records
    return [record for record in found if record.offset < end]


def _letter(record: ConsumerRecord) -> Letter:
    return Letter(record.topic, record.partition, record.offset, record.key, record.value, tuple(record.headers))
