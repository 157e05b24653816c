"""Columns as whole Kafka batches: a compiled loop frames the records, compression runs beside the event loop.

The way back of `columns`: handing records over one by one costs aiokafka 2 microseconds each, and it compresses on the
event loop. The format: https://kafka.apache.org/documentation/#recordbatch
"""

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

import numpy as np
from aiokafka.codec import zstd_encode
from numpy.typing import NDArray

from tidemill_runtime.batches import LEVEL, MANY_BYTES, Packed
from tidemill_runtime.compiled import compiled

KEY, KEY_END, VALUE, VALUE_END, HEADERS, HEADER_COUNT, END = range(7)
"""Columns of a table. KEY and VALUE are -1 for null; the headers, as Kafka writes them, lie from HEADERS to END."""
BATCH_BYTES: Final = 2 * 1024 * 1024
"""Of records before compression. A producer waits for the answer to each batch of a partition before it sends the next:
with four times as many per batch the same vectors took half the time."""
SENT_BYTES: Final = 950_000
"""After compression: below the topics' limit; what cannot be compressed so far goes in smaller batches."""
_OVERHEAD: Final = 64  # of a record, at most

_compiled = partial(compiled, detached=True)
Bytes = NDArray[np.uint8]
Table = NDArray[np.int64]


@_compiled
def varint_size(number: int) -> int:
    """Bytes of a varint that is not negative; one for -1."""
    size, left = 1, number << 1 if number >= 0 else 1
    while left > 0x7F:  # noqa: PLR2004 - seven bits
        left >>= 7
        size += 1
    return size


@_compiled
def put_varint(out: Bytes, at: int, number: int) -> int:
    left = number << 1 if number >= 0 else 1
    while left > 0x7F:  # noqa: PLR2004 - seven bits
        out[at] = np.uint8(left & 0x7F | 0x80)
        left >>= 7
        at += 1
    out[at] = np.uint8(left)
    return at + 1


@_compiled
def copy_bytes(out: Bytes, at: int, buffer: Bytes, start: int, end: int) -> int:
    to, of = np.uint64(at), np.uint64(start)  # an index that may be negative is looked at before each use
    for i in range(np.uint64(end - start)):
        out[to + i] = buffer[of + i]
    return at + end - start


@_compiled
def put_part(out: Bytes, at: int, buffer: Bytes, start: int, end: int) -> int:
    if start < 0:
        return int(put_varint(out, at, -1))
    return int(copy_bytes(out, put_varint(out, at, end - start), buffer, start, end))


@_compiled
def _frame(buffer: Bytes, table: Table, first: int, out: Bytes, most: int) -> tuple[int, int]:
    """Write records from `first` on while they fit into `most` bytes, at least one; the next one, and the bytes."""
    at, i = 0, first
    while i < len(table):
        key = table[i, 1] - table[i, 0] if table[i, 0] >= 0 else -1
        value = table[i, 3] - table[i, 2] if table[i, 2] >= 0 else -1
        headers = table[i, 6] - table[i, 4]
        size = 2 + varint_size(i - first) + varint_size(key) + max(key, 0) + varint_size(value) + max(value, 0)
        size += varint_size(table[i, 5]) + headers
        if i > first and at + size + varint_size(size) > most:
            break
        at = put_varint(out, at, size)
        out[at], out[at + 1] = 0, 0  # attributes, and the time after the batch's
        at = put_varint(out, at + 2, i - first)
        at = put_part(out, at, buffer, table[i, 0], table[i, 1])
        at = put_part(out, at, buffer, table[i, 2], table[i, 3])
        at = copy_bytes(out, put_varint(out, at, table[i, 5]), buffer, table[i, 4], table[i, 6])
        i += 1
    return i, at


async def pack(buffer: Bytes, table: Table, *, transactional: bool) -> AsyncIterator[Packed]:
    """Records in `buffer` at the places of `table`, int64 (n, 7), as batches in their order, timed now.

    Large ones are made in a thread, each when it is asked for: send one while the next is made.
    """
    packer = _Packer(buffer, table, transactional=transactional)
    while not packer.is_done():
        yield packer.one() if len(buffer) < MANY_BYTES else await asyncio.to_thread(packer.one)


class _Packer:
    def __init__(self, buffer: Bytes, table: Table, *, transactional: bool) -> None:
        sizes = table[:, END] - np.where(table[:, KEY] >= 0, table[:, KEY], table[:, HEADERS]) + _OVERHEAD
        self._most = max(min(BATCH_BYTES, int(sizes.sum())), int(sizes.max(initial=0)))
        self._out = np.empty(self._most, np.uint8)
        self._buffer, self._table, self._transactional = buffer, table, transactional
        self._first, self._now_ms = 0, int(time.time() * 1000)

    def is_done(self) -> bool:
        return self._first == len(self._table)

    def one(self) -> Packed:
        while True:
            stop, end = _frame(self._buffer, self._table, self._first, self._out, self._most)
            records, count = zstd_encode(self._out[:end], level=LEVEL), stop - self._first
            if len(records) <= SENT_BYTES or count == 1:
                self._first = stop
                return Packed(records, count, transactional=self._transactional, times_ms=(self._now_ms, self._now_ms))
            self._most //= 2


def warm_up() -> None:
    """Compile, or load from the cache, before there is traffic."""
    _Packer(np.zeros(1, np.uint8), np.zeros((1, 7), np.int64), transactional=False).one()
