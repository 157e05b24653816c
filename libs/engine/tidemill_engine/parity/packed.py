"""What a recomputation holds of a log: a year of it must fit beside a service, so nothing stands there twice."""

from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

Item_co = TypeVar("Item_co", covariant=True)
_MOST_KNOWN = 100_000
_MISSING = object()


class Column(Protocol[Item_co]):
    """As much of a sequence as reading a log needs."""

    def __len__(self) -> int: ...

    def __getitem__(self, at: int, /) -> Item_co: ...

    def __iter__(self) -> Iterator[Item_co]: ...


class Texts:
    """Texts, most of them different: their bytes one behind the other."""

    def __init__(self) -> None:
        self._bytes, self._ends = bytearray(), array("q", [0])

    def extend(self, texts: Iterable[str]) -> None:
        """Add them at the end."""
        for text in texts:
            self._bytes += text.encode()
            self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._ends) - 1

    def __getitem__(self, at: int) -> str:
        """One of them; `at` is not negative."""
        return self._bytes[self._ends[at] : self._ends[at + 1]].decode()

    def __iter__(self) -> Iterator[str]:
        """All of them, in order."""
        return (self[at] for at in range(len(self)))


class Bodies:
    """Bodies of events, only the named fields, by field: a year of events is mostly the same few values."""

    def __init__(self, fields: Iterable[str]) -> None:
        self._columns: dict[str, list[Any]] = {name: [] for name in sorted(fields)}
        self._known: dict[type, dict[Any, Any]] = {str: {}, int: {}, float: {}}
        self._count = 0

    def append(self, body: Mapping[str, Any]) -> None:
        """Add one at the end. A field that is missing stays missing."""
        for name, column in self._columns.items():
            column.append(self._once(body.get(name, _MISSING)))
        self._count += 1

    def _once(self, value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
        known = self._known.get(type(value))
        if known is None or value == 0:  # the two zeros are equal, and not the same bits
            return value
        if len(known) >= _MOST_KNOWN:
            return known.get(value, value)
        return known.setdefault(value, value)

    def __len__(self) -> int:
        """How many there are."""
        return self._count

    def __getitem__(self, at: int) -> Mapping[str, Any]:
        """One of them."""
        found = ((name, column[at]) for name, column in self._columns.items())
        return {name: value for name, value in found if value is not _MISSING}

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """All of them, in order."""
        return (self[at] for at in range(self._count))
