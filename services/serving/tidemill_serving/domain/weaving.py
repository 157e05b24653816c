"""A batch's answers and records in one pass: what all of them share and what each has of its own, woven by a pattern.

One by one, a text, its headers, its msgpack and its checksum cost more than the scoring.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemill_serving.domain.entries import Kind
from tidemill_serving.domain.frames import Bytes, compiled, crc32

SHARED, OWN, TRACE, SIZE = range(4)
"""Of a pattern: a piece that all share; one of each item's own; the trace id in a trace context of its own; the length
of its own, as Kafka writes that of what is shorter than 8 KiB."""
_TRACE_START, _TRACE_END = 3, 35
_EIGHT: Final = 0x98  # an array of eight: the fields of `Entry`
_NIL: Final = 0xC0
_STEPS: Final = 3  # from 8 to 64 bits
_MORE: Final = 40
"""Bytes of a frame beside its texts, at most: its head and the marks of eight fields."""
Pattern = NDArray[np.int64]
Int64s = NDArray[np.int64]
Piece = bytes | memoryview


def pattern(*parts: tuple[int, int]) -> Pattern:
    """What comes after what: of which sort, and its number."""
    return np.array(parts, np.int64)


@lru_cache(maxsize=256)
def opening(kind: Kind, pipeline: str, topic: str) -> bytes:
    """How the records of one kind and pipeline begin."""
    return b"".join(map(msgspec.msgpack.encode, (kind, pipeline, topic)))


class Pieces:
    """Pieces that N items share, and columns of N pieces."""

    def __init__(self, shared: Sequence[bytes], columns: Sequence[Sequence[Piece]]) -> None:
        """`shared` begins with the opening, where frames are to be woven."""
        flat = [*shared, *chain.from_iterable(columns)]
        self._raw = np.frombuffer(b"".join(flat), np.uint8)
        self._ends = np.fromiter(map(len, flat), np.int64, len(flat)).cumsum()
        self._of = len(shared), len(columns[0])

    def texts(self, text: Pattern) -> list[bytes]:
        """A text for each item."""
        out, ends = _texts(self._raw, self._ends, self._of, text)
        raw, found, start = out.tobytes(), list[bytes](), 0
        for end in ends.tolist():
            found.append(raw[start:end])
            start = end
        return found

    def frames(self, value: Pattern, head: Pattern, numbers: Int64s, key: int = -1) -> bytes:
        """The frames of a record for each item. `numbers` [N, 2]: partition and time; `key`: a column, -1 for none."""
        made: bytes = _frames(self._raw, self._ends, (*self._of, key), numbers, (value, head)).tobytes()
        return made


@compiled
def _span(ends: Int64s, of: tuple[int, int], part: Int64s, item: int) -> tuple[int, int]:
    """Where the piece of a pattern's part is."""
    shared, count = of
    number = part[1] if part[0] == SHARED else shared + part[1] * count + item
    start = ends[number - 1] if number else 0
    end = ends[number]
    return (min(start + _TRACE_START, end), min(start + _TRACE_END, end)) if part[0] == TRACE else (start, end)


@compiled
def _length(ends: Int64s, of: tuple[int, int], text: Pattern, item: int) -> int:
    size = 0
    for number in range(len(text)):
        start, end = _span(ends, of, text[number], item)
        if text[number, 0] == SIZE:
            size += 1 if end - start < 0x40 else 2  # noqa: PLR2004 - seven bits, one for the sign
        else:
            size += end - start
    return size


@compiled
def _put(out: Bytes, at: int, raw: Bytes, start: int, end: int) -> int:
    to, of = np.uint64(at), np.uint64(start)  # an index that may be negative is looked at before each use
    for place in range(np.uint64(end - start)):
        out[to + place] = raw[of + place]
    return at + end - start


