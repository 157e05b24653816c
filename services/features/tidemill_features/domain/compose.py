"""Feature vectors as Kafka records in one compiled pass over columns: exactly the contracts' JSON and headers."""

from typing import NamedTuple

import numpy as np

from tidemill_features.domain.compiled import detached
from tidemill_features.domain.letter import (
    END,
    HEADER_COUNT,
    HEADERS,
    KEY,
    KEY_END,
    VALUE,
    VALUE_END,
    WIDTH,
    Bytes,
    Words,
)


class Rows(NamedTuple):
    """What differs from vector to vector: texts one behind the other and where each ends, numbers by row."""

    keys: Bytes
    key_ends: Words
    texts: Bytes  # the values as JSON
    text_ends: Words
    at_us: Words
    revisions: Words
    seqs: Words  # (n, partitions), -1 none
    traces: Bytes
    trace_ends: Words  # empty when there are none


class Frame(NamedTuple):
    """What is the same in all: pieces of the body and of the headers, and the names of the source partitions."""

    begin: Bytes
    identity: Bytes
    before_id: Bytes
    before_time: Bytes
    last: Bytes
    before_trace: Bytes
    partitions: Words


def as_bytes(text: bytes) -> Bytes:
    """Bytes that compiled code can read."""
    return np.frombuffer(text, np.uint8).copy()


_AT, _REVISION, _VALUES = as_bytes(b',"at_us":'), as_bytes(b',"revision":'), as_bytes(b',"values":[')
_POSITIONS, _HEX = as_bytes(b'],"positions":{'), as_bytes(b"0123456789abcdef")
_SHORT = np.zeros(32, np.uint8)  # control characters with a letter of their own
for _code, _letter in ((8, b"b"), (9, b"t"), (10, b"n"), (12, b"f"), (13, b"r")):
    _SHORT[_code] = _letter[0]
_HEADERS = 6
_MOST_NUMBER, _MOST_TIME, _MOST_VARINT = 20, 27, 5
_DAY_US = 86_400_000_000


@detached
def _copy(out: Bytes, at: int, text: Bytes, start: int, end: int) -> int:
    to, of = np.uint64(at), np.uint64(start)  # an index that may be negative is looked at before each use
    for i in range(np.uint64(end - start)):
        out[to + i] = text[of + i]
    return at + end - start


@detached
def _whole(out: Bytes, at: int, number: int) -> int:
    """A number that is not negative; returns where it ends."""
    length, left = 1, number
    while left >= 10:  # noqa: PLR2004 - digits
        left //= 10
        length += 1
    _padded(out, at, number, length)
    return at + length


@detached
def _padded(out: Bytes, at: int, number: int, length: int) -> None:
    left = number
    for i in range(at + length - 1, at - 1, -1):
        out[i] = np.uint8(48 + left % 10)
        left //= 10


@detached
def _varint(out: Bytes, at: int, number: int) -> int:
    """As Kafka writes a number that is not negative."""
    left = number << 1
    while left > 0x7F:  # noqa: PLR2004 - seven bits
        out[at] = np.uint8(left & 0x7F | 0x80)
        left >>= 7
        at += 1
    out[at] = np.uint8(left)
    return at + 1


@detached
def _quoted(out: Bytes, at: int, text: Bytes, start: int, end: int) -> int:
    """A JSON text."""
    out[at] = 34
    at += 1
    for i in range(start, end):
        byte = text[i]
        if byte == 34 or byte == 92:  # noqa: PLR1714, PLR2004 - compiled code has no fast sets
            out[at], out[at + 1] = 92, byte
            at += 2
        elif byte >= 32:  # noqa: PLR2004 - no control character
            out[at] = byte
            at += 1
        elif _SHORT[byte]:
            out[at], out[at + 1] = 92, _SHORT[byte]
            at += 2
        else:
            out[at], out[at + 1], out[at + 2], out[at + 3] = 92, 117, 48, 48
            out[at + 4], out[at + 5] = 48 + byte // 16, _HEX[byte % 16]
            at += 6
    out[at] = 34
    return at + 1


