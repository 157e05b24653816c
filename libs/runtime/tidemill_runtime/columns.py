"""Records as columns: where the parts of each lie in one buffer, without an object per record.

Decoding a record with nine headers into objects costs aiokafka 5 to 7 microseconds, more than everything that is done
with it afterwards. Here a loop notes positions, 0.2 microseconds a record where it is compiled and 2 where it is not;
who wants a record as an object still gets it. The format: https://kafka.apache.org/documentation/#recordbatch
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, overload

import numpy as np
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.codec import gzip_decode, lz4_decode, snappy_decode, zstd_decode
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

from tidemill_runtime.columns_plain import Table
from tidemill_runtime.columns_plain import frame as plain_frame

OFFSET, TIMESTAMP, KEY, KEY_END, VALUE, VALUE_END, HEADERS, HEADER_COUNT, END = range(9)
"""Columns of a table. KEY and VALUE are -1 for null; the headers lie from HEADERS to END."""

_HEAD = struct.Struct(">qiibIhiqqqhii")
_AFTER_LENGTH, _AFTER_CRC = 12, 21
_CODEC, _APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x07, 0x08, 0x10, 0x20
_ABORT = struct.pack(">hh", 0, 0)
_DECODERS: dict[int, Callable[[Any], bytes]] = {1: gzip_decode, 2: snappy_decode, 3: lz4_decode, 4: zstd_decode}


Frame = Callable[[bytes, int, int, int, int], Table | None]
"""Records of a batch, their number, its first offset and time, and the time of its writing or -1, to a table, or None
when they are not what the format says."""


class RecordColumns(Sequence[ConsumerRecord]):
    """Records of one partition in offset order; items are made into objects when they are asked for.

    `table` is int64 (n, WIDTH): positions in `buffer` by the names above.
    """

    def __init__(self, tp: TopicPartition, buffer: bytes, table: Table) -> None:
        self.topic: str = tp.topic
        self.partition: int = tp.partition
        self.buffer, self.table = buffer, table

    def __len__(self) -> int:
        return len(self.table)

    @property
    def first_ms(self) -> int:
        """The time of the first record; there is one."""
        return int(self.table[0, TIMESTAMP])

    @overload
    def __getitem__(self, index: int) -> ConsumerRecord: ...
    @overload
    def __getitem__(self, index: slice) -> "RecordColumns": ...
    def __getitem__(self, index: int | slice) -> "ConsumerRecord | RecordColumns":
        if isinstance(index, slice):
            return RecordColumns(TopicPartition(self.topic, self.partition), self.buffer, self.table[index])
        return self._record(self.table[index].tolist())

    def __iter__(self) -> Iterator[ConsumerRecord]:
        return map(self._record, self.table.tolist())

    def _record(self, row: list[int]) -> ConsumerRecord:
        """As aiokafka gives it; one with a header that cannot be read comes without headers, key and value."""
        place = (self.topic, self.partition, row[OFFSET])
        try:
            headers = tuple(_headers(self.buffer, row[HEADERS], row[HEADER_COUNT], row[END]))
        except (UnicodeDecodeError, IndexError):
            return ConsumerRecord(*place, 0, 0, None, None, None, -1, -1, ())
        key = None if row[KEY] < 0 else self.buffer[row[KEY] : row[KEY_END]]
        value = None if row[VALUE] < 0 else self.buffer[row[VALUE] : row[VALUE_END]]
        sizes = (-1 if key is None else len(key), -1 if value is None else len(value))
        return ConsumerRecord(*place, row[TIMESTAMP], 0, key, value, None, *sizes, headers)


def _headers(buffer: bytes, at: int, count: int, end: int) -> Iterator[tuple[str, bytes | None]]:
    for _ in range(count):
        length, at = _varint(buffer, at)
        name = buffer[at : at + length].decode()
        length, at = _varint(buffer, at + length)
        yield name, None if length < 0 else buffer[at : at + length]
        at += max(length, 0)
    if at != end:
        raise IndexError("headers end elsewhere")


def _varint(buffer: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:  # noqa: PLR2004 - the last of the number
            return (value >> 1) ^ -(value & 1), at


def join(parts: Sequence[RecordColumns]) -> RecordColumns:
    """Columns one behind the other, all of one partition."""
    if len(parts) == 1:
        return parts[0]
    tables, base = [], 0
    for part in parts:
        table = part.table.copy()
        for column in (KEY, KEY_END, VALUE, VALUE_END, HEADERS, END):
            table[:, column] += np.where(table[:, column] >= 0, base, 0)
        tables.append(table)
        base += len(part.buffer)
    tp = TopicPartition(parts[0].topic, parts[0].partition)
    return RecordColumns(tp, b"".join(part.buffer for part in parts), np.concatenate(tables))


class KeptRecords(MemoryRecords):  # type: ignore[misc]  # aiokafka ships no types
    """As its base; `raw` are its bytes."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.raw = raw


fetcher.MemoryRecords = KeptRecords  # the only way to the bytes of a fetch; for every other reader it is the same class


def read_columns(consumer: Any, frame: Frame) -> None:  # noqa: ANN401 - aiokafka ships no types
    """Make a started consumer's `getmany` give columns, made by `frame`."""
    consumer._fetcher._records = _Results(frame)  # noqa: SLF001 - where fetches wait to be taken; there is no setting for it


