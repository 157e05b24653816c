"""From columns a caller has to columns the kernels can trust."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.windows.fixed import Words
from tidemill_engine.windows.plan import SECOND_US, ViewPlan

_SUM_BITS, _SQUARE_BITS = 96, 80  # with 31 bits for the number of events: 127 of 128, and 191 of 192 for squares
_END_OF_TIME_US = 2**32 * SECOND_US


class Batch(NamedTuple):
    """Events in columns: row of the key, time, hash, values by field (NaN: null), position."""

    keys: Words  # (n,)
    times: Words  # (n,)
    hashes: Words  # (n,) the unsigned hash's bits
    values: NDArray[np.float64]  # (n, fields)
    columns: Words  # (n,) column of the source partition in `Memory.positions`
    seqs: Words  # (n,)


def part_of(batch: Batch, start: int, stop: int) -> Batch:
    """Events `start` to `stop` of a batch."""
    return Batch(
        keys=batch.keys[start:stop],
        times=batch.times[start:stop],
        hashes=batch.hashes[start:stop],
        values=batch.values[start:stop],
        columns=batch.columns[start:stop],
        seqs=batch.seqs[start:stop],
    )


class RejectedValuesError(ValueError):
    """Events that no exact accumulator can hold; `rows` are their places in the batch."""

    def __init__(self, rule: str, rows: Sequence[int]) -> None:
        super().__init__(f"{rule} (events {list(rows[:10])})")
        self.rule = rule
        self.rows = tuple(rows)


def value_limits(plan: ViewPlan) -> NDArray[np.float64]:
    """Magnitudes that values of each field must stay under, float64 (fields,)."""
    functions = [{a.function for a in plan.aggregations if a.field == field} for field in plan.fields]
    room = [_SQUARE_BITS if used & {"var", "std"} else _SUM_BITS for used in functions]
    return np.array([2.0 ** (limit - bits) for limit, bits in zip(room, plan.bits, strict=True)])


def as_batch(
    plan: ViewPlan,
    times_us: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    values: NDArray[np.float64],
    seqs: NDArray[np.int64],
) -> Batch:
    """A checked batch, keys and columns of positions still empty; raises ValueError and RejectedValuesError."""
    times = np.ascontiguousarray(times_us, np.int64)
    table = np.ascontiguousarray(values, np.float64)
    marks = np.ascontiguousarray(hashes, np.uint64).view(np.int64)
    places = np.ascontiguousarray(seqs, np.int64)
    if table.shape != (len(times), len(plan.fields)) or not len(marks) == len(places) == len(times):
        raise ValueError(f"values must have {len(plan.fields)} columns and every column as many rows as times")
    _reject(~((times >= 0) & (times < _END_OF_TIME_US)), "a time must lie between 1970 and 2106")
    with np.errstate(invalid="ignore"):
        _reject(np.asarray((np.abs(table) >= value_limits(plan)).any(axis=1)), "a value is too large for exact sums")
    for column, categories in plan.categories.items():
        known = np.isnan(table[:, column]) | np.isin(table[:, column], np.arange(categories))
        _reject(~known, "a value is none of the categories")
    nothing = np.empty(0, np.int64)
    return Batch(nothing, times, marks, table, nothing, places)


def _reject(bad: NDArray[np.bool_], rule: str) -> None:
    if bad.any():
        raise RejectedValuesError(rule, np.flatnonzero(bad).tolist())
