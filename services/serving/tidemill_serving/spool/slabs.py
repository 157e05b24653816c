"""A stretch of the spool as columns: where each part of each record lies, found and framed for Kafka by compiled loops.

Nobody makes an object of a record on its way there: its bytes go from the spool's frame into Kafka's.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemill_contracts.headers import packed_header
from tidemill_runtime.packed import copy_bytes, put_part, put_varint
from tidemill_serving.domain.entries import ORIGIN, Entry, Kind
from tidemill_serving.domain.frames import HEAD, Bytes, compiled, entries_in
from tidemill_serving.spool.scanning import (
    COLUMNS,
    END,
    HEADERS,
    HEADERS_END,
    KEY,
    KEY_END,
    NUMBER,
    OPENING_END,
    VALUE,
    VALUE_END,
    Table,
    different,
    scan,
    text_at,
)  # fmt: skip

_ORIGIN = np.frombuffer(packed_header(ORIGIN, b"")[:-1], np.uint8)
_DIGITS: Final = 20
OWN_ORIGIN: Final = -1
"""In place of a segment's identity."""


class Opening(NamedTuple):
    """What many records begin with."""

    kind: Kind
    pipeline: str
    topic: str


class Slab(NamedTuple):
    """Whole frames: records from number `first` on, of one identity; `table` tells where their parts lie in `raw`."""

    identity: int
    first: int
    raw: bytes
    table: Table

    def __len__(self) -> int:
        return len(self.table)

    @property
    def end(self) -> int:
        """The number after its last record."""
        return self.first + len(self.table)

    def entries(self) -> Iterator[tuple[int, int, Entry]]:
        """(identity, number, record) of each."""
        for place, (entry, _) in enumerate(entries_in(self.raw[: int(self.table[-1, END])] if len(self) else b"")):
            yield self.identity, self.first + place, entry

    def openings(self) -> tuple[list[Opening], NDArray[np.int64]]:
        """All that are different, and whose each record is."""
        numbers = np.empty(len(self), np.int64)
        firsts = different(np.frombuffer(self.raw, np.uint8), self.table, numbers)
        return [_opening(self.raw[start:end]) for start, end in firsts.tolist()], numbers

    def frame(self, rows: NDArray[np.int64], most: int) -> Iterator[tuple[bytes, int]]:
        """These records as Kafka frames them, and how many; at most so many bytes, or one record.

        With their place in the log as their origin, unless they have one of their own (identity `OWN_ORIGIN`).
        """
        at, raw = 0, np.frombuffer(self.raw, np.uint8)
        while at < len(rows):
            records, stop = _frame(raw, self.table, rows, at, (self.identity, self.first, most))
            yield records.tobytes(), stop - at
            at = stop


def slab(identity: int, first: int, raw: bytes, *, most: int, check: bool) -> Slab:
    """The whole records at the beginning of `raw`, at most so many; with `check` those whose checksums are right."""
    table = np.empty((min(most, len(raw) // HEAD.size), COLUMNS), np.int64)
    return Slab(identity, first, raw, table[: scan(np.frombuffer(raw, np.uint8), table, check)])


@lru_cache(maxsize=256)
def _opening(raw: bytes) -> Opening:
    return msgspec.msgpack.decode(b"\x93" + raw, type=Opening)


@compiled
def _write_number(out: Bytes, at: int, number: int) -> int:
    """Decimal."""
    size, left = 1, number
    while left >= 10:  # noqa: PLR2004 - decimal
        left //= 10
        size += 1
    left = number
    for place in range(at + size - 1, at - 1, -1):
        out[place] = np.uint8(48 + left % 10)
        left //= 10
    return at + size


@compiled
def _listed(out: Bytes, to: int, raw: Bytes, at: int, many: int) -> int:
    """Write headers that stand as a list; the place behind."""
    for _ in range(many):
        start, end = text_at(raw, at + 1, len(raw))
        to = put_part(out, to, raw, start, end)
        start, at = text_at(raw, end, len(raw))
        to = put_part(out, to, raw, start, at)
    return to


@compiled
def _put_origin(out: Bytes, at: int, identity: int, number: int) -> int:
    """The header that says where in which spool a record stood."""
    text = np.empty(2 * _DIGITS + 3, np.uint8)
    size = _write_number(text, 0, identity)
    text[size] = 58  # a colon
    size = _write_number(text, size + 1, number)
    text[size], text[size + 1] = 58, 48
    return int(put_part(out, copy_bytes(out, at, _ORIGIN, 0, len(_ORIGIN)), text, 0, size + 2))


@compiled
def _frame(
    raw: Bytes, table: Table, rows: NDArray[np.int64], at: int, of: tuple[int, int, int]
) -> tuple[Bytes, int]:  # fmt: skip
    """Records `rows[at:]` while they fit, each written behind a place for its length; and the next one."""
    identity, first, most = of
    total, stop = 0, at
    while stop < len(rows):
        row = table[rows[stop]]
        # no part of a record grows by more than its varints, and a header of a list by two of them
        size = row[HEADERS_END] - row[OPENING_END] + 2 * len(_ORIGIN) + 2 * _DIGITS + 32
        size += 8 * max(row[NUMBER], 0)
        if stop > at and total + size > most:
            break
        total += size
        stop += 1
    out, body, to = np.empty(total, np.uint8), np.empty(total, np.uint8), 0
    for place in range(at, stop):
        row = table[rows[place]]
        body[0] = body[1] = 0  # attributes, and the time after the batch's
        end = put_varint(body, 2, place - at)
        end = put_part(body, end, raw, row[KEY], row[KEY_END])
        end = put_part(body, end, raw, row[VALUE], row[VALUE_END])
        more = 0 if identity == OWN_ORIGIN else 1
        if row[NUMBER] < 0:
            end = put_varint(body, end, (int(raw[row[HEADERS]]) >> 1) + more)
            end = copy_bytes(body, end, raw, row[HEADERS] + 1, row[HEADERS_END])
        else:
            end = put_varint(body, end, row[NUMBER] + more)
            end = _listed(body, end, raw, row[HEADERS], row[NUMBER])
        if more:
            end = _put_origin(body, end, identity, first + rows[place])
        to = copy_bytes(out, put_varint(out, to, end), body, 0, end)
    return out[:to], stop


def warm_up() -> None:
    """Compile, or find it compiled, for bytes as they are read: an array that can be written is another type."""
    made = slab(1, 0, b"", most=1, check=True)
    made.openings()
    _frame(np.frombuffer(b"\0", np.uint8), made.table, np.empty(0, np.int64), 0, (1, 0, 1))
