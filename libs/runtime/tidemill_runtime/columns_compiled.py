"""The loop of `columns`, compiled: for who reads more than the memory of a compiler is worth."""

import numpy as np
from numpy.typing import NDArray

from tidemill_runtime.columns_plain import WIDTH, Table
from tidemill_runtime.compiled import compiled


@compiled
def _number(buffer: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """A varint and where it ends; -1 for one that does not."""
    value, shift = np.uint64(0), np.uint64(0)
    while 0 <= at < end and shift < np.uint64(64):
        byte = np.uint64(buffer[at])
        at += 1
        value |= (byte & np.uint64(0x7F)) << shift
        shift += np.uint64(7)
        if byte < np.uint64(0x80):
            return int(np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1))), at
    return 0, -1


@compiled
def _frame(  # noqa: PLR0913 - compiled
    buffer: NDArray[np.uint8], count: int, base_offset: int, first_ms: int, appended_ms: int, table: Table
) -> bool:
    """Fill the table of a batch; false when it is not what the format says."""
    at, size = 0, len(buffer)
    for i in range(count):
        length, at = _number(buffer, at, size)
        end = at + length
        if at < 0 or length < 1 or end > size:
            return False
        delta_ms, at = _number(buffer, at + 1, end)  # behind a byte of attributes
        delta, at = _number(buffer, at, end)
        table[i, 0] = base_offset + delta
        table[i, 1] = appended_ms if appended_ms >= 0 else first_ms + delta_ms
        for part in range(2):
            length, at = _number(buffer, at, end)
            if at < 0 or length > end - at:
                return False
            table[i, 2 + 2 * part] = at if length >= 0 else -1
            at += max(length, 0)
            table[i, 3 + 2 * part] = at if length >= 0 else -1
        headers, at = _number(buffer, at, end)
        if at < 0:
            return False
        table[i, 6], table[i, 7], table[i, 8] = at, headers, end
        at = end
    return at == size


def frame(body: bytes, count: int, base_offset: int, first_ms: int, appended_ms: int) -> Table | None:
    """A batch's table, None when it is not what the format says."""
    table = np.empty((count, WIDTH), np.int64)
    buffer = np.frombuffer(body, np.uint8)
    return table if _frame(buffer, count, base_offset, first_ms, appended_ms, table) else None


def warm_up() -> None:
    """Compile, or load from the cache, before there is traffic."""
    frame(b"", 0, 0, 0, -1)
