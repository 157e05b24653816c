"""The headers of many events of a source in one compiled pass.

It knows exactly what ingestion writes and calls everything else odd: odd records are read one by one, with care.
"""

from collections.abc import Sequence
from typing import Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from tidemill_contracts.events import Timer
from tidemill_features.domain.compiled import compiled
from tidemill_features.domain.records import Record
from tidemill_features.domain.repartition import END_OF_TIME_US, MOST_DIGITS

TIME, SEQ, MARK, TRACE, TRACE_END, PLAIN, TAME = range(7)
"""Columns of what a scan gives: time in us, dense number, hash of the id, traceparent (-1: none), whether it is plain,
and whether its body is ASCII without large exponents: what a decoder that skips fields would let pass."""
VALUE, VALUE_END, HEADERS, HEADER_COUNT, END = 4, 5, 6, 7, 8  # of the table of a runtime's RecordColumns

Words = NDArray[np.int64]
Bytes = NDArray[np.uint8]


class Columns(Protocol):
    """Records of one partition with the places of their parts in one buffer, as the runtime reads them."""

    buffer: bytes
    table: Words
    topic: str
    partition: int

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Record: ...


def columns_of(records: Sequence[Record]) -> Columns | None:
    """The records as columns, None when they are objects."""
    return cast("Columns", records) if hasattr(records, "table") else None


_NAMES: Final = (b"ce_specversion", b"ce_id", b"ce_type", b"ce_source", b"ce_time", b"tm_seq", b"traceparent")
_VERSION, _ID, _TYPE, _SOURCE, _TIME, _SEQ, _TRACE = range(7)
_OTHER, _STRANGE = 7, 8
_TEXTS = np.zeros((7, 16), np.uint8)
for _n, _text in enumerate(_NAMES):
    _TEXTS[_n, : len(_text)] = np.frombuffer(_text, np.uint8)
_LENGTHS = np.array([len(text) for text in _NAMES], np.int64)
_TIMER = np.frombuffer(Timer.TYPE.encode(), np.uint8).copy()
_DAYS_BEFORE = np.array([0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334], np.int64)
_IN_MONTH = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], np.int64)
_LONGEST_NUMBER = 300  # digits that certainly fit a double
_BLOCK = 128  # bytes that BLAKE2b takes at once: longer ids are odd


@compiled
def _varint(buffer: Bytes, at: int, end: int) -> tuple[int, int]:
    """A number and where it ends, -1 for one that does not end."""
    value, shift = np.uint64(0), np.uint64(0)
    while at < end and shift < np.uint64(64):
        byte = np.uint64(buffer[at])
        at += 1
        value |= (byte & np.uint64(0x7F)) << shift
        shift += np.uint64(7)
        if byte < np.uint64(0x80):
            return int(np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1))), at
    return 0, -1


@compiled
def _is_text(buffer: Bytes, at: int, length: int) -> bool:
    strange = False
    for i in range(at, at + length):
        strange |= buffer[i] >= 0x80  # noqa: PLR2004 - beyond ASCII: read with care
    return not strange


@compiled
def _which(buffer: Bytes, at: int, length: int) -> int:
    for n in range(len(_LENGTHS)):
        if _LENGTHS[n] != length:
            continue
        same = True
        for i in range(length):
            if buffer[at + i] != _TEXTS[n, i]:
                same = False
                break
        if same:
            return n
    return _OTHER if _is_text(buffer, at, length) else _STRANGE


@compiled
def _digits(buffer: Bytes, at: int, count: int) -> int:
    """A whole number, -1 for anything else."""
    value = 0
    for i in range(at, at + count):
        digit = int(np.int64(buffer[i])) - 48
        if digit < 0 or digit > 9:  # noqa: PLR2004 - no digit
            return -1
        value = value * 10 + digit
    return value if count > 0 else -1


