"""Functions beyond sums and extremes: what they mean, and how the pipeline file names them."""

import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tidemill_contracts.pipeline import SourceSpec, ViewSpec
from tidemill_engine.entities import RowReader
from tidemill_engine.windows import Aggregation, RejectedValuesError, ViewPlan, ViewState, Window, compile_view

pytestmark = pytest.mark.timeout(300)  # the first run on a machine compiles the kernels

MINUTE = 60_000_000
NOON = 1_357_041_600_000_000
HOUR = Window(60 * MINUTE, 60)
SOURCE = SourceSpec.model_validate(
    {
        "key": ["id"],
        "fields": {
            "id": {"type": "string"},
            "price": {"type": "float"},
            "colour": {"type": "category", "values": ["red", "green", "blue"]},
            "is_new": {"type": "boolean"},
        },
    }
)


def last(item: Aggregation, *values: float, minutes: int = 1) -> float:
    """The feature after values that came one every so many minutes."""
    state, n = ViewState(ViewPlan(("x",), (HOUR,), (item,))), len(values)
    times = NOON + MINUTE * minutes * np.arange(n)
    where = np.zeros(n, np.int32), np.arange(n)
    return float(state.apply_each([b"k"] * n, times, np.arange(n, dtype=np.uint64), np.array([values]).T, where)[-1, 0])


def test_lag_is_a_value_before_the_newest() -> None:
    assert last(Aggregation("lag", "x", None, 1), 1.0, 2.0, 3.0) == 2.0
    assert last(Aggregation("lag", "x", 0, 2), 1.0, 2.0, math.nan, 3.0) == 1.0
    assert math.isnan(last(Aggregation("lag", "x", None, 3), 1.0, 2.0, 3.0))
    assert math.isnan(last(Aggregation("lag", "x", 0, 1), 1.0, 2.0, minutes=60))


def test_top_is_the_most_frequent_category_and_of_equals_the_first() -> None:
    assert last(Aggregation("top", "x", 0, 3), 2.0, 1.0, 2.0, 1.0) == 1.0
    assert last(Aggregation("top", "x", 0, 3), 0.0, 2.0, 1.0, 2.0) == 2.0
    assert math.isnan(last(Aggregation("top", "x", 0, 3), math.nan))
    with pytest.raises(RejectedValuesError, match="none of the categories"):
        last(Aggregation("top", "x", 0, 3), 3.0)


def test_ewma_halves_with_each_half_life() -> None:
    item = Aggregation("ewma", "x", 0, MINUTE)
    assert last(item, 4.0, 1.0) == (4.0 / 2 + 1.0) / 1.5
    assert last(item, 4.0, 1.0, minutes=0) == 2.5
    assert math.isnan(last(item, math.nan))


@pytest.mark.parametrize("count", [1, 10, 100, 1_000, 20_000])
def test_distinct_is_near_the_number_of_values(count: int) -> None:
    values = np.tile(np.random.default_rng(count).permutation(count) / 7, 2)
    state, n = ViewState(ViewPlan(("x",), (HOUR,), (Aggregation("distinct", "x", 0),))), 2 * count
    where = np.zeros(n, np.int32), np.arange(n)
    state.apply([b"k"] * n, np.full(n, NOON), np.arange(n, dtype=np.uint64), values[:, None], where)
    assert abs(state.vectors([0])[0][0, 0] / count - 1) < 3 * 0.065


def test_a_ratio_is_null_where_the_divisor_is_zero() -> None:
    features = Aggregation("sum", "x", 0), Aggregation("count", "x", 0), Aggregation("ratio", of=(0, 1))
    state = ViewState(ViewPlan(("x",), (HOUR,), features))
    for number, value in enumerate([math.nan, 6.0, 1.0]):
        at = np.array([NOON]), np.array([number], np.uint64), np.array([[value]])
        vector = state.apply_each([b"k"], *at, (np.zeros(1, np.int32), np.array([number])))[0]
        assert math.isnan(vector[2]) if number == 0 else vector[2] == vector[0] / vector[1]


