"""Session windows: what they mean, how the pipeline file names them, and where their values change."""

import math
from typing import Any

import numpy as np
import pytest
from engine_windows_cases import close
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tidemill_contracts.pipeline import SourceSpec, ViewSpec, WindowSpec
from tidemill_engine.history import change_times
from tidemill_engine.windows import (
    Aggregation,
    Events,
    Queries,
    ViewPlan,
    ViewState,
    Window,
    backfill,
    compile_view,
)

pytestmark = pytest.mark.timeout(300)  # the first run on a machine compiles the kernels

MINUTE = 60_000_000
NOON = 1_357_041_600_000_000
VISIT = Window(24 * 60 * MINUTE, 48, 30 * MINUTE)
PLAN = ViewPlan(
    ("x",), (VISIT,),
    (
        Aggregation("count", None, 0), Aggregation("sum", "x", 0), Aggregation("max", "x", 0),
        Aggregation("first", "x", 0),
    ),
    ttl_us=48 * 60 * MINUTE,
)  # fmt: skip


def put(state: ViewState, *minutes: float) -> None:
    """Events of one key; the value is the minute."""
    n = len(minutes)
    times = np.array([NOON + round(minute * MINUTE) for minute in minutes], np.int64)
    seqs = np.arange(n) + int(state.applied(state.intern([b"k"]))[0])
    state.apply([b"k"] * n, times, seqs.astype(np.uint64), np.array([minutes]).T, (np.zeros(n, np.int32), seqs))


def read(state: ViewState) -> list[float]:
    """The key's vector."""
    return [float(value) for value in state.vectors(state.lookup([b"k"]))[0][0]]


def is_empty(vector: list[float]) -> bool:
    """Of no events."""
    return vector[:2] == [0.0, 0.0] and all(math.isnan(value) for value in vector[2:])


def test_an_event_more_than_the_gap_later_begins_a_session() -> None:
    state = ViewState(PLAN)
    put(state, 1, 20, 50)
    assert read(state) == [3, 71, 50, 1]
    put(state, 80.5)
    assert read(state) == [1, 80.5, 80.5, 80.5]


def test_an_event_out_of_order_joins_two_sessions() -> None:
    state = ViewState(PLAN)
    put(state, 0, 10, 65)
    assert read(state) == [1, 65, 65, 65]
    put(state, 39)
    assert read(state) == [4, 114, 65, 0]


def test_a_session_ends_when_time_is_further_on_than_the_gap() -> None:
    state = ViewState(PLAN)
    put(state, 1, 2)
    assert state.advance(NOON + 31 * MINUTE).tolist() == []
    assert read(state)[0] == 2
    assert state.advance(NOON + 60 * MINUTE).tolist() == [0]
    assert is_empty(read(state))
    assert state.advance(NOON + 90 * MINUTE).tolist() == []
    put(state, 30)  # goes on with a session that has ended all the same
    assert is_empty(read(state))
    put(state, 75)
    assert read(state) == [1, 75, 75, 75]
    put(state, 46)
    assert read(state) == [5, 154, 75, 1]


def test_of_a_session_longer_than_the_window_the_newest_panes_count() -> None:
    state, minutes = ViewState(PLAN), [20.0 * n for n in range(200)]
    put(state, *minutes)
    oldest = (NOON + round(minutes[-1] * MINUTE)) // (30 * MINUTE) - 47
    kept = [m for m in minutes if (NOON + round(m * MINUTE)) // (30 * MINUTE) >= oldest]
    assert 48 < len(kept) < 200
    assert read(state) == [len(kept), sum(kept), kept[-1], kept[0]]
    assert state.memory_bytes < 100_000


def test_a_session_is_restored_with_its_panes() -> None:
    state = ViewState(PLAN)
    put(state, 0, 25, 100)
    again = ViewState.restore(PLAN, state.snapshot_dirty())
    for each in (state, again):
        put(each, 50, 75)
    assert read(again) == read(state) == [5, 250, 100, 0]
    assert again.digest() == state.digest()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 300)), max_size=30))
