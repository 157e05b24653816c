"""One task per pipeline: follow the inputs, release in order, fold, make the effects durable. It never decides."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from pydantic import ValidationError

from tidemill_contracts import Envelope, EnvelopeError, read_envelope
from tidemill_contracts.events import DriftDetected, Event, Outcome, Prediction, TrainingCoalesced, TrainingRequested
from tidemill_monitoring.domain.anchors import Anchor
from tidemill_monitoring.domain.evidence import Evidence
from tidemill_monitoring.domain.merge import Input, OrderedMerge, Row
from tidemill_monitoring.domain.monitor import Decision, Effects, Monitor
from tidemill_monitoring.domain.read import BadRecordError, Read, Record
from tidemill_monitoring.domain.rivals import Said
from tidemill_monitoring.domain.writers import NEVER
from tidemill_monitoring.metrics import WATERMARK, Rolling, decided
from tidemill_runtime import telemetry

BATCH_ROWS = 2000
GROUP = "monitoring"
Reader = Callable[[Record], Read]


class Sink(Protocol):
    """Where effects go: outcomes to the log first, then everything else in one transaction."""

    async def publish(self, outcomes: Sequence[Outcome]) -> None: ...
    async def commit(self, decisions: Sequence[Decision]) -> None: ...
    async def dead_letter(self, record: Record, reason: str) -> None: ...
    async def declare_gone(self, place: Input, writer: str, time_us: int) -> None: ...


class References(Protocol):
    """Who knows what the drift of a release is measured against."""

    async def anchor(self, pipeline: str, epoch: int) -> Anchor:
        """What a release names; waits for it, within bounds."""


class Silent(Protocol):
    """Who watches by the clock whether the writers of the log still tell how far they are."""

    def heard(self, place: Input, writer: str) -> None:
        """A word of this writer was read."""

    def silent(self, merge: OrderedMerge) -> Iterable[tuple[Input, str]]:
        """Whom nobody should wait for any longer."""


@dataclass(slots=True)
class MergeTask:
    """Drives one merge. `merged_us` is what has been folded and, where it led to a decision, made durable."""

    merge: OrderedMerge
    monitor: Monitor
    reader: Reader
    sink: Sink
    checkpoint_s: float
    merged_us: int = field(init=False)
    outcomes_to: int = field(init=False)
    following: dict[Input, int] = field(default_factory=dict)
    evidence: Evidence = field(default_factory=Evidence)
    silence: Silent | None = None
    references: References | None = None
    _rolling: Rolling = field(init=False)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _bad: list[tuple[Record, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.merged_us = self.merge.released_until_us
        self.outcomes_to = self.monitor.next_seq
        self._rolling = Rolling(self.monitor.spec.name)

    def on_records(self, topic: str, partition: int, records: Sequence[Record]) -> None:
        """Buffer a partition's records; folding happens in `run`, so a failure there never loses what was read."""
        place, traced = (topic, partition), telemetry.enabled()
        for record in records:
            try:
                read = self.reader(record)
            except (BadRecordError, EnvelopeError, ValidationError) as error:
                self._bad.append((record, type(error).__name__ + ": " + str(error)))
                continue
            if read.row is not None:
                self.merge.push(read.row)
                is_said = isinstance(read.row.body, Said)  # nothing is decided by it
                for context in telemetry.traceparents((record,)) if traced and not is_said else ():
                    self.evidence.note(read.row.id, context)
            if read.writer is not None:
                self._told(place, read.writer, read)
            elif read.watermark_us is not None:
                self.merge.advance(read.lane or place, read.watermark_us, record.offset)
        self.following[place] = records[-1].offset + 1
        self._wake.set()

    def _told(self, place: Input, writer: str, read: Read) -> None:
        """A writer's own word about its part of a partition."""
        progress = self.merge.progress(place)
        time_us = NEVER if read.watermark_us is None else read.watermark_us
        self.merge.tell(place, progress.gone(writer) if read.is_gone else progress.told(writer, time_us))
        if self.silence is not None:
            self.silence.heard(place, writer)

    async def run(self) -> None:
        """Fold until cancelled; any failure ends the task, and its owner starts again from the last commit."""
        last = time.monotonic()
        dirty = False
        while True:
            moved = await self._drain()
            dirty = dirty or moved
            if dirty and time.monotonic() - last >= self.checkpoint_s:
                await self.sink.commit([])
                dirty, last = False, time.monotonic()
            for place, writer in self.silence.silent(self.merge) if self.silence is not None else ():
                await self.sink.declare_gone(place, writer, self.merge.progress(place).watermark_us)
            if not moved:
                await self._pause()

    async def _drain(self) -> bool:
        """One step: what can be released now. True when something was."""
        for record, reason in self._bad:
            await self.sink.dead_letter(record, reason)
        self._bad.clear()
        rows = self.merge.release()
        for first in range(0, len(rows), BATCH_ROWS):
            batch = rows[first : first + BATCH_ROWS]
            await self._anchored(batch)
            if telemetry.enabled():
                await self._fold_traced(batch)
            else:
                self._decided.extend((await self._fold(batch)).decisions)
        return await self._settle(bool(rows))

    async def _anchored(self, rows: Sequence[Row]) -> None:
        """Rows of a release wait until it is known what they are compared with: the fold asks nobody."""
        if self.references is None:
            return
        watch, name = self.monitor.watch, self.monitor.spec.name
        bodies = [row.body for row in rows if isinstance(row.body, Prediction)]
        for epoch in sorted({body.epoch for body in bodies if watch.asks(body)}):
            watch.learn({epoch: await self.references.anchor(name, epoch)})

    async def _fold(self, rows: Sequence[Row]) -> Effects:
        effects = self.monitor.fold(rows)
        if effects.outcomes:
            await self.sink.publish(effects.outcomes)
            self.outcomes_to = self.monitor.next_seq
            self._rolling.note(effects.outcomes)
        self._rolling.compared(effects.compared)
        return effects

    async def _fold_traced(self, rows: Sequence[Row]) -> None:
        """A span around the batch, and one for each decision; one with a cause goes on under its cause's span."""
        with telemetry.processing(rows[0].source[0], GROUP, self.evidence.contexts(rows), count=len(rows)):
            effects = await self._fold(rows)
            self.evidence.folded(rows, effects.outcomes)
            contexts: dict[object, str | None] = {}
            for decision in effects.decisions:
                name, about = _described(decision.event)
                about = {"tidemill.pipeline": self.monitor.spec.name, **about}
                links, parent = self.evidence.behind(decision.event), contexts.get(decision.cause)
                with telemetry.span(name, parent=parent, links=links, attributes=about):
                    contexts[decision.event_id] = context = telemetry.current_traceparent()
                self._decided.append(replace(decision, trace=context))

    async def _settle(self, moved: bool) -> bool:  # noqa: FBT001 - the step's own result
        if self._decided:
            await self.sink.commit(self._decided)
            for decision in self._decided:
                decided(self.monitor.spec.name, decision.event)
            self._decided.clear()
        if self.merge.released_until_us > self.merged_us:
            self.merged_us = self.merge.released_until_us
            WATERMARK.labels(self.monitor.spec.name).set(self.merged_us / 1e6)
            return True
        return moved

    _decided: list[Decision] = field(default_factory=list)

    async def _pause(self) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(0.2):
                await self._wake.wait()
        except TimeoutError:
            return


def _described(event: Event) -> tuple[str, dict[str, str]]:
    """The name and the attributes of a decision's span."""
    if isinstance(event, DriftDetected):
        return "detect drift", {"tidemill.drift.kind": event.kind, "tidemill.drift.subject": event.subject}
    kind = event.cause.kind if isinstance(event, TrainingRequested | TrainingCoalesced) else ""
    outcome = event.outcome if isinstance(event, TrainingCoalesced) else "requested"
    return "request training", {"tidemill.cause": kind, "tidemill.outcome": outcome}


def envelope_reader(readers: Mapping[str, Callable[[Envelope, Input, int], Read]]) -> Reader:
    """A reader of all inputs: `readers` by topic."""

    def read(record: Record) -> Read:
        envelope = read_envelope(record.headers, record.value)
        return readers[record.topic](envelope, (record.topic, record.partition), record.offset)

    return read