@compiled
def _has_form(buffer: Bytes, at: int, length: int) -> bool:
    """Whether the signs of `2013-01-01T10:00:00[.123456]Z` are where they belong."""
    if length != 20 and length != 27:  # noqa: PLR1714, PLR2004 - compiled code has no fast sets
        return False
    same = buffer[at + 4] == 45 and buffer[at + 7] == 45 and buffer[at + 10] == 84  # noqa: PLR2004 - two dashes, T
    same = same and buffer[at + 13] == 58 and buffer[at + 16] == 58  # noqa: PLR2004 - colons
    return bool(same and buffer[at + length - 1] == 90 and (length == 20 or buffer[at + 19] == 46))  # noqa: PLR2004 - Z, dot


@compiled
def _day(year: int, month: int, day: int) -> int:
    """Days since 1970, -1 for a day that is in no calendar."""
    if year < 1970 or month < 1 or month > 12 or day < 1:  # noqa: PLR2004 - of a calendar
        return -1
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if day > _IN_MONTH[month - 1] + (month == 2 and leap):  # noqa: PLR2004 - February
        return -1
    before = year - 1
    days = before * 365 + before // 4 - before // 100 + before // 400 - 719_162
    return int(days + _DAYS_BEFORE[month - 1] + day - 1 + (month > 2 and leap))  # noqa: PLR2004 - after February


