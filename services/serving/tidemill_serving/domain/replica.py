"""Entity to newest vector, for every view in use, built from compacted topics; and how far event time has got."""

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
KEPT_TEXTS = 32_768
"""Rows that keep their text: about half a kilobyte each for thirty numbers."""
WATERMARK_KEY: Final = b"\x00watermark"
"""The key under which a partition's watermark stands in a compacted topic of vectors."""


Place = tuple[str, str]
"""A view and its version. Each has a topic of its own, and tables, watermarks and partitions of its own here."""


class Row(msgspec.Struct, gc=False):
    """One entity's newest vector; `revision_json` is its `ViewRevision`, encoded once for all its readers.

    `trace` is the context of the last event in it, kept only while spans are exported. `text` are the values as JSON
    has them, between commas, while `text_of` keeps it. Nothing else of a row ever changes.
    """

    values: Floats
    revision: int
    at_us: int | None
    revision_json: bytes
    trace: str | None = None
    text: bytes | None = None


class BadRecordError(ValueError):
    """A record of a features topic that cannot be read."""


class _Vector(msgspec.Struct):
    """What is read of `FeatureVector`: unknown fields are ignored, positions are passed on as they are."""

    version: str
    entity: str
    at_us: int
    revision: int
    values: list[float | None]
    positions: msgspec.Raw


class _Watermark(msgspec.Struct):
    watermark_us: int


class _Revision(msgspec.Struct):
    entity: str
    revision: int
    at_us: int | None
    positions: msgspec.Raw


class Table:
    """All entities of one version of a view."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.rows: dict[str, Row] = {}


class Copied(NamedTuple):
    """The contents of a replica at one moment: (view, version), width and rows; watermarks; partition counts."""

    tables: list[tuple[Place, int, list[tuple[str, Row]]]]
    marks: dict[Place, dict[int, int]]
    partitions: dict[Place, int]


class Replica:
    """Vectors by view and version, and watermarks by partition of each. Applying a record twice changes nothing."""

    def __init__(self) -> None:
        self.tables: dict[Place, Table] = {}
        self.marks: dict[Place, dict[int, int]] = {}
        self.partitions: dict[Place, int] = {}
        self.changes = 0

    def want(self, place: Place, *, width: int, partitions: int) -> bool:
        """Keep this version of a view from now on; true when it was not kept before: its topic must be read."""
        self.partitions[place] = partitions
        self.marks.setdefault(place, {})
        if place in self.tables:
            return False
        self.tables[place] = Table(width)
        return True

    def apply(
        self, place: Place, partition: int, key: bytes | None, value: bytes | None, *, trace: str | None = None
    ) -> None:
        """Take a record of a place's topic; raises BadRecordError unless it is a vector, a watermark or a deletion."""
        self.changes += 1
        try:
            if key == WATERMARK_KEY:
                self._mark(place, partition, value)
            elif key is not None and value is None:
                self._forget(place, key.decode())
            elif value is not None:
                self._set(place, _VECTOR.decode(value), trace)
        except (msgspec.MsgspecError, ValueError) as error:
            raise BadRecordError(str(error)) from None

    def _mark(self, place: Place, partition: int, value: bytes | None) -> None:
        if value is None:
            return
        marks, mark = self.marks.setdefault(place, {}), _WATERMARK.decode(value).watermark_us
        marks[partition] = max(mark, marks.get(partition, mark))

    def _forget(self, place: Place, entity: str) -> None:
        if (table := self.tables.get(place)) is not None:
            table.rows.pop(entity, None)

    def _set(self, place: Place, vector: _Vector, trace: str | None) -> None:
        table = self.tables.get(place)
        if table is None or vector.version != place[1]:
            return  # a version of the view that no release and no pipeline file uses
        if len(vector.values) != table.width:
            raise BadRecordError(f"{len(vector.values)} values, {table.width} were expected")
        known = table.rows.get(vector.entity)
        if known is None or vector.revision > known.revision:
            if trace is None and known is not None:
                trace = known.trace  # only time has gone on: the last event is the same
            table.rows[vector.entity] = row_of(vector.entity, vector, trace)

    def watermark_us(self, places: Iterable[Place]) -> int | None:
        """Lowest watermark over all partitions of the places; None while one of them is unknown, or without places."""
        lowest: int | None = None
        for place in places:
            marks = self.marks.get(place, {})
            if len(marks) < self.partitions.get(place, 1):
                return None
            mark = min(marks.values())
            lowest = mark if lowest is None else min(lowest, mark)
        return lowest

    def copy(self) -> Copied:
        """What a snapshot holds; rows are shared, since they never change."""
        tables = [(place, table.width, list(table.rows.items())) for place, table in self.tables.items()]
        return Copied(tables, {place: dict(marks) for place, marks in self.marks.items()}, dict(self.partitions))

    def entities(self, views: Iterable[str]) -> dict[str, int]:
        """Number of entities per view, of the version that has most."""
        wanted = dict.fromkeys(views, 0)
        for (view, _), table in self.tables.items():
            if view in wanted:
                wanted[view] = max(wanted[view], len(table.rows))
        return wanted


def row_of(entity: str, vector: _Vector, trace: str | None = None) -> Row:
    """The row of a decoded vector; nulls become NaN."""
    values = np.array(vector.values, dtype=np.float64)
    values.flags.writeable = False
    revision = _Revision(entity, vector.revision, vector.at_us, vector.positions)
    return Row(values, vector.revision, vector.at_us, msgspec.json.encode(revision), trace)


def text_of(row: Row) -> bytes:
    """Write `Row.text`: of a vector it costs more than all else of its record, and many are read again and again."""
    text = encode_numbers(row.values.tolist())[1:-1]
    if row.revision:  # else it was made for one request
        if len(_written) == _written.maxlen:
            _written[0].text = None
        _written.append(row)
        row.text = text
    return text


def unknown_row(entity: str, blank: Floats) -> Row:
    """The row of an entity without a vector: revision 0, and the nulls that a backfill gives a key without events."""
    return Row(blank, 0, None, msgspec.json.encode(_Revision(entity, 0, None, msgspec.Raw(b"{}"))))


encode_numbers = msgspec.json.Encoder().encode
"""Lists of numbers as JSON; NaN becomes null."""
_written: deque[Row] = deque(maxlen=KEPT_TEXTS)
_VECTOR = msgspec.json.Decoder(_Vector)
_WATERMARK = msgspec.json.Decoder(_Watermark)
