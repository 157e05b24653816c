"""Lists of pane records in the pool, newest first."""

from tidemill_engine.windows.fixed import Words
from tidemill_engine.windows.jit import inlined, kernel
from tidemill_engine.windows.layout import BODY, FREE, HEAD, INDEX, NEXT, RECORD, TOP
from tidemill_engine.windows.records import clear


@inlined
def take_record(code: Words, pool: Words, grid: int) -> int:
    """A cleared record; the caller has made sure that there is room."""
    free = code[grid + FREE]
    pointer = pool[free]
    if pointer >= 0:
        pool[free] = pool[pointer + NEXT]
    else:
        pointer = pool[TOP]
        pool[TOP] += code[grid + RECORD]
    clear(code, grid, pool, pointer + BODY)
    return int(pointer)


@inlined
def find_or_add(code: Words, rows: Words, pool: Words, slot: int, grid: int, index: int) -> int:  # noqa: PLR0913 - compiled
    """Pointer to the pane of a list; `slot` is the grid's place in the rows."""
    before, pointer = -1, rows[slot + HEAD]
    while pointer >= 0 and pool[pointer + INDEX] > index:
        before, pointer = pointer, pool[pointer + NEXT]
    if pointer >= 0 and pool[pointer + INDEX] == index:
        return int(pointer)
    new = take_record(code, pool, grid)
    pool[new + INDEX], pool[new + NEXT] = index, pointer
    if before >= 0:
        pool[before + NEXT] = new
    else:
        rows[slot + HEAD] = new
    return new


@kernel
def drop_until(rows: Words, pool: Words, slot: int, free: int, oldest: int) -> None:
    """Free the panes of a list whose index is `oldest` or less."""
    before, pointer = -1, rows[slot + HEAD]
    while pointer >= 0 and pool[pointer + INDEX] > oldest:
        before, pointer = pointer, pool[pointer + NEXT]
    if pointer < 0:
        return
    if before >= 0:
        pool[before + NEXT] = -1
    else:
        rows[slot + HEAD] = -1
    while pointer >= 0:
        following = pool[pointer + NEXT]
        pool[pointer + NEXT] = pool[free]
        pool[free] = pointer
        pointer = following
