"""One pipeline's desk: takes checked requests, answers with the active release, drafts what goes to the log."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from tidemill_contracts.base import format_time
from tidemill_contracts.envelope import Envelope
from tidemill_contracts.events import ModelSwapped, Prediction, Released, Timer, encode
from tidemill_contracts.ids import derived_id
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_contracts.topics import topic
from tidemill_serving.domain.answers import Recent, Record, Remembered, answer_of, encode_record, mark_of
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.entries import Entry
from tidemill_serving.domain.once import repeat
from tidemill_serving.domain.plan import Lines, Plan, places_of
from tidemill_serving.domain.releases import Cause, Champion, Kept, KeptRelease, Order, Swap
from tidemill_serving.domain.replica import Place, Replica, Row
from tidemill_serving.domain.requests import Ask, Reader
from tidemill_serving.domain.scoring import Weighted, finite, score

LARGEST_RECORD = 900_000
"""Bytes; a record that Kafka refuses would hold up all behind it for ever."""
PartitionOf = Callable[[bytes, int], int]


@dataclass(slots=True, eq=False)
class Loaded:
    """A release whose models are open and warm."""

    released: Released
    spec: PipelineSpec
    plan: Plan
    members: list[Weighted]
    shadows: list[Weighted]
    loaded_ms: float = 0.0
    cause: Cause = field(default_factory=Cause)

    @property
    def order(self) -> Order:
        return self.released.epoch, self.released.sequence

    @property
    def effective_at_us(self) -> int | None:
        return self.released.effective_at_us

    @property
    def previous_epoch(self) -> int:
        return self.released.previous_epoch

    @property
    def leader(self) -> Weighted:
        """The member with the most weight: its model and version stand in the answer."""
        return max(self.members, key=lambda member: member.weight)


class Query(NamedTuple):
    """One instance on its way through a batch."""

    ask: Ask
    identity: str
    traceparent: str


Result = bytes | RefusedError
"""The encoded answer, or why there is none."""


class Drafts(NamedTuple):
    """What a batch comes to: a result for each query, and the records that must be spooled before results leave.

    `reads` are the trace contexts behind each new answer, by its identity; None where nobody asked for them.
    """

    results: list[Result]
    entries: list[Entry]
    remembered: list[tuple[str, Remembered]]
    reads: dict[str, list[str]] | None = None


@dataclass(slots=True, eq=False)
class Desk:
    """Everything about one pipeline. `floor_us` is the progress declared in its log: no record may lie below it."""

    spec: PipelineSpec
    prefix: str
    source: str
    partition_of: PartitionOf
    champion: Champion[Loaded] = field(default_factory=Champion)
    recent: Recent = field(default_factory=Recent)
    floor_us: int | None = None
    swaps: list[Swap] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    is_ready: bool = False
    reader: Reader = field(init=False)
    topic: str = field(init=False)
    places: tuple[Place, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.reader, self.places = Reader(self.spec.request), places_of(self.spec)
        self.topic = topic("predictions", self.spec.name, prefix=self.prefix)

    def reconfigure(self, spec: PipelineSpec) -> None:
        """Read requests by another revision of the pipeline file; releases keep the one they were made for."""
        self.spec, self.reader, self.places = spec, Reader(spec.request), places_of(spec)

    def kept(self) -> Kept:
        """What a restart must know."""
        loaded = [found for found in (self.champion.active, self.champion.previous) if found is not None]
        return Kept(self.spec, [KeptRelease(found.released, found.spec) for found in loaded], self.swaps)

    def watermark_us(self, replica: Replica) -> int | None:
        """How far all views have got, of the file that the active release was made for; None while one is unknown.

        Views of a newer file may still be far behind: they are nobody's features until a release reads them.
        """
        active = self.champion.active
        return replica.watermark_us(self.places if active is None else active.plan.places)

    def answer(
        self, replica: Replica, queries: Sequence[Query], *, now_us: int, degraded: bool, traced: bool = False
    ) -> Drafts:
        """Score the queries as one batch per release; nothing leaves this function before the caller has spooled it."""
        batch = _Batch(self, replica, now_us=now_us, degraded=degraded, traced=traced)
        return batch.run(queries)

    def timers(self, time_us: int, *, source: str | None = None, reason: str = "progress") -> list[Entry]:
        """Tell every partition of the log that no prediction of this writer before `time_us` will follow."""
        source = source or self.source
        out = []
        for partition in range(self.spec.partitions):
            body = Timer(source=self.spec.name, time_us=time_us, reason=reason)
            kind = "timer" if reason == "progress" else reason
            identity = str(derived_id(kind, source, self.spec.name, partition, time_us))
            envelope = encode(body, id=identity, source=source, time_us=time_us)
            out.append(self._entry("timer", partition, None, envelope))
        return out

    def swapped(self, loaded: Loaded, watermark_us: int | None, *, at_us: int) -> Entry:
        """Remember that a release answers from now on, and the report of it."""
        self.swaps.append(Swap(loaded.released.epoch, watermark_us))
        body = ModelSwapped(
            pipeline=self.spec.name, epoch=loaded.released.epoch, replica=self.source, watermark_us=watermark_us,
            loaded_ms=loaded.loaded_ms,
        )  # fmt: skip
        identity = str(derived_id("swap", self.source, self.spec.name, *loaded.order))
        time_us = at_us if watermark_us is None else watermark_us
        cause = loaded.cause
        envelope = encode(
            body, id=identity, source=self.source, time_us=time_us, subject=self.spec.name, causation=cause.event_id,
            correlation=cause.correlation or cause.event_id, traceparent=cause.traceparent,
        )  # fmt: skip
        name = topic("swaps", prefix=self.prefix)
        key = self.spec.name.encode()
        return Entry("swap", self.spec.name, name, 0, key, envelope.data, envelope.headers(), time_us)

    def prediction(self, record: Record, traceparent: str) -> Entry:
        """The log record of an answer, in the partition of its join key; its headers are an `Envelope`'s."""
        key, at_us = record.key.encode(), record.at_us
        headers = [
            _SPECVERSION, ("ce_id", record.prediction_id.encode()), _TYPE, ("ce_source", self.source.encode()),
            ("ce_time", format_time(at_us).encode()), _JSON, ("traceparent", traceparent.encode()),
        ]  # fmt: skip
        partition = self.partition_of(key, self.spec.partitions)
        return Entry("prediction", self.spec.name, self.topic, partition, key, encode_record(record), headers, at_us)

    def _entry(self, kind: Any, partition: int, key: bytes | None, envelope: Envelope) -> Entry:  # noqa: ANN401 - Kind
        headers = envelope.headers()
        return Entry(kind, self.spec.name, self.topic, partition, key, envelope.data, headers, envelope.time_us)


