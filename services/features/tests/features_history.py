"""Everything that was ever told on the compacted topics, and an oracle that knows each of these values.

The oracle applies one event after the other, in the order of the view's own input, and evaluates what was told at that
count of events: it knows nothing of batches, transactions, checkpoints or owners.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import numpy as np
from features_cases import Departure
from features_play import rows_of, section_of

from tidemill_contracts.topics import topic, view_topic
from tidemill_engine.windows import ViewState
from tidemill_features.domain.encode import WATERMARK_KEY
from tidemill_features.domain.repartition import Row
from tidemill_features.domain.views import View
from tidemill_runtime.settings import ServiceSettings
from tidemill_runtime.tail import Tail
from tidemill_testkit.topics import read_topic

COUNT = 0x7FFFFFFF  # of a revision: the events that it reflects


class _Vector(msgspec.Struct):
    at_us: int
    revision: int
    values: list[float | None]
    positions: dict[int, int]


class _Mark(msgspec.Struct):
    watermark_us: int


class Told(NamedTuple):
    """A vector as its readers saw it; the bits of the values."""

    at_us: int
    values: bytes
    positions: tuple[tuple[int, int], ...]


class Logged(NamedTuple):
    """An event of a view's input: its row, source partition and dense number."""

    row: Row
    source: int
    seq: int


_VECTORS, _MARKS = msgspec.json.Decoder(_Vector), msgspec.json.Decoder(_Mark)


@dataclass
class History:
    """Of one view: every (entity, revision) that was told, by number of events; what a replica would hold now."""

    told: dict[bytes, dict[int, dict[int, Told]]] = field(default_factory=dict)
    newest: dict[bytes, int] = field(default_factory=dict)
    last: dict[bytes, int] = field(default_factory=dict)
    marks: dict[int, int] = field(default_factory=dict)
    contradictions: list[tuple[bytes, int]] = field(default_factory=list)
    fallen: list[tuple[bytes, int]] = field(default_factory=list)
    records: int = 0
    events: int = 0
    arrived: dict[int, float] = field(default_factory=dict)
    silences: list[tuple[float, int, float]] = field(default_factory=list)

    def take(self, partition: int, records: Sequence[Any]) -> None:
        now = time.monotonic()
        silence = now - self.arrived.get(partition, now)
        if silence > 0.5:
            self.silences.append((silence, partition, now))
        self.arrived[partition] = now
        self.records += len(records)
        for record in records:
            if record.key == WATERMARK_KEY:
                self.marks[partition] = max(_MARKS.decode(record.value).watermark_us, self.marks.get(partition, 0))
            elif record.value is not None:
                self._vector(record.key, _VECTORS.decode(record.value))

    def _vector(self, entity: bytes, vector: _Vector) -> None:
        values = np.array([np.nan if value is None else value for value in vector.values]).tobytes()
        told = Told(vector.at_us, values, tuple(sorted(vector.positions.items())))
        count = vector.revision & COUNT
        known = self.told.setdefault(entity, {}).setdefault(count, {}).setdefault(vector.revision, told)
        if known != told:
            self.contradictions.append((entity, vector.revision))
        if vector.revision < self.last.get(entity, 0):
            self.fallen.append((entity, vector.revision))
        self.last[entity] = vector.revision
        before = self.newest.get(entity, 0)
        if vector.revision > before:
            self.newest[entity] = vector.revision
            self.events += count - (before & COUNT)

    def is_settled(self, until_us: int, partitions: int) -> bool:
        """Whether every partition has told that nothing follows."""
        return sorted(self.marks.values()) == [until_us] * partitions

    def vectors(self) -> int:
        """How many different (entity, revision)."""
        return sum(len(revisions) for counts in self.told.values() for revisions in counts.values())


def output_topic(settings: ServiceSettings, view: View) -> str:
    """Where a test's service tells a view: compiled with another prefix, it knows its topic by that."""
    return view_topic("features", view.name, view.version, prefix=settings.prefix)


