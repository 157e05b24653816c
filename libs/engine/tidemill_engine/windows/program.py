"""A plan laid out for the kernels as one array of words, its parts named in `layout`.

Windows with the same pane length share one grid of panes, a session has one of its own. A record's body is `[events,
blocks...]`, one block for each field that a window of the grid uses; a window's running totals have the same body as
its panes, so one set of operations serves both.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tidemill_engine.windows import layout as at
from tidemill_engine.windows.fixed import Words
from tidemill_engine.windows.plan import Aggregation, ViewPlan
from tidemill_engine.windows.sketch import REGISTER_WORDS

_SIZES = {at.COUNT: 1, at.SUM: 2, at.SQUARE: 3, at.MIN: 1, at.MAX: 1, at.FIRST: 3, at.LAST: 3}
_STAMP_WORDS = 3
_MASKS = {
    at.SUM: at.HAS_SUM, at.SQUARE: at.HAS_SQUARE, at.MIN: at.HAS_MIN, at.MAX: at.HAS_MAX, at.FIRST: at.HAS_FIRST,
    at.LAST: at.HAS_LAST, at.LAG: at.HAS_LAG, at.REGISTERS: at.HAS_REGISTERS, at.TALLY: at.HAS_TALLY,
}  # fmt: skip
_PARTS: Mapping[str, tuple[int, ...]] = {
    "count": (),
    "sum": (at.SUM,),
    "mean": (at.SUM,),
    "var": (at.SUM, at.SQUARE),
    "std": (at.SUM, at.SQUARE),
    "min": (at.MIN,),
    "max": (at.MAX,),
    "first": (at.FIRST,),
    "last": (at.LAST,),
    "age_of_last": (at.LAST,),
    "lag": (at.LAG,),
    "distinct": (at.REGISTERS,),
    "top": (at.TALLY,),
    "ewma": (at.SUM,),
}
_PICKS = {"min": (at.MIN, 0), "max": (at.MAX, 0), "first": (at.FIRST, 2), "last": (at.LAST, 2)}
_KINDS = {"var": at.KIND_VAR, "std": at.KIND_STD, "age_of_last": at.KIND_AGE, "lag": at.KIND_LAG,
          "distinct": at.KIND_DISTINCT, "top": at.KIND_TOP, "ewma": at.KIND_EWMA}  # fmt: skip
_SOURCES = {"age_of_last": at.LAST, "lag": at.LAG, "distinct": at.REGISTERS, "top": at.TALLY}


@dataclass(frozen=True)
class Body:
    """The operations of one body by column, its size in words and how it looks when empty."""

    ops: Mapping[int, list[int]]
    blank: list[int]


@dataclass(frozen=True)
class Program:
    """`code` for the kernels; the sizes that Python needs."""

    code: Words
    row_words: int
    record_words: tuple[int, ...]
    features: int
    fingerprint: int
    event: Words
    """Scratch space for one event."""

    @property
    def blank(self) -> Words:
        """An empty row."""
        start = int(self.code[at.BLANK])
        return self.code[start : start + self.row_words]


def float_word(value: float) -> int:
    """A float's bits."""
    return int(np.float64(value).view(np.int64))


def _column(item: Aggregation, plan: ViewPlan) -> int:
    return len(plan.fields) if item.field is None else plan.fields.index(item.field)


def _body(aggregations: Iterable[Aggregation], plan: ViewPlan, *, stamped: bool = False) -> Body:
    """`stamped`: with the times of the first and the last event, as sessions need them."""
    needs: dict[int, set[int]] = {len(plan.fields): {at.COUNT, at.FIRST, at.LAST}} if stamped else {}
    sizes: dict[tuple[int, int], int] = {}
    for item in aggregations:
        for part in (at.LAG, at.TALLY):
            if part in _PARTS.get(item.function, ()):
                place = _column(item, plan), part
                sizes[place] = max(sizes.get(place, 0), (item.parameter or 0) + (part == at.LAG))
        if item.field is not None or item.function != "count":
            needs.setdefault(_column(item, plan), set()).update((at.COUNT, *_PARTS[item.function]))
    blank, ops = [0], {}
    for column in sorted(needs):
        ops[column] = op = [0] * at.OP_WIDTH
        op[at.CELL] = at.CELLS + at.CELL_WIDTH * column
        for part in sorted(needs[column]):
            op[part] = len(blank)
            op[at.MASK] |= _MASKS.get(part, 0)
            if part in _SIZE_AT:
                op[_SIZE_AT[part]] = sizes[column, part]
            blank += _blank_part(part, sizes.get((column, part), 0))
    return Body(ops, blank)