class _Batch:
    """One batch under way."""

    def __init__(self, desk: Desk, replica: Replica, *, now_us: int, degraded: bool, traced: bool) -> None:
        self._desk, self._replica, self._now_us, self._degraded = desk, replica, now_us, degraded
        self._watermark = desk.watermark_us(replica)
        bounds = [bound for bound in (self._watermark, desk.floor_us) if bound is not None]
        self._lowest = max(bounds, default=None)
        self._drafts = Drafts([], [], [], {} if traced else None)
        self._fresh: dict[str, int] = {}

    def run(self, queries: Sequence[Query]) -> Drafts:
        active = self._desk.champion.active
        if active is None:
            raise RefusedError(409, "no release yet", "no release yet: train first")
        again: list[tuple[int, int]] = []
        todo: list[int] = []
        for index, query in enumerate(queries):
            identity = query.identity
            self._drafts.results.append(_UNANSWERED)
            known = self._desk.recent.get(identity)
            if known is not None:
                self._drafts.results[index] = repeat(known, query.ask)
            elif identity in self._fresh:
                again.append((index, self._fresh[identity]))
            else:
                self._fresh[identity] = index
                todo.append(index)
        left = self._score(active, queries, todo) if todo else []
        if left and self._desk.champion.previous is not None:
            left = self._score(self._desk.champion.previous, queries, left, fallback=True)
        remembered = dict(self._drafts.remembered)
        for index, first in again:
            found = remembered.get(queries[index].identity)
            same = self._drafts.results[first] if found is None else repeat(found, queries[index].ask)
            self._drafts.results[index] = same
        return self._drafts

    def _score(self, loaded: Loaded, queries: Sequence[Query], todo: list[int], *, fallback: bool = False) -> list[int]:
        """Answer the queries `todo`; returns those for which no model had a probability."""
        plan = loaded.plan
        lines = plan.lines(plan.tables(self._replica), [queries[index].ask for index in todo], self._watermark)
        scores = score(loaded.members, loaded.shadows, lines.vectors)
        writer = _Writer(self._desk, loaded, (self._now_us, self._lowest, self._watermark), fallback or self._degraded)
        left = []
        vectors, mixed = lines.vectors.tolist(), scores.mixed.tolist()
        for row, index in enumerate(todo):
            refused, value = lines.refused[row], mixed[row]
            if refused is not None:
                self._drafts.results[index] = _unknown_entity(refused)
            elif value != value:  # noqa: PLR0124 - NaN
                left.append(index)
            else:
                record = writer.record(queries[index], vectors[row], value, (lines.rows[row], lines.defaulted[row]))
                record.members = finite(scores.members, row) if len(loaded.members) > 1 else {}
                record.shadows = finite(scores.shadows, row) if loaded.shadows else {}
                self._take(index, record, lines.rows[row], queries[index])
        self._note_reads(loaded, lines, [(row, queries[index]) for row, index in enumerate(todo)])
        return left

    def _note_reads(self, loaded: Loaded, lines: Lines, asked: Sequence[tuple[int, Query]]) -> None:
        if (reads := self._drafts.reads) is None:
            return
        for row, query in asked:
            behind = [loaded.cause.traceparent, *(found.trace for found in lines.rows[row].values())]
            reads[query.identity] = [context for context in behind if context is not None]

    def _take(self, index: int, record: Record, rows: Mapping[str, Row], query: Query) -> None:
        entry = self._desk.prediction(record, query.traceparent)
        if len(entry.value) > LARGEST_RECORD:
            self._drafts.results[index] = _TOO_LARGE
            return
        answer = answer_of(record, rows)
        self._drafts.results[index] = answer
        self._drafts.entries.append(entry)
        if query.ask.id is not None:
            self._drafts.remembered.append((record.prediction_id, Remembered(mark_of(record.request), answer)))


