"""One partition number in the hands of this process: open, seek, poll, process, in one line of control.

Records that were fetched before the seek reach nobody: until its seek a slot polls nothing and its partitions are
paused, and whatever goes wrong afterwards leads back to a new task and a new seek.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import IllegalStateError
from prometheus_client import Counter, Histogram

from tidemill_runtime import telemetry
from tidemill_runtime.backoff import Backoff, Rarely
from tidemill_runtime.errors import Fenced, Stalled
from tidemill_runtime.health import Health, partition_condition

POLL_MS = 100
IDLE_EVERY_S = 0.1
REPORT_EVERY_S = 0.5
CLOSE_TIMEOUT_S = 4.0
AFTER_FENCE_S = 1.0
"""Longer than a heartbeat: an owner that was replaced learns so from the group before it would fence its successor."""

RECORDS = Counter("tidemill_records_processed", "Records whose effects are durable.", ["group", "topic"])
SECONDS = Histogram("tidemill_batch_seconds", "From a poll to the end of its processing.", ["group"])
AGE = Histogram(
    "tidemill_record_age_seconds", "From the time that a record carries to its poll, of each batch's first.",
    ["group", "topic"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0),
)  # fmt: skip
FAILURES = Counter("tidemill_task_failures", "Tasks that were rebuilt from their stored offsets.", ["group", "error"])
_log = logging.getLogger(__name__)


def observe_age(group: str, batches: Mapping[str, Sequence[ConsumerRecord]]) -> None:
    """Count how old the first record of each batch is, by topic; events carry the time at which they were accepted."""
    now = time.time()
    for topic, records in batches.items():
        written_ms = records.first_ms if hasattr(records, "first_ms") else records[0].timestamp
        AGE.labels(group, topic).observe(max(0.0, now - written_ms / 1000))


class PartitionTask(Protocol):
    """The owner of one partition number of all topics of a runner. Its methods are never called concurrently.

    Whatever a method raises makes the runner close the task as lost, wait, and open a new one from the stored offsets.
    """

    async def open(self) -> Mapping[str, int]:
        """Fence earlier owners, restore the state; returns the next offset per topic (missing: the earliest)."""

    async def process(self, batches: dict[str, list[ConsumerRecord]]) -> None:
        """Handle one poll's records, in offset order per topic; on return their effects are durable or repeatable."""

    async def idle(self) -> None:
        """Called about every 100 ms, between batches: the place for checkpoints that are due."""

    async def close(self, *, lost: bool) -> None:
        """Let go: checkpoint and flush, or, when `lost`, drop everything without writing."""


class ConsumerBrokenError(Exception):
    """The consumer itself failed: every slot of it has to go."""


