"""CloudEvents 1.0 around every message: the binary mode of the Kafka protocol binding, read and written by hand.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
The public SDK is the oracle in tests.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from tidemill_contracts.base import format_time, parse_time

Headers = list[tuple[str, bytes]]
JSON = "application/json"
_DIGITS = 18


class EnvelopeError(ValueError):
    """The headers of a record are not a CloudEvent in binary mode."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """One event with its context attributes; `data` is the JSON body as bytes, `time_us` the event time.

    `origin` is (input partition, input offset, ordinal): where in its input this record came from. It rises within an
    output partition per input partition, so a reader drops a repeat with one number per input partition. `seq` is the
    dense number of the record within its topic partition (0, 1, 2, ...), free of the holes that transactions and
    repeats leave in offsets.
    """

    id: str
    type: str
    source: str
    time_us: int
    data: bytes
    subject: str | None = None
    causation: str | None = None
    correlation: str | None = None
    traceparent: str | None = None
    origin: tuple[int, int, int] | None = None
    seq: int | None = None

    def headers(self) -> Headers:
        """Kafka headers of the binary content mode, in a fixed order."""
        out: Headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", self.id.encode()),
            ("ce_type", self.type.encode()),
            ("ce_source", self.source.encode()),
            ("ce_time", format_time(self.time_us).encode()),
            ("content-type", JSON.encode()),
        ]
        extra = (
            ("ce_subject", self.subject),
            ("ce_causationid", self.causation),
            ("ce_correlationid", self.correlation),
            ("traceparent", self.traceparent),
        )
        out.extend((name, text.encode()) for name, text in extra if text is not None)
        if self.origin is not None:
            out.append(("tm_origin", b"%d:%d:%d" % self.origin))
        if self.seq is not None:
            out.append(("tm_seq", b"%d" % self.seq))
        return out


def read_envelope(headers: Iterable[tuple[str, bytes]], value: bytes | None) -> Envelope:
    """The envelope of a record; raises EnvelopeError naming the attribute that is missing or wrong."""
    try:
        fields = {name: raw.decode("utf-8") for name, raw in headers}
    except (UnicodeDecodeError, AttributeError):
        msg = "a header is not UTF-8 text"
        raise EnvelopeError(msg) from None
    if fields.get("ce_specversion") != "1.0":
        msg = "ce_specversion must be 1.0"
        raise EnvelopeError(msg)
    for name in ("ce_id", "ce_type", "ce_source", "ce_time"):
        if not fields.get(name):
            msg = f"{name} is missing"
            raise EnvelopeError(msg)
    try:
        time_us = parse_time(fields["ce_time"])
    except ValueError as error:
        msg = f"ce_time: {error}"
        raise EnvelopeError(msg) from None
    return Envelope(
        id=fields["ce_id"], type=fields["ce_type"], source=fields["ce_source"], time_us=time_us, data=value or b"",
        subject=fields.get("ce_subject"), causation=fields.get("ce_causationid"),
        correlation=fields.get("ce_correlationid"), traceparent=fields.get("traceparent"),
        origin=_origin(fields.get("tm_origin")), seq=_seq(fields.get("tm_seq")),
    )  # fmt: skip


def _origin(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    parts = text.split(":")
    if len(parts) != 3 or not all(map(_is_number, parts)):  # noqa: PLR2004 - partition, offset, ordinal
        msg = "tm_origin must be partition:offset:ordinal"
        raise EnvelopeError(msg)
    return int(parts[0]), int(parts[1]), int(parts[2])


def _seq(text: str | None) -> int | None:
    if text is None:
        return None
    if not _is_number(text):
        msg = "tm_seq must be a whole number"
        raise EnvelopeError(msg)
    return int(text)


def _is_number(text: str) -> bool:
    """Whether `int` reads the text, and 64 bits hold it: other alphabets have digits too."""
    return len(text) <= _DIGITS and text.isascii() and text.isdigit()