@compiled
def _weave(raw: Bytes, ends: Int64s, of: tuple[int, int], text: tuple[Pattern, int], out: tuple[Bytes, int]) -> int:
    """Write one item's text; the place behind it."""
    (parts, item), (to, at) = text, out
    for number in range(len(parts)):
        start, end = _span(ends, of, parts[number], item)
        if parts[number, 0] != SIZE:
            at = _put(to, at, raw, start, end)
        elif end - start < 0x40:  # noqa: PLR2004 - as above
            to[at] = (end - start) << 1
            at += 1
        else:
            to[at], to[at + 1] = (end - start) << 1 & 0x7F | 0x80, (end - start) >> 6
            at += 2
    return at


@compiled
def _texts(raw: Bytes, ends: Int64s, of: tuple[int, int], text: Pattern) -> tuple[Bytes, Int64s]:
    """All texts, and where each ends."""
    places = np.empty(of[1], np.int64)
    total = 0
    for item in range(of[1]):
        total += _length(ends, of, text, item)
        places[item] = total
    out, at = np.empty(total, np.uint8), 0
    for item in range(of[1]):
        at = _weave(raw, ends, of, (text, item), (out, at))
    return out, places


@compiled
def _big(out: Bytes, at: int, number: int, wide: int) -> int:
    """The lowest bytes of a number, the highest first."""
    for byte in range(wide):
        out[at + byte] = number >> (8 * (wide - 1 - byte)) & 0xFF
    return at + wide


@compiled
def _put_int(out: Bytes, at: int, number: int) -> int:
    """In as few bytes as msgpack has for it."""
    if -32 <= number < 128:  # noqa: PLR2004 - msgpack's bounds, here and below
        out[at] = number & 0xFF
        return at + 1
    step = 0
    if number >= 0:
        while step < _STEPS and number >> (8 << step):
            step += 1
        out[at] = 0xCC + step
    else:
        while step < _STEPS and number < -(1 << ((8 << step) - 1)):
            step += 1
        out[at] = 0xD0 + step
    return int(_big(out, at + 1, number, 1 << step))


@compiled
def _put_size(out: Bytes, at: int, size: int) -> int:
    """The mark and length of bytes."""
    step = 0 if size < 0x100 else 1 if size < 0x10000 else 2  # noqa: PLR2004
    out[at] = 0xC4 + step
    return int(_big(out, at + 1, size, 1 << step))


@compiled
def _frames(
    raw: Bytes, ends: Int64s, of: tuple[int, int, int], numbers: Int64s, texts: tuple[Pattern, Pattern]
) -> Bytes:  # fmt: skip
    """A frame for each item, one behind the other."""
    value, head = texts
    shared, count, key = of
    both = shared, count
    total, begin = 0, ends[0]
    sizes = np.empty((count, 2), np.int64)
    for item in range(count):
        sizes[item] = _length(ends, both, value, item), _length(ends, both, head, item)
        total += sizes[item, 0] + sizes[item, 1] + begin + _MORE
        if key >= 0:
            number = shared + key * count + item
            total += ends[number] - ends[number - 1]
    out, first = np.empty(total, np.uint8), 0
    for item in range(count):
        at = first + 8
        out[at] = _EIGHT
        at = _put_int(out, _put(out, at + 1, raw, 0, begin), numbers[item, 0])
        if key < 0:
            out[at] = _NIL
            at += 1
        else:
            number = shared + key * count + item
            start, end = ends[number - 1], ends[number]
            at = _put(out, _put_size(out, at, end - start), raw, start, end)
        at = _weave(raw, ends, both, (value, item), (out, _put_size(out, at, sizes[item, 0])))
        at = _weave(raw, ends, both, (head, item), (out, _put_size(out, at, sizes[item, 1])))
        at = _put_int(out, at, numbers[item, 1])
        size, check = at - first - 8, np.int64(crc32(out, first + 8, at))
        for byte in range(4):
            out[first + byte] = size >> (8 * byte) & 0xFF
            out[first + 4 + byte] = check >> (8 * byte) & 0xFF
        first = at
    return out[:first]


def warm_up() -> None:
    """Compile, or find it compiled."""
    pieces, text = Pieces([b"a"], [[b"b"]]), pattern((OWN, 0))
    pieces.texts(text)
    pieces.frames(text, text, np.zeros((1, 2), np.int64))
