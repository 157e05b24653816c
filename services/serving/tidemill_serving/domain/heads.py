"""Headers of predictions and inferences, packed: what many records have in common is written once for all of them."""

from functools import lru_cache

from tidemill_contracts.headers import packed_header, packed_headers, varint
from tidemill_serving.domain.answers import time_text

_MOST = 128
"""Bytes of an id or a trace context, more than they have."""


@lru_cache(maxsize=256)
def front(kind: str, source: str) -> bytes:
    """How the heads of a writer's records of one type begin: all headers but the time, the id and the trace context."""
    given = [
        ("ce_specversion", b"1.0"), ("ce_type", kind.encode()), ("ce_source", source.encode()),
        ("content-type", b"application/json"),
    ]  # fmt: skip
    return varint(len(given) + 3) + packed_headers(given)[1:]


@lru_cache(maxsize=1024)
def timed(at_us: int) -> bytes:
    """The header of an event's time."""
    return packed_header("ce_time", time_text(at_us).encode())


def stamped(begun: bytes, identity: bytes, traceparent: bytes) -> bytes:
    """`begun` is a front and the time."""
    return b"%b%b%b%b%b" % (begun, _IDS[len(identity)], identity, _TRACES[len(traceparent)], traceparent)


ID, TRACE_CONTEXT = (packed_header(name, b"")[:-1] for name in ("ce_id", "traceparent"))
"""Names of the headers that follow a front and a time; their values stand behind their lengths."""
_IDS = [packed_header("ce_id", bytes(size))[: -size or None] for size in range(_MOST)]
_TRACES = [packed_header("traceparent", bytes(size))[: -size or None] for size in range(_MOST)]