_SIZE_AT = {at.LAG: at.LAG_N, at.TALLY: at.TALLY_N}


def _blank_part(part: int, size: int) -> list[int]:
    if part == at.LAG:
        return [at.NOTHING_YET, 0, 0] * size
    if part in {at.TALLY, at.REGISTERS}:
        return [0] * (size or REGISTER_WORDS)
    words = [0] * _SIZES[part]
    first = {
        at.MIN: float_word(np.inf), at.MAX: float_word(-np.inf), at.FIRST: at.NEVER, at.LAST: at.NOTHING_YET
    }  # fmt: skip
    words[0] = first.get(part, 0)
    return words


class _Layout:
    """Collects the parts of a program in the order of the row."""

    def __init__(self, plan: ViewPlan) -> None:
        self.plan = plan
        self.panes = sorted({window.pane_us for window in plan.windows if window.gap_us is None})
        self.sessions = [w for w, window in enumerate(plan.windows) if window.gap_us is not None]
        self.order = sorted(range(len(plan.windows)), key=lambda w: (plan.windows[w].pane_us, w))
        all_time = len(self.panes)
        self.bodies = [
            _body([a for a in plan.aggregations if a.of is None and self._grid(a) == g], plan, stamped=g > all_time)
            for g in range(all_time + 1 + len(self.sessions))
        ]
        self.row = [at.NOTHING_YET, 0, 0]
        for _ in [*self.panes, *self.sessions]:
            self.row += [-1, 0, 0, at.NEVER]
        has_all_time = any(item.window is None and item.of is None for item in plan.aggregations)
        self.all_time_at = self._place(len(self.panes)) if has_all_time else -1
        self.window_at = {window: self._place(self.grid_of(window)) for window in self.order}

    def _grid(self, item: Aggregation) -> int:
        return len(self.panes) if item.window is None else self.grid_of(item.window)

    def grid_of(self, window: int) -> int:
        if window in self.sessions:
            return len(self.panes) + 1 + self.sessions.index(window)
        return self.panes.index(self.plan.windows[window].pane_us)

    def _place(self, grid: int) -> int:
        place = len(self.row)
        self.row += self.bodies[grid].blank
        return place

    def windows_of(self, grid: int) -> list[int]:
        return [window for window in self.order if self.grid_of(window) == grid]

    def body_of(self, item: Aggregation) -> tuple[Body, int]:
        """The body that a feature is read from, and where it stands in the row."""
        place = self.all_time_at if item.window is None else self.window_at[item.window]
        return self.bodies[self._grid(item)], place


class _Features:
    """Features by what reading them takes; sum and mean of one field and window are read together."""

    def __init__(self, layout: _Layout) -> None:
        self.counts: list[list[int]] = []
        self.moments: list[list[int]] = []
        self.picks: list[list[int]] = []
        self.others: list[list[int]] = []
        self.ratios: list[list[int]] = []
        self.weights: dict[int, list[int]] = {}  # by place in `others`
        for place, item in enumerate(layout.plan.aggregations):
            self._add(layout, place, item)

    def _add(self, layout: _Layout, place: int, item: Aggregation) -> None:
        if item.of is not None:
            self.ratios.append([*item.of, place])
            return
        body, start = layout.body_of(item)
        column = _column(item, layout.plan)
        if item.function == "count" and item.field is None:
            self.counts.append([start, place])
            return
        op = body.ops[column]
        n, function = start + op[at.COUNT], item.function
        quantum = float_word(2.0 ** -(*layout.plan.bits, 0)[column])
        if function == "count":
            self.counts.append([n, place])
        elif function in _PICKS:
            part, word = _PICKS[function]
            self.picks.append([n, start + op[part] + word, place])
        elif function in {"sum", "mean"}:
            self._moment([n, start + op[at.SUM], quantum], place, is_mean=function == "mean")
        else:
            self.others.append([*self._other(layout, item, op, start), quantum, place, 0, op[at.COUNT]])

    def _other(self, layout: _Layout, item: Aggregation, op: list[int], start: int) -> list[int]:
        """Kind, count, source and second of a feature; the rest is filled in by the caller."""
        head = [_KINDS[item.function], start + op[at.COUNT]]
        if item.function == "ewma" and item.window is not None:
            self.weights[len(self.others)] = _weights(layout.plan, item)
            return [*head, layout.grid_of(item.window), layout.plan.windows[item.window].panes]
        second = {"lag": item.parameter or 0, "top": op[at.TALLY_N]}.get(item.function, start + op[at.SQUARE])
        return [*head, start + op[_SOURCES.get(item.function, at.SUM)], second]

    def _moment(self, key: list[int], place: int, *, is_mean: bool) -> None:
        slot = 4 if is_mean else 3
        known = next((row for row in self.moments if row[:3] == key and row[slot] < 0), None)
        if known is None:
            known = [*key, -1, -1]
            self.moments.append(known)
        known[slot] = place


