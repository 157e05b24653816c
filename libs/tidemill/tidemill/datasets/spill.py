"""Events of one view, split by entity: in memory while they fit into one part, else in files, so memory is bounded."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from tidemill_engine.arrays import Int64s
from tidemill_engine.history import shard_of
from tidemill_engine.windows import Events

SHARD_EVENTS = 1_000_000
"""About so many events are in memory at once."""


class Spill:
    """Takes columns of events and gives them back part by part, in the order in which they came."""

    def __init__(self, folder: Path, fields: int, shards: int) -> None:
        self.shards = shards
        self._folder, self._fields = folder, fields
        columns = [("key", pa.binary()), ("us", pa.int64()), ("mark", pa.uint64()), ("known", pa.int64())]
        self._schema = pa.schema([*columns, *((f"f{i}", pa.float64()) for i in range(fields))])
        self._waiting: list[pa.RecordBatch] = []
        self._writers: dict[int, ipc.RecordBatchStreamWriter] = {}
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    def add(self, events: Events, known_us: Int64s) -> None:
        """Take events with the instants since when the log has known them."""
        if not len(events.times_us):
            return
        columns = [pa.array(events.keys, pa.binary()), pa.array(events.times_us), pa.array(events.hashes)]
        columns += [pa.array(known_us), *(pa.array(np.ascontiguousarray(column)) for column in events.values.T)]
        batch = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        if self.shards == 1:
            self._waiting.append(batch)
            return
        parts = np.array([shard_of(key, self.shards) for key in events.keys], np.int64)
        order = np.argsort(parts, kind="stable")
        ends = np.searchsorted(parts[order], np.arange(self.shards + 1))
        batch = batch.take(pa.array(order))
        for shard in np.unique(parts).tolist():
            low, high = int(ends[shard]), int(ends[shard + 1])
            self._writer(shard).write_batch(batch.slice(low, high - low))

    def _writer(self, shard: int) -> ipc.RecordBatchStreamWriter:
        if shard not in self._writers:
            file = self._open.enter_context(self._path(shard).open("wb"))
            self._writers[shard] = self._open.enter_context(ipc.new_stream(file, self._schema))
        return self._writers[shard]

    def _path(self, shard: int) -> Path:
        return self._folder / f"{shard:05d}.arrows"

    def done(self) -> None:
        """Everything was added."""
        self._open.close()

    def part(self, shard: int) -> tuple[Events, Int64s]:
        """The events of one part, and since when the log has known each."""
        table = pa.Table.from_batches(self._batches(shard), schema=self._schema)
        values = [table.column(f"f{i}").to_numpy() for i in range(self._fields)]
        events = Events(
            keys=_names(table.column("key")),
            times_us=table.column("us").to_numpy(),
            hashes=table.column("mark").to_numpy(),
            values=np.column_stack(values) if values else np.empty((table.num_rows, 0)),
        )
        return events, table.column("known").to_numpy()

    def _batches(self, shard: int) -> Sequence[pa.RecordBatch]:
        if self.shards == 1:
            return self._waiting
        if not self._path(shard).exists():
            return []
        with self._path(shard).open("rb") as file, ipc.open_stream(file) as reader:
            batches: list[pa.RecordBatch] = list(reader)
            return batches


def _names(column: pa.ChunkedArray) -> list[bytes]:
    """Each key once in memory, however many events it has."""
    if not len(column):
        return []
    coded = column.combine_chunks().dictionary_encode()
    names: list[bytes] = coded.dictionary.to_pylist()
    return [names[code] for code in coded.indices.to_numpy().tolist()]


def shards_for(events: int) -> int:
    """Into how many parts so many events are split; depends on nothing else, so neither do results' bytes."""
    return max(1, -(-events // SHARD_EVENTS))