@settings(max_examples=40)
def test_between_two_changes_nothing_changes(pairs: list[tuple[int, int]]) -> None:
    keys, minutes = np.array([p[0] for p in pairs], np.int64), np.array([p[1] for p in pairs], np.int64)
    times = NOON + minutes * MINUTE
    log = Events(
        [b"%d" % k for k in keys], times, np.arange(len(pairs)).astype(np.uint64), minutes[:, None].astype(np.float64)
    )
    codes, at = change_times(PLAN, keys, times)
    now = backfill(PLAN, log, Queries([b"%d" % c for c in codes], at))
    until = np.where(np.append(codes[1:] != codes[:-1], True), at + 10_000 * MINUTE, np.append(at[1:], 0))
    assert now.tobytes() == backfill(PLAN, log, Queries([b"%d" % c for c in codes], until - 1)).tobytes()


@given(st.lists(st.floats(0, 2000), min_size=1, max_size=60), st.floats(0, 60))
@settings(max_examples=60)
def test_values_are_those_of_plain_python(minutes: list[float], later: float) -> None:
    """Sorted times cut where a gap is too long: the last piece."""
    state = ViewState(PLAN)
    put(state, *minutes)
    ordered = sorted((round(m * MINUTE), m) for m in minutes)
    at = ordered[-1][0] + round(later * MINUTE)
    oldest = ((NOON + at) // VISIT.pane_us - VISIT.panes + 1) * VISIT.pane_us - NOON
    piece: list[tuple[int, float]] = []
    for pair in ordered:
        if piece and pair[0] - piece[-1][0] > 30 * MINUTE:
            piece = []
        piece.append(pair)
    piece = [pair for pair in piece if pair[0] >= oldest]
    found = [float(value) for value in state.evaluate_at([b"k"], np.array([NOON + at]))[0]]
    if at - ordered[-1][0] > 30 * MINUTE:
        assert is_empty(found)
    else:
        assert found[0] == len(piece)
        assert close(found[1], math.fsum(m for _, m in piece))
        assert found[2] == max(m for _, m in piece)


SOURCE = SourceSpec.model_validate({"key": ["id"], "fields": {"id": {"type": "string"}, "price": {"type": "float"}}})


def view(**window: Any) -> ViewSpec:  # noqa: ANN401 - any JSON
    """A view with a window called visit."""
    items = [{"function": "count"}, {"function": "mean", "field": "price"}]
    return ViewSpec.model_validate(
        {"source": "s", "entity": "e", "windows": {"visit": window, "1h": {"length": "1h"}}, "aggregations": items}
    )


def test_the_pipeline_file_names_the_gap() -> None:
    plan = compile_view(view(session="30m"), SOURCE)
    assert plan.windows[0] == VISIT
    assert view(session="30m").feature_names("v")[0] == "v.count_visit"
    assert compile_view(view(session="30m", length="2h", panes=12), SOURCE).windows[0] == Window(
        120 * MINUTE, 12, 30 * MINUTE
    )
    again = WindowSpec.model_validate_json(view(session="30m").windows["visit"].model_dump_json())
    assert again == view(session="30m").windows["visit"]


def test_windows_without_a_gap_are_written_as_before() -> None:
    """Versions of views name what is stored."""
    assert WindowSpec.model_validate({"length": "1h"}).model_dump(mode="json") == {"length": "1h", "panes": 12}


@pytest.mark.parametrize(
    ("window", "rule"),
    [
        ({}, "length must be a positive multiple"),
        ({"session": "0s"}, "length must be a positive multiple"),
        ({"session": "half an hour"}, "a duration is"),
        ({"session": "30m", "length": "45m"}, "longer than half of length"),
        ({"session": "7s", "length": "100s"}, "length must be a positive multiple"),
        ({"session": "30m", "length": "4h", "panes": 2}, "must not be shorter than length / panes"),
        ({"session": "1h", "length": "400d"}, "less than or equal to 366"),
        ({"session": "1h", "length": [1]}, "length"),
    ],
)
def test_a_session_that_cannot_be_is_refused(window: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        view(**window)


def test_an_average_by_age_has_no_session() -> None:
    items = [{"function": "ewma", "field": "price", "half_life": "1h"}]
    spec = ViewSpec.model_validate(
        {"source": "s", "entity": "e", "windows": {"visit": {"session": "30m"}}, "aggregations": items}
    )
    with pytest.raises(ValueError, match="ewma has no meaning over a session"):
        compile_view(spec, SOURCE)
    with pytest.raises(ValueError, match="half of its length"):
        Window(60 * MINUTE, 2, 40 * MINUTE)
