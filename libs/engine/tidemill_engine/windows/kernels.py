"""The loops over events and keys. Inputs were checked by the caller: nothing here can fail half-way."""

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.windows.batch import Batch
from tidemill_engine.windows.fixed import Words, magnitude, square128, to_fixed
from tidemill_engine.windows.jit import inlined, kernel
from tidemill_engine.windows.layout import (
    APPLIED,
    AT,
    BODY,
    CELL_WIDTH,
    CELLS,
    COLUMN,
    COLUMN_WIDTH,
    CURRENT,
    DUE,
    END,
    FEATURES,
    GRID,
    GRID_END,
    GRID_WIDTH,
    HEAD,
    KEPT,
    LATEST,
    LIFETIME,
    LIMBS,
    MARK,
    NEEDS,
    NEVER,
    PANE,
    PANES,
    RECORD,
    ROW_WORDS,
    SCALE,
    SEEN,
    SESSION,
    SESSION_END,
    SLOT,
    STEP,
    TIME,
    TOP,
    WINDOW,
    WINDOW_END,
    WINDOW_WIDTH,
)
from tidemill_engine.windows.lists import find_or_add
from tidemill_engine.windows.memory import Memory, forget, has_died, next_change, roll, total_at
from tidemill_engine.windows.prefetch import ask_for
from tidemill_engine.windows.reading import read
from tidemill_engine.windows.records import add_event, as_float, as_word, copy_words
from tidemill_engine.windows.sessions import place_in_session, sessions_at

Floats = NDArray[np.float64]
NOT_YET = -1  # no watermark: evaluation times come from events and queries alone
_ROWS_AHEAD, _PANES_AHEAD = 8, 4  # events: long enough to arrive, short enough to stay


@kernel
def _load_square(event: Words, cell: int) -> None:
    m0, m1 = magnitude(np.uint64(event[cell + LIMBS]), event[cell + LIMBS + 1])
    s0, s1, s2, _ = square128(m0, m1)
    event[cell + LIMBS + 2], event[cell + LIMBS + 3], event[cell + LIMBS + 4] = np.int64(s0), np.int64(s1), np.int64(s2)


@inlined
def _load_event(code: Words, batch: Batch, i: int, event: Words) -> None:
    event[TIME], event[MARK] = batch.times[i], batch.hashes[i]
    for column in range(batch.values.shape[1]):
        cell, about = CELLS + CELL_WIDTH * column, code[COLUMN] + COLUMN_WIDTH * column
        value = batch.values[i, column] + 0.0  # -0.0 becomes 0.0, so equal values have equal bits
        event[cell] = as_word(value)
        if code[about + NEEDS] == 0 or value != value:  # noqa: PLR0124 - NaN, the null
            continue
        low, high = to_fixed(value, as_float(code[about + SCALE]))
        event[cell + LIMBS], event[cell + LIMBS + 1] = np.int64(low), high
        if code[about + NEEDS] == 2:  # noqa: PLR2004 - see layout.NEEDS
            _load_square(event, cell)


@inlined
def _place_event(code: Words, memory: Memory, key: int, grid: int, event: Words) -> bool:
    """Add the event to its pane and to the windows that cover it; false when its pane is dead."""
    rows, pool = memory.rows, memory.pool
    row, time, pane = key * code[ROW_WORDS], event[TIME], code[grid + PANE]
    slot = row + code[grid + SLOT]
    current, end = rows[slot + CURRENT], rows[slot + END]
    index = current if time >= end - pane else time // pane
    if index <= current - code[grid + KEPT]:
        return False
    pointer = find_or_add(code, rows, pool, slot, grid, index)
    is_new = pool[pointer + BODY] == 0
    add_event(code, grid, pool, pointer + BODY, event)
    for window in range(code[grid + WINDOW], code[grid + WINDOW_END], WINDOW_WIDTH):
        panes = code[window + PANES]
        if index > current - panes:
            add_event(code, grid, rows, row + code[window + AT], event)
            if is_new:
                rows[slot + DUE] = min(rows[slot + DUE], (index + panes) * pane)
                memory.due[key] = min(memory.due[key], rows[slot + DUE])
    return True


