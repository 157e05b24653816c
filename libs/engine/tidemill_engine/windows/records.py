"""What can be done to one body of accumulators: clear, add an event, merge, take away, find extremes again.

Every operation is commutative and associative on sets of events, so a body is a function of the set alone. `first`
and `last` are ordered by (time, hash of the event id, value).
"""

import numpy as np

from tidemill_engine.windows.fixed import Words, add128, add192, subtract128, subtract192
from tidemill_engine.windows.jit import inlined, kernel
from tidemill_engine.windows.layout import (
    BODY_WORDS,
    CELL,
    COUNT,
    EMPTY,
    EXTREMES,
    FIRST,
    HAS_FIRST,
    HAS_LAG,
    HAS_LAST,
    HAS_MAX,
    HAS_MIN,
    HAS_REGISTERS,
    HAS_SQUARE,
    HAS_SUM,
    HAS_TALLY,
    KEPT_WHOLE,
    LAG,
    LAG_N,
    LAST,
    LIMBS,
    MARK,
    MASK,
    MAX,
    MIN,
    OP,
    OP_END,
    OP_WIDTH,
    RARE,
    REGISTERS,
    SQUARE,
    TALLY,
    TALLY_N,
    TIME,
)
from tidemill_engine.windows.sketch import REGISTER_WORDS, observe, unite

_MOST_BITS = 62


@inlined
def as_float(word: np.int64) -> np.float64:
    return np.int64(word).view(np.float64)


@inlined
def as_word(value: float) -> np.int64:
    return np.float64(value).view(np.int64)


@inlined
def copy_words(count: int, words: Words, at: int, other: Words, other_at: int) -> None:
    """As slices would; numba needs seconds to compile the shape check of each slice assignment."""
    for word in range(count):
        words[at + word] = other[other_at + word]


@inlined
def clear(code: Words, grid: int, words: Words, at: int) -> None:
    source = code[grid + EMPTY]
    for word in range(code[grid + BODY_WORDS]):
        words[at + word] = code[source + word]


@inlined
def is_later(words: Words, at: int, other: Words, other_at: int) -> bool:
    """Whether the (time, hash, value) at `at` is after the one at `other_at`."""
    if words[at] != other[other_at]:
        return bool(words[at] > other[other_at])
    if words[at + 1] != other[other_at + 1]:
        return bool(words[at + 1] > other[other_at + 1])
    return bool(as_float(words[at + 2]) > as_float(other[other_at + 2]))


@inlined
def _pick(words: Words, at: int, event: Words, value: float, want_later: bool) -> None:  # noqa: FBT001 - compiled code takes no keyword-only arguments
    """Keep the event's stamp and value if it comes after (or before) what is there."""
    time, mark = event[TIME], event[MARK]
    if time != words[at]:
        wins = (time > words[at]) == want_later
    elif mark != words[at + 1]:
        wins = (mark > words[at + 1]) == want_later
    else:
        wins = value > as_float(words[at + 2]) if want_later else value < as_float(words[at + 2])
    if wins:
        words[at], words[at + 1], words[at + 2] = time, mark, as_word(value)


@kernel
def _insert(words: Words, at: int, n: int, time: int, mark: int, value: np.int64) -> None:  # noqa: PLR0913 - compiled
    """Put a stamped value into a list of the `n` newest, newest first, unless it is older than all of them."""
    for place in range(at + 3 * (n - 1), at - 1, -3):
        newer = time > words[place]
        if time == words[place]:
            newer = mark > words[place + 1]
            if mark == words[place + 1]:
                newer = as_float(value) > as_float(words[place + 2])
        if not newer:
            return
        if place < at + 3 * (n - 1):
            copy_words(3, words, place + 3, words, place)
        words[place], words[place + 1], words[place + 2] = time, mark, value