class Slot:
    """Runs tasks for one partition number until it is released; `next` holds the offsets after what was processed."""

    def __init__(  # noqa: PLR0913 - the runner's pieces, handed over by name
        self,
        partition: int,
        tps: Sequence[TopicPartition],
        *,
        group: str,
        consumer: AIOKafkaConsumer,
        make_task: Callable[[int], PartitionTask],
        health: Health,
        max_records: int,
        broken: Callable[[Exception], None],
    ) -> None:
        self.next: dict[TopicPartition, int] = {}
        self._partition, self._tps, self._group = partition, tuple(tps), group
        self._consumer, self._make_task, self._health = consumer, make_task, health
        self._max_records, self._broken = max_records, broken
        self._condition = partition_condition(group, partition)
        self._released = asyncio.Event()
        self._lost = False
        self._polling: asyncio.Future[dict[TopicPartition, list[ConsumerRecord]]] | None = None
        self._reported = self._idled = float("-inf")
        self._speak = Rarely()
        self._running = asyncio.ensure_future(self._run())

    async def release(self, *, lost: bool) -> None:
        """Finish the batch under way and close the task; `lost` drops what it has not made durable."""
        self._lost = self._lost or lost
        self._released.set()
        if self._polling is not None:
            self._polling.cancel()  # nothing is taken from the consumer by a poll that is cancelled
        await asyncio.wait({self._running})
        self._health.drop(self._condition)
        for tp in self._tps:
            self._health.forget(self._group, tp.topic, tp.partition)

    async def _run(self) -> None:
        self._health.set(self._condition, ok=False, reason="opening")
        backoff = Backoff()
        while not self._released.is_set():
            try:
                await self._own(backoff)
            except ConsumerBrokenError as error:
                self._broken(error)
                await self._released.wait()
            except Stalled as error:
                self._say(error)
                await self._released.wait()
            except Exception as error:  # noqa: BLE001 - what a task did not expect is `Later`
                self._say(error)
                await self._sleep(max(backoff.delay(), AFTER_FENCE_S if isinstance(error, Fenced) else 0.0))

    def _say(self, error: Exception) -> None:
        FAILURES.labels(self._group, type(error).__name__).inc()
        self._health.set(self._condition, ok=False, reason=f"{type(error).__name__}: {error}"[:500])
        if self._speak():
            _log.warning("%s: the task is rebuilt", self._condition, exc_info=error)

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._released.wait()

    async def _own(self, backoff: Backoff) -> None:
        """One life of a task: from `open` to `close`, released or failed."""
        task = self._make_task(self._partition)
        try:
            self._seek(await task.open())
            self._health.set(self._condition, ok=True)
            while not self._released.is_set():
                await self._turn(task, backoff)
        except BaseException:
            with suppress(IllegalStateError):
                self._consumer.pause(*self._tps)
            await self._close(task, lost=True)
            raise
        await self._close(task, lost=self._lost)

    def _seek(self, start: Mapping[str, int]) -> None:
        self.next.clear()
        for tp in self._tps:
            self._consumer.seek(tp, start.get(tp.topic, 0))
        self._consumer.resume(*self._tps)

    async def _turn(self, task: PartitionTask, backoff: Backoff) -> None:
        batches = await self._poll()
        loop = asyncio.get_running_loop()
        if batches:
            started = loop.time()
            await self._process(task, batches)
            SECONDS.labels(self._group).observe(loop.time() - started)
            backoff.reset()
        if not batches or loop.time() - self._idled >= IDLE_EVERY_S:
            await task.idle()
            self._idled = loop.time()
        if loop.time() - self._reported >= REPORT_EVERY_S:
            await self._report()
            self._reported = loop.time()

    async def _poll(self) -> dict[TopicPartition, list[ConsumerRecord]]:
        self._polling = asyncio.ensure_future(
            self._consumer.getmany(*self._tps, timeout_ms=POLL_MS, max_records=self._max_records)
        )
        try:
            return await self._polling
        except asyncio.CancelledError:
            if not self._released.is_set():
                raise
            return {}
        except Exception as error:
            raise ConsumerBrokenError(f"the poll failed: {error!r}") from error
        finally:
            self._polling = None

    async def _process(self, task: PartitionTask, batches: dict[TopicPartition, list[ConsumerRecord]]) -> None:
        by_topic = {tp.topic: records for tp, records in batches.items()}
        observe_age(self._group, by_topic)
        if telemetry.enabled():
            contexts = [text for records in by_topic.values() for text in telemetry.traceparents(records)]
            count = sum(map(len, by_topic.values()))
            with telemetry.processing(next(iter(by_topic)), self._group, contexts, count=count):
                await task.process(by_topic)
        else:
            await task.process(by_topic)
        for tp, records in batches.items():
            self.next[tp] = records[-1].offset + 1
            RECORDS.labels(self._group, tp.topic).inc(len(records))

    async def _report(self) -> None:
        """Tell health how far behind this slot is; a transaction's markers count as read."""
        with suppress(TimeoutError, IllegalStateError):
            async with asyncio.timeout(REPORT_EVERY_S):
                for tp in self._tps:
                    end = self._consumer.last_stable_offset(tp)
                    position = await self._consumer.position(tp)
                    self._health.progress(
                        self._group, tp.topic, tp.partition, position=position, end=position if end is None else end
                    )

    async def _close(self, task: PartitionTask, *, lost: bool) -> None:
        for drop in (lost, True):
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    return await task.close(lost=drop)
            except Exception as error:  # noqa: BLE001 - a task that cannot close itself is dropped
                _log.warning("%s: closing (lost=%s) failed: %r", self._condition, drop, error)
            if drop:
                return None
        return None
