"""What views need of the bodies of many events: each body is decoded once, into the fields that are needed, no more.

Values that are not of their declared type make a body odd: it is read one by one, with care, and its reader says why.
"""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemill_contracts.pipeline import BooleanField, CategoryField, FieldSpec, StringField, TimestampField
from tidemill_engine.entities import EVENT, NULL, EntityKey, number_reader, read_column
from tidemill_engine.expressions import Compiled, compile_expression, field_types
from tidemill_features.domain.repartition import MOST_KEY_BYTES
from tidemill_features.domain.scan import PLAIN, TAME, VALUE, VALUE_END, Columns, Words

Floats = NDArray[np.float64]
_WHOLE = msgspec.json.Decoder(dict[str, Any])


class BadKeyError(ValueError):
    """An entity's text is too long or begins with a zero."""


def entity_bytes(entity: str) -> bytes:
    """The key of an entity's records and state; raises BadKeyError."""
    text = entity.encode()
    if text[0] == 0 or len(text) > MOST_KEY_BYTES:
        msg = f"an entity's text has at most {MOST_KEY_BYTES} bytes and does not begin with a zero"
        raise BadKeyError(msg)
    return text


class Wanted(NamedTuple):
    """Of the bodies that one view wants: their places among those given, keys, and values (n, fields)."""

    places: list[int]
    keys: list[bytes]
    values: Floats


class Needs:
    """What one view reads of an event of its source, by columns; `fields` are the source's."""

    def __init__(
        self, key: EntityKey, numbers: Sequence[str], where: Compiled | None, fields: Mapping[str, FieldSpec]
    ) -> None:
        self.key, self._key, self._where = key.key, key, where
        # a time's text may be written in several ways
        self._is_text = len(key.key) == 1 and not isinstance(fields[key.key[0]], TimestampField)
        self._columns = [read_column(name) for name in numbers]
        types = field_types(fields)
        self._filters = {w: compile_expression(w, types) for _, w in self._columns if w is not None}
        self.numbers = {name: _number_type(fields[name]) for name, _ in self._columns if name != EVENT}
        self._readers = {name: number_reader(fields[name]) for name, kind in self.numbers.items() if _is_text(kind)}
        wheres = [*([where] if where else []), *self._filters.values()]
        self.others = {*key.key, *(name for each in wheres for name in each.fields)}

    def read(self, bodies: Sequence[Any], names: Mapping[str, str], bad: dict[int, str]) -> Wanted:
        """What the view wants of decoded bodies; `names` are their attributes. Reasons go to `bad`, by place."""
        places, keys = self._keys(bodies, names, bad)
        if len(places) != len(bodies):
            bodies = [bodies[place] for place in places]
        return Wanted(places, keys, self._values(bodies, names))

    def _values(self, bodies: Sequence[Any], names: Mapping[str, str]) -> Floats:
        values = np.empty((len(bodies), len(self._columns)), np.float64)
        passed = {where: self._true(filter_, bodies, names) for where, filter_ in self._filters.items()}
        for column, (name, where) in enumerate(self._columns):
            if name == EVENT:
                values[:, column] = 1.0
            else:
                found = list(map(attrgetter(names[name]), bodies))
                read = self._readers.get(name)
                values[:, column] = found if read is None else [NULL if x is None else read(x) for x in found]
            if where is not None:
                values[~passed[where], column] = NULL
        return values

    def _keys(
        self, bodies: Sequence[Any], names: Mapping[str, str], bad: dict[int, str]
    ) -> tuple[list[int], list[bytes]]:
        wanted = self._filtered(bodies, names)
        plain = _plain_keys(bodies, wanted, names[self.key[0]]) if self._is_text else None
        if plain is not None:
            return list(wanted), plain
        places, keys = list[int](), list[bytes]()
        attributes = [(name, attrgetter(names[name])) for name in self._key.key]
        (first, get), single = attributes[0], len(attributes) == 1
        for place in wanted:
            body = bodies[place]
            value = get(body)
            try:
                if self._is_text and type(value) is str:
                    entity = value or None
                else:
                    entity = self._key({first: value} if single else {name: read(body) for name, read in attributes})
                if entity is None:
                    continue
                keys.append(entity_bytes(entity))
            except ValueError as error:
                bad[place] = str(error)
            else:
                places.append(place)
        return places, keys

    def _filtered(self, bodies: Sequence[Any], names: Mapping[str, str]) -> Sequence[int]:
        if self._where is None:
            return range(len(bodies))
        kept: list[int] = np.flatnonzero(self._true(self._where, bodies, names)).tolist()
        return kept

    @staticmethod
    def _true(where: Compiled, bodies: Sequence[Any], names: Mapping[str, str]) -> NDArray[np.bool_]:
        """For which bodies an expression is true."""
        columns = {name: _objects(map(attrgetter(names[name]), bodies), len(bodies)) for name in where.fields}
        return np.asarray(where(columns, rows=len(bodies)) == 1.0)