def test_what_came_later_leaves_the_fingerprints_of_plans_without_it() -> None:
    plain = ViewPlan(("x",), (Window(5 * MINUTE, 5),), (Aggregation("sum", "x", 0),))
    assert plain.fingerprint == 3_215_121_900
    lags = [ViewPlan(("x",), (), (Aggregation("lag", "x", None, n),)).fingerprint for n in (1, 2)]
    assert len(set(lags)) == 2


def view(*aggregations: dict[str, Any]) -> ViewSpec:
    """A view over an hour."""
    return ViewSpec.model_validate(
        {"source": "s", "entity": "e", "windows": {"1h": {"length": "1h"}}, "aggregations": list(aggregations)}
    )


def test_the_pipeline_file_names_them() -> None:
    declared = view(
        {"function": "distinct", "field": "id"},
        {"function": "top", "field": "colour"},
        {"function": "top", "field": "is_new"},
        {"function": "lag", "field": "price", "n": 2, "all_time": True},
        {"function": "ewma", "field": "price", "half_life": "10m"},
        {"function": "ratio", "dividend": "price_sum_1h", "divisor": "count_1h"},
        {"function": "sum", "field": "price"},
        {"function": "count"},
    )
    assert declared.feature_names("v") == [
        "v.id_distinct_1h", "v.colour_top_1h", "v.is_new_top_1h", "v.price_lag2", "v.price_ewma_1h",
        "v.price_sum_1h_per_count_1h", "v.price_sum_1h", "v.count_1h",
    ]  # fmt: skip
    plan = compile_view(declared, SOURCE)
    assert plan.fields == ("colour", "id", "is_new", "price")
    assert plan.aggregations[1:6] == (
        Aggregation("top", "colour", 0, 3),
        Aggregation("top", "is_new", 0, 2),
        Aggregation("lag", "price", None, 2),
        Aggregation("ewma", "price", 0, 10 * MINUTE),
        Aggregation("ratio", None, None, None, (6, 7)),
    )
    read = RowReader(plan.fields, SOURCE.fields)
    row = read({"id": "a", "colour": "green", "is_new": True, "price": 2})
    assert (row[0], row[2], row[3]) == (1.0, 1.0, 2.0)
    assert row[1] == read({"id": "a"})[1] != read({"id": "b"})[1]
    for odd in ({"colour": "pink"}, {"id": 3}, {"colour": 1}):
        with pytest.raises(ValueError, match="declared type"):
            read(odd)


