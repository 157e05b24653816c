"""The aggregator's task: one partition number of all inputs in, vectors of all views out."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import Counter, Gauge, Histogram

from tidemill_features.domain.aggregate import ViewPartition
from tidemill_features.domain.cold import Wanted
from tidemill_features.domain.letter import Letter
from tidemill_features.domain.partition import AggregatePartition
from tidemill_features.domain.records import Record
from tidemill_features.domain.taken import Rejected
from tidemill_features.domain.views import View
from tidemill_features.handlers.checkpoint import Checkpointer
from tidemill_features.handlers.ports import Checkpoints, FencedLog, Undertaker
from tidemill_features.handlers.tell import Teller
from tidemill_runtime.errors import Later

RECORDS = Counter("tidemill_features_records", "Records read by the aggregator.", ["partition"])
COLD = Gauge("tidemill_features_cold_keys", "Keys that lie in the store alone.", ["partition"])
FETCHED = Counter("tidemill_features_fetched_keys", "Cold keys that came back into memory.", ["partition"])
EVICTED = Counter("tidemill_features_evicted_keys", "Keys that left the memory for the store.", ["partition"])
FETCH_SECONDS = Histogram(
    "tidemill_features_fetch_seconds", "One reading of cold keys from the store.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0),
)  # fmt: skip
_MOST_WAITING = 10_000
"""Rows that are read and not applied: they take more memory than what they change."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a task is made of."""

    log: FencedLog
    store: Checkpoints
    undertaker: Undertaker
    every_s: float
    every_records: int
    linger_s: float
    quiet_s: float = 30.0
    room: Callable[[], int | None] = lambda: None
    """How many keys each view's partition may hold in memory, None for all."""
    clock: Callable[[], float] = time.monotonic


class AggregateTask:
    """Owns one partition number. A failed transaction ends the task; the next one starts from the last checkpoint.

    What it reads again it does not tell again, unless that takes longer than `quiet_s`: an input that ends before what
    was told (somebody has made it anew) must not silence a view for ever.
    """

    def __init__(self, partition: int, views: Sequence[View], parts: Parts) -> None:
        self.partition, self.state = partition, AggregatePartition([])
        self._views, self._parts = views, parts
        self._teller: Teller | None = None
        self._quiet_until = 0.0
        self._moved = 0, 0

    async def open(self) -> Mapping[str, int]:
        """Fence the writer before, then the store, then restore: nobody can write behind what is read here."""
        parts = self._parts
        await parts.log.open()
        told = await parts.log.told(sorted({view.output_topic for view in self._views}))
        owner = await parts.store.own(self.partition)
        views, offsets = [], dict[str, int]()
        for view in self._views:
            marks, entries = await parts.store.load(owner, view)
            cold = await parts.store.cold(owner, view)
            views.append(ViewPartition.restored(view, self.partition, marks, entries, cold))
            views[-1].quiet_until(told.get(view.output_topic))
            offset = marks.offset_in(view)
            offsets[view.input_topic] = min(offset, offsets.get(view.input_topic, offset))
        self.state = AggregatePartition(views, parts.room)
        for topic, offset in offsets.items():
            self.state.start_at(topic, offset)
        self._quiet_until = parts.clock() + parts.quiet_s
        checkpointer = Checkpointer(parts.store, owner, every_s=parts.every_s, every_records=parts.every_records)
        self._teller = Teller(
            self.partition,
            self.state,
            log=parts.log,
            checkpointer=checkpointer,
            linger_s=parts.linger_s,
            settle=self._settle_late,
        )
        return offsets

    async def process(self, batches: Mapping[str, Sequence[Record]]) -> None:
        """Apply; the teller tells readers and stores, and a crash before that only means to read again."""
        teller = self._opened()
        count = sum(len(records) for records in batches.values())
        rejected = await self._take(teller, batches)
        teller.note(count, self._bury(rejected, among=count))
        RECORDS.labels(self.partition).inc(count)
        await teller.room()

    async def _take(self, teller: Teller, batches: Mapping[str, Sequence[Record]]) -> list[Rejected]:
        """Read and apply; while readers are being told, what is read waits for more and is applied with it.

        When that fails the lock stays locked: what was read is not applied, so this task tells and stores no more.
        """
        await teller.settling.acquire()
        rejected = self.state.read(batches)
        if not teller.is_writing or self.state.waiting() > _MOST_WAITING:
            rejected += await self._settle()
        teller.settling.release()
        return rejected

    async def _settle(self) -> list[Rejected]:
        """Fetch the cold keys that are needed, apply."""
        for part in self.state.views:
            wanted = part.wanted()
            while wanted is not None:
                with FETCH_SECONDS.time():
                    found = await self._parts.store.fetch(part.view, self.partition, wanted)
                wanted = part.give(wanted, found)
        return self.state.settle()

    async def _settle_late(self) -> list[Letter]:
        rejected = await self._settle()
        return self._bury(rejected, among=len(rejected))  # all that were read are counted

    def _bury(self, rejected: Sequence[Rejected], *, among: int) -> list[Letter]:
        return self._parts.undertaker.bury(rejected, among=among)

    async def current(self, part: ViewPartition, entity: bytes) -> Letter | None:
        """The entity's vector now, wherever its state lies; None when it is unknown here. May raise Later."""
        known = part.current(entity)
        if known is not None or not part.cold:
            return known
        found = await self._parts.store.fetch(part.view, self.partition, Wanted([entity]))
        return part.current(entity, found.rows)

    def _count_cold(self) -> None:
        """Tell the metrics what has moved."""
        parts, label = self.state.views, self.partition
        COLD.labels(label).set(sum(len(part.cold) for part in parts))
        fetched, evicted = sum(part.cold.fetched for part in parts), sum(part.cold.evicted for part in parts)
        FETCHED.labels(label).inc(fetched - self._moved[0])
        EVICTED.labels(label).inc(evicted - self._moved[1])
        self._moved = fetched, evicted

    async def idle(self) -> None:
        """Raise what went wrong beside the reading, store what is due, end a silence that takes too long."""
        teller = self._opened()
        teller.check()
        self._count_cold()
        if self._quiet_until <= self._parts.clock() and self.state.speak():
            teller.note(0, [])

    def _opened(self) -> Teller:
        if self._teller is None:
            raise Later("the task is not open")
        return self._teller

    async def close(self, *, lost: bool) -> None:
        """Tell and store everything, unless another owner may have taken over already; the state goes."""
        if self._teller is not None:
            await (self._teller.drop() if lost else self._teller.finish())
            self._teller = None
        self.state, self._moved = AggregatePartition([]), (0, 0)
        COLD.labels(self.partition).set(0)
        await self._parts.log.close()
