"""What the window engine promises beside its values: late events, expiry, revisions, limits, stored state."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tidemill_engine.windows import (
    Aggregation,
    Events,
    Queries,
    RejectedValuesError,
    ViewPlan,
    ViewState,
    Window,
    backfill,
    kernels,
    warm_up,
)

pytestmark = pytest.mark.timeout(300)  # the first run on a machine compiles the kernels

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
NOON = 1_357_041_600 * SECOND  # 2013-01-01T12:00:00Z
PLAN = ViewPlan(
    ("x",),
    (Window(5 * MINUTE, 5), Window(HOUR, 12)),
    (
        Aggregation("count", None, 0),
        Aggregation("sum", "x", 1),
        Aggregation("max", "x", 0),
        Aggregation("last", "x"),
        Aggregation("age_of_last", None, 1),
    ),
    ttl_us=2 * HOUR,
)


def put(
    state: ViewState, key: bytes, times: Sequence[int], values: Sequence[float], *, marks: Sequence[int] = ()
) -> NDArray[np.int32]:
    n = len(times)
    hashes = np.array(marks or range(n), np.uint64)
    where = np.zeros(n, np.int32), np.arange(n) + int(state.applied(state.intern([key]))[0])
    return state.apply([key] * n, np.array(times, np.int64), hashes, np.array(values).reshape(n, -1), where)


def vector(state: ViewState, key: bytes) -> list[float | None]:
    values, _, _ = state.vectors(state.lookup([key]))
    return [None if math.isnan(value) else value for value in values[0].tolist()]


def test_warming_up_leaves_nothing_to_compile() -> None:
    warm_up()
    before = {name: len(kernel.signatures) for name, kernel in vars(kernels).items() if hasattr(kernel, "signatures")}
    test_a_backfill_does_not_see_events_of_its_own_instant()
    test_positions_name_the_highest_sequence_number_of_each_partition()
    state = ViewState(PLAN)
    state.apply_each(
        [b"k"], np.array([NOON]), np.array([1], np.uint64), np.ones((1, 1)), (np.zeros(1, np.int32), np.zeros(1, int))
    )
    after = {name: len(kernel.signatures) for name, kernel in vars(kernels).items() if hasattr(kernel, "signatures")}
    assert after == before


def test_a_vector_follows_its_panes() -> None:
    state = ViewState(PLAN)
    put(state, b"k", [NOON, NOON + MINUTE], [1.5, 2.5])
    assert vector(state, b"k") == [2.0, 4.0, 2.5, 2.5, 0.0]
    assert state.advance(NOON + 4 * MINUTE).tolist() == []
    assert state.advance(NOON + 5 * MINUTE).tolist() == [0]
    assert vector(state, b"k") == [1.0, 4.0, 2.5, 2.5, 240.0]
    assert state.advance(NOON + 5 * MINUTE + 30 * SECOND).tolist() == []
    assert state.advance(NOON + HOUR).tolist() == [0]
    assert vector(state, b"k") == [0.0, 0.0, None, 2.5, None]


def test_a_late_event_corrects_its_pane_and_raises_the_revision() -> None:
    state = ViewState(PLAN)
    put(state, b"k", [NOON + 3 * MINUTE], [1.0])
    before = state.vectors([0])[2][0]
    put(state, b"k", [NOON], [7.0])
    values, at, revision = state.vectors([0])
    assert values[0].tolist() == [2.0, 8.0, 7.0, 1.0, 0.0]
    assert at[0] == NOON + 3 * MINUTE
    assert revision[0] == before + 1


def test_events_of_dead_panes_are_counted_and_change_no_window() -> None:
    plan = ViewPlan(("x",), (Window(5 * MINUTE, 5),), (Aggregation("sum", "x", 0),), ttl_us=HOUR)
    state = ViewState(plan)
    put(state, b"k", [NOON], [1.0])
    state.advance(NOON + 3 * MINUTE)
    put(state, b"k", [NOON - 3 * MINUTE, NOON - MINUTE], [5.0, 7.0])
    assert vector(state, b"k") == [8.0]
    assert state.too_late == 1
    assert state.applied([0]).tolist() == [3]


def test_ties_in_time_are_broken_by_the_hash_of_the_id() -> None:
    for order in ([0, 1], [1, 0]):
        state = ViewState(ViewPlan(("x",), (), (Aggregation("last", "x"), Aggregation("first", "x"))))
        marks, values = [7, 2**40], [1.0, 2.0]
        put(state, b"k", [NOON, NOON], [values[i] for i in order], marks=[marks[i] for i in order])
        assert vector(state, b"k") == [2.0, 1.0]


def test_the_sign_of_zero_depends_on_no_order() -> None:
    functions = [Aggregation("min", "x"), Aggregation("max", "x"), Aggregation("last", "x"), Aggregation("sum", "x")]
    digests = set()
    for order in ([0.0, -0.0], [-0.0, 0.0]):
        state = ViewState(ViewPlan(("x",), (), tuple(functions)))
        put(state, b"k", [NOON, NOON], order, marks=[1, 1])
        assert np.signbit(state.vectors([0])[0]).sum() == 0
        digests.add(state.digest())
    assert len(digests) == 1


def test_null_counts_as_an_event_and_not_for_its_field() -> None:
    plan = ViewPlan(("x",), (Window(HOUR, 12),), tuple(Aggregation(f, "x", 0) for f in ("count", "mean", "last")))
    state = ViewState(ViewPlan(plan.fields, plan.windows, (*plan.aggregations, Aggregation("count", None, 0))))
    put(state, b"k", [NOON, NOON + 1, NOON + 2], [4.0, 8.0, math.nan])
    assert vector(state, b"k") == [2.0, 6.0, 8.0, 3.0]
    put(state, b"only-null", [NOON], [math.nan])
    assert vector(state, b"only-null") == [0.0, None, None, 1.0]


def test_keys_die_by_watermark_and_come_back_with_a_higher_revision() -> None:
    state = ViewState(PLAN)
    put(state, b"k", [NOON], [1.0])
    put(state, b"l", [NOON + HOUR], [1.0])
    first = state.vectors(state.lookup([b"k"]))[2][0]
    state.advance(NOON + 2 * HOUR)
    assert len(state) == 1
    assert np.isnan(state.evaluate_at([b"k"], np.array([NOON + 2 * HOUR]))).all()
    put(state, b"m", [NOON + 2 * HOUR], [1.0])  # takes the free row
    put(state, b"k", [NOON + 2 * HOUR], [3.0])
    assert state.expired() == []
    assert state.vectors(state.lookup([b"k"]))[2][0] > first
    state.advance(NOON + 10 * HOUR)
    assert len(state) == 0
    assert state.expired() == [b"k", b"l", b"m"]
    assert state.snapshot_dirty() == []


def test_a_key_forgotten_by_its_own_event_is_the_one_forgotten_by_the_watermark() -> None:
    plan = ViewPlan(("x",), (Window(HOUR, 12),), (Aggregation("first", "x"),), ttl_us=2 * HOUR)
    by_event, by_watermark = ViewState(plan), ViewState(plan)
    for state in (by_event, by_watermark):
        put(state, b"k", [NOON + 1, NOON + 1], [1.0, 2.0])
        before = state.vectors([0])[2][0]
    by_watermark.advance(NOON + 2 * HOUR + 5 * MINUTE)
    for state in (by_event, by_watermark):
        put(state, b"k", [NOON + 2 * HOUR + 5 * MINUTE], [3.0])
        assert vector(state, b"k") == [3.0]
        assert state.applied([0]).tolist() == [1]
        assert state.vectors([0])[2][0] > before
        assert len(state) == 1


def test_memory_follows_live_panes_and_not_time() -> None:
    state = ViewState(PLAN)
    times = NOON + np.arange(200) * MINUTE
    for hour in range(3):
        put(state, b"k", (times + hour * 200 * MINUTE).tolist(), [1.0] * 200)
        if hour == 1:
            held = state.memory_bytes
    assert state.memory_bytes == held
    assert vector(state, b"k")[:2] == [5.0, 60.0]


def test_positions_name_the_highest_sequence_number_of_each_partition() -> None:
    state = ViewState(PLAN)
    times, hashes = np.full(4, NOON), np.arange(4, dtype=np.uint64)
    where = np.array([7, 3, 3, 7], np.int32), np.array([10, 4, 9, 2])
    state.apply([b"k", b"k", b"k", b"l"], times, hashes, np.ones((4, 1)), where)
    assert state.positions([0, 1]) == [{3: 9, 7: 10}, {7: 2}]
    again = ViewState.restore(PLAN, state.snapshot_dirty())
    assert again.positions(again.lookup([b"k", b"l"])) == [{3: 9, 7: 10}, {7: 2}]


def test_only_touched_keys_are_stored_again() -> None:
    state = ViewState(PLAN)
    put(state, b"k", [NOON], [1.0])
    put(state, b"a", [NOON], [1.0])
    stored = state.snapshot_dirty()
    assert [key for key, _ in stored] == [b"a", b"k"]
    assert {blob[0] for _, blob in stored} == {1}
    state.advance(NOON + 30 * MINUTE)
    assert state.snapshot_dirty() == []
    put(state, b"a", [NOON + 31 * MINUTE], [1.0])
    assert [key for key, _ in state.snapshot_dirty()] == [b"a"]


def test_stored_state_of_another_plan_or_version_is_refused() -> None:
    state = ViewState(PLAN)
    put(state, b"k", [NOON], [1.0])
    ((key, blob),) = state.snapshot_dirty()
    other = ViewPlan(PLAN.fields, PLAN.windows, PLAN.aggregations[:2], ttl_us=PLAN.ttl_us)
    for plan, bad in [(other, blob), (PLAN, bytes([2]) + blob[1:]), (PLAN, b"")]:
        with pytest.raises(ValueError, match="another version or plan"):
            ViewState.restore(plan, [(key, bad)])


@pytest.mark.parametrize(
    ("time", "value", "rule"),
    [
        (NOON, math.inf, "too large"),
        (NOON, 2.0**56, "too large"),
        (-1, 1.0, "between 1970 and 2106"),
        (2**53, 1.0, "between 1970 and 2106"),
    ],
)
def test_what_cannot_be_exact_is_refused_and_changes_nothing(time: int, value: float, rule: str) -> None:
    state = ViewState(PLAN)
    put(state, b"k", [NOON], [1.0])
    before = state.digest()
    with pytest.raises(RejectedValuesError, match=rule) as caught:
        put(state, b"k", [NOON, time], [2.0, value])
    assert caught.value.rows == (1,)
    assert state.digest() == before


def test_sums_at_the_edge_of_the_range_are_exact() -> None:
    plan = ViewPlan(("x",), (Window(HOUR, 1),), (Aggregation("sum", "x", 0), Aggregation("mean", "x", 0)))
    state = ViewState(plan)
    large = float(np.nextafter(2.0**56, 0))
    put(state, b"k", [NOON] * 7, [large, 2.0**-40, large, -large, 1.0, -large, 2.0**-40])
    assert vector(state, b"k") == [1.0 + 2.0**-39, (1.0 + 2.0**-39) / 7]
    put(state, b"n", [NOON] * 1000, [-large] * 1000)
    assert vector(state, b"n") == [-large * 1000, -large]


def test_variance_survives_a_large_mean() -> None:
    plan = ViewPlan(("x",), (Window(HOUR, 1),), (Aggregation("var", "x", 0), Aggregation("std", "x", 0)))
    state = ViewState(plan)
    put(state, b"k", [NOON] * 4, [1e12 + step for step in (0.0, 0.25, 0.5, 0.75)])
    assert vector(state, b"k") == [0.3125 / 3, math.sqrt(0.3125 / 3)]
    put(state, b"s", [NOON] * 3, [-3.5] * 3)
    assert vector(state, b"s") == [0.0, 0.0]


def test_the_past_cannot_be_evaluated_online() -> None:
    state = ViewState(PLAN)
    put(state, b"k", [NOON], [1.0])
    with pytest.raises(ValueError, match="before its key's evaluation time"):
        state.evaluate_at([b"k"], np.array([NOON - 1]))


@pytest.mark.parametrize("index", [-1, 64])
def test_an_index_nobody_gave_is_refused_before_compiled_code(index: int) -> None:
    state = ViewState(PLAN)
    put(state, b"k", [NOON], [1.0])
    row = np.array([NOON]), np.array([1], np.uint64), np.ones((1, 1)), (np.zeros(1, np.int32), np.zeros(1, int))
    for use in (state.vectors, state.positions, state.applied, lambda at: state.apply(np.array(at, np.int32), *row)):
        with pytest.raises(IndexError):
            use([index])


def test_a_backfill_does_not_see_events_of_its_own_instant() -> None:
    plan = ViewPlan(("x",), (Window(HOUR, 12),), (Aggregation("count", None, 0), Aggregation("last", "x", 0)))
    events = Events([b"k", b"k"], np.array([NOON, NOON - 1]), np.array([1, 2], np.uint64), np.array([[1.0], [2.0]]))
    found = backfill(plan, events, Queries([b"k", b"k", b"?"], np.array([NOON + 1, NOON, NOON])))
    assert found[:2].tolist() == [[2.0, 1.0], [1.0, 2.0]]
    assert np.isnan(found[2]).all()


def test_keys_may_be_numbers_in_a_backfill() -> None:
    plan = ViewPlan(("x",), (Window(HOUR, 12),), (Aggregation("sum", "x", 0),))
    numbers = np.array([2, 70_000, 2, 0])
    columns = (
        np.array([NOON, NOON + 2, NOON + 1, NOON]),
        np.arange(4, dtype=np.uint64),
        np.array([[1.0], [2], [4], [8]]),
    )
    asked, at = np.array([2, 5, 70_000, 2]), np.array([NOON + 2, NOON + 2, NOON + 3, NOON + 1])
    found = backfill(plan, Events(numbers, *columns), Queries(asked, at))
    named = Events([b"%d" % number for number in numbers], *columns), Queries([b"%d" % number for number in asked], at)
    assert found.tobytes() == backfill(plan, *named).tobytes()
    assert found[[0, 2, 3], 0].tolist() == [5.0, 2.0, 1.0]
    assert np.isnan(found[1]).all()


def test_a_backfill_grows_its_memory_as_it_goes() -> None:
    n = 25_000
    plan = ViewPlan(("x",), (Window(n * MINUTE, n),), (Aggregation("sum", "x", 0),))
    keys, times = [b"one"] * n + [b"other"], np.append(NOON + np.arange(n) * MINUTE, NOON)
    events = Events(keys, times, np.arange(n + 1, dtype=np.uint64), np.ones((n + 1, 1)))
    found = backfill(plan, events, Queries([b"other", b"one"], np.full(2, NOON + n * MINUTE - 1)))
    assert found[:, 0].tolist() == [1.0, n]
