"""A declared source and the events it takes, in their one canonical form."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import msgspec
from msgspec.structs import replace

from tidemill_contracts import Envelope
from tidemill_contracts.events import Timer
from tidemill_contracts.headers import packed_header, varint
from tidemill_contracts.pipeline import SourceSpec
from tidemill_ingestion.domain.fields import (
    EARLIEST_US,
    LATEST_US,
    Fields,
    Issue,
    Value,
    canonical_time,
    instant,
    issue_of,
    plain_text,
)
from tidemill_ingestion.domain.framing import Body
from tidemill_ingestion.domain.partition import partition_of
from tidemill_ingestion.domain.quick import Item, Quick

MAXIMUM_ID = 256
MAXIMUM_DATA_BYTES = 512 * 1024
"""Of one event's canonical JSON: half of what a topic takes, so that headers and dead-letter context always fit."""

_ID = packed_header("ce_specversion", b"1.0") + packed_header("ce_id", b"")[:-1]
_CE_TIME = packed_header("ce_time", b"")[:-1]
_CONTENT = packed_header("content-type", b"application/json")
_encode = msgspec.json.Encoder().encode


class Context(msgspec.Struct, frozen=True):
    """What the producer says about an event beside its data; `type` and `source` are CloudEvents attributes."""

    type: str
    source: str
    subject: str | None = None
    causation: str | None = None
    correlation: str | None = None
    traceparent: str | None = None


class Event(msgspec.Struct, frozen=True):
    """A valid event. `data` is canonical JSON, `digest` tells two bodies under the same id apart."""

    id: str
    key: bytes
    time_us: int
    data: bytes
    digest: bytes
    context: Context

    def envelope(self, *, origin: tuple[int, int, int] | None = None, seq: int | None = None) -> Envelope:
        """The event around which Kafka's headers are made."""
        about = self.context
        return Envelope(
            self.id, about.type, about.source, self.time_us, self.data, about.subject, about.causation,
            about.correlation, about.traceparent, origin, seq,
        )  # fmt: skip

    def traced(self, traceparent: str) -> "Event":
        """The event as it is read again when it was written in this trace; one of its own stays."""
        if self.context.traceparent is not None:
            return self
        return Event(self.id, self.key, self.time_us, self.data, self.digest, _traced(self.context, traceparent))

    def body(self) -> Body:
        """Its record's bytes, with the headers of `envelope()`, for less than their cost: this runs for every event."""
        front, back, count = _about(self.context)
        name, key, data = self.id.encode(), self.key, self.data
        parts = (key, varint(len(data)), data, count, _ID, varint(len(name)), name, front, _time(self.time_us), back)
        return Body(b"".join(parts), len(key) + len(parts[1]) + len(data))


@lru_cache(maxsize=64)  # the events of a request have one context, or few
def _about(context: Context) -> tuple[bytes, bytes, bytes]:
    """What the context says, in front of the time and behind it, and how many headers the event has."""
    extra = (("ce_subject", context.subject), ("ce_causationid", context.causation),
             ("ce_correlationid", context.correlation), ("traceparent", context.traceparent))  # fmt: skip
    front = packed_header("ce_type", context.type.encode()) + packed_header("ce_source", context.source.encode())
    back = [packed_header(name, text.encode()) for name, text in extra if text is not None]
    return front, _CONTENT + b"".join(back), varint(len(back) + 6)


def _time(time_us: int) -> bytes:
    text = canonical_time(time_us).encode()
    return _CE_TIME + varint(len(text)) + text


@lru_cache(maxsize=64)  # the events of a request have one context, or few
def _traced(context: Context, traceparent: str) -> Context:
    return replace(context, traceparent=traceparent)


