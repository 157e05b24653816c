"""The two ways this service writes to Kafka: rows in order, and vectors in fenced transactions."""

import asyncio
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2

from tidemill_contracts.events import Watermark
from tidemill_features.domain.encode import WATERMARK_KEY
from tidemill_features.domain.letter import Letter, Letters, Mail
from tidemill_features.domain.marks import Told
from tidemill_runtime.errors import Later
from tidemill_runtime.kafka import close_client, open_consumer, open_producer, transaction
from tidemill_runtime.packed import pack
from tidemill_runtime.settings import ServiceSettings

_DEADLINE_S = 15.0
_TAIL = 32  # records that are looked through at the end of a topic, then this many times more


@lru_cache(maxsize=200_000)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition where Kafka's own producers put a key."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


class OrderedLog:
    """Writes records in order per partition and returns when all are acknowledged. Its effects may be repeated.

    What several tasks hand over during a write goes into the next one together: fewer, fuller batches.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None
        self._waiting: list[tuple[Sequence[Letter], asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def write(self, letters: Sequence[Letter]) -> None:
        """Raises Later when not everything was acknowledged: write the same again, readers drop what they have."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((letters, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.ensure_future(self._write_waiting())
        await done

    async def _write_waiting(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            failure = await self._attempt([letter for letters, _ in batch for letter in letters])
            for _, done in batch:
                if done.done():
                    continue
                if failure is None:
                    done.set_result(None)
                else:
                    done.set_exception(failure)

    async def _attempt(self, letters: Sequence[Letter]) -> Later | None:
        try:
            if self._producer is None:
                # Read at once, and mostly hashes and trace contexts: compression costs writer, broker and reader.
                self._producer = await open_producer(self._settings, linger_ms=0, compression=None)
            async with asyncio.timeout(_DEADLINE_S):
                await asyncio.gather(*await _send(self._producer, letters))
        except Later as error:
            return error
        except (KafkaError, AssertionError, TimeoutError) as error:
            await self.close()
            return Later(f"rows were not acknowledged: {error!r}")
        return None

    async def close(self) -> None:
        """Let go of the broker."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await close_client(producer)


class TransactionLog:
    """Writes a partition number's vectors in transactions; opening it shuts out whoever wrote them before."""

    def __init__(self, settings: ServiceSettings, partition: int) -> None:
        self._settings, self._partition = settings, partition
        self._id = f"{settings.prefix}-features-{partition}"
        self._producer: AIOKafkaProducer | None = None

    @property
    def is_open(self) -> bool:
        """Whether it may be written to; a failed write closes it."""
        return self._producer is not None

    async def open(self) -> None:
        """Fence the earlier owner and abort what it left open; raises Later."""
        self._producer = await open_producer(self._settings, transactional_id=self._id, linger_ms=0)

    async def told(self, topics: Sequence[str]) -> dict[str, Told]:
        """By topic its newest watermark, if it has one; raises Later. Once this is open nobody else adds to it."""
        consumer = await open_consumer(self._settings)
        try:
            async with asyncio.timeout(_DEADLINE_S):
                found = {topic: await _newest(consumer, TopicPartition(topic, self._partition)) for topic in topics}
        except (KafkaError, TimeoutError) as error:
            raise Later(f"what was told last is not known: {error!r}") from error
        finally:
            await close_client(consumer, timeout_s=1.0)
        return {topic: told for topic, told in found.items() if told is not None}

    async def write(self, letters: Sequence[Letter]) -> None:
        """All or nothing. Raises Fenced when a successor has opened it, Later when the outcome is not known."""
        producer = self._producer
        if producer is None:
            raise Later("the producer is not open")
        try:
            columns, others = _apart(letters)
            async with transaction(producer):
                sending = [
                    await producer.send_batch(batch, part.topic, partition=part.partition)
                    for part in columns
                    async for batch in pack(part.buffer, part.table, transactional=True)
                ]
                for sent in sending + await _send(producer, others):
                    sent.add_done_callback(_retrieved)
        except BaseException:
            self._producer = None
            await close_client(producer)
            raise

    async def close(self) -> None:
        """Let go of the broker; the fence stays until somebody opens it again."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await close_client(producer)


async def _newest(consumer: AIOKafkaConsumer, tp: TopicPartition) -> Told | None:
    """The last watermark: in the last transaction, but one that was aborted may lie behind that."""
    consumer.assign([tp])
    begin, end = (await consumer.beginning_offsets([tp]))[tp], (await consumer.end_offsets([tp]))[tp]
    start, back, found = end, _TAIL, None
    while found is None and start > begin:
        start, back = max(begin, end - back), back * _TAIL
        consumer.seek(tp, start)
        while await consumer.position(tp) < end:
            for record in (await consumer.getmany(tp, timeout_ms=100)).get(tp, []):
                found = record.value if record.key == WATERMARK_KEY else found
    if found is None:
        return None
    mark = Watermark.read(found)
    return Told(mark.watermark_us, {int(source): seq for source, seq in mark.positions.items()})


def _apart(letters: Sequence[Letter]) -> tuple[list[Letters], list[Letter]]:
    """Those in columns, of partitions that the others are not for, and the others."""
    parts = letters.parts if isinstance(letters, Mail) else [letters]
    columns = [part for part in parts if isinstance(part, Letters)]
    return columns, [letter for part in parts if not isinstance(part, Letters) for letter in part]


def _retrieved(sent: "asyncio.Future[Any]") -> None:
    if not sent.cancelled():
        sent.exception()  # the commit tells; else the loop logs it as never looked at


async def _send(producer: AIOKafkaProducer, letters: Iterable[Letter]) -> list["asyncio.Future[Any]"]:
    """Hand letters over as whole batches, in order per partition: six times cheaper than one at a time."""
    groups: dict[tuple[str, int], list[Letter]] = {}
    for letter in letters:
        groups.setdefault((letter.topic, letter.partition), []).append(letter)
    sent = []
    for (topic, partition), group in groups.items():
        batch = producer.create_batch()
        for letter in group:
            fields = {"timestamp": None, "key": letter.key, "value": letter.value, "headers": letter.headers}
            if batch.append(**fields) is None:
                sent.append(await producer.send_batch(batch, topic, partition=partition))
                batch = producer.create_batch()
                batch.append(**fields)
        sent.append(await producer.send_batch(batch, topic, partition=partition))
    return sent
