"""Finds the parts of records in the spool's frames: msgpack, read by compiled loops without making an object of it.

https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tidemill_serving.domain.frames import Bytes, compiled, crc32

Table = NDArray[np.int64]
OPENING, OPENING_END, PARTITION, KEY, KEY_END, VALUE, VALUE_END, HEADERS, HEADERS_END, NUMBER, END = range(11)
"""Columns. The opening is kind, pipeline and topic; KEY is -1 for none; NUMBER are so many headers, -1 where they lie
packed with their number before them, as `tidemill_contracts.headers` does it; END is the frame's."""
COLUMNS: Final = 11
_NIL, _TWO = 0xC0, 0x92


@compiled
def _number(raw: Bytes, at: int, size: int) -> int:
    """A big-endian number."""
    found = 0
    for place in range(at, at + size):
        found = found << 8 | int(raw[place])
    return found


@compiled
def text_at(raw: Bytes, at: int, end: int) -> tuple[int, int]:
    """Where the bytes of a text or of bytes begin and end; -1 for what is none of them."""
    if at >= end:
        return -1, -1
    mark, begin, size = int(raw[at]), at + 1, -1
    if 0xA0 <= mark <= 0xBF:  # noqa: PLR2004 - msgpack's marks, here and below
        size = mark - 0xA0
    elif 0xC4 <= mark <= 0xC6 or 0xD9 <= mark <= 0xDB:  # noqa: PLR2004
        wide = 1 << (mark - (0xC4 if mark <= 0xC6 else 0xD9))  # noqa: PLR2004
        if begin + wide > end:
            return -1, -1
        size = _number(raw, begin, wide)
        begin += wide
    if size < 0 or begin + size > end:
        return -1, -1
    return begin, begin + size


@compiled
def _uint(raw: Bytes, at: int, end: int) -> tuple[int, int]:
    """A number that is not negative, and the place behind it; -1 for another."""
    if at < end and raw[at] < 0x80:  # noqa: PLR2004
        return int(raw[at]), at + 1
    if at < end and 0xCC <= raw[at] <= 0xCE:  # noqa: PLR2004
        wide = 1 << (int(raw[at]) - 0xCC)
        if at + 1 + wide <= end:
            return _number(raw, at + 1, wide), at + 1 + wide
    return -1, -1


@compiled
def _headers(raw: Bytes, at: int, end: int) -> tuple[int, int, int]:
    """(number, first, place behind) of a list of names and values; -1 for what is none."""
    if at >= end:
        return -1, -1, -1
    many, begin = int(raw[at]) - 0x90, at + 1
    if raw[at] == 0xDC and begin + 2 <= end:  # noqa: PLR2004
        many, begin = _number(raw, begin, 2), begin + 2
    elif not 0 <= many <= 15:  # noqa: PLR2004
        return -1, -1, -1
    at = begin
    for _ in range(many):
        if at >= end or raw[at] != _TWO:
            return -1, -1, -1
        _, at = text_at(raw, at + 1, end)
        if at < 0:
            return -1, -1, -1
        _, at = text_at(raw, at, end)
        if at < 0:
            return -1, -1, -1
    return many, begin, at


@compiled
def _record(raw: Bytes, at: int, end: int, row: NDArray[np.int64]) -> bool:
    """Find the parts of one record of at least seven (the time is of no interest here); whether it is one."""
    if at >= end or not 0x97 <= raw[at] <= 0x9F:  # noqa: PLR2004
        return False
    at += 1
    row[OPENING] = at
    for _ in range(3):
        _, at = text_at(raw, at, end)
        if at < 0:
            return False
    row[OPENING_END] = at
    row[PARTITION], at = _uint(raw, at, end)
    if at < 0 or at >= end:
        return False
    if raw[at] == _NIL:
        row[KEY] = row[KEY_END] = -1
        at += 1
    else:
        row[KEY], at = text_at(raw, at, end)
        row[KEY_END] = at
        if at < 0:
            return False
    row[VALUE], at = text_at(raw, at, end)
    row[VALUE_END] = at
    if at < 0 or at >= end:
        return False
    if 0xC4 <= raw[at] <= 0xC6:  # noqa: PLR2004
        row[NUMBER] = -1
        row[HEADERS], row[HEADERS_END] = text_at(raw, at, end)
    else:
        row[NUMBER], row[HEADERS], row[HEADERS_END] = _headers(raw, at, end)
    return bool(row[HEADERS_END] >= 0)


@compiled
def scan(raw: Bytes, table: Table, check: bool) -> int:  # noqa: FBT001 - numba takes no keywords only
    """Fill the table; how many whole records there are."""
    at = 0
    for place in range(len(table)):
        if at + 8 > len(raw):
            return place
        size, said = 0, np.uint64(0)
        for byte in range(3, -1, -1):
            size = size << 8 | int(raw[at + byte])
            said = said << np.uint64(8) | np.uint64(raw[at + 4 + byte])
        begin, end = at + 8, at + 8 + size
        if end > len(raw) or (check and crc32(raw, begin, end) != said):
            return place
        if not _record(raw, begin, end, table[place]):
            return place
        table[place, END] = at = end
    return len(table)


@compiled
def different(raw: Bytes, table: Table, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the openings: where each one's bytes are, and for each record which it has."""
    found = np.empty((len(table), 2), np.int64)
    many = 0
    for row in range(len(table)):
        start, end = table[row, OPENING], table[row, OPENING_END]
        hit = -1
        for number in range(many - 1, -1, -1):
            if found[number, 1] - found[number, 0] != end - start:
                continue
            other, at = found[number, 0], 0
            while at < end - start and raw[start + at] == raw[other + at]:
                at += 1
            if at == end - start:
                hit = number
                break
        if hit < 0:
            hit = many
            found[many, 0], found[many, 1] = start, end
            many += 1
        numbers[row] = hit
    return found[:many]
