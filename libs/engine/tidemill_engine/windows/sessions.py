"""Session windows: a key's newest run of events of which each follows the one before within a gap.

A session is a function of the set of events and the evaluation time, as every window is: panes are no longer than the
gap, so two events of one pane always belong together, and each pane keeps the times of its first and last event. The
session is the newest pane and those before it as long as none begins more than the gap after the one before it ended.
An event out of order that joins two sessions is in its pane like any other. A session has ended, and its features are
those of no events, when the evaluation time is more than the gap behind its last event; of one that is longer than the
window only the window's panes count.

Plain views have no such grids: their loops over sessions are empty.
"""

from tidemill_engine.windows.fixed import Words
from tidemill_engine.windows.jit import inlined, kernel
from tidemill_engine.windows.layout import (
    AT,
    BODY,
    DUE,
    ENDED,
    FREE,
    FROM,
    GAP,
    GRID_WIDTH,
    HEAD,
    INDEX,
    KEPT,
    LATEST,
    NEVER,
    NEXT,
    PANE,
    ROW_WORDS,
    SESSION,
    SESSION_END,
    SLOT,
    TIME,
    UNTIL,
    WINDOW,
)
from tidemill_engine.windows.lists import drop_until, find_or_add
from tidemill_engine.windows.records import add_event, clear, merge


@kernel
def roll_session(code: Words, rows: Words, pool: Words, row: int, grid: int, time: int) -> bool:  # noqa: PLR0913 - compiled
    """Move one session window forward to a time at which it is due; true when its features may have changed."""
    slot, window = row + code[grid + SLOT], code[grid + WINDOW]
    ends = rows[row + LATEST] + code[window + GAP] + 1
    has_ended, oldest = time >= ends, time // code[grid + PANE] - code[grid + KEPT]
    changed = has_ended and rows[slot + ENDED] == 0 and rows[slot + HEAD] >= 0
    due = NEVER if has_ended else ends
    pointer = rows[slot + HEAD]
    while pointer >= 0:
        if pool[pointer + INDEX] > oldest:
            due = min(due, (pool[pointer + INDEX] + code[grid + KEPT]) * code[grid + PANE])
        else:
            changed |= not has_ended
        pointer = pool[pointer + NEXT]
    drop_until(rows, pool, slot, code[grid + FREE], oldest)
    rows[slot + DUE], rows[slot + ENDED] = due, int(has_ended)
    return bool(changed)


@kernel
def place_in_session(  # noqa: PLR0913 - compiled
    code: Words, rows: Words, pool: Words, dues: Words, key: int, grid: int, event: Words, now: int
) -> bool:
    """Add an event of a key to its pane; false when that is dead at the evaluation time `now`."""
    row, panes = key * code[ROW_WORDS], code[grid + KEPT]
    slot, index = row + code[grid + SLOT], event[TIME] // code[grid + PANE]
    if index <= now // code[grid + PANE] - panes:
        return False
    pointer = find_or_add(code, rows, pool, slot, grid, index)
    add_event(code, grid, pool, pointer + BODY, event)
    ends = rows[row + LATEST] + code[code[grid + WINDOW] + GAP] + 1
    due = min(rows[slot + DUE], (index + panes) * code[grid + PANE])
    rows[slot + DUE], rows[slot + ENDED] = due if now >= ends else min(due, ends), int(now >= ends)
    dues[key] = min(dues[key], rows[slot + DUE])
    return True


@kernel
def _session_at(code: Words, rows: Words, pool: Words, slot: int, grid: int, time: int, into: Words, to: int) -> None:  # noqa: PLR0913 - compiled
    window = code[grid + WINDOW]
    gap, at = code[window + GAP], to + code[window + AT]
    clear(code, grid, into, at)
    oldest, follows = time // code[grid + PANE] - code[grid + KEPT], time
    pointer = rows[slot + HEAD]
    while pointer >= 0 and pool[pointer + INDEX] > oldest:
        body = pointer + BODY
        if follows - pool[body + code[window + UNTIL]] > gap:
            break
        merge(code, grid, into, at, pool, body)
        follows, pointer = pool[body + code[window + FROM]], pool[pointer + NEXT]


@inlined
def sessions_at(code: Words, rows: Words, pool: Words, row: int, time: int, into: Words, to: int) -> None:  # noqa: PLR0913 - compiled
    """Build a row's sessions at `time` from its panes; `into` at `to` is the row itself or scratch space."""
    for grid in range(code[SESSION], code[SESSION_END], GRID_WIDTH):
        _session_at(code, rows, pool, row + code[grid + SLOT], grid, time, into, to)
