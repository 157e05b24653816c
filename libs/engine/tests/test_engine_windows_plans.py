"""What a plan of a view may be, and how the pipeline file becomes one."""

from collections.abc import Callable

import pytest

from tidemill_contracts.pipeline import AggregationSpec, NumberField, SourceSpec, ViewSpec, WindowSpec
from tidemill_engine.windows import Aggregation, ViewPlan, Window, compile_view

SECOND = 1_000_000
HOUR = 3600 * SECOND


def test_the_pipeline_file_becomes_a_plan() -> None:
    source = SourceSpec(
        key=["id"],
        fields={
            "id": NumberField(type="integer"),
            "delay": NumberField(type="float", quantum=-20),
            "a": NumberField(type="float"),
        },
    )
    view = ViewSpec(
        source="flights",
        entity="carrier",
        windows={"1h": WindowSpec(length=HOUR), "1d": WindowSpec(length=24 * HOUR, panes=24)},
        aggregations=[
            AggregationSpec(function="count"),
            AggregationSpec(function="mean", field="delay", windows=["1d"]),
            AggregationSpec(function="last", field="a", all_time=True),
        ],
    )
    plan = compile_view(view, source)
    assert plan.fields == ("a", "delay")
    assert plan.bits == (40, 20)
    assert plan.aggregations == (
        Aggregation("count", None, 0),
        Aggregation("count", None, 1),
        Aggregation("mean", "delay", 1),
        Aggregation("last", "a"),
    )
    assert plan.windows == (Window(HOUR, 12), Window(24 * HOUR, 24))
    assert plan.lifetime_us == 60 * 24 * HOUR
    assert len(plan.aggregations) == len(view.feature_names("v"))


@pytest.mark.parametrize(
    ("build", "rule"),
    [
        (lambda: Window(HOUR, 7), "multiple"),
        (lambda: Window(SECOND, 2), "whole number of seconds"),
        (lambda: Aggregation("sum"), "needs a field"),
        (lambda: ViewPlan(("x", "x"), (), (Aggregation("count"),)), "distinct"),
        (lambda: ViewPlan((), (), ()), "needs an aggregation"),
        (lambda: ViewPlan((), (), (Aggregation("sum", "x"),)), "not a field"),
        (lambda: ViewPlan((), (), (Aggregation("count", None, 0),)), "no window"),
        (lambda: ViewPlan((), (Window(HOUR, 1),), (Aggregation("count"),), ttl_us=1), "shorter"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(build: Callable[[], object], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        build()
