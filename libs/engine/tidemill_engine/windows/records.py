"""What can be done to one body of accumulators: clear, add an event, merge, take away, find extremes again.

Every operation is commutative and associative on sets of events, so a body is a function of the set alone. `first`
and `last` are ordered by (time, hash of the event id, value).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.windows.fixed import Words, add128, add192, subtract128, subtract192
from tidemill_engine.windows.jit import inlined, kernel
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
    limbs: Words  # (5 * (fields + 1),) for each column sum low, sum high, square low, middle, high
    stamp: Words  # (2,) time, hash


@inlined
def as_float(word: np.int64) -> np.float64:
    return np.int64(word).view(np.float64)


@inlined
def as_word(value: float) -> np.int64:
    return np.float64(value).view(np.int64)


@inlined
def clear(program: Program, grid: int, words: Words, at: int) -> None:
    source = program.blank_at[grid]
    for word in range(program.body_words[grid]):
        words[at + word] = program.blank[source + word]


@inlined
def is_later(words: Words, at: int, other: Words, other_at: int) -> bool:
    """Whether the (time, hash, value) at `at` is after the one at `other_at`."""
    if words[at] != other[other_at]:
        return bool(words[at] > other[other_at])
    if words[at + 1] != other[other_at + 1]:
        return bool(words[at + 1] > other[other_at + 1])
    return bool(as_float(words[at + 2]) > as_float(other[other_at + 2]))


@inlined
def copy_words(count: int, words: Words, at: int, other: Words, other_at: int) -> None:
    """As slices would; numba needs seconds to compile the shape check of each slice assignment."""
    for word in range(count):
        words[at + word] = other[other_at + word]


@inlined
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


@inlined
def add_event(program: Program, grid: int, words: Words, at: int, event: Event) -> None:
    words[at] += 1
    for j in range(program.op_start[grid], program.op_start[grid + 1]):
        column = program.ops[j, FIELD]
        value = event.values[column]
        if value != value:  # noqa: PLR0124 - NaN, the null
            continue
        words[at + program.ops[j, COUNT]] += 1
        if program.ops[j, SUM]:
            add128(words, at + program.ops[j, SUM], np.uint64(event.limbs[5 * column]), event.limbs[5 * column + 1])
        if program.ops[j, SQUARE]:
            add192(words, at + program.ops[j, SQUARE], event.limbs, 5 * column + 2)
        if program.ops[j, MIN] and value < as_float(words[at + program.ops[j, MIN]]):
            words[at + program.ops[j, MIN]] = as_word(value)
        if program.ops[j, MAX] and value > as_float(words[at + program.ops[j, MAX]]):
            words[at + program.ops[j, MAX]] = as_word(value)
        if program.ops[j, FIRST]:
            _pick(words, at + program.ops[j, FIRST], event, column, False)  # noqa: FBT003
        if program.ops[j, LAST]:
            _pick(words, at + program.ops[j, LAST], event, column, True)  # noqa: FBT003


@kernel
def _merge_extremes(program: Program, j: int, words: Words, at: int, other: Words, other_at: int) -> None:  # noqa: PLR0913 - see the module
    if other[other_at + program.ops[j, COUNT]] == 0:
        return
    low, high, first, last = program.ops[j, MIN], program.ops[j, MAX], program.ops[j, FIRST], program.ops[j, LAST]
    if low and as_float(other[other_at + low]) < as_float(words[at + low]):
        words[at + low] = other[other_at + low]
    if high and as_float(other[other_at + high]) > as_float(words[at + high]):
        words[at + high] = other[other_at + high]
    if first and is_later(words, at + first, other, other_at + first):
        copy_words(3, words, at + first, other, other_at + first)
    if last and is_later(other, other_at + last, words, at + last):
        copy_words(3, words, at + last, other, other_at + last)


@kernel
def merge(program: Program, grid: int, words: Words, at: int, pool: Words, body: int) -> None:  # noqa: PLR0913 - see the module
    """Add a pane's body to a window's."""
    words[at] += pool[body]
    for j in range(program.op_start[grid], program.op_start[grid + 1]):
        words[at + program.ops[j, COUNT]] += pool[body + program.ops[j, COUNT]]
        if program.ops[j, SUM]:
            add128(
                words,
                at + program.ops[j, SUM],
                np.uint64(pool[body + program.ops[j, SUM]]),
                pool[body + program.ops[j, SUM] + 1],
            )
        if program.ops[j, SQUARE]:
            add192(words, at + program.ops[j, SQUARE], pool, body + program.ops[j, SQUARE])
        _merge_extremes(program, j, words, at, pool, body)


@kernel
def _held(program: Program, j: int, words: Words, at: int, pool: Words, body: int) -> bool:  # noqa: PLR0913 - see the module
    """Whether the pane holds one of the window's extremes, which must then be found again."""
    if pool[body + program.ops[j, COUNT]] == 0:
        return False
    low, high = program.ops[j, MIN], program.ops[j, MAX]
    if low and pool[body + low] == words[at + low]:
        return True
    if high and pool[body + high] == words[at + high]:
        return True
    return bool(
        program.ops[j, FIRST]
        or (program.ops[j, LAST] and pool[body + program.ops[j, LAST]] == words[at + program.ops[j, LAST]])
    )


@kernel
def take_away(program: Program, grid: int, words: Words, at: int, pool: Words, body: int) -> bool:  # noqa: PLR0913 - see the module
    """Subtract a pane's counts and sums from a window's; true when extremes must be found again."""
    stale = False
    words[at] -= pool[body]
    for j in range(program.op_start[grid], program.op_start[grid + 1]):
        words[at + program.ops[j, COUNT]] -= pool[body + program.ops[j, COUNT]]
        if program.ops[j, SUM]:
            subtract128(
                words,
                at + program.ops[j, SUM],
                np.uint64(pool[body + program.ops[j, SUM]]),
                pool[body + program.ops[j, SUM] + 1],
            )
        if program.ops[j, SQUARE]:
            subtract192(words, at + program.ops[j, SQUARE], pool, body + program.ops[j, SQUARE])
        stale |= _held(program, j, words, at, pool, body)
    return stale


@kernel
def clear_extremes(program: Program, grid: int, words: Words, at: int) -> None:
    for j in range(program.op_start[grid], program.op_start[grid + 1]):
        if program.ops[j, MIN]:
            words[at + program.ops[j, MIN]] = as_word(_INFINITY)
        if program.ops[j, MAX]:
            words[at + program.ops[j, MAX]] = as_word(-_INFINITY)
        if program.ops[j, FIRST]:
            words[at + program.ops[j, FIRST]] = NEVER
        if program.ops[j, LAST]:
            words[at + program.ops[j, LAST]] = NOTHING_YET


@kernel
def merge_extremes(program: Program, grid: int, words: Words, at: int, pool: Words, body: int) -> None:  # noqa: PLR0913 - see the module
    for j in range(program.op_start[grid], program.op_start[grid + 1]):
        _merge_extremes(program, j, words, at, pool, body)