@inlined
def _apply_event(code: Words, memory: Memory, key: int, event: Words, watermark: int) -> bool:
    rows = memory.rows
    row, time = key * code[ROW_WORDS], event[TIME]
    if rows[row + LATEST] >= 0 and has_died(code, rows[row + LATEST], time):
        forget(code, memory, key)  # as if a watermark had come between: cuts of batches must not matter
    if rows[row + LATEST] < 0 and code[LIFETIME] != NEVER:
        memory.due[key] = time + code[LIFETIME]
    rows[row + APPLIED] += 1
    rows[row + LATEST] = max(rows[row + LATEST], time)
    now = max(rows[row + LATEST], watermark)
    roll(code, rows, memory.pool, row, now)
    placed = False
    all_time = code[GRID_END]
    for grid in range(code[GRID], all_time, GRID_WIDTH):
        placed |= _place_event(code, memory, key, grid, event)
    for grid in range(code[SESSION], code[SESSION_END], GRID_WIDTH):
        placed |= place_in_session(code, rows, memory.pool, memory.due, key, grid, event, now)
    if code[all_time + SLOT] >= 0:
        add_event(code, all_time, rows, row + code[all_time + SLOT], event)
        placed = True
    return placed


@inlined
def _look_ahead(code: Words, memory: Memory, keys: Words, i: int) -> None:
    if i + _ROWS_AHEAD < len(keys):
        key = keys[i + _ROWS_AHEAD]
        ask_for(memory.rows, key * code[ROW_WORDS], code[ROW_WORDS])
        ask_for(memory.positions, key * memory.positions.shape[1], 1)
        ask_for(memory.due, key, 1)
    if i + _PANES_AHEAD < len(keys):
        row = keys[i + _PANES_AHEAD] * code[ROW_WORDS]
        for grid in range(code[GRID], code[GRID_END], GRID_WIDTH):
            pointer = memory.rows[row + code[grid + SLOT] + HEAD]
            if pointer >= 0:
                ask_for(memory.pool, pointer, code[grid + RECORD])


@kernel
def apply_events(  # noqa: PLR0913 - compiled
    code: Words,
    memory: Memory,
    batch: Batch,
    event: Words,
    watermark: int,
    number: int,
    touched: Words,
    out: Floats,
) -> tuple[int, int]:
    """Apply a batch; how many keys it touched, and how many events met no live pane.

    `touched` takes the keys in order of first touch, `out` the vector after each event, one behind the other, or is
    empty.
    """
    count, late, wants_vectors = 0, 0, len(out) > 0
    for i in range(len(batch.keys)):
        _look_ahead(code, memory, batch.keys, i)
        key = batch.keys[i]
        row = key * code[ROW_WORDS]
        _load_event(code, batch, i, event)
        late += not _apply_event(code, memory, key, event, watermark)
        memory.dirty[key] = 1
        column = batch.columns[i]
        memory.positions[key, column] = max(memory.positions[key, column], batch.seqs[i])
        if memory.rows[row + SEEN] != number:
            memory.rows[row + SEEN] = number
            touched[count] = key
            count += 1
        if wants_vectors:
            now = max(memory.rows[row + LATEST], watermark)
            sessions_at(code, memory.rows, memory.pool, row, now, memory.rows, row)
            read(code, memory.rows, memory.pool, row, now, out, i * code[FEATURES])
    return count, late


