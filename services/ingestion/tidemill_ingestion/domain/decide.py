"""What becomes of each record of a raw partition, decided once, in the order of the log, without a clock.

`decide` is for records that were never decided. Its result is made durable before anything is written to a topic, so
after a crash `repeat` gives for the same records the same output from the rows that were stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

import msgspec

from tidemill_contracts import Envelope, read_envelope
from tidemill_contracts.headers import packed_header, varint
from tidemill_ingestion.domain.framing import Body
from tidemill_ingestion.domain.outgoing import Framed, Outgoing, Sendable
from tidemill_ingestion.domain.readings import Progress, Reading, Record, Refusal
from tidemill_ingestion.domain.recent import Remembered
from tidemill_ingestion.domain.source import Event, Source

Outcome = Literal["applied", "late", "future", "dead_lettered"]
Family = Literal["events", "late", "future", "dlq"]
FAMILIES: tuple[Literal["events", "late", "future"], ...] = ("events", "late", "future")
_ORIGIN, _SEQ = packed_header("tm_origin", b"")[:-1], packed_header("tm_seq", b"")[:-1]
_FAMILY: dict[str, Family] = {"applied": "events", "late": "late", "future": "future"}


class Known(msgspec.Struct, frozen=True):
    """What is stored of an id: the body it stands for, what became of it and which raw record decided that."""

    digest: bytes
    outcome: Outcome
    partition: int
    offset: int
    seq: int | None


class Claim(msgspec.Struct, frozen=True):
    """A row to store: from now on this id stands for this body."""

    id: str
    digest: bytes
    outcome: Outcome
    offset: int
    seq: int | None
    time_us: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Increments. `dead_lettered` counts ids whose every record so far was refused, the last five count records."""

    applied: int = 0
    late: int = 0
    future: int = 0
    dead_lettered: int = 0
    duplicates: int = 0
    conflicts: int = 0
    refused: int = 0
    timers: int = 0
    records: int = 0


@dataclass(frozen=True, slots=True)
class Position:
    """Where a partition stands: the next raw offset, the next dense number, and how far its event time has come."""

    next: int = 0
    seq: int = 0
    watermark_us: int | None = None
    newest_us: int | None = None


class Emit(msgspec.Struct, frozen=True):
    """One record to write: an event or an envelope to `family`, or for `dlq` the record's own bytes with a reason."""

    family: Family
    record: Record
    event: Event | None = None
    seq: int | None = None
    given: Envelope | None = None
    reason: str = ""
    error: str = ""

    @property
    def envelope(self) -> Envelope | None:
        """What is written, None for a dead letter."""
        if self.event is None:
            return self.given
        return self.event.envelope(origin=(self.record.partition, self.record.offset, 0), seq=self.seq)

    def written(self, topic: str) -> Sendable:
        """The record for `topic`, in partition 0 unless it is an event; raises ValueError for a dead letter."""
        record = self.record
        partition = record.partition if self.family == "events" else 0
        if self.event is not None:
            body = record.body if isinstance(record, Remembered) else self.event.body()
            return Framed(topic, partition, len(self.event.key), self._numbered(body), record.timestamp)
        if self.given is None:
            raise ValueError("a dead letter is the record itself")
        return Outgoing(topic, partition, record.key, self.given.data, self.given.headers(), record.timestamp)

    def _numbered(self, body: Body) -> bytes:
        origin = b"%d:%d:0" % (self.record.partition, self.record.offset)
        headers = _ORIGIN + varint(len(origin)) + origin
        if self.seq is None:
            return body.with_headers(1, headers)
        seq = b"%d" % self.seq
        return body.with_headers(2, headers + _SEQ + varint(len(seq)) + seq)


@dataclass(slots=True)
class Batch:
    """Everything that follows from a run of records."""

    position: Position
    emits: list[Emit] = field(default_factory=list)
    claims: dict[str, Claim] = field(default_factory=dict)
    conflicts: list[str] = field(default_factory=list)
    counts: Counts = Counts()


Pairs = Sequence[tuple[Record, Reading]]


def decide(source: Source, pairs: Pairs, known: Mapping[str, Known], position: Position) -> Batch:
    """The fate of `pairs`, records of one partition in order, none below `position.next`; `known` holds their ids."""
    work = _Work(source, known, position)
    for record, reading in pairs:
        work.take(record, reading)
    return work.batch()


def repeat(pairs: Pairs, known: Mapping[str, Known]) -> list[Emit]:
    """The output of records that were decided before, from what was stored then."""
    return [emit for record, reading in pairs if (emit := _again(record, reading, known)) is not None]


