"""The base of all events: a body with a CloudEvents type and a topic family."""

from typing import ClassVar, Self

from tidemill_contracts.base import Contract
from tidemill_contracts.envelope import Envelope
from tidemill_contracts.topics import Family

EVENTS: dict[str, type["Event"]] = {}
"""CloudEvents type to model, for readers of topics that hold several types and for the exported schemas."""


class Event(Contract):
    """The body of an event. Writers send exactly these fields; `read` ignores fields that a newer writer added."""

    TYPE: ClassVar[str] = ""
    FAMILY: ClassVar[Family | None] = None

    @classmethod
    def __pydantic_init_subclass__(cls, **_: object) -> None:
        if cls.TYPE:
            EVENTS[cls.TYPE] = cls

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The event in a JSON body; raises pydantic.ValidationError. Topics outlive writers: ignores unknown fields."""
        return cls.model_validate_json(data, extra="ignore")


def encode(event: Event, *, id: str, source: str, time_us: int, **context: object) -> Envelope:  # noqa: A002 - CloudEvents' own name
    """The envelope around an event; `context` takes subject, causation, correlation, traceparent, origin and seq."""
    return Envelope(id, event.TYPE, source, time_us, event.model_dump_json().encode(), **context)  # type: ignore[arg-type]


def decode(envelope: Envelope) -> Event:
    """The event inside an envelope; raises KeyError for an unknown type and pydantic.ValidationError for a bad body."""
    return EVENTS[envelope.type].read(envelope.data)


__all__ = ["EVENTS", "Event", "decode", "encode"]
