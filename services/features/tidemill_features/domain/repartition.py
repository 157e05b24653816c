"""Records of a repartition topic: what the views of a source need of some of its events, and how far they are.

Internal to this service: only its router writes them and only its aggregator reads them. One record holds rows of all
views for one partition, in columns, because a record and a row each cost more than what they say; a repeat is known by
its event's dense number, not by its record.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemill_contracts.envelope import Headers
from tidemill_features.domain.compiled import compiled

TYPE = "tidemill.repartitioned.v2"
HEADERS: Headers = [("ce_type", TYPE.encode()), ("content-type", b"application/msgpack")]
MOST_DIGITS = 18  # of sequence numbers: larger ones are garbage, and would not fit a state's words
END_OF_TIME_US = 2**32 * 1_000_000
MOST_KEY_BYTES = 2048
RECORD_BYTES = 700_000
"""With a margin below the largest record that is written; a row has at most a few thousand."""
_LARGEST = 10**MOST_DIGITS
_MOST_ROWS = 1_000_000
_VERSION = 2

Words = NDArray[np.int64]
Marks = NDArray[np.uint64]
Floats = NDArray[np.float64]
Time = Annotated[int, msgspec.Meta(ge=0, lt=END_OF_TIME_US)]
Number = Annotated[int, msgspec.Meta(ge=0, lt=_LARGEST)]


class Row(NamedTuple):
    """What a view needs of one event; NaN is null, `mark` the 64-bit hash of the event's id."""

    key: bytes
    time_us: int
    mark: int
    values: list[float]


class RoutedRow(NamedTuple):
    """A row, the dense number of its event in the source partition, and the event's trace context."""

    row: Row
    seq: int
    trace: bytes | None


class Section(NamedTuple):
    """Rows of one version of a view, in the order of their events; `traces` is None where there are none.

    Nothing older than `watermark_us` follows from their source partition behind these rows; `seq` is the newest event
    that was looked at.
    """

    owner: str
    keys: Sequence[bytes]
    times: Words
    marks: Marks
    seqs: Words
    values: Floats  # (n, fields)
    traces: Sequence[bytes | None] | None = None
    watermark_us: int | None = None
    seq: int | None = None


class Sheet(NamedTuple):
    """A record: sections of one source partition, each of another view."""

    source_partition: int
    sections: Sequence[Section]


class _Part(msgspec.Struct, array_like=True, frozen=True, gc=False):
    owner: str
    rows: Annotated[int, msgspec.Meta(ge=0, le=_MOST_ROWS)]
    fields: Annotated[int, msgspec.Meta(ge=0, le=10_000)]
    watermark_us: Time | None
    seq: Number | None