class _Results(dict[TopicPartition, Any]):
    """Fetches that are not taken yet. What is put in is changed to give columns."""

    def __init__(self, frame: Frame) -> None:
        super().__init__()
        self._frame = frame

    def __setitem__(self, tp: TopicPartition, result: Any) -> None:  # noqa: ANN401 - aiokafka ships no types
        if type(result) is fetcher.FetchResult:
            plain = result._partition_records  # noqa: SLF001 - see read_columns
            raw = plain._records.raw  # noqa: SLF001 - see read_columns
            if _is_current(raw):
                result._partition_records = Reader(tp, raw, plain, self._frame)  # noqa: SLF001 - see read_columns
                result.getall = partial(_getall, result)
        super().__setitem__(tp, result)


def _is_current(raw: bytes) -> bool:
    at = 0
    while at + _HEAD.size <= len(raw):
        if raw[at + 16] != 2:  # noqa: PLR2004 - the format of Kafka 0.11 and later
            return False
        at += _AFTER_LENGTH + int.from_bytes(raw[at + 8 : at + 12], "big")
    return True


def _getall(result: Any, max_records: int | None = None) -> Sequence[ConsumerRecord]:  # noqa: ANN401 - see above
    """In place of FetchResult.getall."""
    if not result.check_assignment(result._topic_partition) or not result.has_more():  # noqa: SLF001 - its own attribute
        return []
    reader: Reader = result._partition_records  # noqa: SLF001 - its own attribute
    parts, left = [], max_records
    try:
        while left is None or left > 0:
            part = reader.take(left)
            if part is None:
                break
            parts.append(part)
            left = None if left is None else left - len(part)
    finally:
        result._update_position()  # noqa: SLF001 - its own attribute
    if reader.is_over:
        result._partition_records = None  # noqa: SLF001 - its own attribute
    return join(parts) if parts else []


class Reader:
    """The batches of one fetch, in place of aiokafka's PartitionRecords."""

    def __init__(
        self, tp: TopicPartition, raw: bytes, plain: Any, frame: Frame = plain_frame,  # noqa: ANN401 - aiokafka ships no types
    ) -> None:  # fmt: skip
        self.next_fetch_offset: int = plain.next_fetch_offset
        self._tp, self._raw, self._at, self._frame = tp, raw, 0, frame
        self._committed_only = plain._isolation_level == fetcher.READ_COMMITTED  # noqa: SLF001 - there is no other way
        self._aborted: list[tuple[int, int]] = list(plain._aborted_transactions)  # noqa: SLF001 - there is no other way
        self._aborting: set[int] = set()
        self._batch: RecordColumns | None = None
        self._behind = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return self._batch is None and self._at + _HEAD.size > len(self._raw)

    def take(self, most: int | None) -> RecordColumns | None:
        """The next records, of one batch; None at the end. Raises CorruptRecordException."""
        while self._batch is None or not len(self._batch):
            if self._batch is not None:
                self.next_fetch_offset, self._batch = self._behind, None
            if not self._next_batch():
                return None
        taken, rest = self._batch[:most], self._batch[len(self._batch) if most is None else most :]
        self.next_fetch_offset = int(taken.table[-1, OFFSET]) + 1
        self._batch = rest
        if not len(rest):
            self.next_fetch_offset, self._batch = self._behind, None
        return taken

    def _next_batch(self) -> bool:
        if self._at + _HEAD.size > len(self._raw):
            return False
        base, length, _, _, crc, attributes, last, first_ms, max_ms, producer, _, _, count = _HEAD.unpack_from(
            self._raw, self._at
        )
        start, end = self._at, self._at + _AFTER_LENGTH + length
        if end > len(self._raw):  # cut off by the size of the fetch: it is fetched again, from its beginning
            self._at = len(self._raw)
            return False
        self._at, self._behind = end, base + last + 1
        if calc_crc32c(self._raw[start + _AFTER_CRC : end]) != crc:
            raise CorruptRecordException(f"Invalid CRC - {self._tp}")
        body = self._raw[start + _HEAD.size : end]
        if self._is_hidden(base, producer, attributes, body):
            self.next_fetch_offset = self._behind
            return True
        if attributes & _CODEC:
            body = _DECODERS[attributes & _CODEC](body)
        table = self._frame(body, count, base, first_ms, max_ms if attributes & _APPEND_TIME else -1)
        if table is None:
            raise CorruptRecordException(f"Found invalid record structure - {self._tp}")
        known = int(np.searchsorted(table[:, OFFSET], self.next_fetch_offset))
        self._batch = RecordColumns(self._tp, body, table[known:])
        return True

    def _is_hidden(self, base: int, producer: int, attributes: int, body: bytes) -> bool:
        """Whether the batch is a control batch, or of a transaction that was aborted."""
        if self._committed_only:
            while self._aborted and self._aborted[0][1] <= base:
                self._aborting.add(self._aborted.pop(0)[0])
            if attributes & _CONTROL and _is_abort(body):
                self._aborting.discard(producer)
            if attributes & _TRANSACTIONAL and producer in self._aborting:
                return True
        return bool(attributes & _CONTROL)


def _is_abort(body: bytes) -> bool:
    table = plain_frame(body, 1, 0, 0, -1)
    if table is None:
        raise CorruptRecordException("Control batch did not contain any records")
    return body[table[0, KEY] : table[0, KEY_END]] == _ABORT