def _again(record: Record, reading: Reading, known: Mapping[str, Known]) -> Emit | None:
    if isinstance(reading, Progress):
        return _timer(record, reading)
    name = reading.id if isinstance(reading, Event) else reading.event_id
    stored = known.get(name) if name is not None else None
    here = (record.partition, record.offset)
    if stored is not None and (stored.partition, stored.offset) == here and stored.outcome != "dead_lettered":
        if isinstance(reading, Event):
            return Emit(_FAMILY[stored.outcome], record, reading, stored.seq)
        # The source was declared anew between the decision and the crash: what was decided stays.
        envelope = replace(read_envelope(record.headers, record.value), origin=(*here, 0), seq=stored.seq)
        return Emit(_FAMILY[stored.outcome], record, given=envelope)
    if isinstance(reading, Refusal):
        return Emit("dlq", record, reason=reading.reason, error=reading.error)
    return None if stored is None or stored.digest == reading.digest else _conflict(record)


def _timer(record: Record, progress: Progress) -> Emit:
    origin = (record.partition, record.offset, 0)
    return Emit("events", record, given=replace(progress.envelope, origin=origin, seq=None))


def _conflict(record: Record) -> Emit:
    error = "the id already stands for an event with another key, time or data"
    return Emit("dlq", record, reason="conflict", error=error)


class _Work:
    """The state of one `decide`: plain numbers, because this runs for every event."""

    def __init__(self, source: Source, known: Mapping[str, Known], position: Position) -> None:
        self._known, self._position = known, position
        self._next, self._seq = position.next, position.seq
        self._watermark, self._newest = position.watermark_us, position.newest_us
        # An event older than the horizon of known ids could be a repeat that nobody remembers: it is late at least.
        self._lateness = min(source.spec.allowed_lateness, source.spec.keep_ids)
        self._ahead = source.spec.max_future
        self._emits: list[Emit] = []
        self._claims: dict[str, Claim] = {}
        self._conflicts: list[str] = []
        self._count = dict.fromkeys((f.name for f in fields(Counts)), 0)

    def batch(self) -> Batch:
        position = Position(self._next, self._seq, self._watermark, self._newest)
        return Batch(position, self._emits, self._claims, self._conflicts, Counts(**self._count))

    def take(self, record: Record, reading: Reading) -> None:
        self._next = record.offset + 1
        self._count["records"] += 1
        if isinstance(reading, Event):
            self._event(record, reading)
        elif isinstance(reading, Progress):
            self._count["timers"] += 1
            self._watermark = _later(self._watermark, reading.time_us)
            self._emits.append(_timer(record, reading))
        else:
            self._refusal(record, reading)

    def _event(self, record: Record, event: Event) -> None:
        digest, outcome = self._stands_for(event.id)
        if digest is not None and outcome != "dead_lettered":
            if digest == event.digest:
                self._count["duplicates"] += 1
                return
            self._count["conflicts"] += 1
            self._conflicts.append(event.id)
            self._emits.append(_conflict(record))
            return
        if outcome is not None:  # refused before, valid now: the id gets its event after all
            self._count["dead_lettered"] -= 1
        decided = self._outcome(event.time_us, record.timestamp * 1000)
        seq = None
        if decided == "applied":
            seq, self._seq = self._seq, self._seq + 1
            self._newest = _later(self._newest, event.time_us)
            self._watermark = _later(self._watermark, self._newest - self._lateness)
        self._count[decided] += 1
        self._claims[event.id] = Claim(event.id, event.digest, decided, record.offset, seq, event.time_us)
        self._emits.append(Emit(_FAMILY[decided], record, event, seq))

    def _outcome(self, time_us: int, recorded_us: int) -> Outcome:
        if time_us > recorded_us + self._ahead:
            return "future"
        if self._watermark is not None and time_us < self._watermark:
            return "late"
        return "applied"

    def _refusal(self, record: Record, refusal: Refusal) -> None:
        self._count["refused"] += 1
        name = refusal.event_id
        if name is not None and self._stands_for(name)[1] is None:
            self._count["dead_lettered"] += 1
            self._claims[name] = Claim(name, b"", "dead_lettered", record.offset, None, record.timestamp * 1000)
        self._emits.append(Emit("dlq", record, reason=refusal.reason, error=refusal.error))

    def _stands_for(self, name: str) -> tuple[bytes | None, Outcome | None]:
        claim = self._claims.get(name)
        if claim is not None:
            return claim.digest, claim.outcome
        known = self._known.get(name)
        return (known.digest, known.outcome) if known is not None else (None, None)


def _later(known: int | None, time_us: int) -> int:
    return time_us if known is None or time_us > known else known