@kernel
def _add_rare(code: Words, op: int, words: Words, at: int, event: Words) -> None:
    """What few features need, out of the way of the others."""
    mask, value = code[op + MASK], as_float(event[code[op + CELL]])
    if mask & HAS_FIRST:
        _pick(words, at + code[op + FIRST], event, value, False)  # noqa: FBT003
    if mask & HAS_LAST:
        _pick(words, at + code[op + LAST], event, value, True)  # noqa: FBT003
    if mask & HAS_LAG:
        _insert(words, at + code[op + LAG], code[op + LAG_N], event[TIME], event[MARK], event[code[op + CELL]])
    if mask & HAS_REGISTERS:
        observe(words, at + code[op + REGISTERS], event[code[op + CELL]])
    if mask & HAS_TALLY:
        words[at + code[op + TALLY] + int(value)] += 1


@inlined
def add_event(code: Words, grid: int, words: Words, at: int, event: Words) -> None:
    words[at] += 1
    for op in range(code[grid + OP], code[grid + OP_END], OP_WIDTH):
        cell, mask, base = code[op + CELL], code[op + MASK], at + code[op + COUNT]
        value = as_float(event[cell])
        if value != value:  # noqa: PLR0124 - NaN, the null
            continue
        words[base] += 1
        if mask & HAS_SUM:  # the sum follows the count
            add128(words, base + 1, np.uint64(event[cell + LIMBS]), event[cell + LIMBS + 1])
        if mask & HAS_SQUARE:
            add192(words, at + code[op + SQUARE], event, cell + LIMBS + 2)
        if mask & HAS_MIN and value < as_float(words[at + code[op + MIN]]):
            words[at + code[op + MIN]] = as_word(value)
        if mask & HAS_MAX and value > as_float(words[at + code[op + MAX]]):
            words[at + code[op + MAX]] = as_word(value)
        if mask & RARE:
            _add_rare(code, op, words, at, event)


@inlined
def _merge_extremes(code: Words, op: int, words: Words, at: int, other: Words, other_at: int) -> None:  # noqa: PLR0913 - see the module
    mask = code[op + MASK]
    if mask & HAS_MIN and as_float(other[other_at + code[op + MIN]]) < as_float(words[at + code[op + MIN]]):
        words[at + code[op + MIN]] = other[other_at + code[op + MIN]]
    if mask & HAS_MAX and as_float(other[other_at + code[op + MAX]]) > as_float(words[at + code[op + MAX]]):
        words[at + code[op + MAX]] = other[other_at + code[op + MAX]]
    if mask & RARE:
        _merge_rare(code, op, words, at, other, other_at)


@kernel
def _merge_rare(code: Words, op: int, words: Words, at: int, other: Words, other_at: int) -> None:  # noqa: PLR0913 - see the module
    mask, first, last = code[op + MASK], code[op + FIRST], code[op + LAST]
    if other[other_at + code[op + COUNT]] == 0:
        return
    if mask & HAS_FIRST and is_later(words, at + first, other, other_at + first):
        copy_words(3, words, at + first, other, other_at + first)
    if mask & HAS_LAST and is_later(other, other_at + last, words, at + last):
        copy_words(3, words, at + last, other, other_at + last)
    if mask & HAS_LAG:
        for place in range(other_at + code[op + LAG], other_at + code[op + LAG] + 3 * code[op + LAG_N], 3):
            if other[place] >= 0:
                _insert(words, at + code[op + LAG], code[op + LAG_N], other[place], other[place + 1], other[place + 2])
    if mask & HAS_REGISTERS:
        unite(words, at + code[op + REGISTERS], other, other_at + code[op + REGISTERS])


@kernel
def _add_tally(code: Words, op: int, words: Words, at: int, pool: Words, body: int, sign: int) -> None:  # noqa: PLR0913 - see the module
    for word in range(code[op + TALLY], code[op + TALLY] + code[op + TALLY_N]):
        words[at + word] += sign * pool[body + word]


