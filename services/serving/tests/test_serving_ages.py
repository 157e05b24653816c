"""Ages grow between the updates of a vector: what is read at a watermark is what a backfill gives at that time."""

import numpy as np
import pytest
from serving_cases import FILE, PARTITIONS, T0_US, inputs

from tidemill_contracts.events import FeatureVector
from tidemill_contracts.pipeline import PipelineSpec, parse_pipeline
from tidemill_engine.windows import Events, Queries, backfill, compile_view
from tidemill_serving.domain.plan import Plan
from tidemill_serving.domain.replica import Replica
from tidemill_serving.domain.requests import Reader

NAMES = ["by-carrier.delay_age_of_last", "distance"]
LAST_US = T0_US + 123_456_789


@pytest.fixture(scope="module")
def spec() -> PipelineSpec:
    aged = FILE.replace(
        "{function: count}]", "{function: count}, {function: age_of_last, field: delay, all_time: true}]"
    )
    return parse_pipeline(aged.encode())


def offline(spec: PipelineSpec, at_us: int) -> list[float]:
    """The view's values of AA at a time, from two events."""
    view = compile_view(spec.views["by-carrier"], spec.sources["departures"])
    events = Events([b"AA", b"AA"], np.array([T0_US, LAST_US]), np.array([1, 2], np.uint64), np.array([[5.0], [7.0]]))
    found: list[float] = backfill(view, events, Queries([b"AA"], np.array([at_us])))[0].tolist()
    return found


def served(spec: PipelineSpec, written_us: int, watermark_us: int | None) -> float:
    """The age that serving reads at a watermark, of a vector that was written before."""
    plan = Plan(spec, spec.feature_names())
    state = Replica()
    place = "by-carrier", spec.view_version("by-carrier")
    state.want(place, width=3, partitions=PARTITIONS)
    values = [None if np.isnan(value) else value for value in offline(spec, written_us)]
    vector = FeatureVector(
        view="by-carrier", version=spec.view_version("by-carrier"), entity="AA", at_us=written_us, revision=1,
        values=values, positions={},
    )  # fmt: skip
    state.apply(place, 0, b"AA", vector.model_dump_json().encode())
    reader = Reader(spec.request)
    (ask,), _ = reader.read({"inputs": inputs()})
    lines = plan.lines(plan.tables(state), [ask], watermark_us)
    return float(lines.vectors[0, 2])


@pytest.mark.parametrize("later_us", [0, 1, 999_999, 60_000_000, 86_400_000_000, 40 * 86_400_000_000 + 7])
def test_an_age_is_the_backfills_to_the_bit(spec: PipelineSpec, later_us: int) -> None:
    written = LAST_US + 61_000_003
    assert served(spec, written, written + later_us) == offline(spec, written + later_us)[2]


def test_an_event_newer_than_the_watermark_has_no_negative_age(spec: PipelineSpec) -> None:
    assert served(spec, LAST_US + 10, LAST_US - 5_000_000) == 0.0


def test_without_a_watermark_the_vector_stands_as_it_was_written(spec: PipelineSpec) -> None:
    assert served(spec, LAST_US + 10, None) == offline(spec, LAST_US + 10)[2] == 1e-05
