"""Texts that come again and again, known by their bytes but for a gap: looked up by compiled code, many in one call.

A hash (FNV-1a, 64 bits, Fowler, Noll and Vo) finds the place and the bytes decide, so that who makes hashes collide
gains nothing; where too many fall on neighbouring places the last ones stay unknown.
"""

from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numba import types
from numpy.typing import NDArray

from tidemill_runtime.compiled import compiled

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
PRIME, BASIS = np.uint64(0x100000001B3), np.uint64(0xCBF29CE484222325)
_PLACES, _MOST, _TEXT, _PROBES = 1 << 13, 1 << 12, 1 << 20, 16
_AT, _LENGTH, _NUMBER, _VALUE = range(4)


class Table(NamedTuple):
    """What compiled code sees: hashes by place (0: free), rows of where the bytes stand, how many, number and value."""

    hashes: NDArray[np.uint64]
    rows: Ints
    text: Bytes


def c_function(name: str, result: Any, *arguments: Any) -> Any:  # noqa: ANN401 - numba has no types
    """A function of the C library, by its name: unlike an address, code that calls it can be kept on disk."""
    return types.ExternalFunction(name, result(*arguments))


_compare = c_function("memcmp", types.int32, types.intp, types.intp, types.uint64)


@compiled
def find(table: Table, mark: Any, raw: Bytes, part: tuple[int, int, int, int]) -> tuple[int, int]:  # noqa: ANN401 - unsigned
    """(number, value) of a text whose bytes but for the gap have this hash; number -1 for an unknown one.

    `part`: where the text begins, where its gap begins and ends (both the end for none), and its end.
    """
    start, gap, behind, end = part
    length = end - behind + gap - start
    place = np.int64(mark & np.uint64(_PLACES - 1))
    for _ in range(_PROBES):
        if table.hashes[place] == np.uint64(0):
            return -1, 0
        row = table.rows[place]
        if table.hashes[place] == mark and row[_LENGTH] == length:
            text, here = table.text.ctypes.data + row[_AT], raw.ctypes.data
            if (
                _compare(here + start, text, gap - start) == 0
                and _compare(here + behind, text + gap - start, end - behind) == 0
            ):
                return row[_NUMBER], row[_VALUE]
        place = (place + 1) & (_PLACES - 1)
    return -1, 0


@compiled
def _learn(table: Table, text: Bytes, row: tuple[int, int, int], probes: int) -> bool:
    """Add a text; `row`: where its bytes go, its number and value. False: none of so many places is free."""
    mark = BASIS
    for byte in text:
        mark = (mark ^ np.uint64(byte)) * PRIME
    place = np.int64(mark & np.uint64(_PLACES - 1))
    for _ in range(probes):
        if table.hashes[place] == np.uint64(0):
            at, number, value = row
            table.text[at : at + len(text)] = text
            table.hashes[place] = mark
            entry = table.rows[place]
            entry[_AT], entry[_LENGTH], entry[_NUMBER], entry[_VALUE] = at, len(text), number, value
            return True
        place = (place + 1) & (_PLACES - 1)
    return False


T = TypeVar("T")


class Known(Generic[T]):
    """Texts without their gaps, bounded, each with what it means."""

    def __init__(self) -> None:
        hashes, rows = np.zeros(_PLACES, np.uint64), np.zeros((_PLACES, 4), np.int64)
        self.table = Table(hashes, rows, np.empty(_TEXT, np.uint8))
        self.found: list[T] = []
        self._texts, self._filled = set[bytes](), 0
        _learn(Table(hashes[:0], rows, self.table.text), np.frombuffer(b"", np.uint8), (0, 0, 0), 0)  # compile now

    def learn(self, text: bytes, value: int, found: T) -> bool:
        """Know a text from now on, by the next number; whether it is known. At its bound it forgets all others."""
        if text in self._texts:
            return True
        if len(self.found) >= _MOST or self._filled + len(text) > _TEXT:
            self.table.hashes[:] = 0
            self.found, self._filled = [], 0
            self._texts.clear()
        row = self._filled, len(self.found), value
        if len(text) > _TEXT or not _learn(self.table, np.frombuffer(text, np.uint8), row, _PROBES):
            return False
        self._filled += len(text)
        self.found.append(found)
        self._texts.add(text)
        return True