class _Body(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Columns of all parts, one behind the other; numbers are little-endian."""

    version: int
    source_partition: Annotated[int, msgspec.Meta(ge=0, lt=256)]
    parts: list[_Part]
    keys: bytes
    ends: bytes  # of each key
    times: bytes
    marks: bytes
    seqs: bytes
    values: bytes
    traces: list[bytes | None] | None


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Body)


def write_sheet(sheet: Sheet) -> bytes:
    """The body of a record."""
    sections = sheet.sections
    parts = [_Part(s.owner, len(s.keys), s.values.shape[1], s.watermark_us, s.seq) for s in sections]
    keys = [key for section in sections for key in section.keys]
    traces: list[bytes | None] | None = None
    if any(section.traces is not None for section in sections):
        traces = [trace for section in sections for trace in section.traces or [None] * len(section.keys)]
    ends = np.cumsum(np.fromiter(map(len, keys), "<i4", len(keys)), dtype="<i4")
    return _ENCODER.encode(
        _Body(
            _VERSION, sheet.source_partition, parts, b"".join(keys), ends.tobytes(),
            _one([section.times for section in sections]), _one([section.marks for section in sections]),
            _one([section.seqs for section in sections]), _one([section.values for section in sections]), traces,
        )
    )  # fmt: skip


def halves(sheet: Sheet) -> tuple[Sheet, Sheet]:
    """Its sections dealt to two, or the rows of the only one: only the second speaks of time."""
    sections, source = sheet.sections, sheet.source_partition
    if len(sections) > 1:
        middle = len(sections) // 2
        return Sheet(source, sections[:middle]), Sheet(source, sections[middle:])
    first, second = (_some(sections[0], part) for part in _middle(len(sections[0].keys)))
    return Sheet(source, [first._replace(watermark_us=None, seq=None)]), Sheet(source, [second])


def _middle(count: int) -> tuple[slice, slice]:
    return slice(0, count // 2), slice(count // 2, count)


def _some(section: Section, part: slice) -> Section:
    traces = None if section.traces is None else section.traces[part]
    return section._replace(
        keys=section.keys[part], times=section.times[part], marks=section.marks[part], seqs=section.seqs[part],
        values=section.values[part], traces=traces,
    )  # fmt: skip


def _one(columns: Sequence[NDArray[np.generic]]) -> bytes:
    return b"".join(column.tobytes() for column in columns if len(column))


def read_sheet(body: bytes) -> Sheet:
    """Raises ValueError for anything but rows of valid keys."""
    found = _DECODER.decode(body)
    count, fields = sum(part.rows for part in found.parts), sum(part.rows * part.fields for part in found.parts)
    sizes = (len(found.ends) // 4, len(found.times) // 8, len(found.marks) // 8, len(found.seqs) // 8)
    if found.version != _VERSION or set(sizes) != {count} or len(found.values) != 8 * fields:
        raise ValueError("columns are not as long as there are rows")
    if found.traces is not None and len(found.traces) != count:
        raise ValueError("there are not as many trace contexts as rows")
    # copies, since compiled code would be compiled once more for arrays that cannot be written to
    times, seqs = np.frombuffer(found.times, np.int64).copy(), np.frombuffer(found.seqs, np.int64).copy()
    ends = np.frombuffer(found.ends, np.int32).astype(np.int64)
    if not _are_valid(ends, len(found.keys), times, seqs):
        raise ValueError("a key is empty or too long, or a time or number is out of range")
    keys = _texts(found.keys, ends.tolist())
    marks, values = np.frombuffer(found.marks, np.uint64).copy(), np.frombuffer(found.values, np.float64).copy()
    sections, at, value = [], 0, 0
    for part in found.parts:
        to, value_to = at + part.rows, value + part.rows * part.fields
        sections.append(
            Section(
                part.owner, keys[at:to], times[at:to], marks[at:to], seqs[at:to],
                values[value:value_to].reshape(part.rows, part.fields),
                None if found.traces is None else found.traces[at:to], part.watermark_us, part.seq,
            )
        )  # fmt: skip
        at, value = to, value_to
    return Sheet(found.source_partition, sections)


def _texts(joined: bytes, ends: Sequence[int]) -> list[bytes]:
    """Raises ValueError for one that is not UTF-8."""
    keys = [joined[at:end] for at, end in pairwise([0, *ends])]
    if not joined.isascii():
        for key in keys:
            key.decode()
    return keys


@compiled
def _are_valid(ends: Words, size: int, times: Words, seqs: Words) -> bool:
    """Whether keys fill `size` bytes, none empty or too long, and times and numbers are what they may be."""
    before = 0
    for i in range(len(ends)):
        if ends[i] <= before or ends[i] - before > MOST_KEY_BYTES:
            return False
        if times[i] < 0 or times[i] >= END_OF_TIME_US or seqs[i] < 0 or seqs[i] >= _LARGEST:
            return False
        before = ends[i]
    return bool(before == size)


def warm_up() -> None:
    """Compile, or load from the cache, before there is traffic."""
    one = np.zeros(1, np.int64)
    read_sheet(write_sheet(Sheet(0, [Section("v", [b"k"], one, one.view(np.uint64), one, np.zeros((1, 1)))])))