@kernel
def merge(code: Words, grid: int, words: Words, at: int, pool: Words, body: int) -> None:  # noqa: PLR0913 - see the module
    """Add a pane's body to a window's."""
    words[at] += pool[body]
    for op in range(code[grid + OP], code[grid + OP_END], OP_WIDTH):
        base, source = code[op + COUNT], body + code[op + COUNT]
        words[at + base] += pool[source]
        if code[op + MASK] & HAS_SUM:
            add128(words, at + base + 1, np.uint64(pool[source + 1]), pool[source + 2])
        if code[op + MASK] & HAS_SQUARE:
            add192(words, at + code[op + SQUARE], pool, body + code[op + SQUARE])
        if code[op + MASK] & HAS_TALLY:
            _add_tally(code, op, words, at, pool, body, 1)
        _merge_extremes(code, op, words, at, pool, body)


@inlined
def _held(code: Words, op: int, words: Words, at: int, pool: Words, body: int) -> bool:  # noqa: PLR0913 - see the module
    """Whether the pane holds one of the window's extremes, which must then be found again."""
    mask = code[op + MASK]
    if mask & EXTREMES == 0 or pool[body + code[op + COUNT]] == 0:
        return False
    low, high, last = code[op + MIN], code[op + MAX], code[op + LAST]
    return bool(
        (mask & HAS_MIN and pool[body + low] == words[at + low])
        or (mask & HAS_MAX and pool[body + high] == words[at + high])
        or mask & (HAS_FIRST | KEPT_WHOLE)
        or (mask & HAS_LAST and pool[body + last] == words[at + last])
    )


@inlined
def take_away(code: Words, grid: int, words: Words, at: int, pool: Words, body: int) -> int:  # noqa: PLR0913 - see the module
    """Subtract a pane's counts and sums from a window's; bits of the operations whose extremes must be found again."""
    stale, bit = 0, 0
    words[at] -= pool[body]
    for op in range(code[grid + OP], code[grid + OP_END], OP_WIDTH):
        base, source = at + code[op + COUNT], body + code[op + COUNT]
        words[base] -= pool[source]
        if code[op + MASK] & HAS_SUM:
            subtract128(words, base + 1, np.uint64(pool[source + 1]), pool[source + 2])
        if code[op + MASK] & HAS_SQUARE:
            subtract192(words, at + code[op + SQUARE], pool, body + code[op + SQUARE])
        if code[op + MASK] & HAS_TALLY:
            _add_tally(code, op, words, at, pool, body, -1)
        if _held(code, op, words, at, pool, body):
            stale |= 1 << bit
        bit = min(bit + 1, _MOST_BITS)  # the operations after it share the last bit
    return stale


@inlined
def clear_extremes(code: Words, grid: int, words: Words, at: int, stale: int) -> None:
    """Empty the extremes of the operations that `stale` names."""
    bit = 0
    for op in range(code[grid + OP], code[grid + OP_END], OP_WIDTH):
        if stale >> bit & 1:
            mask, source = code[op + MASK], code[grid + EMPTY]
            if mask & HAS_MIN:
                words[at + code[op + MIN]] = code[source + code[op + MIN]]
            if mask & HAS_MAX:
                words[at + code[op + MAX]] = code[source + code[op + MAX]]
            if mask & HAS_FIRST:
                copy_words(3, words, at + code[op + FIRST], code, source + code[op + FIRST])
            if mask & HAS_LAST:
                copy_words(3, words, at + code[op + LAST], code, source + code[op + LAST])
            if mask & HAS_LAG:
                copy_words(3 * code[op + LAG_N], words, at + code[op + LAG], code, source + code[op + LAG])
            if mask & HAS_REGISTERS:
                copy_words(REGISTER_WORDS, words, at + code[op + REGISTERS], code, source + code[op + REGISTERS])
        bit = min(bit + 1, _MOST_BITS)


@inlined
def merge_extremes(code: Words, grid: int, words: Words, at: int, pool: Words, body: int, stale: int) -> None:  # noqa: PLR0913 - see the module
    """Merge the extremes of the operations that `stale` names."""
    bit = 0
    for op in range(code[grid + OP], code[grid + OP_END], OP_WIDTH):
        if stale >> bit & 1:
            _merge_extremes(code, op, words, at, pool, body)
        bit = min(bit + 1, _MOST_BITS)