@compiled
def _instant(buffer: Bytes, at: int, length: int) -> int:
    """Microseconds of a time in that form, -1 for everything else."""
    if not _has_form(buffer, at, length):
        return -1
    day = _day(_digits(buffer, at, 4), _digits(buffer, at + 5, 2), _digits(buffer, at + 8, 2))
    hour, minute, second = _digits(buffer, at + 11, 2), _digits(buffer, at + 14, 2), _digits(buffer, at + 17, 2)
    part = _digits(buffer, at + 20, 6) if length == 27 else 0  # noqa: PLR2004 - with microseconds
    if min(day, hour, minute, second, part) < 0 or hour > 23 or minute > 59 or second > 59:  # noqa: PLR2004 - of a clock
        return -1
    return int((((day * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + part)


_IV = np.array(
    [0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
     0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179], np.uint64,
)  # fmt: skip
_SIGMA = np.array(
    [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
     [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4], [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
     [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13], [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
     [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11], [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
     [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5], [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
     [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3]],
    np.int64,
)  # fmt: skip
_MIXED = np.array(
    [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15],
     [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]], np.int64,
)  # fmt: skip


@compiled
def _turned(value: np.uint64, by: int) -> np.uint64:
    return (value >> np.uint64(by)) | (value << np.uint64(64 - by))


@compiled
def mark(buffer: Bytes, at: int, length: int, v: NDArray[np.uint64], m: NDArray[np.uint64]) -> int:
    """The bits of `event_mark`: the first word of BLAKE2b-64 (RFC 7693) of at most 128 bytes; `v`, `m` are scratch."""
    for i in range(16):
        m[i] = np.uint64(0)
    for i in range(length):
        m[i // 8] |= np.uint64(buffer[at + i]) << np.uint64(8 * (i % 8))
    first = _IV[0] ^ np.uint64(0x01010008)
    for i in range(8):
        v[i], v[i + 8] = _IV[i], _IV[i]
    v[0] = first
    v[12] ^= np.uint64(length)
    v[14] = ~v[14]
    for turn in range(12):
        for i in range(8):
            a, b, c, d = _MIXED[i, 0], _MIXED[i, 1], _MIXED[i, 2], _MIXED[i, 3]
            v[a] = v[a] + v[b] + m[_SIGMA[turn, 2 * i]]
            v[d] = _turned(v[d] ^ v[a], 32)
            v[c] = v[c] + v[d]
            v[b] = _turned(v[b] ^ v[c], 24)
            v[a] = v[a] + v[b] + m[_SIGMA[turn, 2 * i + 1]]
            v[d] = _turned(v[d] ^ v[a], 16)
            v[c] = v[c] + v[d]
            v[b] = _turned(v[b] ^ v[c], 63)
    return int(np.int64(first ^ v[0] ^ v[8]))


@compiled
def _is_tame(buffer: Bytes, at: int, end: int) -> bool:
    strange = False
    for i in range(at, end):
        byte = buffer[i]
        follows = i > at and buffer[i - 1] >= 48 and buffer[i - 1] <= 57  # noqa: PLR2004 - a digit
        strange |= byte >= 0x80 or ((byte | 0x20) == 101 and follows)  # noqa: PLR2004 - beyond ASCII, or e in a number
    if strange or end - at < _LONGEST_NUMBER:
        return not strange
    run = 0
    for i in range(at, end):
        run = run + 1 if buffer[i] >= 48 and buffer[i] <= 57 else 0  # noqa: PLR2004 - digits
        if run >= _LONGEST_NUMBER:
            return False
    return True


@compiled
def _places(buffer: Bytes, table: Words, i: int, found: Words) -> bool:
    """Where the values of the known headers lie, (7, 2); false for a record that is odd."""
    at, end = table[i, HEADERS], table[i, END]
    for name in range(len(found)):
        found[name, 0] = -1
    for _ in range(table[i, HEADER_COUNT]):
        length, at = _varint(buffer, at, end)
        if at < 0 or length < 0 or at + length > end:
            return False
        name = _which(buffer, at, length)
        size, at = _varint(buffer, at + length, end)
        if at < 0 or at + size > end or name == _STRANGE:
            return False
        if name != _OTHER:
            if size < 0:
                return False
            found[name, 0], found[name, 1] = at, size  # of two with one name the last counts
        at += max(size, 0)
    for name in range(_TRACE):
        if found[name, 0] < 0:
            return False
    return bool(at == end)


@compiled
def _read_one(buffer: Bytes, found: Words, out: Words, v: NDArray[np.uint64], m: NDArray[np.uint64]) -> bool:
    at, size = found[_VERSION, 0], found[_VERSION, 1]
    if size != 3 or buffer[at] != 49 or buffer[at + 1] != 46 or buffer[at + 2] != 48:  # noqa: PLR2004 - 1.0
        return False
    at, size = found[_TYPE, 0], found[_TYPE, 1]
    same = size == len(_TIMER)
    for i in range(size if same else 0):
        same &= buffer[at + i] == _TIMER[i]
    if same:
        return False
    size = found[_SEQ, 1]
    if found[_SOURCE, 1] == 0 or size < 1 or size > MOST_DIGITS or found[_ID, 1] > _BLOCK:
        return False
    out[TIME] = _instant(buffer, found[_TIME, 0], found[_TIME, 1])
    out[SEQ] = _digits(buffer, found[_SEQ, 0], size)
    if out[SEQ] < 0 or out[TIME] < 0 or out[TIME] >= END_OF_TIME_US:
        return False
    if not _is_text(buffer, found[_ID, 0], found[_ID, 1]):
        return False
    out[MARK] = mark(buffer, found[_ID, 0], found[_ID, 1], v, m)
    out[TRACE], out[TRACE_END] = found[_TRACE, 0], found[_TRACE, 0] + found[_TRACE, 1]
    return True


@compiled
def _scan(buffer: Bytes, table: Words, out: Words) -> int:
    found, v, m = np.empty((7, 2), np.int64), np.empty(16, np.uint64), np.empty(16, np.uint64)
    plain = 0
    for i in range(len(table)):
        out[i, PLAIN] = (
            table[i, VALUE] >= 0 and _places(buffer, table, i, found) and _read_one(buffer, found, out[i], v, m)
        )
        out[i, TAME] = out[i, PLAIN] and _is_tame(buffer, table[i, VALUE], table[i, VALUE_END])
        plain += out[i, PLAIN]
    return plain


def scan(records: Columns) -> tuple[Words, bool]:
    """What the headers say, int64 (n, 7), and whether every record is plain; rows of odd ones mean nothing else."""
    out = np.empty((len(records), 7), np.int64)
    plain = _scan(np.frombuffer(records.buffer, np.uint8), records.table, out)
    return out, plain == len(out)


def warm_up() -> None:
    """Compile, or load from the cache, before there is traffic."""
    _scan(np.frombuffer(b"", np.uint8), np.empty((0, 9), np.int64), np.empty((0, 7), np.int64))
