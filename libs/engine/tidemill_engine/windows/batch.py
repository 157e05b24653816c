"""From columns a caller has to columns the kernels can trust."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.windows.fixed import Words
from tidemill_engine.windows.jit import kernel
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


class Checks(NamedTuple):
    """What values of a plan must keep to."""

    plan: ViewPlan
    limits: NDArray[np.float64]  # (fields,)
    categories: Words  # (fields,) 0 for a field without


def checks_of(plan: ViewPlan) -> Checks:
    """Of a plan, for all its batches."""
    categories = np.array([plan.categories.get(field, 0) for field in range(len(plan.fields))], np.int64)
    return Checks(plan, value_limits(plan), categories)


def value_limits(plan: ViewPlan) -> NDArray[np.float64]:
    """Magnitudes that values of each field must stay under, float64 (fields,)."""
    functions = [{a.function for a in plan.aggregations if a.field == field} for field in plan.fields]
    room = [_SQUARE_BITS if used & {"var", "std"} else _SUM_BITS for used in functions]
    return np.array([2.0 ** (limit - bits) for limit, bits in zip(room, plan.bits, strict=True)])


def as_batch(
    checks: Checks,
    times_us: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    values: NDArray[np.float64],
    seqs: NDArray[np.int64],
) -> Batch:
    """A checked batch, keys and columns of positions still empty; raises ValueError and RejectedValuesError."""
    times = np.ascontiguousarray(times_us, np.int64)
    plan, table = checks.plan, np.ascontiguousarray(values, np.float64)
    marks = np.ascontiguousarray(hashes, np.uint64).view(np.int64)
    places = np.ascontiguousarray(seqs, np.int64)
    if table.shape != (len(times), len(plan.fields)) or not len(marks) == len(places) == len(times):
        raise ValueError(f"values must have {len(plan.fields)} columns and every column as many rows as times")
    if not _is_fine(times, table, checks.limits, checks.categories):
        _say_why(checks, times, table)
    nothing = np.empty(0, np.int64)
    return Batch(nothing, times, marks, table, nothing, places)


@kernel
def _is_fine(times: Words, table: NDArray[np.float64], limits: NDArray[np.float64], categories: Words) -> bool:
    """Whether every time and value may be taken: a small batch is looked at faster so than column by column."""
    for i in range(len(times)):
        if times[i] < 0 or times[i] >= _END_OF_TIME_US:
            return False
        for column in range(len(limits)):
            value = table[i, column]
            if value != value:  # noqa: PLR0124 - null
                continue
            if abs(value) >= limits[column]:
                return False
            if categories[column] and (value < 0 or value >= categories[column] or value != np.floor(value)):
                return False
    return True


def _say_why(checks: Checks, times: Words, table: NDArray[np.float64]) -> None:
    """Raises RejectedValuesError for the first rule that is broken."""
    _reject(~((times >= 0) & (times < _END_OF_TIME_US)), "a time must lie between 1970 and 2106")
    with np.errstate(invalid="ignore"):
        _reject(np.asarray((np.abs(table) >= checks.limits).any(axis=1)), "a value is too large for exact sums")
    for column, categories in checks.plan.categories.items():
        known = np.isnan(table[:, column]) | np.isin(table[:, column], np.arange(categories))
        _reject(~known, "a value is none of the categories")


def _reject(bad: NDArray[np.bool_], rule: str) -> None:
    if bad.any():
        raise RejectedValuesError(rule, np.flatnonzero(bad).tolist())
