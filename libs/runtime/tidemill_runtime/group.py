"""One topic read in a group whose offsets are Kafka's: at least once, for those who know a record that comes again."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from tidemill_runtime.backoff import Backoff, Rarely
from tidemill_runtime.kafka import close_client, open_consumer, partitions_of
from tidemill_runtime.settings import ServiceSettings

__all__ = ["GroupReader", "Take"]

POLL_MS, HOLD_S = 100, 0.1
COMMIT_EVERY_S, COMMIT_S = 0.2, 3.0
_NOTHING = TopicPartition("", -1)
_log = logging.getLogger(__name__)
Take = Callable[[Sequence[ConsumerRecord]], Awaitable[int]]
"""Gets records of one partition in order, and says with how many of the first it has done for good; 0: not now."""


class GroupReader:
    """Gives `take` the records of a topic, as one member of a group, one call at a time.

    What is done is committed after at most a fifth of a second, and before a partition goes to another member: only a
    crash, or a broker that takes no commit, makes records come again, and then at most those of so long. `run` lasts
    until `stop` or cancellation; after `stop` the call under way ends, and others have the partitions at once.
    """

    def __init__(
        self, settings: ServiceSettings, *, group: str, topic: str, take: Take, max_records: int = 100
    ) -> None:  # fmt: skip
        self._settings, self._group, self._topic = settings, group, topic
        self._take, self._max_records = take, max_records
        self._stopping = asyncio.Event()
        self._done: dict[TopicPartition, int] = {}
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
        member = _Member(consumer, self._take, self._done, self._stopping)
        try:
            consumer.subscribe([self._topic], listener=member)
            while not self._stopping.is_set():
                await member.turn(self._max_records)
                backoff.reset()
            await member.let_go()
            await consumer.leave()
        finally:
            await close_client(consumer, timeout_s=1.0)


class _Member(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    """One consumer's time in the group. `done` holds what was done and could not be committed yet.

    Rebalances run beside the work: the lock keeps a partition here until the call of `take` under way has ended, and
    the generation tells what was read before from what may still be worked on.
    """

    def __init__(
        self, consumer: AIOKafkaConsumer, take: Take, done: dict[TopicPartition, int], stopping: asyncio.Event
    ) -> None:  # fmt: skip
        self._consumer, self._take, self._done, self._stopping = consumer, take, done, stopping
        self._lock, self._generation, self._committed_at = asyncio.Lock(), 0, time.monotonic()

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:  # noqa: ARG002 - always all
        """Another member may get them next: it must find what was done here."""
        await self.let_go()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """They are read from what is committed."""

    async def let_go(self) -> None:
        """Wait for the call under way and commit; a commit that fails leaves its records to come again."""
        async with self._lock:
            self._generation += 1
            with suppress(KafkaError, TimeoutError):
                await self._commit()

    async def turn(self, most: int) -> None:
        """One poll and the work on it."""
        generation = self._generation
        batches = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=most)
        for tp, records in batches.items():
            await self._work(tp, records, generation)
        if generation != self._generation:
            # What was read before the partitions moved is dropped; they may have come back, read up to behind it.
            await self._read_again()
        elif not batches or self._is_due():
            async with self._lock:
                await self._commit()

    async def _work(self, tp: TopicPartition, records: Sequence[ConsumerRecord], generation: int) -> None:
        left = [record for record in records if record.offset >= self._done.get(tp, 0)]
        while left and not self._stopping.is_set():
            async with self._lock:
                if self._generation != generation:
                    return
                count = await self._take(left)
                if count:
                    self._done[tp], left = left[count - 1].offset + 1, left[count:]
                if self._is_due():
                    await self._commit()
            if not count:
                await self._hold()

    async def _hold(self) -> None:
        """Not now. Without a poll the group would take this member for dead, and nobody would hear of its failures."""
        await asyncio.sleep(HOLD_S)
        await self._consumer.getmany(_NOTHING, timeout_ms=0)

    def _is_due(self) -> bool:
        return bool(self._done) and time.monotonic() - self._committed_at > COMMIT_EVERY_S

    async def _commit(self) -> None:
        """Under the lock. Raises KafkaError or TimeoutError."""
        self._committed_at = time.monotonic()
        owned = self._consumer.assignment()
        offsets = {tp: offset for tp, offset in self._done.items() if tp in owned}
        if not offsets:
            return
        async with asyncio.timeout(COMMIT_S):  # it would wait for a broker that is away
            await self._consumer.commit(offsets)
        for tp in offsets:
            del self._done[tp]

    async def _read_again(self) -> None:
        async with asyncio.timeout(COMMIT_S):
            for tp in self._consumer.assignment():
                offset = await self._consumer.committed(tp)
                self._consumer.seek(tp, offset or 0)  # where nothing is committed seek_to_committed stays where it is
