"""Headers of predictions and inferences, packed: what many records have in common is written once for all of them."""

from functools import lru_cache

from tidemill_contracts.headers import packed_header, packed_headers, varint
from tidemill_serving.domain.answers import time_text
from tidemill_serving.domain.drafts import Order
from tidemill_serving.domain.entries import ORIGIN


@lru_cache(maxsize=256)
def front(kind: str, source: str, more: int = 0) -> bytes:
    """How the heads of a writer's records of one type begin: all headers but time, id, trace context and `more`."""
    given = [
        ("ce_specversion", b"1.0"), ("ce_type", kind.encode()), ("ce_source", source.encode()),
        ("content-type", b"application/json"),
    ]  # fmt: skip
    return varint(len(given) + 3 + more) + packed_headers(given)[1:]


@lru_cache(maxsize=1024)
def timed(at_us: int) -> bytes:
    """The header of an event's time."""
    return packed_header("ce_time", time_text(at_us).encode())


def ordered(order: Order) -> bytes:
    """The two headers of an answer to a request over Kafka: what caused it, and where that stood."""
    return packed_header("ce_causationid", order.cause) + packed_header(ORIGIN, order.origin)


ID, TRACE_CONTEXT = (packed_header(name, b"")[:-1] for name in ("ce_id", "traceparent"))
"""Names of the headers that follow a front and a time; their values stand behind their lengths."""
