"""As-of joins, known-time values, readers of views: each against the plainest computation of the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill_contracts.pipeline import load_pipeline, parse_pipeline
from tidemill_engine.history import AsOf, Known, ViewReader, backfill_known, change_times, shard_of
from tidemill_engine.windows import Aggregation, Events, Queries, ViewPlan, Window, backfill

MINUTE = 60_000_000
PIPELINE = Path(__file__).parents[3] / "pipelines" / "flight-delay.yaml"
PLAN = ViewPlan(
    ("x",),
    (Window(10 * MINUTE, 5), Window(60 * MINUTE, 4)),
    (
        Aggregation("count", None, 0), Aggregation("sum", "x", 0), Aggregation("mean", "x", 1),
        Aggregation("max", "x", 1), Aggregation("last", "x"), Aggregation("age_of_last", "x"),
    ),
    ttl_us=180 * MINUTE,
)  # fmt: skip


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20)), max_size=30),
    st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 20)), max_size=60),
    st.booleans(),
    st.sampled_from([None, 0, 3, 10]),
    st.integers(0, 60),
)
@settings(max_examples=200)
def test_each_row_gets_the_newest_feature_row_of_its_key_before_it(
    rows: list[tuple[int, int]], features: list[tuple[int, int]], inclusive: bool, age: int | None, cut: int
) -> None:
    codes, times = np.array([r[0] for r in rows], np.int64), np.array([r[1] for r in rows], np.int64)
    join = AsOf(codes, times, keys=5, inclusive=inclusive)
    for part in (features[:cut], features[cut:]):
        join.offer(np.array([f[0] for f in part], np.int64), np.array([f[1] for f in part], np.int64))
    expected = []
    for code, time in rows:
        seen = [
            (us, i) for i, (key, us) in enumerate(features) if key == code and (us <= time if inclusive else us < time)
        ]
        newest = max(seen, default=(0, -1))
        expected.append(-1 if not seen or (age is not None and newest[0] < time - age) else newest[1])
    assert join.answer(max_age_us=age).tolist() == expected


def test_a_code_of_no_key_is_refused() -> None:
    with pytest.raises(ValueError, match="no key"):
        AsOf(np.array([3]), np.array([0]), keys=3)
    with pytest.raises(ValueError, match="no key"):
        AsOf(np.array([2]), np.array([0]), keys=3).offer(np.array([3]), np.array([0]))


def a_log(seed: int, *, events: int, queries: int, keys: int) -> tuple[Events, Queries, Known]:
    """Events and queries at random; the log knows most events at once and some much later."""
    rng = np.random.default_rng(seed)
    times = rng.integers(0, 400, events) * MINUTE
    late = np.where(rng.random(events) < 0.3, rng.integers(0, 200, events) * MINUTE, 0)
    asked = rng.integers(0, 600, queries) * MINUTE + 1
    values = np.where(rng.random((events, 1)) < 0.1, np.nan, rng.normal(size=(events, 1)))
    hashes = rng.integers(0, 2**63, events).astype(np.uint64)
    return (
        Events([b"k%d" % k for k in rng.integers(0, keys, events)], times, hashes, values),
        Queries([b"k%d" % k for k in rng.integers(0, keys + 1, queries)], asked),
        Known(times + late, asked + rng.integers(-100, 100, queries) * MINUTE),
    )


@given(st.integers(0, 2**32), st.integers(0, 60), st.integers(0, 25), st.integers(1, 4))
@settings(max_examples=60)
def test_a_row_sees_what_lies_before_it_and_was_known(seed: int, events: int, queries: int, keys: int) -> None:
    """Against one backfill for each query, over the events that it may see."""
    log, asked, known = a_log(seed, events=events, queries=queries, keys=keys)
    found = backfill_known(PLAN, log, asked, known)
    for q in range(queries):
        seen = np.flatnonzero(known.events_us < known.queries_us[q])
        part = Events([log.keys[i] for i in seen.tolist()], log.times_us[seen], log.hashes[seen], log.values[seen])
        alone = backfill(PLAN, part, Queries([asked.keys[q]], asked.times_us[q : q + 1]))
        assert found[q].tobytes() == alone[0].tobytes()


def test_without_late_knowledge_it_is_the_backfill() -> None:
    log, asked, known = a_log(5, events=3000, queries=800, keys=7)
    all_known = Known(log.times_us, asked.times_us)
    assert backfill_known(PLAN, log, asked, all_known).tobytes() == backfill(PLAN, log, asked).tobytes()
    assert backfill_known(PLAN, log, asked, known).tobytes() != backfill(PLAN, log, asked).tobytes()
    assert backfill_known(PLAN, log, Queries([], np.empty(0, np.int64)), all_known).shape == (0, 6)


@given(st.integers(0, 2**32), st.integers(1, 30))
@settings(max_examples=40)
def test_between_two_changes_nothing_changes(seed: int, events: int) -> None:
    log, _, _ = a_log(seed, events=events, queries=0, keys=2)
    codes, times = change_times(PLAN, np.array([int(k[1:]) for k in log.keys]), log.times_us)
    at = backfill(PLAN, log, Queries([b"k%d" % c for c in codes], times))[:, :-1]  # an age changes all the time
    last_of_key = np.append(codes[1:] != codes[:-1], True)
    until = np.where(last_of_key, times + 1000 * MINUTE, np.append(times[1:], 0))
    after = backfill(PLAN, log, Queries([b"k%d" % c for c in codes], until - 1))[:, :-1]
    assert at.tobytes() == after.tobytes()


def test_a_reader_takes_what_the_stream_takes() -> None:
    spec = parse_pipeline(b"""
        version: 1
        name: rides
        sources: {rides: {key: [car], fields: {car: {type: integer}, fare: {type: float}, paid: {type: boolean}}}}
        entities: {car: {key: [car]}}
        views:
          fares:
            source: rides
            entity: car
            where: paid
            windows: {1h: {length: 1h}}
            aggregations: [{function: sum, field: fare}]
        request: {fields: {car: {type: integer}}, key: car}
        label: {source: rides, join: car, expression: fare > 1}
        """)
    reader = ViewReader(spec, "fares")
    bodies: list[dict[str, Any]] = [
        {"car": 1, "fare": 2.5, "paid": True}, {"car": 1, "fare": 2.5, "paid": False},
        {"car": None, "fare": 2.5, "paid": True}, {"car": 2, "fare": None, "paid": True}, {"car": 3, "paid": True},
    ]  # fmt: skip
    times = np.arange(5) * MINUTE
    place, found = reader.read([f"r{i}" for i in range(5)], times, bodies)
    assert (place.tolist(), found.keys) == ([0, 3, 4], [b"1", b"2", b"3"])
    assert found.values[:, 0].tolist()[0] == 2.5
    assert np.isnan(found.values[1:, 0]).all()
    assert reader.read([], times[:0], [])[1].values.shape == (0, 1)
    assert reader.read([f"r{i}" for i in range(5)], times, bodies, only={b"2"})[0].tolist() == [3]
    assert reader.entities([{"car": 7}, {"car": None}, {}]) == [b"7", b"", b""]
    assert reader.features == ("fares.fare_sum_1h",)


def test_every_view_of_the_demo_can_be_read() -> None:
    spec = load_pipeline(PIPELINE)
    assert all(ViewReader(spec, view).features for view in spec.views)


def test_shards_depend_on_the_key_alone() -> None:
    assert [shard_of(b"EWR", 8), shard_of(b"JFK", 8), shard_of(b"EWR", 1)] == [2, 7, 0]
    spread = np.bincount([shard_of(b"k%d" % i, 8) for i in range(8000)], minlength=8)
    assert spread.min() > 900
