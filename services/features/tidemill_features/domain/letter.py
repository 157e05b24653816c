"""What this service writes to Kafka."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from tidemill_contracts.envelope import Headers
from tidemill_contracts.headers import packed_header

KEY, KEY_END, VALUE, VALUE_END, HEADERS, HEADER_COUNT, END = range(7)
"""Columns of the table of Letters. VALUE is -1 for null; the headers, as Kafka writes them, lie from HEADERS to END."""
WIDTH: Final = 7

Bytes = NDArray[np.uint8]
Words = NDArray[np.int64]
_PLACES = np.array([1, 1, 1, 1, 1, 0, 1], np.int64)
"""Which columns are places in the buffer."""


class Letter(NamedTuple):
    """A record for one partition of a topic; a value of None deletes the key."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class _Records(Sequence[Letter]):
    """Letters that are made when they are asked for."""

    def _at(self, index: int) -> Letter:
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Letter: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Letter]: ...
    def __getitem__(self, index: int | slice) -> Letter | Sequence[Letter]:
        if isinstance(index, slice):
            return [self._at(at) for at in range(len(self))[index]]
        return self._at(range(len(self))[index])


class Letters(_Records):
    """Records of one partition with the places of their parts in one buffer; `table` is int64 (n, WIDTH)."""

    def __init__(self, topic: str, partition: int, buffer: Bytes, table: Words) -> None:
        self.topic, self.partition, self.buffer, self.table = topic, partition, buffer, table

    def __len__(self) -> int:
        return len(self.table)

    def _at(self, index: int) -> Letter:
        row: list[int] = self.table[index].tolist()
        value = None if row[VALUE] < 0 else self._bytes(row[VALUE], row[VALUE_END])
        headers = list(_headers(self._bytes, row[HEADERS], row[HEADER_COUNT]))
        return Letter(self.topic, self.partition, self._bytes(row[KEY], row[KEY_END]), value, headers)

    def _bytes(self, start: int, end: int) -> bytes:
        return self.buffer[start:end].tobytes()


class Mail(_Records):
    """Letters of several kinds, one behind the other."""

    def __init__(self, parts: Sequence[Sequence[Letter]]) -> None:
        self.parts = [part for part in parts if len(part)]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __iter__(self) -> Iterator[Letter]:
        for part in self.parts:
            yield from part

    def _at(self, index: int) -> Letter:
        for part in self.parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)


def joined(parts: Sequence[Letters]) -> Letters:
    """Those of one partition, one behind the other."""
    if len(parts) == 1:
        return parts[0]
    tables, base = [parts[0].table], len(parts[0].buffer)
    for part in parts[1:]:
        table = part.table + base * _PLACES
        nulls = part.table[:, VALUE] < 0
        table[nulls, VALUE : VALUE_END + 1] = part.table[nulls, VALUE : VALUE_END + 1]
        tables.append(table)
        base += len(part.buffer)
    buffer = np.concatenate([part.buffer for part in parts])
    return Letters(parts[0].topic, parts[0].partition, buffer, np.concatenate(tables))


def as_letters(letters: Sequence[Letter]) -> Letters:
    """The same in one buffer; all have a key and are for one partition."""
    buffer, rows = bytearray(), list[list[int]]()
    for letter in letters:
        row = [len(buffer), 0, -1, -1, 0, len(letter.headers), 0]
        buffer += letter.key or b""
        row[KEY_END] = len(buffer)
        if letter.value is not None:
            row[VALUE] = len(buffer)
            buffer += letter.value
            row[VALUE_END] = len(buffer)
        row[HEADERS] = len(buffer)
        for name, value in letter.headers:
            buffer += packed_header(name, value)
        row[END] = len(buffer)
        rows.append(row)
    table = np.array(rows, np.int64).reshape(len(rows), WIDTH)
    return Letters(letters[0].topic, letters[0].partition, np.frombuffer(bytes(buffer), np.uint8), table)


def _headers(read: Callable[[int, int], bytes], at: int, count: int) -> Iterator[tuple[str, bytes]]:
    def text(start: int) -> tuple[bytes, int]:
        size = shift = 0
        while True:
            (byte,) = read(start, start + 1)
            start += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:  # noqa: PLR2004 - the last one
                break
        return read(start, start + (size >> 1)), start + (size >> 1)

    for _ in range(count):
        name, at = text(at)
        value, at = text(at)
        yield name.decode(), value
