"""The newest vector of every entity, packed: 8 bytes per feature and about 0.3 KB beside them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from struct import Struct

import msgspec

from tidemill_features.domain.encode import WATERMARK_KEY

PER_ENTITY = 300
"""Bytes of an entity beside its name and values: entry of the dictionary, two objects' heads, time and revision."""
MOST_EXPIRED = 100_000
"""Entities of one view that are remembered after their time to live; older ones count as never seen."""


class UnreadableVectorError(ValueError):
    """A record that is neither a vector of the expected width, nor a watermark, nor a deletion."""


class _Vector(msgspec.Struct):
    """What is read of `FeatureVector`; unknown fields are ignored."""

    version: str
    entity: str
    at_us: int
    revision: int
    values: list[float | None]


@dataclass(frozen=True, slots=True)
class Vector:
    """`at_us` is the evaluation time; null values are NaN."""

    at_us: int
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Expired:
    """The entity had no events for the view's time to live, in event time; `at_us` of its last vector, where known."""

    at_us: int | None


class Table:
    """One version of one view. Applying a record twice changes nothing."""

    def __init__(self, version: str, width: int) -> None:
        self._version, self._width = version, width
        self._row = Struct(f"<qq{width}d")  # revision, time, values
        self._rows: dict[str, bytes] = {}
        self._expired: dict[str, int | None] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """What it takes, about."""
        return self._bytes + len(self._expired) * PER_ENTITY

    def apply(self, key: bytes | None, value: bytes | None) -> None:
        """Take one record of the view's topic; raises UnreadableVectorError."""
        if key is None or key == WATERMARK_KEY:
            return
        try:
            if value is None:
                self._forget(key.decode())
            else:
                self._take(_VECTOR.decode(value))
        except ValueError as error:  # msgspec's and Unicode's are ValueErrors
            raise UnreadableVectorError(str(error)) from None

    def get(self, entity: str) -> Vector | Expired | None:
        """What is known of the entity; None for nothing."""
        row = self._rows.get(entity)
        if row is not None:
            packed = self._row.unpack(row)
            return Vector(packed[1], packed[2:])
        return Expired(self._expired[entity]) if entity in self._expired else None

    def _take(self, vector: _Vector) -> None:
        if vector.version != self._version:
            return  # another version of the view, for a model that still asks for it
        if len(vector.values) != self._width:
            raise UnreadableVectorError(f"{len(vector.values)} values, {self._width} were expected")
        known = self._rows.get(vector.entity)
        if known is not None and self._row.unpack_from(known)[0] >= vector.revision:
            return
        values = (math.nan if value is None else value for value in vector.values)
        self._rows[vector.entity] = self._row.pack(vector.revision, vector.at_us, *values)
        self._expired.pop(vector.entity, None)
        if known is None:
            self._bytes += self._size(vector.entity)

    def _forget(self, entity: str) -> None:
        row = self._rows.pop(entity, None)
        if row is not None:
            self._bytes -= self._size(entity)
        self._expired[entity] = None if row is None else self._row.unpack_from(row)[1]
        if len(self._expired) > MOST_EXPIRED:
            del self._expired[next(iter(self._expired))]

    def _size(self, entity: str) -> int:
        return PER_ENTITY + len(entity) + 8 * self._width


class Tables:
    """Tables by topic, as long as all of them together stay within a limit."""

    def __init__(self, versions: Mapping[str, tuple[str, int]], max_bytes: int) -> None:
        self.by_topic = {topic: Table(*version) for topic, version in versions.items()}
        self._max_bytes = max_bytes

    def apply(self, topic: str, records: Iterable[tuple[bytes | None, bytes | None]]) -> list[UnreadableVectorError]:
        """Take records (key, value) of a topic; returns what could not be read, which is left out."""
        table, unreadable = self.by_topic[topic], []
        for key, value in records:
            try:
                table.apply(key, value)
            except UnreadableVectorError as error:
                unreadable.append(error)
        return unreadable

    @property
    def is_full(self) -> bool:
        """Whether it holds more than it may."""
        return sum(table.nbytes for table in self.by_topic.values()) > self._max_bytes


_VECTOR = msgspec.json.Decoder(_Vector)