class _Writer:
    """Makes the records of one batch and release."""

    def __init__(
        self, desk: Desk, loaded: Loaded, times: tuple[int, int | None, int | None], degraded: bool  # noqa: FBT001 - ours
    ) -> None:  # fmt: skip
        """`times` are now, the lowest that a record may have, and the watermark."""
        self._name, self._digest, self._leader = desk.spec.name, loaded.plan.digest, loaded.leader
        self._epoch, self._degraded = loaded.released.epoch, degraded
        self._now_us, self._lowest, self._watermark = times

    def record(
        self, query: Query, vector: list[float], value: float, read: tuple[dict[str, Row], list[str]]
    ) -> Record:  # fmt: skip
        """Without the scores of members and shadows; by position, which costs half."""
        ask, (rows, defaulted) = query.ask, read
        at_us = self._now_us if ask.time_us is None else ask.time_us
        if self._lowest is not None and at_us < self._lowest:
            at_us = self._lowest
        return Record(
            query.identity, self._name, ask.key, at_us, self._epoch, self._leader.digest, self._leader.version, value,
            {}, {}, vector, self._digest, {view: msgspec.Raw(row.revision_json) for view, row in rows.items()},
            ask.raw, defaulted, self._degraded, self._watermark, query.traceparent[3:35],
        )  # fmt: skip


_SPECVERSION, _JSON = ("ce_specversion", b"1.0"), ("content-type", b"application/json")
_TYPE = ("ce_type", Prediction.TYPE.encode())
_UNANSWERED = RefusedError(503, "no answer", "no model of this pipeline has a finite answer to these inputs")


_TOO_LARGE = RefusedError(422, "too large", "the record of this prediction would be too large for the log")


def _unknown_entity(view: str) -> RefusedError:
    return RefusedError(422, "unknown entity", f"the view {view} knows no such entity and refuses to guess")


__all__ = ["Desk", "Drafts", "Loaded", "PartitionOf", "Query", "Result", "Swap"]
