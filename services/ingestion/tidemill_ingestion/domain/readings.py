"""What a record on a raw topic is: an event, a producer's word on progress, or nothing that can be used."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from pydantic import ValidationError

from tidemill_contracts import Envelope, EnvelopeError, read_envelope
from tidemill_contracts.events import Timer
from tidemill_ingestion.domain.fields import EARLIEST_US, LATEST_US, Issue
from tidemill_ingestion.domain.source import MAXIMUM_ID, Context, Event, Source, is_timer, timer_issue
from tidemill_ingestion.domain.strict_json import BadJsonError, loads

_SHOWN_ISSUES = 5


class Record(Protocol):
    """What is read of a Kafka record; `timestamp` is in milliseconds, as the producer or the broker wrote it."""

    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class Table(Protocol):
    """An array of whole numbers."""

    def tolist(self) -> list[list[int]]: ...


class Columns(Protocol):
    """Records of one partition in one buffer, as the runtime reads them. `table` has a row for each.

    That is offset, time in ms, key, its end, value, its end (-1 for null), headers, their number, end.
    """

    @property
    def buffer(self) -> bytes: ...
    @property
    def table(self) -> Table: ...
    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    def __getitem__(self, index: int, /) -> Record: ...


def columns_of(records: Sequence[Record]) -> Columns | None:
    """The records as columns, None when they are objects."""
    return cast("Columns", records) if hasattr(records, "table") else None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record that can never be an event; `event_id` where at least that could be read."""

    reason: str
    error: str
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """No event older than `time_us` follows in this partition."""

    time_us: int
    envelope: Envelope


Reading = Event | Progress | Refusal


def read(source: Source, record: Record) -> Reading:
    """What the record is. The same record gives the same answer for the same definition of the source."""
    try:
        envelope = read_envelope(record.headers, record.value)
    except EnvelopeError as error:
        return Refusal("envelope", str(error))
    if is_timer(envelope.type):
        return _progress(source, record, envelope)
    event = _event(source, envelope)
    if isinstance(event, Refusal):
        return event
    if record.key != event.key:
        return Refusal("key", f"the record's key must be the text of {', '.join(source.spec.key)}", event.id)
    if source.partition(event.key) != record.partition:
        return Refusal("partition", "the key does not belong to this partition: partition by murmur2", event.id)
    return event


def _event(source: Source, envelope: Envelope) -> Event | Refusal:
    name = envelope.id if len(envelope.id) <= MAXIMUM_ID and envelope.id.isprintable() else None
    if not EARLIEST_US <= envelope.time_us < LATEST_US:
        return Refusal("envelope", "ce_time must lie between the years 1900 and 9998", name)
    try:
        data = loads(envelope.data)
    except BadJsonError as error:
        return Refusal(error.rule, f"the value {error}", name)
    context = Context(
        envelope.type, envelope.source, envelope.subject, envelope.causation, envelope.correlation, envelope.traceparent
    )
    issues: list[Issue] = []
    event = source.event(envelope.id, envelope.time_us, data, context, "", issues)
    if event is None:
        shown = "; ".join(f"{issue.field} {issue.message} ({issue.rule})" for issue in issues[:_SHOWN_ISSUES])
        return Refusal("invalid", shown, name)
    return event


def _progress(source: Source, record: Record, envelope: Envelope) -> Progress | Refusal:
    try:
        timer = Timer.read(envelope.data)
    except ValidationError as error:
        return Refusal("timer", f"{error.error_count()} fields of the timer are wrong")
    if timer.source != source.name:
        return Refusal("timer", "the timer belongs to another source")
    issue = timer_issue(timer.time_us, record.timestamp * 1000, source.spec)
    if issue is not None:
        return Refusal("timer", f"{issue.field} {issue.message}")
    return Progress(timer.time_us, envelope)
