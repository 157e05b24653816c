"""Where the state of a view lives: a row for each key, and a pool of pane records in linked lists, newest first.

Only panes that hold an event exist, so memory follows activity and not the number of windows times keys.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.windows.fixed import Words
from tidemill_engine.windows.jit import inlined, kernel
from tidemill_engine.windows.program import (
    BODY,
    CURRENT,
    DUE,
    END,
    GRIDS,
    HEAD,
    INDEX,
    LATEST,
    NEVER,
    NEXT,
    PER_GRID,
    Program,
)
from tidemill_engine.windows.records import clear, clear_extremes, copy_words, merge, merge_extremes, take_away


class Memory(NamedTuple):
    """Arrays that grow by doubling; K is the number of rows there is room for."""

    rows: Words  # (K * words of a row,)
    pool: Words  # pane records of every grid
    free: Words  # (G + 1,) first free record of each grid (-1 none), then the first word never used
    due: Words  # (K,) no pane of the key leaves and the key does not die before this time; NEVER for a free row
    dirty: NDArray[np.uint8]  # (K,) changed since the last snapshot
    seen: Words  # (K,) number of the last batch that touched the key
    positions: Words  # (K, source partitions) highest sequence number, -1 none


@inlined
def take_record(program: Program, memory: Memory, grid: int) -> int:
    """A cleared record; the caller has made sure that there is room."""
    pointer = memory.free[grid]
    if pointer >= 0:
        memory.free[grid] = memory.pool[pointer + NEXT]
    else:
        top = len(program.pane_us)
        pointer = memory.free[top]
        memory.free[top] += program.record_words[grid]
    clear(program, grid, memory.pool, pointer + BODY)
    return int(pointer)


@inlined
def find_or_add(program: Program, memory: Memory, slot: int, grid: int, index: int) -> int:
    """Pointer to the pane of a list; `slot` is the place of the list's head in the rows."""
    before, pointer = -1, memory.rows[slot]
    while pointer >= 0 and memory.pool[pointer + INDEX] > index:
        before, pointer = pointer, memory.pool[pointer + NEXT]
    if pointer >= 0 and memory.pool[pointer + INDEX] == index:
        return int(pointer)
    new = take_record(program, memory, grid)
    memory.pool[new + INDEX], memory.pool[new + NEXT] = index, pointer
    if before >= 0:
        memory.pool[before + NEXT] = new
    else:
        memory.rows[slot] = new
    return new


@kernel
def drop_until(memory: Memory, slot: int, grid: int, oldest: int) -> None:
    """Free the panes of a list whose index is `oldest` or less."""
    before, pointer = -1, memory.rows[slot]
    while pointer >= 0 and memory.pool[pointer + INDEX] > oldest:
        before, pointer = pointer, memory.pool[pointer + NEXT]
    if pointer < 0:
        return
    if before >= 0:
        memory.pool[before + NEXT] = -1
    else:
        memory.rows[slot] = -1
    while pointer >= 0:
        following = memory.pool[pointer + NEXT]
        memory.pool[pointer + NEXT] = memory.free[grid]
        memory.free[grid] = pointer
        pointer = following


@kernel
def _leave(program: Program, memory: Memory, row: int, window: int, grid: int, new: int) -> bool:  # noqa: PLR0913 - compiled
    """Take the panes that leave one window out of its totals; true when there were any. Notes the next one."""
    slot, panes = row + GRIDS + PER_GRID * grid, program.window_panes[window]
    keep, gone = new - panes, memory.rows[slot + CURRENT] - panes
    at = row + program.window_at[window]
    newest = pointer = memory.rows[slot + HEAD]
    if pointer < 0 or memory.pool[pointer + INDEX] <= gone:
        return False
    if memory.pool[pointer + INDEX] <= keep:
        clear(program, grid, memory.rows, at)
        return True
    oldest = new
    while pointer >= 0 and memory.pool[pointer + INDEX] > keep:
        oldest, pointer = memory.pool[pointer + INDEX], memory.pool[pointer + NEXT]
    memory.rows[slot + DUE] = min(memory.rows[slot + DUE], (oldest + panes) * program.pane_us[grid])
    changed = pointer >= 0 and memory.pool[pointer + INDEX] > gone
    stale = False
    while pointer >= 0 and memory.pool[pointer + INDEX] > gone:
        stale |= take_away(program, grid, memory.rows, at, memory.pool, pointer + BODY)
        pointer = memory.pool[pointer + NEXT]
    if stale:
        clear_extremes(program, grid, memory.rows, at)
        pointer = newest
        while pointer >= 0 and memory.pool[pointer + INDEX] > keep:
            merge_extremes(program, grid, memory.rows, at, memory.pool, pointer + BODY)
            pointer = memory.pool[pointer + NEXT]
    return bool(changed)


@kernel
def roll(program: Program, memory: Memory, row: int, time: int) -> bool:
    """Move a key's windows forward to the evaluation time; true when a pane with events left one of them."""
    changed = False
    for grid in range(len(program.pane_us)):
        slot = row + GRIDS + PER_GRID * grid
        if time < memory.rows[slot + END]:
            continue
        pane = program.pane_us[grid]
        new = time // pane
        if time >= memory.rows[slot + DUE]:
            memory.rows[slot + DUE] = NEVER
            for window in range(program.window_start[grid], program.window_start[grid + 1]):
                changed |= _leave(program, memory, row, window, grid, new)
            drop_until(memory, slot + HEAD, grid, new - program.panes_kept[grid])
        memory.rows[slot + CURRENT], memory.rows[slot + END] = new, (new + 1) * pane
    return changed


@kernel
def next_change(program: Program, memory: Memory, row: int) -> int:
    """A time before which no pane leaves a window and the key does not die."""
    due = NEVER
    if program.lifetime_us != NEVER:
        due = memory.rows[row + LATEST] + program.lifetime_us
    for grid in range(len(program.pane_us)):
        due = min(due, memory.rows[row + GRIDS + PER_GRID * grid + DUE])
    return int(due)


@kernel
def total_at(program: Program, memory: Memory, row: int, time: int, into: Words) -> None:
    """Build a row's window totals at `time` from its panes; `into` is the row itself or scratch space."""
    for grid in range(len(program.pane_us)):
        current = time // program.pane_us[grid]
        for window in range(program.window_start[grid], program.window_start[grid + 1]):
            clear(program, grid, into, program.window_at[window])
            pointer = memory.rows[row + GRIDS + PER_GRID * grid + HEAD]
            while pointer >= 0 and memory.pool[pointer + INDEX] > current - program.window_panes[window]:
                merge(program, grid, into, program.window_at[window], memory.pool, pointer + BODY)
                pointer = memory.pool[pointer + NEXT]


@inlined
def has_died(program: Program, latest: int, time: int) -> bool:
    """Whether a key without events since `latest` is forgotten at `time`: in whole steps, as watermarks move."""
    return bool(
        program.lifetime_us != NEVER and time // program.step_us * program.step_us >= latest + program.lifetime_us
    )


@kernel
def forget(program: Program, memory: Memory, key: int) -> None:
    """Free everything a key holds."""
    row = key * len(program.blank)
    for grid in range(len(program.pane_us)):
        drop_until(memory, row + GRIDS + PER_GRID * grid + HEAD, grid, NEVER)
    copy_words(len(program.blank), memory.rows, row, program.blank, 0)
    memory.due[key] = NEVER
    memory.dirty[key] = 0
    for column in range(memory.positions.shape[1]):
        memory.positions[key, column] = -1
