"""Records of a repartition topic: what one view needs of some events of one source partition, and how far that one is.

Internal to this service: only its router writes them and only its aggregator reads them. Many rows share a record,
because a record costs more than a row; a repeat is known by its event's dense number, not by its record.
"""

from typing import Annotated, NamedTuple

import msgspec

from tidemill_contracts.envelope import Headers

TYPE = "tidemill.repartitioned.v1"
VIEW_HEADER = "tm_view"
MOST_DIGITS = 18  # of sequence numbers: larger ones are garbage, and would not fit a state's words
END_OF_TIME_US = 2**32 * 1_000_000
MOST_KEY_BYTES = 2048
_RECORD_BYTES = 700_000  # with a margin below the largest record that is written
_ROW_BYTES = 2300  # the longest key, a trace context and the numbers of the row itself

Time = Annotated[int, msgspec.Meta(ge=0, lt=END_OF_TIME_US)]
Number = Annotated[int, msgspec.Meta(ge=0, lt=10**MOST_DIGITS)]
Key = Annotated[bytes, msgspec.Meta(min_length=1, max_length=MOST_KEY_BYTES)]


class Row(NamedTuple):
    """What a view needs of one event; NaN is null, `mark` the 64-bit hash of the event's id."""

    key: Key
    time_us: Time
    mark: Annotated[int, msgspec.Meta(ge=0)]
    values: list[float]


class RoutedRow(NamedTuple):
    """A row, the dense number of its event in the source partition, and the event's trace context."""

    row: Row
    seq: Number
    trace: bytes | None


class Rows(msgspec.Struct, array_like=True, frozen=True):
    """Rows of one source partition in the order of their events.

    Nothing older than `watermark_us` follows from it behind these rows; `seq` is the newest event that was looked at.
    """

    source_partition: Annotated[int, msgspec.Meta(ge=0, lt=256)]
    rows: list[RoutedRow]
    watermark_us: Time | None = None
    seq: Number | None = None


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Rows)


def rows_per_record(fields: int) -> int:
    """How many rows of so many fields certainly fit a record."""
    return max(1, _RECORD_BYTES // (_ROW_BYTES + 9 * fields))


def headers(version: bytes) -> Headers:
    """Headers of the records of one version of a view."""
    return [("ce_type", TYPE.encode()), (VIEW_HEADER, version), ("content-type", b"application/msgpack")]


def write_rows(rows: Rows) -> bytes:
    """The body of a record."""
    return _ENCODER.encode(rows)


def read_rows(body: bytes) -> Rows:
    """Raises ValueError for anything but rows of valid keys."""
    rows = _DECODER.decode(body)
    for item in rows.rows:
        item.row.key.decode()
        if item.row.mark >= 2**64:
            msg = "the mark has more than 64 bits"
            raise ValueError(msg)
    return rows
