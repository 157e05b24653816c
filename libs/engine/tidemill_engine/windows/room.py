"""Room for keys, panes and source partitions: the arrays of a state, and the same ones with more in them."""

import numpy as np

from tidemill_engine.windows.layout import NEVER, TOP
from tidemill_engine.windows.memory import Memory
from tidemill_engine.windows.program import Program


def empty(program: Program) -> Memory:
    """Room for nothing yet."""
    pool = np.full(len(program.record_words) + 1, -1, np.int64)
    pool[TOP] = len(pool)
    return Memory(
        rows=np.empty(0, np.int64),
        pool=pool,
        due=np.empty(0, np.int64),
        dirty=np.empty(0, np.uint8),
        positions=np.empty((0, 0), np.int64),
    )


def with_rows(program: Program, memory: Memory, count: int) -> Memory:
    """With rows for so many keys, half as many more when there are too few."""
    old = len(memory.due)
    if count <= old:
        return memory
    room = max(64, old + old // 2, count)
    more, width = room - old, program.row_words
    rows = np.empty(room * width, np.int64)
    rows[: old * width] = memory.rows
    rows[old * width :].reshape(more, width)[:] = program.blank
    return memory._replace(
        rows=rows,
        due=np.concatenate([memory.due, np.full(more, NEVER)]),
        dirty=np.concatenate([memory.dirty, np.zeros(more, np.uint8)]),
        positions=np.concatenate([memory.positions, np.full((more, memory.positions.shape[1]), -1)]),
    )


def with_pool(memory: Memory, words: int) -> Memory:
    """With a pool in which so many words more fit."""
    pool, used = memory.pool, int(memory.pool[TOP])
    if used + words <= len(pool):
        return memory
    grown = np.empty(max(used + words, len(pool) + len(pool) // 2), np.int64)
    grown[:used] = pool[:used]
    return memory._replace(pool=grown)


def with_columns(memory: Memory, count: int) -> Memory:
    """With positions for so many source partitions."""
    known = memory.positions
    if count <= known.shape[1]:
        return memory
    wide = np.full((len(known), count), -1, np.int64)
    wide[:, : known.shape[1]] = known
    return memory._replace(positions=wide)