@kernel
def read_keys(  # noqa: PLR0913 - compiled
    code: Words, memory: Memory, keys: Words, watermark: int, values: Floats, at: Words, revisions: Words
) -> None:
    """Fill in vectors (one behind the other), evaluation times and revisions (see `ViewState.vectors`) of keys."""
    for i in range(len(keys)):
        if i + _ROWS_AHEAD < len(keys):
            ask_for(memory.rows, keys[i + _ROWS_AHEAD] * code[ROW_WORDS], code[ROW_WORDS])
        row = keys[i] * code[ROW_WORDS]
        time = max(memory.rows[row + LATEST], watermark)
        roll(code, memory.rows, memory.pool, row, time)
        sessions_at(code, memory.rows, memory.pool, row, time, memory.rows, row)
        read(code, memory.rows, memory.pool, row, time, values, i * code[FEATURES])
        at[i] = time
        revisions[i] = (time // code[STEP] << 31) | memory.rows[row + APPLIED]


@kernel
def advance_keys(  # noqa: PLR0913 - compiled
    code: Words, memory: Memory, rows: int, watermark: int, changed: Words, dead: Words
) -> tuple[int, int]:
    """Roll every key that is due; how many keys changed, and how many died (their rows are free now)."""
    changes, deaths = 0, 0
    for key in range(rows):
        if memory.due[key] > watermark:
            continue
        row = key * code[ROW_WORDS]
        latest = memory.rows[row + LATEST]
        if has_died(code, latest, watermark):
            forget(code, memory, key)
            dead[deaths] = key
            deaths += 1
            continue
        if roll(code, memory.rows, memory.pool, row, max(latest, watermark)):
            changed[changes] = key
            changes += 1
        memory.due[key] = next_change(code, memory.rows, row)
    return changes, deaths


@kernel
def _is_known(code: Words, rows: Words, key: int, time: int) -> bool:
    if key < 0:
        return False
    latest = rows[key * code[ROW_WORDS] + LATEST]
    return bool(latest >= 0 and not has_died(code, latest, time))


@kernel
def evaluate_keys(  # noqa: PLR0913 - compiled
    code: Words, memory: Memory, keys: Words, times: Words, scratch: Words, values: Floats
) -> None:
    """Fill in vectors (one behind the other) at given times; a key that is not known then is left out.

    The state is unchanged: `scratch` is a row.
    """
    start = int(np.int64(0))
    for i in range(len(keys)):
        if not _is_known(code, memory.rows, keys[i], times[i]):
            continue
        row = keys[i] * code[ROW_WORDS]
        copy_words(len(scratch), scratch, start, memory.rows, row)
        total_at(code, memory.rows, memory.pool, row, times[i], scratch, start)
        sessions_at(code, memory.rows, memory.pool, row, times[i], scratch, start)
        read(code, scratch, memory.pool, start, times[i], values, i * code[FEATURES])


@inlined
def _has_room(code: Words, pool: Words) -> bool:
    room = len(pool) - pool[TOP]
    for grid in range(code[GRID], code[GRID_END], GRID_WIDTH):
        room -= code[grid + RECORD]
    for grid in range(code[SESSION], code[SESSION_END], GRID_WIDTH):
        room -= code[grid + RECORD]
    return bool(room >= 0)


@kernel
def replay(  # noqa: PLR0913 - compiled
    code: Words,
    memory: Memory,
    batch: Batch,
    event: Words,
    place: Words,
    queries: Words,
    times: Words,
    out: Floats,
) -> bool:
    """Answer queries between events, both sorted by key and time: each sees its key's events before its time.

    The keys take turns in the first row, so what a key holds stays in the processor's cache. Its evaluation time runs
    ahead to the query's: what no query will see is not kept. `place` holds the next event, the next query and the key
    of the row, and is moved. True when all queries are answered, false when the pool is full: grow it and call again.
    Rows of unknown keys stay as they are in `out` (one behind the other).
    """
    row = int(np.int64(0))
    for q in range(place[1], len(queries)):
        place[1] = q
        if place[2] != queries[q]:
            forget(code, memory, row)
            place[2] = queries[q]
        for i in range(place[0], len(batch.times)):
            place[0] = i
            if batch.keys[i] > queries[q] or (batch.keys[i] == queries[q] and batch.times[i] >= times[q]):
                break
            if batch.keys[i] == queries[q]:
                if not _has_room(code, memory.pool):
                    return False
                _load_event(code, batch, i, event)
                _apply_event(code, memory, row, event, times[q])
            place[0] = i + 1
        if _is_known(code, memory.rows, row, times[q]):
            roll(code, memory.rows, memory.pool, row, times[q])
            sessions_at(code, memory.rows, memory.pool, row, times[q], memory.rows, row)
            read(code, memory.rows, memory.pool, row, times[q], out, q * code[FEATURES])
    return True
