"""The online engine of one partition of one view."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.windows import calls, codec, kernels, room
from tidemill_engine.windows.batch import Batch, RejectedValuesError, as_batch, checks_of, part_of
from tidemill_engine.windows.fixed import Words
from tidemill_engine.windows.keys import KeyTable
from tidemill_engine.windows.layout import APPLIED, LATEST, NEVER
from tidemill_engine.windows.memory import Memory
from tidemill_engine.windows.plan import ViewPlan
from tidemill_engine.windows.program import compile_plan

Floats = NDArray[np.float64]
Keys = Sequence[bytes] | NDArray[np.int32]
Positions = tuple[NDArray[np.int32], NDArray[np.int64]]
_CHUNK = 4096
_NO_OUTPUT = np.empty(0)
__all__ = ["RejectedValuesError", "ViewState"]


class ViewState:
    """Exact windowed features of the keys of one partition.

    A key's vector is a function of the *set* of its events applied and of its evaluation time, nothing else: not of
    their order, of batches, or of restarts. The evaluation time is the later of the key's latest event and the
    watermark rounded down to the grid of panes (`plan.step_us`); a window covers its newest `panes` panes at that
    time. `age_of_last` is the age at the evaluation time; it grows with every second, so `advance` does not report it
    (serving adds the time since).

    A key without events for the plan's lifetime is forgotten, by the watermark or by its own next event. What counts
    from its first event on (revision, positions, all-time `first`) then starts anew, so across such a gap it follows
    the log's order, though never the cuts of batches.

    Indices of keys stay valid until `advance` lets the key die.
    """

    def __init__(self, plan: ViewPlan) -> None:
        self.plan = plan
        self.program = compile_plan(plan)
        self.watermark_us = kernels.NOT_YET
        self.too_late = 0
        self._keys = KeyTable()
        self._columns: dict[int, int] = {}
        self._checks = checks_of(plan)
        self._features = len(plan.aggregations)
        self._batches = 0
        self._memory = room.empty(self.program)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def memory_bytes(self) -> int:
        """Bytes held in arrays (keys' names not counted)."""
        return sum(array.nbytes for array in self._memory)

    # keys

    def intern(self, keys: Sequence[bytes]) -> NDArray[np.int32]:
        """Indices of keys, int32 (n,); unknown ones get a row."""
        found = self._keys.find_or_add(keys)
        self._memory = room.with_rows(self.program, self._memory, self._keys.size)
        return found

    def names(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> list[bytes]:
        """Keys of live indices; raises KeyError for a dead one."""
        return self._keys.names(indices)

    def lookup(self, keys: Sequence[bytes]) -> NDArray[np.int32]:
        """Indices of keys, int32 (n,), -1 for unknown ones."""
        return self._keys.find(keys)

    @property
    def memory(self) -> Memory:
        """The arrays, for kernels of this package."""
        return self._memory

    def make_room(self, words: int) -> None:
        """Grow the pool so that `words` more fit."""
        self._memory = room.with_pool(self._memory, words)

    def _columns_of(self, partitions: NDArray[np.int32]) -> Words:
        """Columns of source partitions in `Memory.positions`; new ones are added."""
        if len(partitions) and (partitions == partitions[0]).all() and int(partitions[0]) in self._columns:
            return np.full(len(partitions), self._columns[int(partitions[0])], np.int64)  # most batches are of one
        distinct, inverse = np.unique(partitions, return_inverse=True)
        for partition in distinct.tolist():
            self._columns.setdefault(partition, len(self._columns))
        self._memory = room.with_columns(self._memory, len(self._columns))
        return np.array([self._columns[partition] for partition in distinct.tolist()], np.int64)[inverse]

    # events

    def apply(
        self,
        keys: Keys,
        times_us: NDArray[np.int64],
        hashes: NDArray[np.uint64],
        values: Floats,
        positions: Positions,
    ) -> NDArray[np.int32]:
        """Apply n events; returns the indices of the keys touched, in order of first touch.

        `keys` are bytes or indices from `intern`; `times_us` int64 (n,); `hashes` 64-bit hashes of the event ids,
        uint64 (n,); `values` float64 (n, fields), NaN is null: it does not count for that field; `positions` are the
        source partitions, int32 (n,), and dense sequence numbers, int64 (n,). Every event counts for its key even
        when all its panes are dead; those are added to `too_late`. Raises RejectedValuesError, with the state
        unchanged, for infinite or too large values and times before the epoch.
        """
        return self._apply(self._batch(keys, times_us, hashes, values, positions), _NO_OUTPUT)

    def apply_each(
        self,
        keys: Keys,
        times_us: NDArray[np.int64],
        hashes: NDArray[np.uint64],
        values: Floats,
        positions: Positions,
    ) -> Floats:
        """Like `apply`; returns the key's vector right after each event, float64 (n, features)."""
        batch = self._batch(keys, times_us, hashes, values, positions)
        out = np.empty((len(batch.times), self._features))
        self._apply(batch, out.ravel())
        return out

    def _batch(
        self,
        keys: Keys,
        times_us: NDArray[np.int64],
        hashes: NDArray[np.uint64],
        values: Floats,
        positions: Positions,
    ) -> Batch:
        batch = as_batch(self._checks, times_us, hashes, values, positions[1])
        rows = keys if isinstance(keys, np.ndarray) else self.intern(keys)
        columns = self._columns_of(np.asarray(positions[0], np.int32))
        if not len(rows) == len(columns) == len(batch.times):
            raise ValueError("columns differ in length")
        return batch._replace(keys=self._checked(rows), columns=columns)

    def _apply(self, batch: Batch, out: Floats) -> NDArray[np.int32]:
        self._batches += 1
        touched = [np.empty(0, np.int64)]
        for start in range(0, len(batch.times), _CHUNK):
            part = part_of(batch, start, start + _CHUNK)
            self.make_room(len(part.times) * sum(self.program.record_words))
            rows = out[start * self._features : (start + _CHUNK) * self._features]
            moment = calls.Moment(self.watermark_us, self._batches)
            keys, late = calls.apply_events(self.program, self._memory, part, moment, rows)
            self.too_late += late
            touched.append(keys)
        return np.concatenate(touched).astype(np.int32)

    def advance(self, watermark_us: int) -> NDArray[np.int32]:
        """Move the watermark (never back); returns the indices of keys whose windows lost a pane that held events.

        Keys without events for the plan's lifetime die; `expired` names them.
        """
        rounded = watermark_us // self.plan.step_us * self.plan.step_us
        if rounded <= self.watermark_us:
            return np.empty(0, np.int32)
        self.watermark_us = rounded
        changed, dead = calls.advance_keys(self.program, self._memory, self._keys.size, rounded)
        self._keys.bury(dead.tolist())
        return np.asarray(changed, np.int32)

    def expired(self) -> list[bytes]:
        """Keys that died since the last call and did not come back, sorted: delete their stored state and vectors."""
        return self._keys.expired()

    # reading

    def vectors(
        self, indices: Sequence[int] | NDArray[np.integer[Any]]
    ) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
        """Values float64 (k, features), evaluation times int64 (k,) and revisions int64 (k,) of keys.

        A revision is the evaluation time in grid steps (32 bits) above the number of events applied to the key (31
        bits). It never falls, and for one log it names the value: two runs that reach the same revision have the same
        bits.
        """
        return calls.read_keys(self.program, self._memory, self._checked(indices), self.watermark_us)

    def _checked(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Indices that compiled code may use: it looks at no bounds."""
        rows = np.ascontiguousarray(indices, np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < self._keys.size:
            raise IndexError("an index that `intern` did not give")
        return rows

    def positions(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> list[Mapping[int, int]]:
        """For each key the highest sequence number of every source partition that its vector reflects."""
        partitions, seqs = self.position_table(indices)
        names = partitions.tolist()
        return [{p: seq for p, seq in zip(names, row, strict=True) if seq >= 0} for row in seqs.tolist()]

    def position_table(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> tuple[Words, Words]:
        """The same as columns: source partitions in ascending order, int64 (p,), and numbers (k, p), -1 for none."""
        names = sorted(self._columns)
        columns = np.array([self._columns[name] for name in names], np.int64)
        table = self._memory.positions[np.ix_(self._checked(indices), columns)]
        return np.array(names, np.int64), np.ascontiguousarray(table)

    def evaluate_at(self, keys: Sequence[bytes], times_us: NDArray[np.int64]) -> Floats:
        """Vectors at given times, float64 (k, features), state unchanged; a row of NaN for a key unknown at that time.

        Raises ValueError for a time before the key's evaluation time: what has left the windows cannot come back.
        """
        rows, times = self.lookup(keys).astype(np.int64), np.ascontiguousarray(times_us, np.int64)
        latest = self._memory.rows[LATEST :: self.program.row_words][rows[rows >= 0]]
        if (times[rows >= 0] < np.maximum(latest, self.watermark_us)).any():
            raise ValueError("a time lies before its key's evaluation time")
        return calls.evaluate_keys(self.program, self._memory, rows, times)

    # storing

    def snapshot_dirty(self) -> list[tuple[bytes, bytes]]:
        """(key, blob) of every key with events since the last call, sorted by key; clears the marks."""
        dirty = np.flatnonzero(self._memory.dirty)
        self._memory.dirty[:] = 0
        return self.blobs(dirty)

    def digest(self) -> str:
        """SHA-256 over plan, watermark and every key's blob: equal for equal states however they came about."""
        total = hashlib.sha256(f"{codec.VERSION} {self.plan.fingerprint} {self.watermark_us}".encode())
        for key, blob in self.blobs(self._keys.rows()):
            total.update(len(key).to_bytes(8, "little") + key + len(blob).to_bytes(8, "little") + blob)
        return total.hexdigest()

    def blobs(self, indices: NDArray[np.int64]) -> list[tuple[bytes, bytes]]:
        """(key, blob) of keys, sorted by key; the marks of `snapshot_dirty` stay."""
        moment = calls.Moment(self.watermark_us)
        blobs = calls.blobs(self.program, self._memory, indices, moment, self._columns)
        return sorted(zip(self.names(indices), blobs, strict=True))

    @classmethod
    def restore(
        cls, plan: ViewPlan, stored: Iterable[tuple[bytes, bytes]], watermark_us: int = kernels.NOT_YET
    ) -> Self:
        """The state of stored keys at a watermark; raises ValueError for a blob of another version or plan."""
        state = cls(plan)
        if watermark_us >= 0:
            state.watermark_us = watermark_us // plan.step_us * plan.step_us
        state.put_back(dict(stored))
        _, dead = calls.advance_keys(state.program, state._memory, state._keys.size, state.watermark_us)
        state._keys.bury(dead.tolist())
        return state

    def put_back(self, stored: Mapping[bytes, bytes]) -> None:
        """Take in keys that have no row; a blob from when the watermark was lower is as good as one of now.

        They count as unchanged. Raises ValueError for a blob of another version or plan.
        """
        words, ends = codec.join_blobs(list(stored.values()), codec.prefix_word(self.plan.fingerprint))
        rows = self.intern(list(stored)).astype(np.int64)
        for which, partitions, seqs in codec.positions_in(words, ends):
            columns = self._columns_of(partitions)
            self._memory.positions[rows[which], columns] = seqs
        self.make_room(2 * len(words))
        codec.read_blobs(self.program.code, self._memory, rows, words, ends, self.watermark_us)

    def applied(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Events applied to each key, int64 (k,)."""
        return np.asarray(self._memory.rows[self._checked(indices) * self.program.row_words + APPLIED], np.int64)

    # keys that lie elsewhere meanwhile

    def missing(self, keys: Iterable[bytes]) -> set[bytes]:
        """Which of these keys have no row."""
        return self._keys.missing(keys)

    def coldest(self, count: int) -> Words:
        """Up to `count` keys, int64 (k,), that events touched longest ago and for which nothing is due yet."""
        return calls.coldest_keys(self.program, self._memory, self._keys.size, (self.watermark_us, count))

    def due(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Words:
        """For each key a time, int64 (k,): no watermark below it changes the key's vector or lets it die."""
        return self._memory.due[self._checked(indices)]

    def dies(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Words:
        """For each key the watermark, int64 (k,), from which on it is dead if it has no more events; NEVER for none."""
        latest = self._memory.rows[self._checked(indices) * self.program.row_words + LATEST]
        lifetime = self.plan.lifetime_us
        return np.full(len(latest), NEVER) if lifetime is None else np.asarray(latest + lifetime, np.int64)

    def is_dirty(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """For each key whether it had events since the last `snapshot_dirty`."""
        return self._memory.dirty[self._checked(indices)] > 0

    def let_go(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> None:
        """Drop keys that are stored elsewhere; `put_back` them before their next event and before they are due."""
        rows = self._checked(indices)
        self._keys.release(rows.tolist())
        calls.forget_keys(self.program, self._memory, rows)
