"""From accumulators to the features' floats: each is rounded once, here."""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.windows.fixed import Words, spread, to_float
from tidemill_engine.windows.jit import inlined, kernel
from tidemill_engine.windows.layout import (
    COUNTS,
    COUNTS_END,
    COUNTS_WIDTH,
    KIND,
    KIND_AGE,
    KIND_VAR,
    MOMENTS,
    MOMENTS_END,
    MOMENTS_WIDTH,
    OTHERS,
    OTHERS_END,
    OTHERS_WIDTH,
    PICKS,
    PICKS_END,
    PICKS_WIDTH,
    PLACE,
    QUANTUM,
    SECOND,
    SOURCE,
    N,
)
from tidemill_engine.windows.records import as_float

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
def _read_other(code: Words, feature: int, rows: Words, row: int, time: int) -> float:
    if code[feature + KIND] == KIND_AGE:
        last = rows[row + code[feature + SOURCE]]
        return (time - last) / 1e6 if rows[row + code[feature + N]] > 0 else np.nan
    return _read_spread(code, feature, rows, row)


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
def read(code: Words, rows: Words, row: int, time: int, out: Floats, to: int) -> None:  # noqa: PLR0913 - compiled
    """The vector of the row at its evaluation time; `to` is the place of its first feature."""
    for feature in range(code[COUNTS], code[COUNTS_END], COUNTS_WIDTH):
        out[to + code[feature + 1]] = float(rows[row + code[feature]])
    _read_moments(code, rows, row, out, to)
    for feature in range(code[PICKS], code[PICKS_END], PICKS_WIDTH):
        value = as_float(rows[row + code[feature + 1]])
        out[to + code[feature + 2]] = value if rows[row + code[feature]] > 0 else np.nan
    for feature in range(code[OTHERS], code[OTHERS_END], OTHERS_WIDTH):
        out[to + code[feature + PLACE]] = _read_other(code, feature, rows, row, time)
