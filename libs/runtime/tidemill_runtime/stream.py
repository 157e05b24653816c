"""The data plane: a consumer group in which one task owns partition p of all topics; offsets stored with effects."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from tidemill_runtime.backoff import Backoff, Rarely
from tidemill_runtime.consumer import ColumnsBy
from tidemill_runtime.health import Health
from tidemill_runtime.kafka import close_client, open_consumer, partitions_of
from tidemill_runtime.settings import ServiceSettings
from tidemill_runtime.slot import PartitionTask, Slot

__all__ = ["PartitionTask", "StreamRunner", "group_id"]

HINT_EVERY_S = 5.0
CHECK_EVERY_S = 2.0
_NOTHING = TopicPartition("", -1)
_log = logging.getLogger(__name__)


class StreamRunner:
    """Runs `make_task(partition)` for every partition number that the group assigns to this process, each by itself.

    `run` lasts until `stop` or cancellation and outlives restarts of Kafka and Postgres. A task that raises is rebuilt
    after a back-off of 0.1 to 2 s; one that raises Stalled stays down until the partition moves or the process
    restarts, and readiness says why. Offsets in Kafka are a hint for tools that show lag; `open` says where to read.
    With `columns` the batches are RecordColumns. A `patient` one lets records wait a moment for more.
    """

    def __init__(  # noqa: PLR0913 - keyword-only, each a part of the contract
        self,
        settings: ServiceSettings,
        *,
        group: str,
        topics: Sequence[str],
        make_task: Callable[[int], PartitionTask],
        health: Health,
        max_records: int = 5000,
        columns: ColumnsBy | None = None,
        patient: bool = False,
    ) -> None:
        self._settings, self._group, self._topics = settings, group, sorted(set(topics))
        self._make_task, self._health, self._max_records = make_task, health, max_records
        self._columns, self._patient = columns, patient
        self._stopping = asyncio.Event()
        self._speak = Rarely()

    async def run(self) -> None:
        """Join the group and process; a consumer that breaks is replaced after a back-off."""
        self._health.set(self._group, ok=False, reason="joining")
        backoff = Backoff()
        while not self._stopping.is_set():
            try:
                await self._session(backoff)
            except Exception as error:  # noqa: BLE001 - whatever broke the consumer, the answer is a new one
                self._health.set(self._group, ok=False, reason=f"joining again after {error!r}"[:500])
                if self._speak():
                    _log.warning("%s: the consumer failed: %r; joining again", self._group, error)
                await backoff.wait()
        self._health.drop(self._group)

    async def stop(self) -> None:
        """Make `run` finish the batches under way, close its tasks, leave the group and return."""
        self._stopping.set()

    async def _session(self, backoff: Backoff) -> None:
        # Joining before the topics exist would assign nothing until the metadata is five minutes old.
        await partitions_of(self._settings.kafka, self._topics)
        group = group_id(self._group, self._topics)
        consumer = await open_consumer(self._settings, group=group, columns=self._columns, patient=self._patient)
        slots = _Slots(consumer, self._make_slot, lambda: self._health.set(self._group, ok=True))
        hints = asyncio.ensure_future(_hint(consumer, slots))
        lost = False
        try:
            consumer.subscribe(self._topics, listener=slots)
            backoff.reset()
            await self._watch(consumer, slots)
        except Exception:
            lost = True
            raise
        finally:
            hints.cancel()
            await slots.release_all(lost=lost)
            if not lost:
                await consumer.leave()  # others take over at once; whoever crashes and comes back keeps its place
            await close_client(consumer, timeout_s=1.0)

    async def _watch(self, consumer: AIOKafkaConsumer, slots: "_Slots") -> None:
        """Wait for `stop`; raises what broke the consumer."""
        stop = asyncio.ensure_future(self._stopping.wait())
        ends: set[asyncio.Future[Any]] = {stop, slots.broken}
        try:
            while not stop.done():
                await asyncio.wait(ends, timeout=CHECK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
                if slots.broken.done():
                    slots.broken.result()
                await _check(consumer)
        finally:
            stop.cancel()

    def _make_slot(self, partition: int, tps: Sequence[TopicPartition], slots: "_Slots") -> Slot:
        return Slot(
            partition, tps, group=self._group, consumer=slots.consumer, make_task=self._make_task, health=self._health,
            max_records=self._max_records, broken=slots.fail,
        )  # fmt: skip


def group_id(group: str, topics: Iterable[str]) -> str:
    """Kafka's name of a group: one for each set of topics.

    To a static member that comes back, the coordinator gives the assignment that it had, whatever it subscribes to now:
    in a group of the same name, topics that were added would never be read. Offsets are not Kafka's, so nothing is lost
    with the old group, and its tasks are fenced by their stores as always.
    """
    digest = blake2b("\n".join(sorted(set(topics))).encode(), digest_size=4)
    return f"{group}.{digest.hexdigest()}"


async def _check(consumer: AIOKafkaConsumer) -> None:
    """Raise what broke the group's coordination: it is only told to those who poll, and without slots nobody does."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CHECK_EVERY_S):
            await consumer.getmany(_NOTHING, timeout_ms=0)


async def _hint(consumer: AIOKafkaConsumer, slots: "_Slots") -> None:
    """Commit positions to Kafka now and then, without a deadline: it may wait for a broker that is away."""
    while True:
        await asyncio.sleep(HINT_EVERY_S)
        if positions := slots.positions():
            with suppress(KafkaError):
                await consumer.commit(positions)


class _Slots(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    """Turns what the group assigns into slots. Its callbacks run beside the processing: they only start and release."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        make_slot: Callable[[int, Sequence[TopicPartition], "_Slots"], Slot],
        assigned: Callable[[], None],
    ) -> None:
        self.consumer = consumer
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._make_slot, self._assigned = make_slot, assigned
        self._slots: dict[int, Slot] = {}
        self._closing = False

    def fail(self, error: Exception) -> None:
        """A slot found the consumer itself broken."""
        if not self.broken.done():
            self.broken.set_exception(error)

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset of every partition of which something was processed since its seek."""
        return {tp: offset for slot in self._slots.values() for tp, offset in slot.next.items()}

    async def release_all(self, *, lost: bool) -> None:
        """Close every task; returns when all have let go. What the group assigns from now on is nobody's."""
        self._closing = True
        slots, self._slots = self._slots, {}
        await asyncio.gather(*(slot.release(lost=lost) for slot in slots.values()))
        self.broken.cancel()

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:  # noqa: ARG002 - always all of them
        """Another member may get them next: finish and let go first. The heartbeat goes on meanwhile."""
        slots, self._slots = self._slots, {}
        await asyncio.gather(*(slot.release(lost=False) for slot in slots.values()))

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Start a slot per partition number; what was fetched before its seek is never polled."""
        if self._closing:
            return  # a slot of a consumer that goes would fence its successor, and nobody would release it
        by_number: dict[int, list[TopicPartition]] = {}
        for tp in sorted(assigned):
            by_number.setdefault(tp.partition, []).append(tp)
            self.consumer.pause(tp)
        for number, tps in by_number.items():
            self._slots[number] = self._make_slot(number, tps, self)
        self._assigned()
