"""From accumulators to the features' floats: each is rounded once, here."""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.windows.fixed import Words, spread, to_float
from tidemill_engine.windows.jit import inlined, kernel
from tidemill_engine.windows.layout import (
    BODY,
    COUNTS,
    COUNTS_END,
    COUNTS_WIDTH,
    HEAD,
    INDEX,
    KIND,
    KIND_AGE,
    KIND_DISTINCT,
    KIND_LAG,
    KIND_STD,
    KIND_TOP,
    KIND_VAR,
    MOMENTS,
    MOMENTS_END,
    MOMENTS_WIDTH,
    NEXT,
    OTHERS,
    OTHERS_END,
    OTHERS_WIDTH,
    PANE,
    PART,
    PICKS,
    PICKS_END,
    PICKS_WIDTH,
    PLACE,
    QUANTUM,
    RATIOS,
    RATIOS_END,
    RATIOS_WIDTH,
    SECOND,
    SLOT,
    SOURCE,
    WEIGHTS,
    N,
)
from tidemill_engine.windows.records import as_float
from tidemill_engine.windows.sketch import estimate

Floats = NDArray[np.float64]


@kernel
def _read_spread(code: Words, feature: int, rows: Words, row: int) -> float:
    n, quantum = rows[row + code[feature + N]], as_float(code[feature + QUANTUM])
    if n < 2:  # noqa: PLR2004 - the sample variance needs two values
        return np.nan
    pairs = float(n) * float(n - 1)
    exact = spread(n, rows, row + code[feature + SOURCE], row + code[feature + SECOND])
    variance = exact * quantum * quantum / pairs
    return variance if code[feature + KIND] == KIND_VAR else sqrt(variance)


@kernel
def _read_ewma(code: Words, feature: int, rows: Words, pool: Words, row: int, time: int) -> float:  # noqa: PLR0913 - compiled
    """Weighted mean over the window's panes: all values of a pane weigh the same, the newest pane with values 1.

    Weights fall by the age in panes, so neither order nor the time of reading matters, only which panes are inside.
    """
    grid, part = code[feature + SOURCE], BODY + code[feature + PART]
    oldest, newest = time // code[grid + PANE] - code[feature + SECOND], np.int64(-1)
    total, weight = 0.0, 0.0
    pointer = rows[row + code[grid + SLOT] + HEAD]
    while pointer >= 0 and pool[pointer + INDEX] > oldest:
        n = pool[pointer + part]
        if n > 0:
            newest = max(newest, pool[pointer + INDEX])  # the first one found
            each = as_float(code[code[feature + WEIGHTS] + newest - pool[pointer + INDEX]])
            exact = to_float(np.uint64(pool[pointer + part + 1]), pool[pointer + part + 2])
            total += each * (exact * as_float(code[feature + QUANTUM]))
            weight += each * n
        pointer = pool[pointer + NEXT]
    return float(total / weight) if weight > 0 else np.nan


@kernel
def _read_top(rows: Words, at: int, categories: int) -> float:
    best = 0
    for code in range(1, categories):
        if rows[at + code] > rows[at + best]:
            best = code
    return float(best)


@kernel
def _read_other(code: Words, feature: int, rows: Words, pool: Words, row: int, time: int) -> float:  # noqa: PLR0911, PLR0913 - one line for each kind
    kind, n, source = code[feature + KIND], rows[row + code[feature + N]], row + code[feature + SOURCE]
    if kind == KIND_VAR or kind == KIND_STD:  # noqa: PLR1714, SIM109 - compiled code has no fast sets
        return _read_spread(code, feature, rows, row)
    if kind == KIND_DISTINCT:
        return estimate(rows, source)
    if kind == KIND_LAG:
        stamp = source + 3 * code[feature + SECOND]
        return float(as_float(rows[stamp + 2])) if rows[stamp] >= 0 else np.nan
    if n == 0:
        return np.nan
    if kind == KIND_AGE:
        return float((time - rows[source]) / 1e6)
    if kind == KIND_TOP:
        return _read_top(rows, source, code[feature + SECOND])
    return _read_ewma(code, feature, rows, pool, row, time)


@inlined
def _read_moments(code: Words, rows: Words, row: int, out: Floats, to: int) -> None:
    for feature in range(code[MOMENTS], code[MOMENTS_END], MOMENTS_WIDTH):
        n, first = rows[row + code[feature]], row + code[feature + 1]
        total = to_float(np.uint64(rows[first]), rows[first + 1]) * as_float(code[feature + 2])
        if code[feature + 3] >= 0:
            out[to + code[feature + 3]] = total
        if code[feature + 4] >= 0:
            out[to + code[feature + 4]] = total / n if n > 0 else np.nan


@inlined
def read(code: Words, rows: Words, pool: Words, row: int, time: int, out: Floats, to: int) -> None:  # noqa: PLR0913 - compiled
    """The vector of the row at its evaluation time; `to` is the place of its first feature."""
    for feature in range(code[COUNTS], code[COUNTS_END], COUNTS_WIDTH):
        out[to + code[feature + 1]] = float(rows[row + code[feature]])
    _read_moments(code, rows, row, out, to)
    for feature in range(code[PICKS], code[PICKS_END], PICKS_WIDTH):
        value = as_float(rows[row + code[feature + 1]])
        out[to + code[feature + 2]] = value if rows[row + code[feature]] > 0 else np.nan
    for feature in range(code[OTHERS], code[OTHERS_END], OTHERS_WIDTH):
        out[to + code[feature + PLACE]] = _read_other(code, feature, rows, pool, row, time)
    for feature in range(code[RATIOS], code[RATIOS_END], RATIOS_WIDTH):
        dividend, divisor = out[to + code[feature]], out[to + code[feature + 1]]
        out[to + code[feature + 2]] = dividend / divisor if divisor != 0.0 else np.nan
