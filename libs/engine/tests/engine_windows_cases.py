"""Views and logs that hypothesis draws, an independent computation of every feature, and ways to feed a state."""

import dataclasses
import math
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from tidemill_contracts.pipeline import CategoryField, NumberField
from tidemill_engine.entities import RowReader
from tidemill_engine.windows import Aggregation, ViewPlan, ViewState, Window
from tidemill_engine.windows.plan import Function

SECOND = 1_000_000
BASE = 1_000_000 * SECOND
SIMPLE: tuple[Function, ...] = (
    "count", "sum", "mean", "var", "std", "min", "max", "first", "last", "age_of_last", "distinct",
)  # fmt: skip
RAW = ("a", "b", "c")
FILTERS: dict[str, tuple[str, Callable[[float, float, float], bool]]] = {
    "b > 0": ("b > 0", lambda _a, b, _c: b > 0),
    "c == 'x' or a < 1": ("c = 1 OR a < 1", lambda a, _b, c: c == 1 or a < 1),
    "not (b > 0) and c != 'w'": ("NOT (b > 0) AND c <> 0", lambda _a, b, c: b <= 0 and c in {1, 2, 3}),
}
"""What a pipeline file says, the same in SQL, and in Python, where NaN is null: what is not true does not count."""
_ONE, _TWO, _THREE = FILTERS
FIELDS = (*RAW, f"a?{_ONE}", f"a?{_THREE}", f"b?{_TWO}", f"c?{_TWO}", f"?{_ONE}", f"?{_THREE}")
CATEGORIES = ["w", "x", "y", "z"]
"""Of the field c."""
_BITS = (45, 50, 0, 45, 45, 50, 0, 0, 0)
_READER = RowReader(
    FIELDS,
    {
        "a": NumberField(type="float"),
        "b": NumberField(type="float"),
        "c": CategoryField(type="category", values=CATEGORIES),
    },
)


@dataclasses.dataclass(frozen=True)
class Seen:
    """One event; `values` are those of the raw fields, NaN is null."""

    key: bytes
    time_us: int
    mark: int
    values: tuple[float, ...]
    seq: int


# The independent computation: rational numbers over a list of events, no panes kept.


def oracle(plan: ViewPlan, events: Sequence[Seen], at_us: int) -> list[float]:
    """The vector of the key that all the events belong to."""
    plain = [math.nan if item.of else _feature(plan, item, events, at_us) for item in plan.aggregations]
    return [
        _ratio(plain[item.of[0]], plain[item.of[1]]) if item.of else value
        for item, value in zip(plan.aggregations, plain, strict=True)
    ]


def _ratio(dividend: float, divisor: float) -> float:
    return dividend / divisor if divisor else math.nan