@detached
def _time(out: Bytes, at: int, time_us: int) -> int:
    """RFC 3339, as `format_time`. The date by Howard Hinnant's "civil from days": years that begin in March."""
    day, rest = time_us // _DAY_US + 719_468, time_us % _DAY_US
    era, of_era = day // 146_097, day % 146_097
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    _padded(out, at + 8, of_year - (153 * month + 2) // 5 + 1, 2)
    month = month + 3 if month < 10 else month - 9  # noqa: PLR2004 - March to December
    _padded(out, at, year + era * 400 + (month <= 2), 4)  # noqa: PLR2004 - January and February belong to the next
    _padded(out, at + 5, month, 2)
    second, part = rest // 1_000_000, rest % 1_000_000
    _padded(out, at + 11, second // 3600, 2)
    _padded(out, at + 14, second // 60 % 60, 2)
    _padded(out, at + 17, second % 60, 2)
    out[at + 4], out[at + 7], out[at + 10], out[at + 13], out[at + 16] = 45, 45, 84, 58, 58
    at += 19
    if part:
        out[at] = 46
        _padded(out, at + 1, part, 6)
        at += 7
    out[at] = 90
    return at + 1


@detached
def _body(out: Bytes, at: int, frame: Frame, rows: Rows, i: int) -> int:
    at = _copy(out, at, frame.begin, 0, len(frame.begin))
    at = _quoted(out, at, rows.keys, rows.key_ends[i - 1] if i else 0, rows.key_ends[i])
    at = _whole(out, _copy(out, at, _AT, 0, len(_AT)), rows.at_us[i])
    at = _whole(out, _copy(out, at, _REVISION, 0, len(_REVISION)), rows.revisions[i])
    at = _copy(out, at, _VALUES, 0, len(_VALUES))
    at = _copy(out, at, rows.texts, rows.text_ends[i - 1] if i else 0, rows.text_ends[i])
    at = _copy(out, at, _POSITIONS, 0, len(_POSITIONS))
    some = False
    for column in range(len(frame.partitions)):
        if rows.seqs[i, column] < 0:
            continue
        if some:
            out[at] = 44
            at += 1
        some = True
        out[at] = 34
        at = _whole(out, at + 1, frame.partitions[column])
        out[at], out[at + 1] = 34, 58
        at = _whole(out, at + 2, rows.seqs[i, column])
    out[at], out[at + 1] = 125, 125
    return at + 2


@detached
def _heads(out: Bytes, at: int, frame: Frame, rows: Rows, i: int) -> int:
    at = _copy(out, at, frame.before_id, 0, len(frame.before_id))
    key, key_end = rows.key_ends[i - 1] if i else 0, rows.key_ends[i]
    digits = _whole(out, at, rows.revisions[i]) - at  # only to know how long it is: it is written over
    at = _varint(out, at, len(frame.identity) + key_end - key + 1 + digits)
    at = _copy(out, _copy(out, at, frame.identity, 0, len(frame.identity)), rows.keys, key, key_end)
    out[at] = 47
    at = _whole(out, at + 1, rows.revisions[i])
    at = _copy(out, at, frame.before_time, 0, len(frame.before_time))
    end = _time(out, at + 1, rows.at_us[i])
    at = _varint(out, at, end - at - 1)  # one byte
    return int(_copy(out, end, frame.last, 0, len(frame.last)))


@detached
def _compose(frame: Frame, rows: Rows, out: Bytes, table: Words) -> int:
    at = 0
    for i in range(len(rows.at_us)):
        table[i, KEY] = at
        at = _copy(out, at, rows.keys, rows.key_ends[i - 1] if i else 0, rows.key_ends[i])
        table[i, KEY_END] = table[i, VALUE] = at
        at = _body(out, at, frame, rows, i)
        table[i, VALUE_END] = table[i, HEADERS] = at
        at = _heads(out, at, frame, rows, i)
        table[i, HEADER_COUNT] = _HEADERS
        if len(rows.trace_ends):
            start = rows.trace_ends[i - 1] if i else 0
            if rows.trace_ends[i] > start:
                at = _copy(out, at, frame.before_trace, 0, len(frame.before_trace))
                at = _varint(out, at, rows.trace_ends[i] - start)
                at = _copy(out, at, rows.traces, start, rows.trace_ends[i])
                table[i, HEADER_COUNT] += 1
        table[i, END] = at
    return at


def compose(frame: Frame, rows: Rows) -> tuple[Bytes, Words]:
    """A buffer and the table of Letters in it; other threads may run Python meanwhile."""
    count, sources = rows.seqs.shape
    fixed = sum(len(piece) for piece in frame[:6]) + sum(map(len, (_AT, _REVISION, _VALUES, _POSITIONS)))
    fixed += 3 * _MOST_NUMBER + 2 * _MOST_VARINT + _MOST_TIME + sources * (2 * _MOST_NUMBER + 4) + 8
    most = count * fixed + 8 * len(rows.keys) + len(rows.texts) + len(rows.traces)
    out, table = np.empty(most, np.uint8), np.empty((count, WIDTH), np.int64)
    end = _compose(frame, rows, out, table)
    return out[:end], table
