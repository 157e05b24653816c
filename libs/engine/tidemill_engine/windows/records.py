"""What can be done to one body of accumulators: clear, add an event, merge, take away, find extremes again.

Every operation is commutative and associative on sets of events, so a body is a function of the set alone. `first`
and `last` are ordered by (time, hash of the event id, value).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.windows.fixed import Words, add128, add192, subtract128, subtract192
from tidemill_engine.windows.jit import kernel
from tidemill_engine.windows.program import (
    COUNT,
    FIELD,
    FIRST,
    LAST,
    MAX,
    MIN,
    NEVER,
    NOTHING_YET,
    SQUARE,
    SUM,
    Program,
)

_INFINITY = np.float64(np.inf)


class Event(NamedTuple):
    """Scratch space of one event: values by column (NaN: null; the last column is always 1) and their exact limbs."""

    values: NDArray[np.float64]  # (fields + 1,)
    limbs: Words  # (fields + 1, 5) sum low, sum high, square low, middle, high
    stamp: Words  # (2,) time, hash


@kernel
def as_float(word: np.int64) -> np.float64:
    return np.int64(word).view(np.float64)


@kernel
def as_word(value: float) -> np.int64:
    return np.float64(value).view(np.int64)


@kernel
def clear(program: Program, grid: int, words: Words, at: int) -> None:
    source = program.blank_at[grid]
    for word in range(program.body_words[grid]):
        words[at + word] = program.blank[source + word]


@kernel
def is_later(words: Words, at: int, other: Words, other_at: int) -> bool:
    """Whether the (time, hash, value) at `at` is after the one at `other_at`."""
    if words[at] != other[other_at]:
        return bool(words[at] > other[other_at])
    if words[at + 1] != other[other_at + 1]:
        return bool(words[at + 1] > other[other_at + 1])
    return bool(as_float(words[at + 2]) > as_float(other[other_at + 2]))


@kernel
def _copy3(words: Words, at: int, other: Words, other_at: int) -> None:
    for word in range(3):
        words[at + word] = other[other_at + word]


@kernel
def _pick(words: Words, at: int, event: Event, column: int, want_later: bool) -> None:  # noqa: FBT001 - compiled code takes no keyword-only arguments
    """Keep the event's stamp and value if it comes after (or before) what is there."""
    time, mark, value = event.stamp[0], event.stamp[1], event.values[column]
    if time != words[at]:
        wins = (time > words[at]) == want_later
    elif mark != words[at + 1]:
        wins = (mark > words[at + 1]) == want_later
    else:
        wins = value > as_float(words[at + 2]) if want_later else value < as_float(words[at + 2])
    if wins:
        words[at], words[at + 1], words[at + 2] = time, mark, as_word(value)


@kernel
def add_event(program: Program, grid: int, words: Words, at: int, event: Event) -> None:
    words[at] += 1
    for j in range(program.op_start[grid], program.op_start[grid + 1]):
        op = program.ops[j]
        column = op[FIELD]
        value = event.values[column]
        if value != value:  # noqa: PLR0124 - NaN, the null
            continue
        words[at + op[COUNT]] += 1
        if op[SUM]:
            add128(words, at + op[SUM], np.uint64(event.limbs[column, 0]), event.limbs[column, 1])
        if op[SQUARE]:
            add192(words, at + op[SQUARE], event.limbs[column], 2)
        if op[MIN] and value < as_float(words[at + op[MIN]]):
            words[at + op[MIN]] = as_word(value)
        if op[MAX] and value > as_float(words[at + op[MAX]]):
            words[at + op[MAX]] = as_word(value)
        if op[FIRST]:
            _pick(words, at + op[FIRST], event, column, False)  # noqa: FBT003
        if op[LAST]:
            _pick(words, at + op[LAST], event, column, True)  # noqa: FBT003


@kernel
def _merge_extremes(op: Words, words: Words, at: int, other: Words, other_at: int) -> None:
    if other[other_at + op[COUNT]] == 0:
        return
    low, high, first, last = op[MIN], op[MAX], op[FIRST], op[LAST]
    if low and as_float(other[other_at + low]) < as_float(words[at + low]):
        words[at + low] = other[other_at + low]
    if high and as_float(other[other_at + high]) > as_float(words[at + high]):
        words[at + high] = other[other_at + high]
    if first and is_later(words, at + first, other, other_at + first):
        _copy3(words, at + first, other, other_at + first)
    if last and is_later(other, other_at + last, words, at + last):
        _copy3(words, at + last, other, other_at + last)


@kernel
def merge(program: Program, grid: int, words: Words, at: int, pool: Words, body: int) -> None:  # noqa: PLR0913 - see the module
    """Add a pane's body to a window's."""
    words[at] += pool[body]
    for j in range(program.op_start[grid], program.op_start[grid + 1]):
        op = program.ops[j]
        words[at + op[COUNT]] += pool[body + op[COUNT]]
        if op[SUM]:
            add128(words, at + op[SUM], np.uint64(pool[body + op[SUM]]), pool[body + op[SUM] + 1])
        if op[SQUARE]:
            add192(words, at + op[SQUARE], pool, body + op[SQUARE])
        _merge_extremes(op, words, at, pool, body)


@kernel
def _held(op: Words, words: Words, at: int, pool: Words, body: int) -> bool:
    """Whether the pane holds one of the window's extremes, which must then be found again."""
    if pool[body + op[COUNT]] == 0:
        return False
    low, high = op[MIN], op[MAX]
    if low and pool[body + low] == words[at + low]:
        return True
    if high and pool[body + high] == words[at + high]:
        return True
    return bool(op[FIRST] or (op[LAST] and pool[body + op[LAST]] == words[at + op[LAST]]))


@kernel
def take_away(program: Program, grid: int, words: Words, at: int, pool: Words, body: int) -> bool:  # noqa: PLR0913 - see the module
    """Subtract a pane's counts and sums from a window's; true when extremes must be found again."""
    stale = False
    words[at] -= pool[body]
    for j in range(program.op_start[grid], program.op_start[grid + 1]):
        op = program.ops[j]
        words[at + op[COUNT]] -= pool[body + op[COUNT]]
        if op[SUM]:
            subtract128(words, at + op[SUM], np.uint64(pool[body + op[SUM]]), pool[body + op[SUM] + 1])
        if op[SQUARE]:
            subtract192(words, at + op[SQUARE], pool, body + op[SQUARE])
        stale |= _held(op, words, at, pool, body)
    return stale


@kernel
def clear_extremes(program: Program, grid: int, words: Words, at: int) -> None:
    for j in range(program.op_start[grid], program.op_start[grid + 1]):
        op = program.ops[j]
        if op[MIN]:
            words[at + op[MIN]] = as_word(_INFINITY)
        if op[MAX]:
            words[at + op[MAX]] = as_word(-_INFINITY)
        if op[FIRST]:
            words[at + op[FIRST]] = NEVER
        if op[LAST]:
            words[at + op[LAST]] = NOTHING_YET


@kernel
def merge_extremes(program: Program, grid: int, words: Words, at: int, pool: Words, body: int) -> None:  # noqa: PLR0913 - see the module
    for j in range(program.op_start[grid], program.op_start[grid + 1]):
        _merge_extremes(program.ops[j], words, at, pool, body)
