"""Canonical text of entity keys: an entity has one text in streams, requests, backfills and on compacted topics."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tidemill_contracts.base import format_time, parse_time
from tidemill_contracts.pipeline import FieldSpec, TimestampField


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