@dataclass(frozen=True, slots=True)
class Source:
    """A source as one pipeline declares it, with its fields compiled."""

    name: str
    spec: SourceSpec
    partitions: int
    fields: Fields
    quick: Quick

    @classmethod
    def compile(cls, name: str, spec: SourceSpec, partitions: int) -> "Source":
        """Key and time fields are required whatever they declare: without them an event has no place."""
        needed = frozenset([*spec.key, *([spec.time] if spec.time else [])])
        return cls(name, spec, partitions, Fields(spec.fields, needed), Quick(spec.fields, needed))

    def context(self) -> Context:
        """The context of an event that came as plain JSON."""
        return Context(f"tidemill.event.{self.name}.v1", f"/sources/{self.name}")

    def partition(self, key: bytes) -> int:
        """The partition of an event's key in every topic of this source."""
        return partition_of(key, self.partitions)

    def event(  # noqa: PLR0913 - the parts of an event, and where to complain
        self, event_id: object, time_us: int | None, data: object, context: Context, path: str, issues: list[Issue]
    ) -> Event | None:
        """The event of these parts, or None with what is wrong in `issues`, each under `path` (empty or `2.`)."""
        before = len(issues)
        name = _identity(event_id, f"{path}id", issues)
        fields = self.fields.check(data, f"{path}data", issues)
        if len(issues) > before:
            return None
        time_us = self._time(fields, time_us)
        if time_us is None:
            issues.append(Issue(f"{path}time", "required", "is required: the source declares no time field"))
            return None
        body = _encode(fields)
        if len(body) > MAXIMUM_DATA_BYTES:
            issues.append(Issue(f"{path}data", "size", f"must be at most {MAXIMUM_DATA_BYTES} bytes of JSON"))
            return None
        return _event(name, self._key([fields[key] for key in self.spec.key]), time_us, body, context)

    def quick_event(self, item: Item, body: bytes, context: Context) -> Event | None:
        """The event of what was read by `quick`, or None for one that has to be read with care."""
        issues: list[Issue] = []
        name, time, names = _identity(item.id, "id", issues), item.time, self.quick.attributes
        try:
            time_us = None if time is None else instant(time)
        except ValueError:
            return None
        if self.spec.time is not None:
            time_us = instant(getattr(item.data, names[self.spec.time]))
        if issues or time_us is None or len(body) > MAXIMUM_DATA_BYTES:
            return None
        key = self._key([getattr(item.data, names[key]) for key in self.spec.key])
        return _event(name, key, time_us, body, context)

    def _time(self, fields: dict[str, Value], given: int | None) -> int | None:
        if self.spec.time is None:
            return given
        return instant(fields[self.spec.time])

    @staticmethod
    def _key(values: Sequence[Value]) -> bytes:
        if len(values) > 1:
            return _encode(values)
        return values[0].encode() if isinstance(values[0], str) else _encode(values[0])


def _event(name: str, key: bytes, time_us: int, body: bytes, context: Context) -> Event:
    return Event(name, key, time_us, body, digest(key, time_us, body), context)


def digest(key: bytes, time_us: int, data: bytes) -> bytes:
    """BLAKE2b-128 of the JSON array [key, event time, data]: what makes two records with one id the same event."""
    return hashlib.blake2b(_encode([key.decode(), time_us, msgspec.Raw(data)]), digest_size=16).digest()


def timer_issue(time_us: int, recorded_us: int, spec: SourceSpec) -> Issue | None:
    """What is wrong with a producer's word that nothing older than `time_us` will come, said at `recorded_us`."""
    if not EARLIEST_US <= time_us < LATEST_US:
        return Issue("time", "range", "must lie between the years 1900 and 9998")
    if time_us > recorded_us + spec.max_future:
        return Issue("time", "future", "lies further in the future than the source allows")
    return None


def is_timer(event_type: str) -> bool:
    """Whether a CloudEvents type is the platform's own word for progress."""
    return event_type == Timer.TYPE


def _identity(value: object, field: str, issues: list[Issue]) -> str:
    try:
        text = plain_text(value)
    except ValueError as error:
        issues.append(issue_of(field, error))
        return ""
    if not 1 <= len(text) <= MAXIMUM_ID or not text.isprintable():
        issues.append(Issue(field, "length", f"must have 1 to {MAXIMUM_ID} printable characters"))
    return text