@asynccontextmanager
async def following(settings: ServiceSettings, views: Collection[View]) -> AsyncIterator[dict[str, History]]:
    """Histories that are kept up to date while the body runs, whoever restarts."""
    found = {view.name: History() for view in views}
    by_topic = {output_topic(settings, view): found[view.name] for view in views}
    tail = Tail(settings, list(by_topic), lambda name, partition, records: by_topic[name].take(partition, records))
    running = asyncio.ensure_future(tail.run())
    try:
        yield found
    finally:
        await tail.stop()
        await running


def direct_log(view: View, events: Sequence[Departure]) -> Iterator[Logged]:
    """Input of one partition of a view that reads its source itself."""
    for event in events:
        row = view.read(event.id, event.time_us, event.body)
        if row is not None:
            yield Logged(row, event.partition, event.seq)


async def routed_log(settings: ServiceSettings, view: View) -> dict[int, list[Logged]]:
    """Input of a repartitioned view by partition, as it lies in Kafka, without repeats."""
    found: dict[int, list[Logged]] = {}
    for partition, records in (
        await read_topic(settings, topic("repartition", view.source, prefix=settings.prefix))
    ).items():
        seen: dict[int, int] = {}
        log = found.setdefault(partition, [])
        for record in records:
            source, section = section_of(record.value or b"", view)
            for row, seq, _ in rows_of(section):
                if seq > seen.get(source, -1):
                    seen[source] = seq
                    log.append(Logged(row, source, seq))
            if section is not None and section.seq is not None:
                seen[source] = max(section.seq, seen.get(source, -1))
    return found


class Oracle:
    """One partition of one view, event by event; `check` compares what was told after each of them."""

    def __init__(self, view: View, history: History) -> None:
        self.state = ViewState(view.plan)
        self.checked = 0
        self.wrong: list[tuple[bytes, int]] = []
        self._history = history
        self._counts: dict[bytes, int] = {}
        self._positions: dict[bytes, dict[int, int]] = {}
        self._batch: list[Logged] = []
        self._asked: dict[bytes, Mapping[int, Told]] = {}

    def check(self, log: Iterable[Logged]) -> None:
        """Apply the log; what is wrong is in `wrong` by entity and revision."""
        for item in log:
            entity = item.row.key
            if entity in self._asked:
                self._flush()
            count = self._counts[entity] = self._counts.get(entity, 0) + 1
            self._positions.setdefault(entity, {})[item.source] = item.seq
            self._batch.append(item)
            told = self._history.told.get(entity, {}).get(count)
            if told:
                self._asked[entity] = told
        self._flush()

    def _flush(self) -> None:
        rows = [item.row for item in self._batch]
        if rows:
            self.state.apply(
                [row.key for row in rows],
                np.array([row.time_us for row in rows], np.int64),
                np.array([row.mark for row in rows], np.uint64),
                np.array([row.values for row in rows], np.float64),
                (
                    np.array([item.source for item in self._batch], np.int32),
                    np.array([item.seq for item in self._batch], np.int64),
                ),
            )
        asked = [(entity, revision, told) for entity, each in self._asked.items() for revision, told in each.items()]
        if asked:
            times = np.array([told.at_us for _, _, told in asked], np.int64)
            values = self.state.evaluate_at([entity for entity, _, _ in asked], times)
            for (entity, revision, told), right in zip(asked, np.where(np.isnan(values), np.nan, values), strict=True):
                positions = tuple(sorted(self._positions[entity].items()))
                step = told.at_us // self.state.plan.step_us
                if told.values != right.tobytes() or told.positions != positions or revision >> 31 != step:
                    self.wrong.append((entity, revision))
            self.checked += len(asked)
        self._batch.clear()
        self._asked.clear()

    def digest(self, until_us: int) -> str:
        """Of the state at the end of time: what the undisturbed run ends with."""
        self.state.advance(until_us)
        return self.state.digest()