def _feature(plan: ViewPlan, item: Aggregation, events: Sequence[Seen], at_us: int) -> float:
    if item.window is not None:
        window = plan.windows[item.window]
        oldest = (at_us // window.pane_us - window.panes + 1) * window.pane_us
        events = [event for event in events if oldest <= event.time_us]
        if window.gap_us is not None:
            events = session(events, window.gap_us, at_us)
    stamped = [(e.time_us, signed(e.mark), _raw(item.field, e.values)) for e in events]
    known = sorted(seen for seen in stamped if not math.isnan(seen[2]))
    if item.function == "lag":
        return known[-1 - (item.parameter or 0)][2] if len(known) > (item.parameter or 0) else math.nan
    if item.function == "ewma":
        return _ewma(plan.windows[item.window or 0].pane_us, item.parameter or 1, known)
    return _value(item.function, known, at_us)


def _raw(field: str | None, values: tuple[float, ...]) -> float:
    """What an event holds for a field of the plan."""
    name, _, where = (field or "").partition("?")
    if where and not FILTERS[where][1](*values):
        return math.nan
    return values[RAW.index(name)] if name else 1.0


def session(events: Sequence[Seen], gap_us: int, at_us: int) -> list[Seen]:
    """The newest run of events of which each is at most the gap before the next one, and the last before `at_us`."""
    found, before = list[Seen](), at_us
    for event in sorted(events, key=lambda event: -event.time_us):
        if before - event.time_us > gap_us:
            break
        found.append(event)
        before = event.time_us
    return found


def signed(mark: int) -> int:
    return mark - 2**64 if mark >= 2**63 else mark


def _ewma(pane_us: int, half_life_us: int, known: Sequence[tuple[int, int, float]]) -> float:
    if not known:
        return math.nan
    newest = known[-1][0] // pane_us
    weights = [0.5 ** ((newest - time // pane_us) * pane_us / half_life_us) for time, _, _ in known]
    return math.fsum(w * value for w, (_, _, value) in zip(weights, known, strict=True)) / math.fsum(weights)


def _distinct(values: Sequence[float]) -> float:
    """HyperLogLog once more, over integers of any size."""
    registers, mask = [0] * 256, 2**64 - 1
    for value in values:
        (bits,) = struct.unpack("<Q", struct.pack("<d", value + 0.0))
        mixed = (bits + 0x9E3779B97F4A7C15) & mask
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & mask
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & mask
        mixed ^= mixed >> 31
        rest = mixed >> 8
        rank = 57 if rest == 0 else min(57, (rest & -rest).bit_length())
        registers[mixed & 255] = max(registers[mixed & 255], rank)
    return float(round(256 * math.log(256 / registers.count(0))))  # the tests see few values


def _value(function: str, known: Sequence[tuple[int, int, float]], at_us: int) -> float:
    exact = [Fraction(value) for _, _, value in known]
    n = len(known)
    if function in {"count", "sum"}:
        return float(n if function == "count" else sum(exact))
    if function == "distinct":
        return _distinct([value for _, _, value in known])
    if n == 0 or (function in {"var", "std"} and n == 1):
        return math.nan
    mean = sum(exact, Fraction(0)) / n
    if function in {"var", "std"}:
        variance = float(sum((x - mean) ** 2 for x in exact) / (n - 1))
        return variance if function == "var" else math.sqrt(variance)
    times = Counter(value for _, _, value in known)
    picks = {
        "mean": float(mean),
        "min": float(min(exact)),
        "max": float(max(exact)),
        "first": known[0][2],
        "last": known[-1][2],
        "age_of_last": (at_us - known[-1][0]) / 1e6,
        "top": min(value for value in times if times[value] == max(times.values())),
    }
    return picks[function]


# What hypothesis draws.


def _everything(windows: Sequence[Window]) -> list[Aggregation]:
    """All that a view with these windows may hold, ratios aside."""
    places = range(len(windows))
    found = [
        Aggregation(function, field, window)
        for function in SIMPLE
        for window in [*places, None]
        for field in (*FIELDS, None)
        if function in {"count", "age_of_last"} or (field or "?")[0] != "?"
    ]
    for window in [*places, None]:
        found += [Aggregation("lag", field, window, n) for field in ("a", "c", FIELDS[4]) for n in (1, 3)]
        found += [Aggregation("top", field, window, len(CATEGORIES)) for field in ("c", FIELDS[6])]
    plain = [place for place in places if windows[place].gap_us is None]
    halves = [(field, half) for field in ("a", FIELDS[3]) for half in (1, 7)]
    return found + [Aggregation("ewma", field, window, half * SECOND) for window in plain for field, half in halves]


@st.composite
def plans(draw: st.DrawFn) -> ViewPlan:
    shapes = st.sampled_from([(1, 1), (1, 5), (2, 3), (5, 4), (6, 2), (10, 7), (60, 1)])
    windows = [Window(pane * n * SECOND, n) for pane, n in draw(st.lists(shapes, min_size=0, max_size=4))]
    runs = st.sampled_from([(1, 6, 1), (1, 30, 3), (2, 3, 2), (2, 10, 3), (5, 8, 20)])
    for pane, n, gap in draw(st.lists(runs, max_size=2)):
        windows.append(Window(pane * n * SECOND, n, gap * SECOND))
    windows = draw(st.permutations(windows))
    known: dict[str, list[Aggregation]] = {}
    for item in _everything(windows):
        known.setdefault(item.function, []).append(item)
    functions = draw(st.lists(st.sampled_from(sorted(known)), min_size=1, max_size=25))
    chosen = [draw(st.sampled_from(known[function])) for function in functions]
    parts = [place for place, item in enumerate(chosen) if item.function != "age_of_last"]
    counts = [place for place in parts if chosen[place].function == "count"]  # others may be 0 by rounding alone
    pairs = st.lists(st.tuples(st.sampled_from(parts), st.sampled_from(counts)), max_size=2) if counts else st.just([])
    ratios = [Aggregation("ratio", of=pair) for pair in draw(pairs)]
    ttl = draw(st.sampled_from([None, 100 * SECOND]))
    return ViewPlan(FIELDS, tuple(windows), (*chosen, *ratios), draw(st.sampled_from([(), _BITS])), ttl)


VALUES = st.one_of(
    st.sampled_from([math.nan, 0.0, -0.0, 1.0, -1.0, 2.0**-30, 1e6, 1e6 + 1, -3.5e8]),
    st.floats(-1e8, 1e8, allow_subnormal=False),
    st.floats(-1.0, 1.0, allow_subnormal=False),
)


@st.composite
def logs(draw: st.DrawFn) -> list[Seen]:
    """Events that move through time with steps about as long as panes, some of them out of order."""
    row = st.tuples(
        st.sampled_from([b"k", b"k", b"k", b"l", b"m"]),
        st.one_of(st.integers(0, 4), st.floats(0, 4)),
        st.sampled_from([0, 0, 0, 1, 7]),
        st.one_of(st.integers(0, 2), st.integers(0, 2**64 - 1)),
        st.tuples(VALUES, VALUES, st.sampled_from([math.nan, 0.0, 1.0, 2.0, 3.0])),
    )
    events, now = [], 10.0
    for seq, (key, step, back, mark, values) in enumerate(draw(st.lists(row, min_size=1, max_size=40))):
        now += step
        events.append(Seen(key, BASE + int((now - back) * SECOND), mark, values, seq))
    return events


def columns(
    events: Sequence[Seen],
) -> tuple[list[bytes], NDArray[np.int64], NDArray[np.uint64], NDArray[np.float64]]:
    return (
        [event.key for event in events],
        np.array([event.time_us for event in events], np.int64),
        np.array([event.mark for event in events], np.uint64),
        np.array([_READER(body(event)) for event in events], np.float64).reshape(-1, len(FIELDS)),
    )


def body(event: Seen) -> dict[str, object]:
    """The event as its producer sent it."""
    a, b, c = event.values
    found: dict[str, object] = {name: value for name, value in (("a", a), ("b", b)) if not math.isnan(value)}
    return found if math.isnan(c) else found | {"c": CATEGORIES[int(c)]}


def feed(state: ViewState, events: Sequence[Seen]) -> list[bytes]:
    seqs = np.array([event.seq for event in events], np.int64)
    keys, times, marks, values = columns(events)
    return state.names(state.apply(keys, times, marks, values, ((seqs % 3).astype(np.int32), seqs)))


def restarted(state: ViewState, stored: dict[bytes, bytes]) -> ViewState:
    """The state as a process sees it that stored what was dirty, deleted what died, and starts again."""
    for key in state.expired():
        stored.pop(key, None)
    stored.update(state.snapshot_dirty())
    return ViewState.restore(state.plan, stored.items(), state.watermark_us)


def read(state: ViewState, keys: Sequence[bytes]) -> list[tuple[bytes, int, int, object]]:
    indices = state.lookup(keys)
    values, at, revision = state.vectors(indices)
    return list(
        zip([row.tobytes() for row in values], at.tolist(), revision.tolist(), state.positions(indices), strict=True)
    )


def close(found: float, wanted: float) -> bool:
    return math.isnan(found) if math.isnan(wanted) else abs(found - wanted) <= 1e-9 * max(1.0, abs(wanted))


def is_pure(plan: ViewPlan, item: Aggregation) -> bool:
    """Whether a feature is a function of the set of events even where a key died in between."""
    if item.of is not None:
        return all(is_pure(plan, plan.aggregations[index]) for index in item.of)
    return item.window is not None or item.function in {"last", "age_of_last"}
