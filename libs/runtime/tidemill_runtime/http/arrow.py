"""Tables in bodies: streams of Arrow IPC, flat columns only, within bounds, checked before a value is looked at.

https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc
"""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tidemill_contracts.base import format_time
from tidemill_runtime.http.problems import FieldError, HttpProblem

if TYPE_CHECKING:
    import pyarrow as pa

ARROW = "application/vnd.apache.arrow.stream"
MOST_COLUMNS = 2000
_CONTINUES = 0xFFFFFFFF
_DICTIONARY, _ROWS = 2, 3
_NAME = 64


class Columns(NamedTuple):
    """A table as Python has it: times are RFC 3339 text, nulls None."""

    height: int
    values: dict[str, list[Any]]


def read_columns(raw: bytes, most_rows: int) -> Columns:
    """The columns of a stream; raises HttpProblem: 400 for what is none, 413 for too many rows, 422 naming columns.

    A column holds text, booleans, integers, floats or times with a time zone, or categories of text. Values are finite.
    """
    height = _check_messages(raw)
    if height > most_rows:
        raise HttpProblem(413, f"a table may have at most {most_rows} rows", headers={"connection": "close"})
    import pyarrow as pa  # noqa: PLC0415 - 40 MiB, for those who send tables

    try:
        with pa.ipc.open_stream(pa.BufferReader(raw)) as reader:
            _check_schema(reader.schema)
            table = reader.read_all()
        table.validate(full=True)  # offsets and lengths are the sender's word
        values = {name: _values(table.column(place)) for place, name in enumerate(table.column_names)}
    except (pa.ArrowException, ValueError, OSError, OverflowError) as error:
        raise HttpProblem(400, "the body is not an Arrow IPC stream") from error
    _check_finite(values)
    return Columns(table.num_rows, values)


def write_columns(values: Mapping[str, Sequence[Any]], types: Mapping[str, str]) -> bytes:
    """A stream of one batch; `types` are Arrow's aliases, `list` (of text) or `map` (pairs of text and integer)."""
    import pyarrow as pa  # noqa: PLC0415 - as above

    kinds = {"list": pa.list_(pa.string()), "map": pa.map_(pa.string(), pa.int64())}
    arrays = [
        pa.array(column, kinds.get(types[name]) or pa.type_for_alias(types[name])) for name, column in values.items()
    ]
    batch = pa.record_batch(arrays, names=list(values))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _values(column: "pa.ChunkedArray") -> list[Any]:
    import pyarrow as pa  # noqa: PLC0415 - as above

    kind = column.type
    if pa.types.is_timestamp(kind):
        us = column.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.int64()).to_pylist()
        return [None if value is None else format_time(value) for value in us]
    found: list[Any] = column.to_pylist()
    return found


def _check_schema(schema: "pa.Schema") -> None:
    import pyarrow as pa  # noqa: PLC0415 - as above

    is_any = pa.types
    errors = list[FieldError]()
    if len(schema) > MOST_COLUMNS:
        raise HttpProblem(422, f"a table may have at most {MOST_COLUMNS} columns")
    if len(set(schema.names)) != len(schema):
        raise HttpProblem(422, "two columns of the table have one name")
    for field in schema:
        kind = field.type.value_type if is_any.is_dictionary(field.type) else field.type
        if is_any.is_timestamp(kind) and kind.tz is None:
            errors.append(FieldError(field=field.name[:_NAME], rule="time", message="times need a time zone"))
        elif not (
            is_any.is_string(kind) or is_any.is_large_string(kind) or is_any.is_boolean(kind) or is_any.is_integer(kind)
            or is_any.is_floating(kind) or is_any.is_timestamp(kind) or is_any.is_null(kind)
        ):  # fmt: skip
            message = "a column holds text, booleans, integers, floats or times with a time zone"
            errors.append(FieldError(field=field.name[:_NAME], rule="type", message=message))
    if errors:
        raise HttpProblem(422, "the table has columns of other types", errors=errors[:32])


def _check_finite(values: Mapping[str, list[Any]]) -> None:
    errors = []
    for name, column in values.items():
        row = next((row for row, v in enumerate(column) if isinstance(v, float) and not math.isfinite(v)), None)
        if row is not None:
            message = f"row {row} is not finite: send null for what is not known"
            errors.append(FieldError(field=name[:_NAME], rule="finite", message=message))
    if errors:
        raise HttpProblem(422, "the table holds numbers that are none", errors=errors[:32])


def _check_messages(raw: bytes) -> int:
    """The number of rows that a stream declares; raises HttpProblem 400 for another form, 415 for packed buffers.

    Packed buffers say themselves how much memory they want: a small body could ask for all there is.
    """
    try:
        return sum(_rows(head) for head in _heads(raw))
    except (struct.error, IndexError, ValueError):
        raise HttpProblem(400, "the body is not an Arrow IPC stream") from None


def _heads(raw: bytes) -> Iterator["_Table"]:
    at, is_first = 0, True
    while at < len(raw):
        mark, size = struct.unpack_from("<Ii", raw, at)
        if mark != _CONTINUES or size < 0:
            raise ValueError
        if size == 0:
            return
        head = _Table.root(raw[at + 8 : at + 8 + size])
        body = head.number(3, "<q")
        if body < 0 or at + 8 + size + body > len(raw):
            raise ValueError
        yield head
        at, is_first = at + 8 + size + body, False
    if is_first:
        raise ValueError


def _rows(message: "_Table") -> int:
    kind = message.number(1, "<B")
    if kind not in {_DICTIONARY, _ROWS}:
        return 0
    batch = message.table(2)
    if batch is not None and kind == _DICTIONARY:
        batch = batch.table(1)
    if batch is None:
        raise ValueError
    if batch.table(3) is not None:
        raise HttpProblem(415, "the buffers of the stream must not be compressed")
    rows = batch.number(0, "<q")
    if rows < 0:
        raise ValueError
    return rows


class _Table(NamedTuple):
    """A table of FlatBuffers: https://flatbuffers.dev/internals/."""

    raw: bytes
    at: int

    @classmethod
    def root(cls, raw: bytes) -> "_Table":
        return cls(raw, struct.unpack_from("<I", raw)[0])

    def _field(self, number: int) -> int | None:
        vtable = self.at - struct.unpack_from("<i", self.raw, self.at)[0]
        if vtable < 0:
            raise ValueError
        size = struct.unpack_from("<H", self.raw, vtable)[0]
        place = 4 + 2 * number
        offset = struct.unpack_from("<H", self.raw, vtable + place)[0] if place + 2 <= size else 0
        return self.at + offset if offset else None

    def number(self, number: int, form: str) -> int:
        at = self._field(number)
        return 0 if at is None else int(struct.unpack_from(form, self.raw, at)[0])

    def table(self, number: int) -> "_Table | None":
        at = self._field(number)
        return None if at is None else _Table(self.raw, at + struct.unpack_from("<I", self.raw, at)[0])
