"""One topic read in a group: what comes of a record and the offset behind it are one Kafka transaction.

A record's effects are in Kafka once, or not yet: whoever has its partition next begins behind what is committed, after
shutting out the one before. The group only says who should read what. That a partition has one writer is made sure by
its transactional id: who slept through a rebalance can commit nothing any more, whatever it believes to own.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from tidemill_runtime.backoff import Backoff, Rarely
from tidemill_runtime.batches import Packed
from tidemill_runtime.errors import Fenced, Later
from tidemill_runtime.kafka import close_client, open_consumer, open_producer, partitions_of, transaction
from tidemill_runtime.settings import ServiceSettings

__all__ = ["Commit", "GroupReader", "Outgoing", "Take", "gate_id"]

POLL_MS, HOLD_S = 100, 0.1
OPEN_S, SEND_S, COMMIT_S = 10.0, 5.0, 10.0
OPEN_FOR_MS = 10_000
"""A transaction whose owner died is aborted after so long at the latest: until then nobody reads behind its records."""
_NOTHING = TopicPartition("", -1)
_log = logging.getLogger(__name__)


class Outgoing(NamedTuple):
    """Records for one partition; the batch is of a transaction."""

    topic: str
    partition: int
    batch: Packed


Commit = Callable[[Sequence[Outgoing], int], Awaitable[None]]
"""Puts records and the offset behind the last record that is done with into Kafka, all or nothing. Raises Fenced or
Later, and then they are not there as far as anybody knows: what is still to be done comes again."""
Take = Callable[[Sequence[ConsumerRecord], Commit], Awaitable[int]]
"""Gets records of one partition in order, and says how many of the first it has committed; 0: not now."""


class GroupReader:
    """Gives `take` the records of a topic, as one member of a group, one call at a time.

    `run` lasts until `stop` or cancellation; after `stop` the call under way ends, and others have the partitions at
    once. A partition is opened for writing when its first record comes: an idle topic costs a fetch now and then.
    """

    def __init__(
        self, settings: ServiceSettings, *, group: str, topic: str, take: Take, max_records: int = 1000
    ) -> None:  # fmt: skip
        self._settings, self._group, self._topic = settings, group, topic
        self._take, self._max_records = take, max_records
        self._stopping = asyncio.Event()
        self._speak = Rarely()

    async def run(self) -> None:
        """Read; a consumer that breaks is replaced after a back-off."""
        backoff = Backoff()
        while not self._stopping.is_set():
            try:
                await self._session(backoff)
            except Exception as error:  # noqa: BLE001 - whatever broke the consumer, the answer is a new one
                if self._speak():
                    _log.warning("%s: the consumer failed: %r; joining again", self._group, error)
                await backoff.wait()

    async def stop(self) -> None:
        """Make `run` return."""
        self._stopping.set()

    async def _session(self, backoff: Backoff) -> None:
        # Joining before the topic exists would assign nothing until the metadata is five minutes old.
        await partitions_of(self._settings.kafka, [self._topic])
        consumer = await open_consumer(self._settings, group=self._group)
        gates = _Gates(self._settings, self._group, consumer)
        member = _Member(consumer, self._take, gates, self._stopping)
        try:
            consumer.subscribe([self._topic], listener=member)
            while not self._stopping.is_set():
                await member.turn(self._max_records)
                backoff.reset()
            await member.let_go()
            await consumer.leave()
        finally:
            await gates.close()
            await close_client(consumer, timeout_s=1.0)


def gate_id(group: str, partition: int) -> str:
    """The transactional id of whoever may write what comes of a partition."""
    return f"{group}.{partition}"


class _Gates:
    """A transactional producer for each partition that is written from; opening one shuts out all earlier ones."""

    def __init__(self, settings: ServiceSettings, group: str, consumer: AIOKafkaConsumer) -> None:
        self._settings, self._group, self._consumer = settings, group, consumer
        self._open: dict[TopicPartition, AIOKafkaProducer] = {}

    def __contains__(self, tp: TopicPartition) -> bool:
        return tp in self._open

    async def open(self, tp: TopicPartition) -> None:
        """Shut out who wrote from it before, and read on from behind what is committed then; raises Later."""
        producer = await open_producer(
            self._settings, transactional_id=gate_id(self._group, tp.partition), linger_ms=0, deadline_s=OPEN_S,
            compression=None, transaction_timeout_ms=OPEN_FOR_MS,
        )  # fmt: skip
        try:
            async with asyncio.timeout(OPEN_S):
                offset = await self._consumer.committed(tp)
            self._consumer.seek(tp, offset or 0)  # where nothing is committed seek_to_committed stays where it is
        except (KafkaError, TimeoutError) as error:
            await close_client(producer, timeout_s=1.0)
            raise Later(f"what is committed of {tp.topic}/{tp.partition} is not known: {error!r}") from error
        self._open[tp] = producer

    async def commit(self, tp: TopicPartition, outgoing: Sequence[Outgoing], offset: int) -> None:
        """See `Commit`."""
        producer = self._open[tp]
        sent = list[asyncio.Future[Any]]()
        try:
            async with transaction(producer, timeout_s=COMMIT_S):
                async with asyncio.timeout(SEND_S):
                    for one in outgoing:
                        sent.append(await producer.send_batch(one.batch, one.topic, partition=one.partition))
                        sent[-1].add_done_callback(_looked_at)
                    await producer.send_offsets_to_transaction({tp: offset}, self._group)
                    await asyncio.gather(*sent)
        except Fenced:
            _looked_at(producer._txn_manager.wait_for_transaction_end())  # noqa: SLF001 - else the loop logs it
            raise

    async def close(self, *tps: TopicPartition) -> None:
        """Of these partitions, or all."""
        closing = [self._open.pop(tp) for tp in tps or list(self._open) if tp in self._open]
        await asyncio.gather(*(close_client(producer, timeout_s=1.0) for producer in closing))


def _looked_at(done: "asyncio.Future[Any]") -> None:
    """What failed is told by who waits for the whole transaction."""
    if done.done() and not done.cancelled():
        done.exception()


class _Member(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    """One consumer's time in the group.

    Rebalances run beside the work: the lock keeps a partition here until the call of `take` under way has ended, and
    the generation tells what was read before from what may still be worked on.
    """

    def __init__(self, consumer: AIOKafkaConsumer, take: Take, gates: _Gates, stopping: asyncio.Event) -> None:
        self._consumer, self._take, self._gates, self._stopping = consumer, take, gates, stopping
        self._lock, self._generation, self._speak = asyncio.Lock(), 0, Rarely()

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:  # noqa: ARG002 - always all
        """Another member may get them next: it need not shut out one who is at work."""
        await self.let_go()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """They are opened when there is something to read."""

    async def let_go(self) -> None:
        """Wait for the call under way."""
        async with self._lock:
            self._generation += 1
            await self._gates.close()

    async def turn(self, most: int) -> None:
        """One poll and the work on it."""
        generation = self._generation
        batches = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=most)
        for tp, records in batches.items():
            try:
                await self._work(tp, records, generation)
            except (Fenced, Later) as error:
                if self._speak():
                    _log.warning("%s/%d: nothing was committed: %s; reading it again", tp.topic, tp.partition, error)
                await self._again(tp, records[0].offset)
        if generation != self._generation:
            # What was read before the partitions moved is dropped; they may have come back, read up to behind it.
            await self._read_again()

    async def _work(self, tp: TopicPartition, records: Sequence[ConsumerRecord], generation: int) -> None:
        left, commit = records, partial(self._gates.commit, tp)
        while left and not self._stopping.is_set():
            async with self._lock:
                if self._generation != generation:
                    return
                if tp not in self._gates:
                    await self._gates.open(tp)
                    return  # and what was read is read again, from where this one's turn begins
                count = await self._take(left, commit)
                left = left[count:]
            if not count:
                await self._hold()

    async def _hold(self) -> None:
        """Not now. Without a poll the group would take this member for dead, and nobody would hear of its failures."""
        await asyncio.sleep(HOLD_S)
        await self._consumer.getmany(_NOTHING, timeout_ms=0)

    async def _again(self, tp: TopicPartition, offset: int) -> None:
        """Whether it was committed may be unknown: opening it anew tells."""
        async with self._lock:
            await self._gates.close(tp)
        with suppress(IllegalStateError):  # it is another's now
            self._consumer.seek(tp, offset)
        await self._hold()

    async def _read_again(self) -> None:
        with suppress(KafkaError, IllegalStateError):
            async with asyncio.timeout(COMMIT_S):
                for tp in self._consumer.assignment():
                    offset = await self._consumer.committed(tp)
                    self._consumer.seek(tp, offset or 0)
