"""Timers: a clock's or a producer's word, as records of a raw topic."""

from tidemill_contracts import derived_id
from tidemill_contracts.events import Timer, encode
from tidemill_ingestion.domain.outgoing import Outgoing


def timer(word: Timer, partition: int, raw_topic: str, *, trace: str | None = None) -> Outgoing:
    """The record that carries a timer to one partition of the source's raw topic."""
    event_id = str(derived_id("timer", word.source, partition, word.time_us))
    envelope = encode(word, id=event_id, source=f"/sources/{word.source}", time_us=word.time_us, traceparent=trace)
    return Outgoing(raw_topic, partition, None, envelope.data, envelope.headers())
