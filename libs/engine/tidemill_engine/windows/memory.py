"""Where the state of a view lives: a row for each key, and a pool of pane records in linked lists, newest first.

Only panes that hold an event exist, so memory follows activity and not the number of windows times keys.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.windows.fixed import Words
from tidemill_engine.windows.jit import inlined, kernel
from tidemill_engine.windows.layout import (
    AT,
    BLANK,
    BODY,
    CURRENT,
    DUE,
    END,
    FREE,
    GRID,
    GRID_END,
    GRID_WIDTH,
    HEAD,
    INDEX,
    KEPT,
    LATEST,
    LIFETIME,
    NEVER,
    NEXT,
    PANE,
    PANES,
    ROW_WORDS,
    SEEN,
    SESSION,
    SESSION_END,
    SLOT,
    STEP,
    WINDOW,
    WINDOW_END,
    WINDOW_WIDTH,
)
from tidemill_engine.windows.lists import drop_until
from tidemill_engine.windows.records import clear, clear_extremes, copy_words, merge, merge_extremes, take_away
from tidemill_engine.windows.sessions import roll_session


class Memory(NamedTuple):
    """Arrays that grow by doubling; K is the number of rows there is room for."""

    rows: Words  # (K * words of a row,)
    pool: Words  # what is free, then pane records of every grid
    due: Words  # (K,) no pane of the key leaves and the key does not die before this time; NEVER for a free row
    dirty: NDArray[np.uint8]  # (K,) changed since the last snapshot
    positions: Words  # (K, source partitions) highest sequence number, -1 none


@kernel
def _leave(code: Words, rows: Words, pool: Words, row: int, window: int, grid: int, new: int) -> bool:  # noqa: PLR0913 - compiled
    """Take the panes that leave one window out of its totals; true when there were any. Notes the next one."""
    slot, panes = row + code[grid + SLOT], code[window + PANES]
    keep, gone = new - panes, rows[slot + CURRENT] - panes
    at = row + code[window + AT]
    newest = pointer = rows[slot + HEAD]
    if pointer < 0 or pool[pointer + INDEX] <= gone:
        return False
    if pool[pointer + INDEX] <= keep:
        clear(code, grid, rows, at)
        return True
    oldest = new
    while pointer >= 0 and pool[pointer + INDEX] > keep:
        oldest, pointer = pool[pointer + INDEX], pool[pointer + NEXT]
    rows[slot + DUE] = min(rows[slot + DUE], (oldest + panes) * code[grid + PANE])
    changed = pointer >= 0 and pool[pointer + INDEX] > gone
    stale = 0
    while pointer >= 0 and pool[pointer + INDEX] > gone:
        stale |= take_away(code, grid, rows, at, pool, pointer + BODY)
        pointer = pool[pointer + NEXT]
    if stale:
        clear_extremes(code, grid, rows, at, stale)
        pointer = newest
        while pointer >= 0 and pool[pointer + INDEX] > keep:
            merge_extremes(code, grid, rows, at, pool, pointer + BODY, stale)
            pointer = pool[pointer + NEXT]
    return bool(changed)


@kernel
def _roll_grid(code: Words, rows: Words, pool: Words, row: int, grid: int, time: int) -> bool:  # noqa: PLR0913 - compiled
    """Move one grid forward to a time in a later pane."""
    slot, changed = row + code[grid + SLOT], False
    new = time // code[grid + PANE]
    if time >= rows[slot + DUE]:
        rows[slot + DUE] = NEVER
        for window in range(code[grid + WINDOW], code[grid + WINDOW_END], WINDOW_WIDTH):
            changed |= _leave(code, rows, pool, row, window, grid, new)
        drop_until(rows, pool, slot, code[grid + FREE], new - code[grid + KEPT])
    rows[slot + CURRENT], rows[slot + END] = new, (new + 1) * code[grid + PANE]
    return changed


@inlined
def roll(code: Words, rows: Words, pool: Words, row: int, time: int) -> bool:
    """Move a key's windows forward to the evaluation time; true when a pane with events left one of them."""
    changed = False
    for grid in range(code[GRID], code[GRID_END], GRID_WIDTH):
        if time >= rows[row + code[grid + SLOT] + END]:
            changed |= _roll_grid(code, rows, pool, row, grid, time)
    for grid in range(code[SESSION], code[SESSION_END], GRID_WIDTH):
        if time >= rows[row + code[grid + SLOT] + DUE]:
            changed |= roll_session(code, rows, pool, row, grid, time)
    return changed


@kernel
def next_change(code: Words, rows: Words, row: int) -> int:
    """A time before which no pane leaves a window and the key does not die."""
    due = NEVER
    if code[LIFETIME] != NEVER:
        due = rows[row + LATEST] + code[LIFETIME]
    for grid in range(code[GRID], code[GRID_END], GRID_WIDTH):
        due = min(due, rows[row + code[grid + SLOT] + DUE])
    for grid in range(code[SESSION], code[SESSION_END], GRID_WIDTH):
        due = min(due, rows[row + code[grid + SLOT] + DUE])
    return int(due)


@kernel
def total_at(code: Words, rows: Words, pool: Words, row: int, time: int, into: Words, to: int) -> None:  # noqa: PLR0913 - compiled
    """Build a row's window totals at `time` from its panes; `into` at `to` is the row itself or scratch space."""
    for grid in range(code[GRID], code[GRID_END], GRID_WIDTH):
        current = time // code[grid + PANE]
        for window in range(code[grid + WINDOW], code[grid + WINDOW_END], WINDOW_WIDTH):
            at = to + code[window + AT]
            clear(code, grid, into, at)
            pointer = rows[row + code[grid + SLOT] + HEAD]
            while pointer >= 0 and pool[pointer + INDEX] > current - code[window + PANES]:
                merge(code, grid, into, at, pool, pointer + BODY)
                pointer = pool[pointer + NEXT]


@inlined
def has_died(code: Words, latest: int, time: int) -> bool:
    """Whether a key without events since `latest` is forgotten at `time`: in whole steps, as watermarks move."""
    lifetime = code[LIFETIME]
    return bool(
        lifetime != NEVER and time >= latest + lifetime and time // code[STEP] * code[STEP] >= latest + lifetime
    )


@kernel
def forget(code: Words, memory: Memory, key: int) -> None:
    """Free everything a key holds."""
    row = key * code[ROW_WORDS]
    for grid in range(code[GRID], code[GRID_END], GRID_WIDTH):
        drop_until(memory.rows, memory.pool, row + code[grid + SLOT], code[grid + FREE], NEVER)
    for grid in range(code[SESSION], code[SESSION_END], GRID_WIDTH):
        drop_until(memory.rows, memory.pool, row + code[grid + SLOT], code[grid + FREE], NEVER)
    seen = memory.rows[row + SEEN]
    copy_words(code[ROW_WORDS], memory.rows, row, code, code[BLANK])
    memory.rows[row + SEEN] = seen  # a batch names each key once, even one that it lets die and come back
    memory.due[key] = NEVER
    memory.dirty[key] = 0
    for column in range(memory.positions.shape[1]):
        memory.positions[key, column] = -1


@kernel
def forget_keys(code: Words, memory: Memory, keys: Words) -> None:
    """Free everything that these keys hold."""
    for i in range(len(keys)):
        forget(code, memory, keys[i])
