"""Entity rows: a table with the keys of entities and a time, from a file, from memory or from an archived source."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from tidemill.datasets.errors import DatasetError
from tidemill.datasets.events import bands
from tidemill.datasets.files import read_table, table_digest
from tidemill.datasets.manifest import EntityRowsSource
from tidemill_contracts import format_time, parse_time
from tidemill_contracts.pipeline import FieldSpec, PipelineSpec
from tidemill_engine.arrays import Int64s
from tidemill_engine.quarantine import Quarantine

NOTHING = Quarantine()
TIME = "time"
EVENT_ID, EVENT_TIME = "event_id", "event_time"
"""Columns of rows that are events."""
_TYPES = {"float": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_(), "timestamp": pa.timestamp("us", "UTC")}


@dataclass(frozen=True, slots=True)
class FromSource:
    """Rows that are the archived events of a source; `time` names a timestamp field, else the event time counts."""

    source: str
    time: str | None = None


@dataclass(frozen=True, slots=True)
class EntityRows:
    """N rows: the table as given, the time each is seen at, and up to when of the log's time it may look."""

    table: pa.Table
    times_us: Int64s
    known_us: Int64s
    origin: EntityRowsSource

    def requests(self, names: Mapping[str, FieldSpec]) -> list[dict[str, Any]]:
        """The named fields of every row as they would stand in a request; raises DatasetError for missing columns."""
        missing = [name for name in names if name not in self.table.column_names]
        if missing:
            raise DatasetError(f"the rows have no column {', '.join(missing)}, which the features need")
        columns = {name: _values(self.table.column(name)) for name in names}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)] if columns else []


def rows_of_table(
    found: pa.Table | Path, spec: PipelineSpec, *, time: str | None = None, known_time: str | None = None
) -> EntityRows:
    """Rows of a table or a file. `time` defaults to the request's time field, else to the column `time`."""
    table = read_table(found, spec.request.fields) if isinstance(found, Path) else found.replace_schema_metadata(None)
    name = time or spec.request.time or TIME
    times = times_of(table, name)
    known = times if known_time is None else times_of(table, known_time)
    is_file = isinstance(found, Path)
    origin = EntityRowsSource(
        kind="file" if is_file else "table", name=found.name if isinstance(found, Path) else "", time=name,
        known_time=known_time, count=table.num_rows, digest=table_digest(table),
    )  # fmt: skip
    return EntityRows(table, times, known, origin)


def rows_of_source(
    wanted: FromSource, spec: PipelineSpec, archive: str, below: Mapping[int, int], held: Quarantine = NOTHING
) -> EntityRows:
    """The archived events of a source as rows, by partition and number: id, event time and the source's fields.

    What a row may know ends where its own event came into the log. Those that are `held` are no rows.
    """
    source = spec.sources.get(wanted.source)
    if source is None:
        raise DatasetError(f"{wanted.source} is not a source of {spec.name}")
    if wanted.time is not None and getattr(source.fields.get(wanted.time), "type", "") != "timestamp":
        raise DatasetError(f"{wanted.time} is not a timestamp field of {wanted.source}")
    both = [name for name in (EVENT_ID, EVENT_TIME) if name in source.fields]
    if both:
        raise DatasetError(f"{wanted.source} has fields {', '.join(both)}, which are columns of its events as rows")
    parts = []
    for band in bands(archive, wanted.source, below):
        columns: dict[str, pa.Array] = {
            "_partition": pa.array(band.partitions), "_seq": pa.array(band.seqs),
            "_known": pa.array(band.known_us), EVENT_ID: pa.array(band.ids, pa.string()),
            EVENT_TIME: pa.array(band.times_us).cast(_TYPES["timestamp"]),
        }  # fmt: skip
        columns |= {
            name: _column(field, [body.get(name) for body in band.bodies]) for name, field in source.fields.items()
        }
        parts.append(pa.table(columns))
    if not parts:
        raise DatasetError(f"the archive of {wanted.source} holds no events")
    table = pa.concat_tables(parts).sort_by([("_partition", "ascending"), ("_seq", "ascending")])
    if held:
        places = zip(table.column("_partition").to_pylist(), table.column("_seq").to_pylist(), strict=True)
        table = table.filter(pa.array([not held.holds(wanted.source, *place) for place in places], pa.bool_()))
    known = table.column("_known").to_numpy()
    table = table.drop_columns(["_partition", "_seq", "_known"])
    name = wanted.time or EVENT_TIME
    origin = EntityRowsSource(
        kind="source", name=wanted.source, time=name, count=table.num_rows, digest=table_digest(table)
    )
    return EntityRows(table, times_of(table, name), known, origin)


def times_of(table: pa.Table, name: str) -> Int64s:
    """A column as microseconds since the epoch, int64 (n,): timestamps (UTC if without zone), RFC 3339, or integers.

    Raises DatasetError for a missing column, another type, a null.
    """
    if name not in table.column_names:
        raise DatasetError(f"the rows have no column {name}, which should hold their time: see --time")
    column = table.column(name)
    if column.null_count:
        where = pc.index(pc.is_null(column), True).as_py()
        raise DatasetError(f"row {where} has no {name}")
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return _whole(column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()))
    if pa.types.is_integer(column.type):
        return _whole(column.cast(pa.int64()))
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            return np.array([parse_time(text) for text in column.to_pylist()], np.int64)
        except ValueError as error:
            raise DatasetError(f"the column {name}: {error}") from None
    raise DatasetError(f"the column {name} is of type {column.type}: a time is a timestamp, RFC 3339 or microseconds")


def _whole(column: pa.ChunkedArray) -> Int64s:
    return np.ascontiguousarray(column.to_numpy(), np.int64)


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Values as JSON has them: times as text, everything else as Python's own."""
    if pa.types.is_timestamp(column.type):
        whole = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        return [None if us is None else format_time(us) for us in whole.to_pylist()]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        return [None if value is None or value != value else value for value in column.to_pylist()]  # noqa: PLR0124 - NaN
    values: list[Any] = column.to_pylist()
    return values


def _column(field: FieldSpec, values: list[Any]) -> pa.Array:
    if field.type == "timestamp":
        return pa.array([None if v is None else parse_time(v) for v in values], pa.int64()).cast(_TYPES["timestamp"])
    if field.type == "integer":
        values = [None if v is None else int(v) for v in values]
    return pa.array(values, _TYPES.get(field.type, pa.string()))
