"""A plan laid out for the kernels: offsets of every accumulator inside a key's row and inside a pane's record.

Windows with the same pane length share one grid of panes. A record's body is `[events, blocks...]`, one block for
each field that a window of the grid uses; a window's running totals have the same body as its panes, so one set of
operations serves both.

A row: latest event time, events applied, then for each grid the newest pane (pointer into the pool, -1 none), the
index of the pane that holds the evaluation time, the end of that pane and when the next pane leaves a window; then
the all-time body, then one body for each window.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.windows.fixed import Words
from tidemill_engine.windows.plan import Aggregation, ViewPlan

LATEST, APPLIED, GRIDS = 0, 1, 2
HEAD, CURRENT, END, DUE, PER_GRID = 0, 1, 2, 3, 4
INDEX, NEXT, BODY = 0, 1, 2
FIELD, COUNT, SUM, SQUARE, MIN, MAX, FIRST, LAST, OP_WIDTH = 0, 1, 2, 3, 4, 5, 6, 7, 8
KIND_COUNT, KIND_SUM, KIND_MEAN, KIND_VAR, KIND_STD, KIND_PICK, KIND_AGE = range(7)
NEVER = np.iinfo(np.int64).max
NOTHING_YET = -1
_SIZES = {COUNT: 1, SUM: 2, SQUARE: 3, MIN: 1, MAX: 1, FIRST: 3, LAST: 3}
_NEEDS: Mapping[str, tuple[int, ...]] = {
    "count": (),
    "sum": (SUM,),
    "mean": (SUM,),
    "var": (SUM, SQUARE),
    "std": (SUM, SQUARE),
    "min": (MIN,),
    "max": (MAX,),
    "first": (FIRST,),
    "last": (LAST,),
    "age_of_last": (LAST,),
}
_KINDS = {"sum": KIND_SUM, "mean": KIND_MEAN, "var": KIND_VAR, "std": KIND_STD, "age_of_last": KIND_AGE}
_PICKS = {"min": (MIN, 0), "max": (MAX, 0), "first": (FIRST, 2), "last": (LAST, 2)}


class Program(NamedTuple):
    """Arrays that the kernels read. G grids, W windows (by grid), J operations (by grid, the all-time body last)."""

    pane_us: Words  # (G,)
    panes_kept: Words  # (G,) panes of the grid's longest window
    record_words: Words  # (G,)
    window_start: Words  # (G + 1,) windows of grid g are window_start[g] .. window_start[g + 1]
    window_panes: Words  # (W,)
    window_at: Words  # (W,) where the window's body starts in the row
    op_start: Words  # (G + 2,)
    ops: Words  # (J, OP_WIDTH) column of the field, then offsets in the body, 0 for absent
    blank: Words  # an empty row
    blank_at: Words  # (G + 1,) where an empty body of each grid (and the all-time one) stands in `blank`, -1 none
    body_words: Words  # (G + 1,)
    features: Words  # (F, 5) kind, count, first word, second word (all absolute in the row), column
    scales: NDArray[np.float64]  # (fields + 1,) 2 ** bits
    quanta: NDArray[np.float64]  # (fields + 1,) 2 ** -bits
    needs: Words  # (fields + 1,) 0 no sums, 1 sum, 2 sum and squares
    lifetime_us: int  # NEVER when keys do not die
    step_us: int


def _offsets(aggregations: Iterable[Aggregation], plan: ViewPlan) -> tuple[NDArray[np.int64], int]:
    """Operations of one body and its size in words."""
    needs: dict[int, set[int]] = {}
    for item in aggregations:
        column = len(plan.fields) if item.field is None else plan.fields.index(item.field)
        if item.field is not None or item.function != "count":
            needs.setdefault(column, set()).update((COUNT, *_NEEDS[item.function]))
    size, ops = 1, np.zeros((len(needs), OP_WIDTH), np.int64)
    for op, column in zip(ops, sorted(needs), strict=True):
        op[FIELD] = column
        for part in sorted(needs[column]):
            op[part] = size
            size += _SIZES[part]
    return ops, size


def _blank_body(ops: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    body = np.zeros(size, np.int64)
    floats = body.view(np.float64)
    for op in ops:
        if op[MIN]:
            floats[op[MIN]] = np.inf
        if op[MAX]:
            floats[op[MAX]] = -np.inf
        if op[FIRST]:
            body[op[FIRST]] = NEVER
        if op[LAST]:
            body[op[LAST]] = NOTHING_YET
    return body


def _feature(item: Aggregation, plan: ViewPlan, ops: NDArray[np.int64], at: int) -> tuple[int, int, int, int, int]:
    column = len(plan.fields) if item.field is None else plan.fields.index(item.field)
    if item.field is None and item.function == "count":
        return KIND_COUNT, at, 0, 0, column
    op = next(op for op in ops if op[FIELD] == column)
    count = at + int(op[COUNT])
    if item.function == "count":
        return KIND_COUNT, count, 0, 0, column
    if item.function in _PICKS:
        part, word = _PICKS[item.function]
        return KIND_PICK, count, at + int(op[part]) + word, 0, column
    first = at + int(op[LAST if item.function == "age_of_last" else SUM])
    return _KINDS[item.function], count, first, at + int(op[SQUARE]), column


class _Layout:
    """Collects the parts of a program in the order of the row."""

    def __init__(self, plan: ViewPlan) -> None:
        self.plan = plan
        self.panes = sorted({window.pane_us for window in plan.windows})
        self.order = sorted(range(len(plan.windows)), key=lambda w: (plan.windows[w].pane_us, w))
        grids = [[a for a in plan.aggregations if self._grid(a) == g] for g in range(len(self.panes) + 1)]
        self.bodies = [_offsets(items, plan) for items in grids]
        self.has_all_time = bool(grids[-1])
        head = np.zeros(GRIDS + PER_GRID * len(self.panes), np.int64)
        head[LATEST] = NOTHING_YET
        head[GRIDS + HEAD :: PER_GRID] = -1
        head[GRIDS + DUE :: PER_GRID] = NEVER
        self.row = [head]
        self.blank_at = [-1] * (len(self.panes) + 1)
        if self.has_all_time:
            self.blank_at[-1] = self._append(len(self.panes))
        self.window_at = {window: self._place(window) for window in self.order}

    def _grid(self, item: Aggregation) -> int:
        return len(self.panes) if item.window is None else self.grid_of(item.window)

    def grid_of(self, window: int) -> int:
        return self.panes.index(self.plan.windows[window].pane_us)

    def _append(self, grid: int) -> int:
        at = sum(part.size for part in self.row)
        self.row.append(_blank_body(*self.bodies[grid]))
        return at

    def _place(self, window: int) -> int:
        grid = self.grid_of(window)
        at = self._append(grid)
        self.blank_at[grid] = at
        return at

    def features(self) -> NDArray[np.int64]:
        rows = []
        for item in self.plan.aggregations:
            at = self.blank_at[-1] if item.window is None else self.window_at[item.window]
            rows.append(_feature(item, self.plan, self.bodies[self._grid(item)][0], at))
        return _array(rows)


def _array(values: Iterable[object]) -> Words:
    return np.asarray(list(values), np.int64)


def _needs(layout: _Layout) -> Words:
    needs = np.zeros(len(layout.plan.fields) + 1, np.int64)
    for ops, _ in layout.bodies:
        for op in ops:
            needs[op[FIELD]] = max(needs[op[FIELD]], 2 if op[SQUARE] else 1 if op[SUM] else 0)
    return needs


def compile_plan(plan: ViewPlan) -> Program:
    """The program of a plan."""
    layout = _Layout(plan)
    windows = [plan.windows[w] for w in layout.order]
    grids = [layout.grid_of(w) for w in layout.order]
    sizes = [size for _, size in layout.bodies]
    return Program(
        pane_us=_array(layout.panes),
        panes_kept=_array(max(w.panes for w in windows if w.pane_us == pane) for pane in layout.panes),
        record_words=_array(BODY + size for size in sizes[:-1]),
        window_start=_array(np.searchsorted(grids, range(len(layout.panes) + 1))),
        window_panes=_array(window.panes for window in windows),
        window_at=_array(layout.window_at[w] for w in layout.order),
        op_start=_array(np.cumsum([0, *(len(ops) for ops, _ in layout.bodies)])),
        ops=np.concatenate([ops for ops, _ in layout.bodies]),
        blank=np.concatenate(layout.row),
        blank_at=_array(layout.blank_at),
        body_words=_array(sizes),
        features=layout.features(),
        scales=np.array([2.0**bits for bits in (*plan.bits, 0)]),
        quanta=np.array([2.0**-bits for bits in (*plan.bits, 0)]),
        needs=_needs(layout),
        lifetime_us=NEVER if plan.lifetime_us is None else plan.lifetime_us,
        step_us=plan.step_us,
    )