@pytest.mark.parametrize(
    ("item", "rule"),
    [
        ({"function": "lag", "field": "price"}, "need it"),
        ({"function": "sum", "field": "price", "n": 1}, "need it"),
        ({"function": "ewma", "field": "price", "half_life": "1ms"}, "a second or more"),
        ({"function": "ewma", "field": "price", "half_life": "1m", "all_time": True}, "without windows"),
        ({"function": "ratio", "dividend": "count_1h", "divisor": "price_sum_1h"}, "no feature of this view"),
        ({"function": "ratio", "dividend": "count_1h", "divisor": "count_1h", "windows": ["1h"]}, "of its features"),
    ],
)
def test_a_file_that_asks_for_the_impossible_is_refused(item: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        view({"function": "count"}, item)


@pytest.mark.parametrize(
    ("item", "rule"),
    [
        ({"function": "top", "field": "price"}, "neither a category nor a boolean"),
        ({"function": "mean", "field": "id"}, "is text"),
    ],
)
def test_a_function_without_meaning_for_its_field_is_refused(item: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        compile_view(view(item), SOURCE)


@pytest.mark.parametrize(
    ("item", "rule"),
    [
        (lambda: Aggregation("lag", "x", 0, 9), "between 1 and 8"),
        (lambda: Aggregation("sum", "x", 0, 1), "no parameter"),
        (lambda: Aggregation("ewma", "x", None, MINUTE), "needs a window"),
        (lambda: Aggregation("ratio"), "of two features"),
        (lambda: ViewPlan(("x",), (), (Aggregation("ratio", of=(0, 0)),)), "no feature 0"),
        (
            lambda: ViewPlan(("x",), (HOUR,), (Aggregation("top", "x", 0, 2), Aggregation("top", "x", 0, 3))),
            "one number",
        ),
    ],
)
def test_an_impossible_plan_is_refused(item: Any, rule: str) -> None:  # noqa: ANN401 - builds anything
    with pytest.raises(ValueError, match=rule):
        item()


def test_filtered_aggregates_are_of_the_events_that_pass() -> None:
    """Against plain Python, and a ratio of two of them."""
    view = ViewSpec.model_validate(
        {
            "source": "s", "entity": "e", "windows": {"1h": {"length": "1h", "panes": 60}},
            "aggregations": [
                {"function": "count"},
                {"function": "count", "name": "dear", "where": "price > 5 and is_new"},
                {"function": "mean", "field": "price", "name": "red", "where": "colour == 'red'"},
                {"function": "top", "field": "colour", "name": "new", "where": "is_new"},
                {"function": "ratio", "dividend": "dear_count_1h", "divisor": "count_1h"},
            ],
        }
    )  # fmt: skip
    assert view.feature_names("v") == [
        "v.count_1h", "v.dear_count_1h", "v.red_price_mean_1h", "v.new_colour_top_1h",
        "v.dear_count_1h_per_count_1h",
    ]  # fmt: skip
    plan = compile_view(view, SOURCE)
    draw = np.random.default_rng(0)
    colours = ["red", "green", "blue"]
    events: list[dict[str, Any]] = [
        {"price": float(draw.integers(0, 10)), "is_new": bool(draw.integers(2)), "colour": colours[i % 3]}
        for i in range(60)
    ]
    read, n = RowReader(plan.fields, SOURCE.fields), len(events)
    values = np.array([read(event) for event in events])
    where = np.zeros(n, np.int32), np.arange(n)
    times = NOON + np.arange(n) * 1_000_000
    found = ViewState(plan).apply_each([b"k"] * n, times, np.arange(n, dtype=np.uint64), values, where)[-1]
    dear = [e for e in events if e["price"] > 5 and e["is_new"]]
    red = [e["price"] for e in events if e["colour"] == "red"]
    new = [e["colour"] for e in events if e["is_new"]]
    best = max(range(3), key=lambda place: (new.count(colours[place]), -place))
    assert found.tolist() == pytest.approx([60, len(dear), sum(red) / len(red), best, len(dear) / 60], abs=1e-12)


@pytest.mark.parametrize(
    ("item", "rule"),
    [
        ({"function": "count", "where": "is_new"}, "where and name go together"),
        ({"function": "count", "name": "new"}, "where and name go together"),
        ({"function": "count", "name": "new", "where": "x" * 5000}, "at most 4096"),
    ],
)
def test_a_filter_without_a_name_is_refused(item: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        ViewSpec.model_validate(
            {"source": "s", "entity": "e", "windows": {"1h": {"length": "1h"}}, "aggregations": [item]}
        )


def test_two_filters_may_not_make_one_name() -> None:
    items = [{"function": "count", "name": "new", "where": text} for text in ("is_new", "not is_new")]
    with pytest.raises(ValidationError, match="two features are called new_count_1h"):
        ViewSpec.model_validate(
            {"source": "s", "entity": "e", "windows": {"1h": {"length": "1h"}}, "aggregations": items}
        )


@pytest.mark.parametrize(
    ("where", "rule"), [("price", "true or false"), ("nothing > 1", "nothing"), ("price >", "new: .* too early")]
)
def test_a_filter_that_is_none_is_refused(where: str, rule: str) -> None:
    item = {"function": "count", "name": "new", "where": where}
    view = ViewSpec.model_validate(
        {"source": "s", "entity": "e", "windows": {"1h": {"length": "1h"}}, "aggregations": [item]}
    )
    with pytest.raises(ValueError, match=rule):
        compile_view(view, SOURCE)
