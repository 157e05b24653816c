"""Records of a repartition topic: what one view needs of an event, on its way to the entity's partition.

Internal to this service: only its router writes them and only its aggregator reads them.
"""

from typing import NamedTuple

import msgspec

from tidemill_contracts.envelope import Envelope, Headers
from tidemill_contracts.events import Timer, encode

TYPE = "tidemill.repartitioned.v1"
VIEW_HEADER = "tm_view"
_TYPE = TYPE.encode()
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(tuple[int, int, list[float | None]])
_NULL = float("nan")


class Row(NamedTuple):
    """What a view needs of one event; NaN is null."""

    key: bytes
    time_us: int
    mark: int  # 64-bit hash of the event's id
    values: list[float]


def write_row(row: Row, *, version: bytes, origin: tuple[int, int], trace: bytes | None) -> tuple[bytes, Headers]:
    """Body and headers; `origin` is the source partition and the dense sequence number of the event in it."""
    headers: Headers = [("ce_type", _TYPE), (VIEW_HEADER, version), ("tm_origin", b"%d:%d:0" % origin)]
    if trace is not None:
        headers.append(("traceparent", trace))
    return _ENCODER.encode((row.time_us, row.mark, row.values)), headers


def read_row(key: bytes, body: bytes) -> Row:
    """Raises ValueError for anything but a row."""
    time_us, mark, values = _DECODER.decode(body)
    if not 0 <= mark < 2**64:
        msg = "the hash of the id is not an unsigned 64-bit number"
        raise ValueError(msg)
    return Row(key, time_us, mark, [_NULL if value is None else value for value in values])


def write_timer(source: str, partition: int, time_us: int, *, seq: int | None, version: bytes) -> tuple[bytes, Headers]:
    """A source partition's word that nothing older than `time_us` follows; `seq` is its last event before that word."""
    body = Timer(source=source, time_us=time_us, source_partition=partition)
    origin = None if seq is None else (partition, seq, 1)
    identity = f"{source}/{partition}/{time_us}"
    envelope: Envelope = encode(body, id=identity, source="tidemill/features", time_us=time_us, origin=origin)
    return envelope.data, [*envelope.headers(), (VIEW_HEADER, version)]
