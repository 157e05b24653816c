"""The loop of `columns` without a compiler, which takes 130 MB of a process."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

WIDTH: Final = 9
Table = NDArray[np.int64]


def frame(body: bytes, count: int, base_offset: int, first_ms: int, appended_ms: int) -> Table | None:
    """A batch's table, None when it is not what the format says."""
    rows, at, size = list[int](), 0, len(body)
    try:
        for _ in range(count):
            length, at = _number(body, at)
            end = at + length
            if length < 1 or end > size:
                return None
            delta_ms, at = _number(body, at + 1) if body[at + 1] else (0, at + 2)  # behind a byte of attributes
            byte = body[at]  # the numbers that mostly have one byte are read here: a call costs more than they do
            delta, at = (byte >> 1, at + 1) if byte < 0x80 and not byte & 1 else _number(body, at)  # noqa: PLR2004
            byte = body[at]
            length, at = (byte >> 1, at + 1) if byte < 0x80 and not byte & 1 else _number(body, at)  # noqa: PLR2004
            key = key_end = value = value_end = -1
            if length >= 0:
                key, at = at, at + length
                key_end = at
            length, at = _number(body, at)
            if length >= 0:
                value, at = at, at + length
                value_end = at
            byte = body[at]
            headers, at = (byte >> 1, at + 1) if byte < 0x80 and not byte & 1 else _number(body, at)  # noqa: PLR2004
            if at > end:
                return None
            moment = appended_ms if appended_ms >= 0 else first_ms + delta_ms
            rows += (base_offset + delta, moment, key, key_end, value, value_end, at, headers, end)
            at = end
    except IndexError:
        return None
    return np.array(rows, np.int64).reshape(count, WIDTH) if at == size else None


def _number(buffer: bytes, at: int) -> tuple[int, int]:
    """A varint and where it ends; raises IndexError for one that does not."""
    byte = buffer[at]
    if byte < 0x80:  # noqa: PLR2004 - most have one byte
        return (byte >> 1) ^ -(byte & 1), at + 1
    second = buffer[at + 1]
    value = byte & 0x7F | second << 7
    if second < 0x80:  # noqa: PLR2004 - nearly all others have two
        return (value >> 1) ^ -(value & 1), at + 2
    value, shift, at = value & 0x3FFF, 14, at + 1
    while shift < 64:  # noqa: PLR2004 - bits
        at += 1
        byte = buffer[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last of the number
            return (value >> 1) ^ -(value & 1), at + 1
        shift += 7
    raise IndexError("a number of more than 64 bits")
