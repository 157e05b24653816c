"""From pushed rows to events of a source. What is wrong with an event's fields is ingestion's to say, in its words."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tidemill_contracts.base import format_time, to_us
from tidemill_contracts.ids import derived_id
from tidemill_contracts.pipeline import SourceSpec, TimestampField
from tidemill_features.feast.errors import Broken, InvalidRequestError
from tidemill_features.feast.models import Scalar

TIME, CREATED, ID = "event_timestamp", "created", "event_id"
_OWN = frozenset({TIME, CREATED, ID})
"""Columns with a meaning of their own, unless the source has a field of that name."""
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
_SECOND_US = 1_000_000


def events_of(name: str, source: SourceSpec, df: Mapping[str, Sequence[Scalar]]) -> list[dict[str, Any]]:
    """One event {id, time, data} per row; raises InvalidRequestError.

    An event's time is the source's time field, else `event_timestamp`, which also fills that field where it is absent.
    Without an `event_id` an id follows from what the row says, so that a push that is sent again counts once.
    """
    lengths = {len(column) for column in df.values()}
    if len(lengths) > 1:
        raise InvalidRequestError([Broken("df", "length", "all columns must have the same number of rows")])
    unknown = [column for column in df if column not in source.fields and column not in _OWN]
    if unknown:
        message = f"is not a field of the source {name}: features are computed from its events, they are not written"
        raise InvalidRequestError([Broken(f"df.{shown(column)}", "unknown", message) for column in unknown[:32]])
    return [_event(name, source, df, row) for row in range(lengths.pop() if lengths else 0)]


def shown(column: str) -> str:
    """A column as it may be repeated in an answer."""
    return column if _PLAIN.fullmatch(column) else "?"


def _event(name: str, source: SourceSpec, df: Mapping[str, Sequence[Scalar]], row: int) -> dict[str, Any]:
    data = {
        column: _value(source, column, values[row], row)
        for column, values in df.items()
        if column in source.fields and values[row] is not None
    }
    time = _time(df, row)
    if source.time is None:
        if time is None:
            message = f"is required: the source {name} has no time field"
            raise InvalidRequestError([Broken(f"df.{TIME}", "required", message)])
    elif time is not None:
        data.setdefault(source.time, time)
    own = df[ID][row] if ID in df and ID not in source.fields else None
    event = {"id": str(derived_id(*_parts(name, data, time))) if own is None else own, "data": data}
    return event if source.time is not None else event | {"time": time}


def _parts(name: str, data: Mapping[str, Scalar], time: str | None) -> list[str]:
    """What makes two rows the same event: everything they say; a number differs from its text."""
    fields = [part for column in sorted(data) for part in (column, type(data[column]).__name__, str(data[column]))]
    return ["push", name, time or "", *fields]


def _time(df: Mapping[str, Sequence[Scalar]], row: int) -> str | None:
    value = df[TIME][row] if TIME in df else None
    return None if value is None else _instant(value, TIME, row)


def _value(source: SourceSpec, column: str, value: Scalar, row: int) -> Scalar:
    return _instant(value, column, row) if isinstance(source.fields[column], TimestampField) else value


def _instant(value: Scalar, column: str, row: int) -> str:
    """RFC 3339 in UTC of what the SDK and pandas send: ISO text, without an offset in UTC, or seconds since 1970."""
    try:
        if isinstance(value, str):
            instant = datetime.fromisoformat(value)
            return format_time(to_us(instant if instant.tzinfo else instant.replace(tzinfo=UTC)))
        if isinstance(value, int) and not isinstance(value, bool):
            return format_time(value * _SECOND_US)
    except (ValueError, OverflowError):
        pass
    message = "must be an ISO 8601 time or whole seconds since 1970"
    raise InvalidRequestError([Broken(f"df.{shown(column)}.{row}", "time", message)])
