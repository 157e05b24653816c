"""The window engine against an independent computation, and against itself shuffled, cut, restarted and offline."""

import dataclasses
import math
import operator
from collections.abc import Sequence
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tidemill_engine.windows import Aggregation, Events, Queries, ViewPlan, ViewState, Window, backfill

pytestmark = pytest.mark.timeout(300)  # the first run on a machine compiles the kernels

SECOND = 1_000_000
BASE = 1_000_000 * SECOND
FUNCTIONS = ("count", "sum", "mean", "var", "std", "min", "max", "first", "last", "age_of_last")


@dataclasses.dataclass(frozen=True)
class Seen:
    """One event; NaN is null."""

    key: bytes
    time_us: int
    mark: int
    values: tuple[float, ...]
    seq: int


# The independent computation: rational numbers over a list of events, no panes kept.


def oracle(plan: ViewPlan, events: Sequence[Seen], at_us: int) -> list[float]:
    return [_feature(plan, item, events, at_us) for item in plan.aggregations]


def _feature(plan: ViewPlan, item: Aggregation, events: Sequence[Seen], at_us: int) -> float:
    if item.window is not None:
        window = plan.windows[item.window]
        oldest = (at_us // window.pane_us - window.panes + 1) * window.pane_us
        events = [event for event in events if oldest <= event.time_us]
    column = None if item.field is None else plan.fields.index(item.field)
    stamped = [(e.time_us, _signed(e.mark), 1.0 if column is None else e.values[column]) for e in events]
    return _value(item.function, sorted(known for known in stamped if not math.isnan(known[2])), at_us)


def _signed(mark: int) -> int:
    return mark - 2**64 if mark >= 2**63 else mark


def _value(function: str, known: Sequence[tuple[int, int, float]], at_us: int) -> float:
    exact = [Fraction(value) for _, _, value in known]
    n = len(known)
    if function in {"count", "sum"}:
        return float(n if function == "count" else sum(exact))
    if n == 0 or (function in {"var", "std"} and n == 1):
        return math.nan
    mean = sum(exact, Fraction(0)) / n
    if function in {"var", "std"}:
        variance = float(sum((x - mean) ** 2 for x in exact) / (n - 1))
        return variance if function == "var" else math.sqrt(variance)
    picks = {
        "mean": float(mean),
        "min": float(min(exact)),
        "max": float(max(exact)),
        "first": known[0][2],
        "last": known[-1][2],
        "age_of_last": (at_us - known[-1][0]) / 1e6,
    }
    return picks[function]


# What hypothesis draws.


@st.composite
def plans(draw: st.DrawFn) -> ViewPlan:
    shapes = st.sampled_from([(1, 1), (1, 5), (2, 3), (5, 4), (6, 2), (10, 7), (60, 1)])
    windows = tuple(Window(pane * n * SECOND, n) for pane, n in draw(st.lists(shapes, min_size=0, max_size=4)))
    windowed = [*range(len(windows)), None]
    everything = [
        Aggregation(function, field, window)  # type: ignore[arg-type]
        for function in FUNCTIONS
        for window in windowed
        for field in ("a", "b", None)
        if field is not None or function in {"count", "age_of_last"}
    ]
    chosen = draw(st.lists(st.sampled_from(everything), min_size=1, max_size=25))
    ttl = draw(st.sampled_from([None, 100 * SECOND]))
    return ViewPlan(("a", "b"), windows, tuple(chosen), draw(st.sampled_from([(), (45, 50)])), ttl)


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
        st.tuples(VALUES, VALUES),
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
        np.array([event.values for event in events], np.float64).reshape(-1, 2),
    )


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


@settings(max_examples=150, deadline=None)
@given(plans(), logs(), st.integers(0, 95), st.data())
def test_any_cut_and_restart_is_one_pass(plan: ViewPlan, log: list[Seen], end: int, data: st.DataObject) -> None:
    """Events arrive in any order, but none below a watermark already announced."""
    once, cut = ViewState(plan), ViewState(plan)
    rest: list[Seen] = data.draw(st.permutations(log))
    feed(once, rest)
    stored: dict[bytes, bytes] = {}
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        batch, rest = rest[:size], rest[size:]
        touched = feed(cut, batch)
        assert touched == list(dict.fromkeys(event.key for event in batch))
        is_announced: bool = data.draw(st.booleans())
        if rest and is_announced:
            cut.advance(min(event.time_us for event in rest) - data.draw(st.integers(0, 5)) * SECOND)
        if data.draw(st.booleans()):
            cut = restarted(cut, stored)
    last = max(cut.watermark_us, BASE + end * SECOND)
    once.advance(last)
    cut.advance(last)
    alive = [key for key in (b"k", b"l", b"m") if once.lookup([key])[0] >= 0]
    assert read(cut, alive) == read(once, alive)
    assert cut.digest() == once.digest() == restarted(cut, stored).digest()


