"""One task per pipeline: follow the inputs, release in order, fold, make the effects durable. It never decides."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import ValidationError

from tidemill_contracts import EnvelopeError, read_envelope
from tidemill_contracts.events import Outcome
from tidemill_monitoring.domain.merge import Input, OrderedMerge
from tidemill_monitoring.domain.monitor import Decision, Effects, Monitor
from tidemill_monitoring.domain.read import BadRecordError, Read, Record

BATCH_ROWS = 2000


Reader = Callable[[Record], Read]


class Sink(Protocol):
    """Where effects go: outcomes to the log first, then everything else in one transaction."""

    async def publish(self, outcomes: Sequence[Outcome]) -> None: ...
    async def commit(self, decisions: Sequence[Decision]) -> None: ...
    async def dead_letter(self, record: Record, reason: str) -> None: ...


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
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _bad: list[tuple[Record, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.merged_us = self.merge.released_until_us
        self.outcomes_to = self.monitor.next_seq

    def on_records(self, topic: str, partition: int, records: Sequence[Record]) -> None:
        """Buffer a partition's records; folding happens in `run`, so a failure there never loses what was read."""
        place = (topic, partition)
        for record in records:
            try:
                read = self.reader(record)
            except (BadRecordError, EnvelopeError, ValidationError) as error:
                self._bad.append((record, type(error).__name__ + ": " + str(error)))
                continue
            if read.row is not None:
                self.merge.push(read.row)
            if read.watermark_us is not None:
                self.merge.advance(place, read.watermark_us)
        self.following[place] = records[-1].offset + 1
        self._wake.set()

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
            if not moved:
                await self._pause()

    async def _drain(self) -> bool:
        """One step: what can be released now. True when something was."""
        for record, reason in self._bad:
            await self.sink.dead_letter(record, reason)
        self._bad.clear()
        rows = self.merge.release()
        for first in range(0, len(rows), BATCH_ROWS):
            effects: Effects = self.monitor.fold(rows[first : first + BATCH_ROWS])
            if effects.outcomes:
                await self.sink.publish(effects.outcomes)
                self.outcomes_to = self.monitor.next_seq
            self._decided.extend(effects.decisions)
        return await self._settle(bool(rows))

    async def _settle(self, moved: bool) -> bool:  # noqa: FBT001 - the step's own result
        if self._decided:
            await self.sink.commit(self._decided)
            self._decided.clear()
        if self.merge.released_until_us > self.merged_us:
            self.merged_us = self.merge.released_until_us
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


def envelope_reader(read_prediction: Callable[..., Read], read_label: Callable[..., Read], predictions: str) -> Reader:
    """A reader of both inputs: which one is told by the record's topic."""

    def read(record: Record) -> Read:
        envelope = read_envelope(record.headers, record.value)
        reader = read_prediction if record.topic == predictions else read_label
        return reader(envelope, (record.topic, record.partition), record.offset)

    return read
