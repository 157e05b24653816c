"""What an event means to a view: its entity's canonical text, its numbers, and the mark that breaks ties in time."""

import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from tidemill_contracts.base import format_time, parse_time
from tidemill_contracts.pipeline import BooleanField, CategoryField, FieldSpec, StringField, TimestampField
from tidemill_engine.expressions import compile_expression, field_types

NULL = float("nan")
"""How a column of numbers holds null."""


class EntityKey:
    """Reads an entity's key out of an event or a request.

    One field: its text. Several: a JSON array of their texts, so that no two lists collide by joining. A whole number
    has no fraction (`5` and `5.0` are one entity), a boolean is `true` or `false`, a timestamp is RFC 3339 in UTC.
    """

    def __init__(self, key: Sequence[str], fields: Mapping[str, FieldSpec]) -> None:
        """`key` names the fields, all of them in `fields` (of a source or of a request); raises KeyError otherwise."""
        readers = [(name, _reader(fields[name])) for name in key]
        self.key = tuple(key)
        self._first, self._read_first = readers[0]
        self._all = readers if len(readers) > 1 else []

    def __call__(self, event: Mapping[str, Any]) -> str | None:
        """The text, None where a part is absent or null, or all is empty; raises ValueError if it has no text."""
        if not self._all:
            value = event.get(self._first)
            return self._read_first(value) or None if value is not None else None
        texts = []
        for name, read in self._all:
            value = event.get(name)
            if value is None:
                return None
            texts.append(read(value))
        return json.dumps(texts, ensure_ascii=False, separators=(",", ":"))


def key_text(value: Any) -> str:  # noqa: ANN401 - whatever a JSON body holds
    """Canonical text of one part; raises ValueError for NaN, infinities, lists and objects."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, float):
        msg = f"a {type(value).__name__} cannot be part of a key"
        raise ValueError(msg)  # noqa: TRY004 - one error for every value without a text
    return str(int(value)) if value.is_integer() else json.dumps(value, allow_nan=False)


def _time_text(value: Any) -> str:  # noqa: ANN401 - see key_text
    return format_time(parse_time(value)) if isinstance(value, str) else key_text(value)


def _reader(field: FieldSpec) -> Callable[[Any], str]:
    return _time_text if isinstance(field, TimestampField) else key_text


def event_mark(event_id: str) -> int:
    """The unsigned 64-bit number that stands for an event's id in state, where it breaks ties in time."""
    return int.from_bytes(blake2b(event_id.encode(), digest_size=8).digest(), "little")


EVENT = ""
"""In the place of a field's name: the event itself, which is always 1."""


def read_column(name: str) -> tuple[str, str | None]:
    """Field and filter of a plan's column, `field?where`; the field is `EVENT` where only events are counted."""
    field, mark, where = name.partition("?")
    return field, where if mark else None


class RowReader:
    """Reads what a view needs out of an event of its source: the entity and the fields of its plan, as numbers.

    The stream and the backfill both use it, so an event means the same to both. The view's own `where` is tested by
    the caller; the one of a column `field?where` here.
    """

    def __init__(self, names: Sequence[str], fields: Mapping[str, FieldSpec]) -> None:
        """`names` are the plan's fields, all of them in `fields`; raises KeyError otherwise."""
        columns = [read_column(name) for name in names]
        self._readers = [(name, _number if name == EVENT else number_reader(fields[name])) for name, _ in columns]
        wheres = sorted({where for _, where in columns if where is not None})
        types = field_types(fields) if wheres else {}
        self._filters = [compile_expression(where, types) for where in wheres]
        self._filtered = [(at, wheres.index(where)) for at, (_, where) in enumerate(columns) if where is not None]

    def __call__(self, event: Mapping[str, Any]) -> list[float]:
        """One number per field, NaN for null or absent; raises ValueError naming a field that holds another type."""
        values = self._values(event)
        if self._filters:
            passed = [where.row(event) == 1.0 for where in self._filters]
            for at, which in self._filtered:
                if not passed[which]:
                    values[at] = NULL
        return values

    def _values(self, event: Mapping[str, Any]) -> list[float]:
        values = []
        for name, read in self._readers:
            if name == EVENT:
                values.append(1.0)
                continue
            value = event.get(name)
            try:
                values.append(NULL if value is None else read(value))
            except (TypeError, ValueError, OverflowError):
                msg = f"{name} is not of its declared type"
                raise ValueError(msg) from None
        return values


def _number(value: Any) -> float:  # noqa: ANN401 - whatever a JSON body holds
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


def _boolean(value: Any) -> float:  # noqa: ANN401 - whatever a JSON body holds
    if not isinstance(value, bool):
        raise TypeError
    return float(value)


def _instant(value: Any) -> float:  # noqa: ANN401 - whatever a JSON body holds
    return float(parse_time(value))


def _code_reader(values: Sequence[str]) -> Callable[[Any], float]:
    places = {value: float(place) for place, value in enumerate(values)}

    def read(value: Any) -> float:  # noqa: ANN401 - whatever a JSON body holds
        if not isinstance(value, str) or value not in places:
            raise TypeError
        return places[value]

    return read


def _text_number(value: Any) -> float:  # noqa: ANN401 - whatever a JSON body holds
    """53 bits of a hash: what tells texts apart where only that is asked."""
    if not isinstance(value, str):
        raise TypeError
    return float(int.from_bytes(blake2b(value.encode(), digest_size=8).digest(), "little") >> 11)


def number_reader(field: FieldSpec) -> Callable[[Any], float]:
    """From a value of a field to its number: a category is its place in the list, text 53 bits of its hash.

    What it returns raises TypeError or ValueError for a value that is not of the field's type.
    """
    if isinstance(field, CategoryField):
        return _code_reader(field.values)
    if isinstance(field, StringField):
        return _text_number
    if isinstance(field, TimestampField):
        return _instant
    return _boolean if isinstance(field, BooleanField) else _number
