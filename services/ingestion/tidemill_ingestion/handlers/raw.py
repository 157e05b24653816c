"""The operator of one raw partition: read, look up, decide, make durable, write. It never decides anything itself.

Decisions are stored before their output is written, and `emitted` follows. So a crash at any instruction leads to the
same output again, byte for byte and with the same origin, and readers drop what they have.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from prometheus_client import Counter

from tidemill_contracts import topic
from tidemill_ingestion.domain.decide import FAMILIES, Batch, Counts, Emit, Known, Pairs, Position, decide, repeat
from tidemill_ingestion.domain.outgoing import Outgoing, Sendable
from tidemill_ingestion.domain.quality import Judged, observe
from tidemill_ingestion.domain.readings import Reading, Record, Refusal
from tidemill_ingestion.domain.recent import RecentEvents
from tidemill_ingestion.domain.source import Event, Source
from tidemill_ingestion.domain.stored import ClaimedMeanwhile, Opened
from tidemill_ingestion.handlers.idle import IdleClock
from tidemill_runtime.dlq import DeadLetterLimiter, dead_letter
from tidemill_runtime.errors import Later, Stalled

GROUP = "ingestion"
OUTCOMES = ("applied", "late", "future", "duplicates", "conflicts", "refused", "timers")
EVENTS = Counter("tidemill_ingestion_records", "Records of raw topics by what was decided.", ["source", "outcome"])
BREACHES = Counter("tidemill_ingestion_quality_breaches", "Windows that broke a bound.", ["source", "rule"])
AT_A_STRETCH = 250
"""Records read between two yields of the event loop: below ten milliseconds if each has to be validated."""
ATTEMPTS = 10
"""Of a batch whose ids another partition keeps claiming: each attempt loses to a batch that went on."""


class Decisions(Protocol):
    """Durable decisions; every method may raise Later."""

    async def open(self, source: str, partition: int) -> Opened: ...
    async def known(self, source: str, ids: Sequence[str]) -> dict[str, Known]: ...
    async def decide(self, source: str, partition: int, low: int, batch: Batch) -> None: ...
    async def decide_unseen(self, source: str, partition: int, low: int, batch: Batch) -> None: ...
    async def emitted(self, source: str, partition: int, upto: int) -> None: ...


class Judgements(Protocol):
    """Decisions together with what was seen of the stream's quality; every method may raise Later."""

    async def quality(self, source: str, partition: int) -> bytes: ...
    async def judge(self, place: tuple[str, int], low: int, batch: Batch, judged: Judged, topic: str) -> None: ...


class Sink(Protocol):
    """Writes records and returns once the broker has all of them; raises Later."""

    async def write(self, records: Sequence[Sendable]) -> object: ...