def _weights(plan: ViewPlan, item: Aggregation) -> list[int]:
    """Weights of an `ewma` by age in panes."""
    window = plan.windows[item.window or 0]
    return [float_word(0.5 ** (age * window.pane_us / (item.parameter or 1))) for age in range(window.panes)]


class _Words:
    """The code as it grows."""

    def __init__(self) -> None:
        self.words = [0] * at.HEADER

    def add(self, rows: Sequence[Sequence[int]]) -> tuple[int, int]:
        start = len(self.words)
        for row in rows:
            self.words += row
        return start, len(self.words)

    def section(self, header: int, rows: Sequence[Sequence[int]]) -> None:
        self.words[header], self.words[header + 1] = self.add(rows)


def _grid_record(layout: _Layout, grid: int, code: _Words) -> list[int]:
    body, windows = layout.bodies[grid], [layout.plan.windows[w] for w in layout.windows_of(grid)]
    is_all_time, number = grid == len(layout.panes), grid - (grid > len(layout.panes))
    record = [0] * at.GRID_WIDTH
    record[at.PANE] = windows[0].pane_us if windows else 0
    record[at.KEPT] = max((window.panes for window in windows), default=0)
    record[at.RECORD] = at.BODY + len(body.blank)
    places = [[layout.plan.windows[w].panes, layout.window_at[w]] for w in layout.windows_of(grid)]
    if grid > len(layout.panes):
        op = body.ops[len(layout.plan.fields)]
        places[0] += [windows[0].gap_us or 0, op[at.FIRST], op[at.LAST]]
    record[at.WINDOW], record[at.WINDOW_END] = code.add(places)
    record[at.OP], record[at.OP_END] = code.add(list(body.ops.values()))
    record[at.EMPTY], _ = code.add([body.blank])
    record[at.BODY_WORDS] = len(body.blank)
    record[at.SLOT] = layout.all_time_at if is_all_time else at.GRIDS + at.PER_GRID * number
    record[at.FREE] = at.TOP + 1 + number
    return record


def _columns(layout: _Layout) -> list[list[int]]:
    needs = [0] * (len(layout.plan.fields) + 1)
    for body in layout.bodies:
        for column, op in body.ops.items():
            needs[column] = max(needs[column], 2 if op[at.SQUARE] else 1 if op[at.SUM] else 0)
    return [[need, float_word(2.0**bits)] for need, bits in zip(needs, (*layout.plan.bits, 0), strict=True)]


def compile_plan(plan: ViewPlan) -> Program:
    """The program of a plan."""
    layout, code = _Layout(plan), _Words()
    features = _Features(layout)
    code.words[at.ROW_WORDS] = len(layout.row)
    code.words[at.LIFETIME] = at.NEVER if plan.lifetime_us is None else plan.lifetime_us
    code.words[at.STEP] = plan.step_us
    code.words[at.FEATURES] = len(plan.aggregations)
    code.words[at.BLANK], _ = code.add([layout.row])
    records = [_grid_record(layout, grid, code) for grid in range(len(layout.bodies))]
    plain, others = records[: len(layout.panes) + 1], records[len(layout.panes) + 1 :]
    code.section(at.SESSION, others)
    code.section(at.GRID, plain)
    code.words[at.GRID_END] -= at.GRID_WIDTH  # there the all-time body's record stands
    code.section(at.COLUMN, _columns(layout))
    code.section(at.COUNTS, features.counts)
    code.section(at.MOMENTS, features.moments)
    code.section(at.PICKS, features.picks)
    for index, weights in features.weights.items():
        feature = features.others[index]
        feature[at.SOURCE] = code.words[at.GRID] + at.GRID_WIDTH * feature[at.SOURCE]
        feature[at.WEIGHTS], _ = code.add([weights])
    code.section(at.OTHERS, features.others)
    code.section(at.RATIOS, features.ratios)
    sizes = tuple(record[at.RECORD] for record in [*plain[:-1], *others])
    words = np.array(code.words, np.int64)
    return Program(words, len(layout.row), sizes, len(plan.aggregations), plan.fingerprint, _scratch_event(plan))


def _scratch_event(plan: ViewPlan) -> Words:
    """Room for one event; the column after the last field stands for the event itself and is always 1."""
    event = np.zeros(at.CELLS + at.CELL_WIDTH * (len(plan.fields) + 1), np.int64)
    event[-at.CELL_WIDTH] = float_word(1.0)
    return event
