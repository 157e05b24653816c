"""Types of fields and how their values stand in columns and in single rows.

| kind | column | one value | null |
|---|---|---|---|
| number, boolean | float64 | float | NaN |
| timestamp | int64, microseconds since the epoch, UTC | int | NULL_TIME |
| category | int64, place in the declared list | int | -1 |
| text | object | str | None |

Reading never raises: a value of another type, outside the list or not finite is null.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tidemill_contracts.base import parse_time
from tidemill_contracts.pipeline import CategoryField, FieldSpec

Kind = Literal["number", "boolean", "timestamp", "category", "text", "null"]
Column = NDArray[Any]
NULL_TIME = int(np.iinfo(np.int64).min)
NO_CODE = -1
_FARTHEST = 2**62
_KINDS: Mapping[str, Kind] = {
    "float": "number",
    "integer": "number",
    "boolean": "boolean",
    "timestamp": "timestamp",
    "category": "category",
    "string": "text",
}
_DTYPES = {"timestamp": np.int64, "category": np.int64, "text": np.object_}


@dataclass(frozen=True, slots=True)
class FieldType:
    """Kind of a field; `values` is the declared list of a category."""

    kind: Kind
    values: tuple[str, ...] = ()


NUMBER = FieldType("number")
BOOLEAN = FieldType("boolean")
TIMESTAMP = FieldType("timestamp")
TEXT = FieldType("text")
NULL = FieldType("null")


def field_types(specs: Mapping[str, FieldSpec]) -> dict[str, FieldType]:
    """Types of a source's or a request's fields."""
    return {
        name: FieldType(_KINDS[spec.type], tuple(spec.values) if isinstance(spec, CategoryField) else ())
        for name, spec in specs.items()
    }


def read_number(value: object) -> float:
    try:
        number = float(value) if isinstance(value, float | int | np.floating | np.integer | np.bool_) else math.nan
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def read_time(value: object) -> int:
    if isinstance(value, str):
        try:
            value = parse_time(value)
        except (ValueError, OverflowError):
            return NULL_TIME
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and abs(int(value)) <= _FARTHEST:
        return int(value)
    return NULL_TIME


def read_text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def reader(field: FieldType) -> Callable[[object], Any]:
    """What turns one raw value (of JSON, of a request) of the field into its scalar form."""
    if field.kind in {"number", "boolean"}:
        return read_number
    if field.kind == "timestamp":
        return read_time
    if field.kind == "text":
        return read_text
    codes = {value: code for code, value in enumerate(field.values)}
    return lambda value: codes.get(value, NO_CODE) if isinstance(value, str) else NO_CODE


def to_array(kind: Kind, values: Sequence[object]) -> Column:
    """Scalars of a kind as a column."""
    return np.array(values, dtype=_DTYPES.get(kind, np.float64))


def to_column(field: FieldType, raw: Column) -> Column:
    """A raw column as the column of its kind: numbers of any width, codes, or objects that are read one by one."""
    if field.kind in {"number", "boolean"} and raw.dtype.kind in "fiub":
        column = raw.astype(np.float64)
        column[np.isinf(column)] = np.nan
        return column
    if field.kind == "timestamp" and raw.dtype.kind in "iu":
        instants = raw.astype(np.int64)
        instants[np.abs(instants) > _FARTHEST] = NULL_TIME
        return instants
    if field.kind == "category" and raw.dtype.kind in "iu":
        codes = raw.astype(np.int64)
        codes[(codes < 0) | (codes >= len(field.values))] = NO_CODE
        return codes
    read = reader(field)
    return to_array(field.kind, [read(value) for value in raw.tolist()])


def encode_columns(fields: Mapping[str, FieldType], rows: Sequence[Mapping[str, object]]) -> dict[str, Column]:
    """Columns of the fields from rows of JSON-like values; an absent field is null."""
    readers = {name: reader(field) for name, field in fields.items()}
    return {name: to_array(fields[name].kind, [read(row.get(name)) for row in rows]) for name, read in readers.items()}


def is_null(kind: Kind, column: Column) -> NDArray[np.bool_]:
    """Where a column of a kind is null."""
    if kind == "timestamp":
        return np.asarray(column == NULL_TIME)
    if kind == "category":
        return np.asarray(column == NO_CODE)
    if kind == "text":
        return np.array([value is None for value in column.tolist()], np.bool_)
    return np.isnan(column)


def is_null_scalar(kind: Kind, value: Any) -> bool:  # noqa: ANN401 - any of the kinds above
    """Whether one value of a kind is null."""
    if kind == "timestamp":
        return bool(value == NULL_TIME)
    if kind == "category":
        return bool(value == NO_CODE)
    return value is None if kind == "text" else bool(value != value)  # noqa: PLR0124 - NaN
