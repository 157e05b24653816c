"""Follow whole topics without a group: replicas, watchers, the ordered merge."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from tidemill_runtime.backoff import Backoff, Rarely
from tidemill_runtime.consumer import ColumnsBy
from tidemill_runtime.kafka import close_client, open_consumer, partitions_of
from tidemill_runtime.settings import ServiceSettings
from tidemill_runtime.slot import observe_age

_GROUP = "tail"  # of the ages of what is read without one
OnRecords = Callable[[str, int, list[ConsumerRecord]], Awaitable[None] | None]
_log = logging.getLogger(__name__)


class Tail:
    """Reads all partitions of `topics`, committed records only, from `start` (missing: the earliest) for ever.

    `on_records(topic, partition, records)` gets each partition's records in offset order, one call at a time. When it
    raises, whatever it raises, the same records are handed to it again after a back-off. `caught_up` is set once all
    that was readable when the first connection was made has been handled. Survives restarts of the broker. With
    `columns` the records are RecordColumns, made by that loop.
    """

    def __init__(  # noqa: PLR0913 - keyword-only from the fourth on
        self,
        settings: ServiceSettings,
        topics: Sequence[str],
        on_records: OnRecords,
        *,
        start: Mapping[TopicPartition, int] | None = None,
        max_records: int = 5000,
        columns: ColumnsBy | None = None,
    ) -> None:
        self.caught_up = asyncio.Event()
        self._settings, self._topics, self._on_records = settings, sorted(set(topics)), on_records
        self._next: dict[TopicPartition, int] = dict(start or {})
        self._targets: dict[TopicPartition, int] | None = None
        self._max_records, self._columns = max_records, columns
        self._stopping = asyncio.Event()
        self._speak = Rarely()

    def position(self, topic: str, partition: int) -> int:
        """The offset after the last record that was handled; markers of transactions behind it are counted in."""
        return self._next.get(TopicPartition(topic, partition), 0)

    async def stop(self) -> None:
        """Make `run` return after the call of `on_records` under way, within about 0.1 s."""
        self._stopping.set()

    async def run(self) -> None:
        """Follow until `stop` or cancellation."""
        backoff = Backoff()
        while not self._stopping.is_set():
            try:
                await self._follow(backoff)
            except Exception as error:  # noqa: BLE001 - whatever broke the client, the answer is a new one
                if self._speak():
                    _log.warning("following %s: %r; connecting again", ", ".join(self._topics), error)
                await backoff.wait()

    async def _follow(self, backoff: Backoff) -> None:
        counts = await partitions_of(self._settings.kafka, self._topics)
        partitions = [TopicPartition(topic, p) for topic in self._topics for p in range(counts[topic])]
        consumer = await open_consumer(self._settings, columns=self._columns)
        try:
            consumer.assign(partitions)
            for tp in partitions:
                if tp in self._next:
                    consumer.seek(tp, self._next[tp])
            if self._targets is None:
                async with asyncio.timeout(10.0):
                    self._targets = await consumer.end_offsets(partitions)
            backoff.reset()
            while not self._stopping.is_set():
                await self._poll(consumer)
        finally:
            await close_client(consumer, timeout_s=1.0)

    async def _poll(self, consumer: AIOKafkaConsumer) -> None:
        batches = await consumer.getmany(timeout_ms=100, max_records=self._max_records)
        for tp, records in batches.items():
            observe_age(_GROUP, {tp.topic: records})
            await self._hand_over(tp, records)
            self._next[tp] = records[-1].offset + 1
        if not batches or not self.caught_up.is_set():
            await self._refresh(consumer)

    async def _refresh(self, consumer: AIOKafkaConsumer) -> None:
        """Take over positions that moved without a record: a transaction's marker is an offset, too."""
        try:
            async with asyncio.timeout(1.0):
                for tp in consumer.assignment():
                    self._next[tp] = await consumer.position(tp)
        except TimeoutError:
            return  # the broker is away; getmany goes on trying
        targets = self._targets or {}
        if not self.caught_up.is_set() and all(self._next.get(tp, 0) >= end for tp, end in targets.items()):
            self.caught_up.set()

    async def _hand_over(self, tp: TopicPartition, records: list[ConsumerRecord]) -> None:
        backoff = Backoff()
        while True:
            try:
                handled = self._on_records(tp.topic, tp.partition, records)
                if handled is not None:
                    await handled
            except Exception:  # noqa: BLE001 - what a handler did not expect is `Later`
                if self._speak():
                    _log.exception("%s/%s: records are held back and tried again", tp.topic, tp.partition)
                await backoff.wait()
            else:
                return
