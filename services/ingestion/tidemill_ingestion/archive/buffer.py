"""Events into the archive, exactly once: rows wait in memory and reach the table with the positions they end at."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tidemill_ingestion.domain.archive import Move, Reader, Row
from tidemill_ingestion.domain.readings import Record
from tidemill_runtime.backoff import Backoff
from tidemill_runtime.errors import Fenced, Later

MAXIMUM_WAITING = 5
"""Batches that may wait while one is being written; then readers wait."""


class Table(Protocol):
    """The archive of one source; calls block, and raise Fenced or Later."""

    def positions(self, names: Sequence[str]) -> dict[str, int]: ...
    def append(self, rows: Sequence[Row], moves: Sequence[Move]) -> None: ...


@dataclass(slots=True)
class _Part:
    """What one partition's readers have taken and the table does not hold yet."""

    readers: list[Reader]
    stored: dict[str, int]
    rows: list[Row] = field(default_factory=list)
    broken: bool = False

    def moves(self) -> list[Move]:
        now = {name: value for reader in self.readers for name, value in reader.positions().items()}
        return [
            Move(name, self.stored.get(name), value)
            for name, value in now.items()
            if value >= 0 and value != self.stored.get(name)
        ]


class Archive:
    """The shared buffer of one source: all partitions of this process go into one file per commit."""

    def __init__(self, table: Table, *, rows: int, seconds: float, clock: Callable[[], float]) -> None:
        self._table, self._rows, self._seconds, self._clock = table, rows, seconds, clock
        self._parts: dict[int, _Part] = {}
        self._lock = asyncio.Lock()
        self._oldest: float | None = None

    async def open(self, partition: int, readers: list[Reader]) -> None:
        """Forget what an earlier owner of the partition left, and set the readers to what the table holds."""
        async with self._lock:
            self._parts.pop(partition, None)
            names = [name for reader in readers for name in reader.positions()]
            stored = await asyncio.to_thread(self._table.positions, names)
            for reader in readers:
                reader.restore(stored)
            self._parts[partition] = _Part(readers, stored)

    def add(self, partition: int, rows: Sequence[Row]) -> None:
        """Rows that the readers have taken; raises Fenced when a commit of this partition has failed."""
        self._part(partition).rows += rows
        if rows and self._oldest is None:
            self._oldest = self._clock()

    async def flush_if_due(self, partition: int) -> None:
        """Write when there are enough rows or the oldest has waited long enough; readers wait when too many do."""
        self._part(partition)
        waiting = sum(len(part.rows) for part in self._parts.values())
        due = self._oldest is not None and self._clock() - self._oldest >= self._seconds
        if waiting >= self._rows * MAXIMUM_WAITING or ((waiting >= self._rows or due) and not self._lock.locked()):
            await self.flush()

    async def flush(self, *, even_without_rows: bool = False) -> None:
        """Write everything taken so far in one commit; also positions alone, if asked to."""
        async with self._lock:
            parts = {p: part for p, part in self._parts.items() if not part.broken}
            rows = [row for part in parts.values() for row in part.rows]
            moves = {p: part.moves() for p, part in parts.items()}
            everything = [move for each in moves.values() for move in each]
            if not everything or not (rows or even_without_rows):
                return
            self._oldest = None
            for part in parts.values():
                part.rows = []
            try:
                await asyncio.to_thread(self._table.append, rows, everything)
            except BaseException:
                # Whether the commit happened is unknown: every reader starts again from what the table holds.
                for part in parts.values():
                    part.broken = True
                raise
            for p, part in parts.items():
                part.stored.update({move.name: move.high for move in moves[p]})

    async def flush_to(self, ends: Mapping[str, int], *, timeout_s: float) -> dict[str, int]:
        """Return the table's positions once each of `ends` (name to the offset after the last record) is in it.

        Raises Later after `timeout_s` seconds; other processes' partitions are waited for like one's own.
        """
        names = [*ends, *(f"{name}/seq" for name in ends)]
        backoff = Backoff(0.02, 0.5)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    await self.flush(even_without_rows=True)
                    found = await asyncio.to_thread(self._table.positions, names)
                    if all(found.get(name, -1) >= end - 1 for name, end in ends.items()):
                        return found
                    await backoff.wait()
        except TimeoutError:
            raise Later(f"the archive has not caught up within {timeout_s:g} s") from None

    async def close(self, partition: int, *, lost: bool) -> None:
        """Let go of a partition: written, or dropped when it is lost."""
        if not lost:
            await self.flush(even_without_rows=True)
        async with self._lock:
            self._parts.pop(partition, None)

    def _part(self, partition: int) -> _Part:
        part = self._parts[partition]
        if part.broken:
            raise Fenced("a commit of the archive failed: starting again from what it holds")
        return part


class ArchiveTask:
    """Owns one partition number of the events topics of all sources, and of their late topics; a PartitionTask.

    One for all sources: the archive may wait, so it need not have a consumer for each. `parts` are the sources'
    archives with their readers by topic.
    """

    def __init__(self, partition: int, parts: Sequence[tuple[Archive, Mapping[str, Reader]]]) -> None:
        self._partition, self._parts = partition, parts
        self._by_topic = {topic: (archive, reader) for archive, readers in parts for topic, reader in readers.items()}

    async def open(self) -> Mapping[str, int]:
        """Read on after what the tables hold."""
        await asyncio.gather(
            *(archive.open(self._partition, list(readers.values())) for archive, readers in self._parts)
        )
        return {topic: reader.offset + 1 for topic, (_, reader) in self._by_topic.items()}

    async def process(self, batches: Mapping[str, Sequence[Record]]) -> None:
        """Take the rows; they are repeatable until a table has them."""
        for topic, records in batches.items():
            archive, reader = self._by_topic[topic]
            archive.add(self._partition, reader.take(records))
        await self.idle()

    async def idle(self) -> None:
        """Write what has waited long enough, or is enough."""
        for archive, _ in self._parts:
            await archive.flush_if_due(self._partition)

    async def close(self, *, lost: bool) -> None:
        """Write what is left, or drop it."""
        await asyncio.gather(*(archive.close(self._partition, lost=lost) for archive, _ in self._parts))
