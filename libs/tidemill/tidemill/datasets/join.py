"""`join`: feature rows that were computed already, to entity rows, each as of the row's time."""

from collections.abc import Sequence
from functools import reduce

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from tidemill.datasets.errors import DatasetError
from tidemill.datasets.rows import TIME, times_of
from tidemill_engine.arrays import Int64s
from tidemill_engine.history import AsOf


def join(  # noqa: PLR0913 - the parts of a join
    rows: pa.Table,
    features: pa.Table,
    *,
    on: Sequence[str],
    time: str = TIME,
    feature_time: str | None = None,
    inclusive: bool = True,
    max_age_us: int | None = None,
) -> pa.Table:
    """Every row of `rows`, once and in order, with the columns of the newest feature row of its key before its time.

    `on` names the key's columns in both tables, `time` and `feature_time` the columns of time. A feature row of the
    very same time counts if `inclusive`. Columns are null where there is no feature row, or only one older than
    `max_age_us` microseconds. Of several with the same time the last counts. Raises DatasetError.
    """
    feature_time = feature_time or time
    values = [name for name in features.column_names if name not in {*on, feature_time}]
    both = [name for name in values if name in rows.column_names]
    if both:
        raise DatasetError(f"both tables have columns {', '.join(both)}")
    codes, offered, keys = _codes(rows, features, on)
    found = AsOf(codes, times_of(rows, time), keys=keys, inclusive=inclusive)
    found.offer(offered, times_of(features, feature_time))
    place = found.answer(max_age_us=max_age_us)
    index = pa.array(place, mask=place < 0)
    table = rows
    for name in values:
        table = table.append_column(features.schema.field(name), _taken(features.column(name), index))
    return table


def _taken(column: pa.ChunkedArray, index: pa.Array) -> pa.Array:
    """Rows of a column. Taking from many chunks costs a search for each row, so numbers are taken from one array."""
    whole = column.combine_chunks() if pa.types.is_primitive(column.type) else column
    return whole.take(index)


def _codes(rows: pa.Table, features: pa.Table, on: Sequence[str]) -> tuple[Int64s, Int64s, int]:
    """Codes of the keys of rows (n,) and of feature rows (m,), -1 for keys that no row has, and how many codes."""
    missing = [name for name in on if name not in rows.column_names or name not in features.column_names]
    if missing or not on:
        raise DatasetError(f"both tables need the key's columns: {', '.join(missing) or 'name at least one'}")
    parts = [_part(rows.column(name), features.column(name)) for name in on]
    if len(parts) == 1:
        return parts[0]
    mine = reduce(_combined, [(part[0], part[2]) for part in parts])[0]
    theirs = reduce(_combined, [(part[1], part[2]) for part in parts])[0]
    distinct, codes = np.unique(mine, return_inverse=True)
    at = np.minimum(np.searchsorted(distinct, theirs), max(0, len(distinct) - 1))
    known = (theirs >= 0) & (distinct[at] == theirs) if len(distinct) else np.zeros(len(theirs), np.bool_)
    return codes.astype(np.int64), np.where(known, at, -1).astype(np.int64), max(1, len(distinct))


def _combined(one: tuple[Int64s, int], other: tuple[Int64s, int]) -> tuple[Int64s, int]:
    both = np.where((one[0] < 0) | (other[0] < 0), -1, one[0] * other[1] + other[0])
    return both, one[1] * other[1]


def _part(mine: pa.ChunkedArray, theirs: pa.ChunkedArray) -> tuple[Int64s, Int64s, int]:
    """Codes of one column; a null of a row is a key of its own that nothing has."""
    if mine.type != theirs.type:
        theirs = theirs.cast(mine.type)
    distinct = pc.unique(mine).drop_null()
    codes = _whole(pc.index_in(mine, value_set=distinct), len(distinct))
    return codes, _whole(pc.index_in(theirs, value_set=distinct, skip_nulls=True), -1), len(distinct) + 1


def _whole(codes: pa.ChunkedArray | pa.Array, null: int) -> Int64s:
    whole = pa.chunked_array(codes.chunks if isinstance(codes, pa.ChunkedArray) else [codes], pa.int32())
    return np.ascontiguousarray(pc.fill_null(whole, null).to_numpy(), np.int64)
