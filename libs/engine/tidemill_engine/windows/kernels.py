"""The loops over events and keys. Inputs were checked by the caller: nothing here can fail half-way."""

from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.windows.fixed import Words, magnitude, spread, square128, to_fixed, to_float
from tidemill_engine.windows.jit import inlined, kernel
from tidemill_engine.windows.memory import Memory, find_or_add, forget, has_died, next_change, roll, total_at
from tidemill_engine.windows.program import (
    APPLIED,
    BODY,
    CURRENT,
    DUE,
    END,
    GRIDS,
    KIND_AGE,
    KIND_COUNT,
    KIND_MEAN,
    KIND_PICK,
    KIND_SUM,
    KIND_VAR,
    LATEST,
    NEVER,
    PER_GRID,
    Program,
)
from tidemill_engine.windows.records import Event, add_event, as_float, copy_words

Floats = NDArray[np.float64]
NOT_YET = -1  # no watermark: evaluation times come from events and queries alone


class Batch(NamedTuple):
    """Events in columns: row of the key, time, hash, values by field (NaN: null), position."""

    keys: Words  # (n,)
    times: Words  # (n,)
    hashes: Words  # (n,) the unsigned hash's bits
    values: Floats  # (n, fields)
    columns: Words  # (n,) column of the source partition in `Memory.positions`
    seqs: Words  # (n,)


def part_of(batch: Batch, start: int, stop: int) -> Batch:
    """Events `start` to `stop` of a batch."""
    return Batch(
        keys=batch.keys[start:stop],
        times=batch.times[start:stop],
        hashes=batch.hashes[start:stop],
        values=batch.values[start:stop],
        columns=batch.columns[start:stop],
        seqs=batch.seqs[start:stop],
    )


@inlined
def _load_event(program: Program, batch: Batch, i: int, event: Event) -> None:
    event.stamp[0], event.stamp[1] = batch.times[i], batch.hashes[i]
    for column in range(batch.values.shape[1]):
        value = batch.values[i, column] + 0.0  # -0.0 becomes 0.0, so equal values have equal bits
        event.values[column] = value
        if program.needs[column] == 0 or value != value:  # noqa: PLR0124 - NaN, the null
            continue
        low, high = to_fixed(value, program.scales[column])
        event.limbs[5 * column], event.limbs[5 * column + 1] = np.int64(low), high
        if program.needs[column] == 2:  # noqa: PLR2004 - see Program.needs
            m0, m1 = magnitude(low, high)
            s0, s1, s2, _ = square128(m0, m1)
            event.limbs[5 * column + 2], event.limbs[5 * column + 3], event.limbs[5 * column + 4] = (
                np.int64(s0),
                np.int64(s1),
                np.int64(s2),
            )


@inlined
def _place_event(program: Program, memory: Memory, key: int, grid: int, event: Event) -> bool:
    """Add the event to its pane and to the windows that cover it; false when its pane is dead."""
    row, time, pane = key * len(program.blank), event.stamp[0], program.pane_us[grid]
    slot = row + GRIDS + PER_GRID * grid
    current, end = memory.rows[slot + CURRENT], memory.rows[slot + END]
    index = current if time >= end - pane else time // pane
    if index <= current - program.panes_kept[grid]:
        return False
    pointer = find_or_add(program, memory, slot, grid, index)
    is_new = memory.pool[pointer + BODY] == 0
    add_event(program, grid, memory.pool, pointer + BODY, event)
    for window in range(program.window_start[grid], program.window_start[grid + 1]):
        panes = program.window_panes[window]
        if index > current - panes:
            add_event(program, grid, memory.rows, row + program.window_at[window], event)
            if is_new:
                memory.rows[slot + DUE] = min(memory.rows[slot + DUE], (index + panes) * pane)
                memory.due[key] = min(memory.due[key], memory.rows[slot + DUE])
    return True


@kernel
def _apply_event(program: Program, memory: Memory, key: int, event: Event, watermark: int) -> bool:
    row, time = key * len(program.blank), event.stamp[0]
    if memory.rows[row + LATEST] >= 0 and has_died(program, memory.rows[row + LATEST], time):
        forget(program, memory, key)  # as if a watermark had come between: cuts of batches must not matter
    if memory.rows[row + LATEST] < 0 and program.lifetime_us != NEVER:
        memory.due[key] = time + program.lifetime_us
    memory.rows[row + APPLIED] += 1
    memory.rows[row + LATEST] = max(memory.rows[row + LATEST], time)
    roll(program, memory, row, max(memory.rows[row + LATEST], watermark))
    placed = False
    for grid in range(len(program.pane_us)):
        placed |= _place_event(program, memory, key, grid, event)
    all_time = len(program.pane_us)
    if program.blank_at[all_time] >= 0:
        add_event(program, all_time, memory.rows, row + program.blank_at[all_time], event)
        placed = True
    return placed


@kernel
def apply_events(  # noqa: PLR0913 - compiled
    program: Program, memory: Memory, batch: Batch, event: Event, watermark: int, number: int, out: Floats
) -> tuple[Words, int]:
    """Apply a batch; returns the keys touched in order of first touch and how many events met no live pane.

    `out` takes the vector after each event, (n, features), or has no rows.
    """
    touched = np.empty(len(batch.keys), np.int64)
    count, late = 0, 0
    for i in range(len(batch.keys)):
        key = batch.keys[i]
        _load_event(program, batch, i, event)
        late += not _apply_event(program, memory, key, event, watermark)
        memory.dirty[key] = 1
        column = batch.columns[i]
        memory.positions[key, column] = max(memory.positions[key, column], batch.seqs[i])
        if memory.seen[key] != number:
            memory.seen[key] = number
            touched[count] = key
            count += 1
        if len(out) > 0:
            row = key * len(program.blank)
            read(program, memory.rows, row, max(memory.rows[row + LATEST], watermark), out, i)
    return touched[:count], late