@settings(max_examples=150, deadline=None)
@given(plans(), logs(), st.integers(0, 95), st.randoms(use_true_random=False))
def test_any_order_gives_the_same_bits(plan: ViewPlan, log: list[Seen], end: int, shuffler: Random) -> None:
    """All of them if keys live for ever; else the features that do not count from a key's first event on."""
    straight, shuffled = ViewState(plan), ViewState(plan)
    feed(straight, log)
    feed(shuffled, shuffler.sample(log, len(log)))
    straight.advance(BASE + end * SECOND)
    shuffled.advance(BASE + end * SECOND)
    assert len(straight) == len(shuffled)
    if plan.lifetime_us is None:
        assert straight.digest() == shuffled.digest()
    keys = [key for key in (b"k", b"l", b"m") if straight.lookup([key])[0] >= 0]
    pure = [a.window is not None or a.function in {"last", "age_of_last"} for a in plan.aggregations]
    first, second = straight.vectors(straight.lookup(keys)), shuffled.vectors(shuffled.lookup(keys))
    assert first[0][:, pure].tobytes() == second[0][:, pure].tobytes()
    assert first[1].tolist() == second[1].tolist()


@settings(max_examples=150, deadline=None)
@given(plans(), logs(), st.integers(1, 8), st.integers(0, 200))
def test_values_are_those_of_an_independent_computation(plan: ViewPlan, log: list[Seen], size: int, end: int) -> None:
    state = ViewState(dataclasses.replace(plan, ttl_us=1000 * SECOND))
    for start in range(0, len(log), size):
        feed(state, log[start : start + size])
        state.advance(min(event.time_us for event in log[start:]))
        check_values(state, log[: start + size])
    state.advance(BASE + end * SECOND)
    check_values(state, log)


def check_values(state: ViewState, log: Sequence[Seen]) -> None:
    """Kept totals, totals built again from panes, and the oracle."""
    keys = sorted({event.key for event in log})
    values, at, _ = state.vectors(state.lookup(keys))
    assert values.tobytes() == state.evaluate_at(keys, at).tobytes()
    for key, row, time in zip(keys, values.tolist(), at.tolist(), strict=True):
        events = [event for event in log if event.key == key]
        assert time == max(state.watermark_us, *(event.time_us for event in events))
        assert all(map(close, row, oracle(state.plan, events, time)))


@settings(max_examples=100, deadline=None)
@given(plans(), logs(), st.lists(st.tuples(st.sampled_from([b"k", b"m", b"z"]), st.integers(-1, 130)), max_size=8))
def test_a_backfill_is_the_stream_stopped_at_each_query(
    plan: ViewPlan, log: list[Seen], asked: list[tuple[bytes, int]]
) -> None:
    times = np.array([BASE + seconds * SECOND for _, seconds in asked], np.int64)
    found = backfill(plan, Events(*columns(log)), Queries([key for key, _ in asked], times))
    assert found.shape == (len(asked), len(plan.aggregations))
    for row, (key, _), time in zip(found, asked, times.tolist(), strict=True):
        state = ViewState(plan)
        feed(state, [event for event in log if event.time_us < time])
        assert row.tobytes() == state.evaluate_at([key], np.array([time]))[0].tobytes()


@settings(max_examples=50, deadline=None)
@given(plans(), logs())
def test_a_vector_after_each_event_is_the_vector_of_that_prefix(plan: ViewPlan, log: list[Seen]) -> None:
    state, single = ViewState(plan), ViewState(plan)
    nowhere = np.zeros(len(log), np.int32), np.arange(len(log))
    each = state.apply_each(*columns(log), nowhere)
    seen = 0
    for row, event in zip(each, log, strict=True):
        feed(single, [event])
        values, _, revision = single.vectors(single.lookup([event.key]))
        assert row.tobytes() == values[0].tobytes()
        seen += operator.gt(int(revision[0]), 0)
    assert seen == len(log)
    with pytest.raises(ValueError, match="rows"):
        state.apply(*columns(log), (nowhere[0][:-1], nowhere[1][:-1]))