def _plain_keys(bodies: Sequence[Any], wanted: Sequence[int], name: str) -> list[bytes] | None:
    """Keys of one text each, None where one of them is not, or is none that an entity may have."""
    chosen = bodies if len(wanted) == len(bodies) else [bodies[place] for place in wanted]
    values = list(map(attrgetter(name), chosen))
    if set(map(type, values)) != {str}:  # none at all, too
        return None
    try:
        keys = list(map(str.encode, values))
    except UnicodeEncodeError:
        return None
    # nothing that is empty or begins with a zero comes behind this
    return keys if min(keys) >= b"\x01" and max(map(len, keys)) <= MOST_KEY_BYTES else None


def _objects(values: Any, count: int) -> NDArray[np.object_]:  # noqa: ANN401 - whatever bodies hold
    column = np.empty(count, object)
    column[:] = list(values)
    return column


def _is_text(kind: Any) -> bool:  # noqa: ANN401 - a type or a list of texts
    return kind is not float and kind is not bool


def _number_type(field: FieldSpec) -> Any:  # noqa: ANN401 - types, and for categories the list of their texts
    if isinstance(field, TimestampField | StringField):
        return str
    if isinstance(field, CategoryField):
        return Literal[tuple(field.values)]
    return bool if isinstance(field, BooleanField) else float


class Bodies:
    """Decodes the bodies of one source for several views."""

    def __init__(self, needs: Sequence[Needs]) -> None:
        types: dict[str, Any] = {name: Any for each in needs for name in each.others}
        types |= {name: kind for each in needs for name, kind in each.numbers.items()}
        self.names = {name: f"f{n}" for n, name in enumerate(types)}
        keys = {name for each in needs for name in each.key}
        self.is_simple = not any(keys & each.numbers.keys() for each in needs)
        """Whether no number is part of a key: there 5 and 5.0 are one value, in a key large ones are not."""
        fields = [(self.names[name], kind if kind is Any else kind | None, None) for name, kind in types.items()]
        struct = msgspec.defstruct("Body", fields, rename={at: name for name, at in self.names.items()}, gc=False)
        self._decode = msgspec.json.Decoder(struct).decode

    def read(self, records: Columns, headers: Words) -> list[Any]:
        """A decoded body for each plain record; others get None, and those that cannot be decoded are not plain."""
        buffer, table = records.buffer, records.table
        places = list(zip(table[:, VALUE].tolist(), table[:, VALUE_END].tolist(), strict=True))
        decode = self._decode
        if headers[:, TAME].all():
            try:
                return [decode(buffer[at:end]) for at, end in places]
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                pass
        return [self._one(buffer[at:end], headers[n]) for n, (at, end) in enumerate(places)]

    def _one(self, body: bytes, headers: Words) -> Any:  # noqa: ANN401 - a struct of its own type
        if headers[PLAIN]:
            try:
                if not headers[TAME]:
                    _WHOLE.decode(body)
                return self._decode(body)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                headers[PLAIN] = 0
        return None