class RawTask:
    """Owns one partition of `raw.<source>`; a PartitionTask of the runtime's StreamRunner."""

    def __init__(  # noqa: PLR0913 - keyword-only, what the composition root hands over
        self,
        source: Source,
        partition: int,
        *,
        prefix: str,
        store: Decisions,
        sink: Sink,
        limiter: DeadLetterLimiter,
        idle: IdleClock | None = None,
        recent: RecentEvents | None = None,
        judgements: Judgements | None = None,
    ) -> None:
        self._source, self._partition, self._prefix = source, partition, prefix
        self._store, self._sink, self._limiter = store, sink, limiter
        self._topic = topic("raw", source.name, prefix=prefix)
        self._names = {family: topic(family, source.name, prefix=prefix) for family in FAMILIES}
        self._recent = recent if recent is not None else RecentEvents()
        self._position = Position()
        self._emitted = self._noted = 0
        self._moved, self._idle = False, idle
        self._judgements = judgements if source.spec.quality is not None else None
        self._quality = b""
        self._all_new = False

    async def open(self) -> Mapping[str, int]:
        """Restore the position; reading starts where output may be missing."""
        opened = await self._store.open(self._source.name, self._partition)
        self._position, self._emitted, self._noted = opened.position, opened.emitted, opened.emitted
        if self._judgements is not None:
            self._quality = await self._judgements.quality(self._source.name, self._partition)
        return {self._topic: self._emitted}

    async def process(self, batches: Mapping[str, Sequence[Record]]) -> None:
        """Decide and write one poll's records; those that were decided before a crash are only written again."""
        pairs = await self._read_all(batches[self._topic])
        split = next((i for i, (record, _) in enumerate(pairs) if record.offset >= self._position.next), len(pairs))
        if split:
            known = await self._known(pairs[:split])
            await self._write(repeat(pairs[:split], known), pairs[split - 1][0].offset + 1)
        if pairs[split:]:
            await self._fresh(pairs[split:])
        self._moved = True
        if self._idle is not None and any(isinstance(reading, Event) for _, reading in pairs):
            self._idle.busy()

    async def idle(self) -> None:
        """Note how far the output is, once no more records come: after a crash nothing is then written twice."""
        if self._noted != self._emitted and not self._moved:
            await self._note()
        self._moved = False
        if self._idle is not None:
            await self._idle.check()

    async def close(self, *, lost: bool) -> None:
        """Note how far the output is, for the next owner."""
        if not lost and self._noted != self._emitted:
            await self._note()

    async def _read_all(self, records: Sequence[Record]) -> Pairs:
        """What the records are, with requests let through now and then: reading many takes tens of milliseconds."""
        pairs = list[tuple[Record, Reading]]()
        for first in range(0, len(records), AT_A_STRETCH):
            pairs += self._recent.read_all(self._source, records[first : first + AT_A_STRETCH])
            await asyncio.sleep(0)
        return pairs

    async def _fresh(self, pairs: Pairs) -> None:
        if self._all_new and await self._unseen(pairs):
            return
        stalled: Stalled | None = None
        for attempt in range(ATTEMPTS):
            known = await self._known(pairs)
            batch = decide(self._source, pairs, known, self._position)
            if attempt == 0:
                good, stalled = self._limit(pairs, batch)
                if stalled is not None:
                    pairs = pairs[:good]
                    batch = decide(self._source, pairs, known, self._position)
            try:
                await self._make_durable(batch)
                break
            except ClaimedMeanwhile:
                continue
        else:
            raise Later(f"{self._topic}/{self._partition}: other partitions keep claiming the same ids")
        self._all_new = not known and self._judgements is None
        await self._decided(batch)
        if stalled is not None:
            raise stalled

    async def _unseen(self, pairs: Pairs) -> bool:
        """Decide without looking ids up; false, and nothing has happened, where one is known or a record is refused.

        Nearly all are new: where those of the batch before were, the look-up would cost as much as the decision.
        """
        batch = decide(self._source, pairs, {}, self._position)
        if any(emit.family == "dlq" for emit in batch.emits):
            return False
        try:
            await self._store.decide_unseen(self._source.name, self._partition, self._position.next, batch)
        except ClaimedMeanwhile:
            return False
        self._limiter.good(len(pairs))
        await self._decided(batch)
        return True

    async def _decided(self, batch: Batch) -> None:
        self._count(batch.counts)
        self._position = batch.position
        await self._write(batch.emits, batch.position.next)

    def _count(self, counts: Counts) -> None:
        for outcome in OUTCOMES:
            if count := getattr(counts, outcome):
                EVENTS.labels(self._source.name, outcome).inc(count)

    async def _make_durable(self, batch: Batch) -> None:
        name, partition, low = self._source.name, self._partition, self._position.next
        if self._judgements is None:
            await self._store.decide(name, partition, low, batch)
            return
        judged = observe(self._source, partition, self._quality, batch.emits, self._position)
        told_on = topic("quality", prefix=self._prefix)
        await self._judgements.judge((name, partition), low, batch, judged, told_on)
        self._quality = judged.state
        for breach in judged.breaches:
            BREACHES.labels(name, breach.event.rule).inc()

    def _limit(self, pairs: Pairs, batch: Batch) -> tuple[int, Stalled | None]:
        """How many of the records may be decided before dead letters are no longer exceptions."""
        dead = {emit.record.offset for emit in batch.emits if emit.family == "dlq"}
        for index, (record, _) in enumerate(pairs):
            try:
                if record.offset in dead:
                    self._limiter.dead()
                else:
                    self._limiter.good()
            except Stalled as error:
                return index, error
        return len(pairs), None

    async def _known(self, pairs: Pairs) -> dict[str, Known]:
        ids = {reading.id for _, reading in pairs if isinstance(reading, Event)}
        ids |= {
            reading.event_id for _, reading in pairs if isinstance(reading, Refusal) and reading.event_id is not None
        }
        return await self._store.known(self._source.name, sorted(ids)) if ids else {}

    async def _write(self, emits: Sequence[Emit], upto: int) -> None:
        await self._sink.write([self._outgoing(emit) for emit in emits])
        self._emitted = upto

    def _outgoing(self, emit: Emit) -> Sendable:
        record = emit.record
        if emit.family == "dlq":
            name, key, value, headers = dead_letter(
                record, group=f"{self._prefix}.{GROUP}", reason=emit.reason, error=emit.error
            )
            return Outgoing(name, 0, key, value, headers, record.timestamp)
        return emit.written(self._names[emit.family])

    async def _note(self) -> None:
        await self._store.emitted(self._source.name, self._partition, self._emitted)
        self._noted = self._emitted
