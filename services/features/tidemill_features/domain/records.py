"""Kafka records to what they mean; whatever is not meant for us is a BadRecordError, never a crash."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
from pydantic import ValidationError

from tidemill_contracts.base import parse_time
from tidemill_contracts.envelope import Envelope, EnvelopeError, read_envelope
from tidemill_contracts.events import Timer
from tidemill_features.domain.repartition import END_OF_TIME_US, MOST_DIGITS, Sheet, read_sheet

_BODY = msgspec.json.Decoder(dict[str, Any])
_LARGEST = 10**MOST_DIGITS
_TIMER = Timer.TYPE.encode()


class Record(Protocol):
    """What this service needs of a consumed record."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, Any]]: ...


class BadRecordError(ValueError):
    """The record can never be processed; the message says why, without repeating its content."""


class Event(NamedTuple):
    """An event of a source; `seq` is its dense number in the source partition."""

    id: str
    time_us: int
    seq: int
    body: Mapping[str, Any]
    trace: bytes | None


class Progress(NamedTuple):
    """Nothing older than `time_us` follows from `source_partition`; `seq`: its last event before that, if known."""

    source_partition: int
    time_us: int
    seq: int | None = None


def read_source(record: Record) -> Event | Progress:
    """A record of `events.<source>`; raises BadRecordError."""
    return _plain_event(record) or _any_source(record)


def _plain_event(record: Record) -> Event | None:
    """An event as ingestion writes it, reading only what is needed; None for everything else."""
    headers = dict(record.headers)
    try:
        seq, time_us = headers["tm_seq"], parse_time(headers["ce_time"].decode())
        if headers["ce_type"] == _TIMER or headers["ce_specversion"] != b"1.0" or not headers["ce_source"]:
            return None
        body = _BODY.decode(record.value or b"")
        if not seq.isdigit() or len(seq) > MOST_DIGITS or not 0 <= time_us < END_OF_TIME_US:
            return None
        return Event(headers["ce_id"].decode(), time_us, int(seq), body, headers.get("traceparent"))
    except (KeyError, AttributeError, ValueError, RecursionError):
        return None


def _any_source(record: Record) -> Event | Progress:
    try:
        envelope = read_envelope(record.headers, record.value)
        if envelope.type == Timer.TYPE:
            return Progress(record.partition, _checked_time(Timer.read(envelope.data).time_us))
        body = _BODY.decode(envelope.data)
    except EnvelopeError as error:
        raise BadRecordError(str(error)) from None
    except (ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRecordError("the body is not a JSON object of this type") from None
    if envelope.seq is None or envelope.seq >= _LARGEST:
        raise BadRecordError("tm_seq is missing or too large")
    return Event(envelope.id, _checked_time(envelope.time_us), envelope.seq, body, _trace(envelope))


def read_routed(body: bytes | None) -> Sheet:
    """A record of a repartition topic; raises BadRecordError."""
    try:
        return read_sheet(body or b"")
    except (ValueError, RecursionError):  # also msgspec's
        raise BadRecordError("the body does not hold rows") from None


def _checked_time(time_us: int) -> int:
    if not 0 <= time_us < END_OF_TIME_US:
        raise BadRecordError("the time is not between 1970 and 2106")
    return time_us


def _trace(envelope: Envelope) -> bytes | None:
    return None if envelope.traceparent is None else envelope.traceparent.encode()