@inlined
def _read_moment(program: Program, rows: Words, i: int, row: int, n: int) -> float:
    kind, first, quantum = program.features[i, 0], row + program.features[i, 2], program.quanta[program.features[i, 4]]
    if kind == KIND_SUM or kind == KIND_MEAN:  # noqa: PLR1714, SIM109 - compiled code has no fast sets
        total = to_float(np.uint64(rows[first]), rows[first + 1]) * quantum
        return total if kind == KIND_SUM else total / n if n > 0 else np.nan
    if n < 2:  # noqa: PLR2004 - the sample variance needs two values
        return np.nan
    pairs = float(n) * float(n - 1)
    variance = spread(n, rows, first, row + program.features[i, 3]) * quantum * quantum / pairs
    return variance if kind == KIND_VAR else sqrt(variance)


@kernel
def read(program: Program, rows: Words, row: int, time: int, out: Floats, to: int) -> None:  # noqa: PLR0913 - compiled
    """The vector of the row at its evaluation time."""
    for i in range(len(program.features)):
        kind, n, first = program.features[i, 0], rows[row + program.features[i, 1]], row + program.features[i, 2]
        if kind == KIND_COUNT:
            out[to, i] = float(n)
        elif kind == KIND_PICK:
            out[to, i] = as_float(rows[first]) if n > 0 else np.nan
        elif kind == KIND_AGE:
            out[to, i] = (time - rows[first]) / 1e6 if n > 0 else np.nan
        else:
            out[to, i] = _read_moment(program, rows, i, row, n)


@kernel
def read_keys(program: Program, memory: Memory, keys: Words, watermark: int) -> tuple[Floats, Words, Words]:
    """Vectors, evaluation times and revisions (see `ViewState.vectors`) of keys."""
    values = np.empty((len(keys), len(program.features)), np.float64)
    at, revisions = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
    for i in range(len(keys)):
        row = keys[i] * len(program.blank)
        time = max(memory.rows[row + LATEST], watermark)
        roll(program, memory, row, time)
        read(program, memory.rows, row, time, values, i)
        at[i] = time
        revisions[i] = (time // program.step_us << 31) | memory.rows[row + APPLIED]
    return values, at, revisions


@kernel
def advance_keys(program: Program, memory: Memory, rows: int, watermark: int) -> tuple[Words, Words]:
    """Roll every key that is due; returns the keys that changed and the keys that died (now free rows)."""
    changed, dead = np.empty(rows, np.int64), np.empty(rows, np.int64)
    changes, deaths = 0, 0
    for key in range(rows):
        if memory.due[key] > watermark:
            continue
        row = key * len(program.blank)
        if has_died(program, memory.rows[row + LATEST], watermark):
            forget(program, memory, key)
            dead[deaths] = key
            deaths += 1
            continue
        if roll(program, memory, row, max(memory.rows[row + LATEST], watermark)):
            changed[changes] = key
            changes += 1
        memory.due[key] = next_change(program, memory, row)
    return changed[:changes].copy(), dead[:deaths].copy()


@kernel
def _is_known(program: Program, memory: Memory, key: int, time: int) -> bool:
    if key < 0:
        return False
    latest = memory.rows[key * len(program.blank) + LATEST]
    return bool(latest >= 0 and not has_died(program, latest, time))


@kernel
def evaluate_keys(program: Program, memory: Memory, keys: Words, times: Words) -> Floats:
    """Vectors at given times, without changing the state; a row of NaN for a key that is not known then."""
    values = np.full((len(keys), len(program.features)), np.nan)
    scratch, start = program.blank.copy(), int(np.int64(0))  # a plain 0 would be compiled as a constant, once more
    for i in range(len(keys)):
        if not _is_known(program, memory, keys[i], times[i]):
            continue
        row = keys[i] * len(program.blank)
        copy_words(len(scratch), scratch, start, memory.rows, row)
        total_at(program, memory, row, times[i], scratch)
        read(program, scratch, start, times[i], values, i)
    return values


@kernel
def _has_room(program: Program, memory: Memory) -> bool:
    room = len(memory.pool) - memory.free[len(program.pane_us)]
    for grid in range(len(program.pane_us)):
        room -= program.record_words[grid]
    return bool(room >= 0)


@kernel
def replay(  # noqa: PLR0913 - compiled
    program: Program,
    memory: Memory,
    batch: Batch,
    event: Event,
    place: Words,
    queries: Words,
    times: Words,
    out: Floats,
) -> bool:
    """Answer queries (sorted by time) between events (sorted by time): each sees only events before its time.

    `place` holds the next event and the next query and is moved. True when all queries are answered, false when the
    pool is full: grow it and call again. Rows of unknown keys stay as they are in `out`.
    """
    for q in range(place[1], len(queries)):
        place[1] = q
        for i in range(place[0], len(batch.times)):
            place[0] = i
            if batch.times[i] >= times[q]:
                break
            if not _has_room(program, memory):
                return False
            _load_event(program, batch, i, event)
            _apply_event(program, memory, batch.keys[i], event, int(np.int64(NOT_YET)))
            place[0] = i + 1
        if _is_known(program, memory, queries[q], times[q]):
            row = queries[q] * len(program.blank)
            roll(program, memory, row, times[q])
            read(program, memory.rows, row, times[q], out, q)
    return True
