"""Training rows, cuts by time, bytes: the same rows give the same model, and nothing of the gate's period leaks in."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from tidemill_contracts import format_time
from tidemill_contracts.events import Cause, CauseKind, TrainingRequested
from tidemill_contracts.pipeline import PipelineSpec, parse_pipeline
from tidemill_engine.drift import HistogramReference, population_test
from tidemill_trainer.coldstart import cold_rows
from tidemill_trainer.domain.manifest import canonical_bytes, manifest_of
from tidemill_trainer.domain.reference import reference_bytes, reference_of
from tidemill_trainer.domain.rows import Rows, concatenate
from tidemill_trainer.domain.training import TooFewRowsError, train
from tidemill_trainer.handlers import on_training_requested
from tidemill_trainer.history import with_history
from tidemill_trainer.onnx import onnx_scores

DAY = 86_400_000_000
HOUR = DAY // 24
PIPELINE = b"""
version: 1
name: demo
partitions: 1
sources:
  rides:
    key: [ride]
    time: ended
    fields:
      ride: {type: string}
      driver: {type: string}
      started: {type: timestamp}
      ended: {type: timestamp}
      delay: {type: float}
      late: {type: boolean}
entities: {driver: {key: [driver]}}
views:
  driver-rides:
    source: rides
    entity: driver
    windows: {1d: {length: 1d, panes: 24}}
    aggregations: [{function: mean, field: delay}, {function: count}]
request:
  key: ride
  fields: {ride: {type: string}, driver: {type: string}, started: {type: timestamp}}
  features: {hour: hour(started)}
label: {source: rides, join: ride, expression: late}
cold_start: {source: rides, time: started}
model:
  windows: [10d, all]
  validation: 2d
  minimum_rows: 200
  calibration: 2d
  parameters: {num_iterations: 20, min_data_in_leaf: 20}
gate: {period: 3d}
"""


@pytest.fixture(scope="module")
def spec() -> PipelineSpec:
    """Rides that end late or not."""
    return parse_pipeline(PIPELINE)


def a_request(at_us: int, *, drift: bool = False, cold: bool = False) -> TrainingRequested:
    """A request at an event time."""
    other: CauseKind = "cold_start" if cold else "volume"
    cause = Cause(kind="drift", drift="calibration") if drift else Cause(kind=other)
    return TrainingRequested(
        request_id=UUID(int=1), pipeline="demo", at_us=at_us, cause=cause, outcomes_to=10,
        spec="a" * 64, policy="b" * 64,
    )  # fmt: skip


def some_rows(days: int = 30, per_day: int = 100) -> Rows:
    """Rows whose first column says something about the label."""
    rng = np.random.default_rng(1)
    n = days * per_day
    features = rng.normal(size=(n, 3)).astype(np.float32)
    features[rng.random((n, 3)) < 0.1] = np.nan
    chance = 1 / (1 + np.exp(-2 * np.nan_to_num(features[:, 0])))
    times = np.arange(n, dtype=np.int64) * (DAY // per_day)
    return Rows(times, features, (rng.random(n) < chance).astype(np.float64), {})


@pytest.mark.parametrize("trainer", ["lightgbm", "logistic"])
def test_the_same_rows_give_the_same_bytes_and_manifest(spec: PipelineSpec, trainer: str) -> None:
    """Also when they come in parts; the manifest's digest names exactly these rows."""
    parameters = {} if trainer == "logistic" else spec.model.parameters
    model = spec.model.model_copy(update={"trainer": trainer, "parameters": parameters})
    spec = spec.model_copy(update={"model": model})
    rows, request = some_rows(), a_request(30 * DAY)
    again = concatenate([rows.take(slice(0, 777)), rows.take(slice(777, None))])
    first, second = train(spec, rows, request), train(spec, again, request)
    names = spec.feature_names()
    assert first.fitted.to_onnx(names, first.calibration) == second.fitted.to_onnx(names, second.calibration)
    digests = {"code": "c" * 64, "lock": "d" * 64}
    one = canonical_bytes(manifest_of(spec, request, first, digests=digests | {"data": rows.digest()}))
    assert one == canonical_bytes(manifest_of(spec, request, second, digests=digests | {"data": again.digest()}))


def test_the_gate_sees_only_rows_that_nothing_was_fitted_on(spec: PipelineSpec) -> None:
    """Changing every label of the gate's period changes no byte of the model."""
    rows, request = some_rows(), a_request(30 * DAY)
    trained = train(spec, rows, request)
    assert trained.gate.labelled_us.min() >= 27 * DAY
    labels = np.where(rows.labelled_us >= 27 * DAY, 1 - rows.labels, rows.labels)
    flipped = Rows(rows.labelled_us, rows.features, labels, {})
    names = spec.feature_names()
    assert train(spec, flipped, request).fitted.to_onnx(names) == trained.fitted.to_onnx(names)


def test_only_a_calibration_alarm_calibrates(spec: PipelineSpec) -> None:
    """And what onnxruntime answers is what the trainer says."""
    rows = some_rows()
    assert train(spec, rows, a_request(30 * DAY)).calibration is None
    trained = train(spec, rows, a_request(30 * DAY, drift=True))
    assert trained.calibration is not None
    scores = onnx_scores(trained.fitted.to_onnx(spec.feature_names(), trained.calibration), rows.features)
    assert np.max(np.abs(scores - trained.scores(rows.features))) < 1e-5


def test_too_few_rows_are_refused_in_words(spec: PipelineSpec) -> None:
    """A user can act on it: the counts are in the message."""
    with pytest.raises(TooFewRowsError, match="200 of both classes are needed"):
        train(spec, some_rows(days=4, per_day=50), a_request(4 * DAY))


def write_archive(folder: Path, rides: list[dict[str, Any]]) -> None:
    """An archive table as ingestion writes it."""
    columns = {
        "partition": pa.array([0] * len(rides), pa.int32()),
        "offset": pa.array(range(len(rides)), pa.int64()),
        "seq": pa.array(range(len(rides)), pa.int64()),
        "id": pa.array([ride["ride"] for ride in rides]),
        "event_us": pa.array([ride["ended_us"] for ride in rides], pa.int64()),
        "ingest_us": pa.array([ride["ended_us"] for ride in rides], pa.int64()),
        "key": pa.array([ride["ride"] for ride in rides]),
        "body": pa.array([json.dumps({k: v for k, v in ride.items() if k != "ended_us"}) for ride in rides]),
        "outcome": pa.array(["applied"] * len(rides)),
    }
    write_deltalake(str(folder / "archive" / "events" / "rides"), pa.table(columns))


def a_ride(number: int, start_us: int, delay: float, *, driver: str = "d") -> dict[str, Any]:
    """A ride of an hour and its delay."""
    ended = start_us + HOUR + int(delay * 60_000_000)
    return {
        "ride": f"r{number:05d}", "driver": driver, "started": format_time(start_us), "ended": format_time(ended),
        "ended_us": ended, "delay": delay, "late": delay > 0,
    }  # fmt: skip


def test_a_row_sees_only_what_was_known_before_its_time(tmp_path: Path, spec: PipelineSpec) -> None:
    """Neither its own event nor a later one: planting a wild ride in its future changes nothing in it."""
    rides = [a_ride(i, i * 2 * HOUR, float(i % 7) - 3) for i in range(60)]
    write_archive(tmp_path / "a", rides)
    planted = [*rides, a_ride(99_999, 40 * 2 * HOUR, 500.0)]
    write_archive(tmp_path / "b", planted)
    before, after = (
        cold_rows(spec, str(tmp_path / name), as_of_us=100 * DAY, positions={"events.rides": {"0": size}})
        for name, size in (("a", len(rides)), ("b", len(planted)))
    )
    early = slice(0, 40)
    assert before.take(early).digest() == after.take(early).digest()
    counts = before.features[:, spec.feature_names().index("driver-rides.count_1d")]
    assert np.isnan(counts[0]), "the first ride is no history of itself"
    assert before.digest() != after.take(slice(0, len(before))).digest()


def test_rows_whose_label_is_not_yet_known_are_left_out(tmp_path: Path, spec: PipelineSpec) -> None:
    """What ends after the request is not training data for it."""
    write_archive(tmp_path, [a_ride(i, i * 2 * HOUR, 1.0) for i in range(20)])
    rows = cold_rows(spec, str(tmp_path), as_of_us=20 * HOUR, positions={"events.rides": {"0": 20}})
    assert 0 < len(rows) < 20
    assert rows.labelled_us.max() <= 20 * HOUR


async def test_the_first_models_rows_stay_in_front_of_the_logged_ones(tmp_path: Path, spec: PipelineSpec) -> None:
    """Whether from the archive or from the copy on disk; and none twice, though the archive has gone on since."""
    write_archive(tmp_path, [a_ride(i, i * 2 * HOUR, float(i % 5) - 2) for i in range(80)])
    first = a_request(100 * HOUR, cold=True).model_copy(update={"positions": {"events.rides": {"0": 80}}})
    cold = cold_rows(spec, str(tmp_path), as_of_us=first.at_us, positions=first.positions)
    logged = Rows(cold.labelled_us[-2:] + 90 * HOUR, cold.features[:2], cold.labels[:2], cold.segments)
    for _ in range(2):
        rows = await with_history(spec, logged, first, cache=tmp_path / "cache", archive=str(tmp_path))
        assert rows.digest() == concatenate([cold, logged]).digest()
    overlap = Rows(cold.labelled_us[-2:], cold.features[:2], cold.labels[:2], cold.segments)
    rows = await with_history(spec, overlap, first, cache=tmp_path / "cache", archive=str(tmp_path))
    assert len(rows) == len(cold)


async def test_a_request_joins_the_run_that_is_active() -> None:
    """Delivered twice, it is recorded twice at most by the inbox's word, and never starts a second run."""
    published: list[str] = []

    class Unit:
        async def enqueue(self, topic: str, key: bytes | None, envelope: Any) -> None:  # noqa: ANN401 - an envelope
            del key
            published.append(f"{topic} {envelope.id}")

    async def queue(unit: Any, request: TrainingRequested) -> Any:  # noqa: ANN401 - a literal
        del unit, request
        return "coalesced"

    handle = on_training_requested(queue, "tidemill")
    for _ in range(2):
        await handle(a_request(DAY), Unit())
    assert len(set(published)) == 1, "the same id, so a repeat is harmless"
    assert published[0].startswith("tidemill.training.v1")


def test_what_drift_is_measured_against_is_what_the_model_learned_from(spec: PipelineSpec) -> None:
    """Inputs of its training rows, scores of the gate's, the same bytes each time; rows like them are no drift."""
    rows, request = some_rows(), a_request(30 * DAY)
    trained = train(spec, rows, request)
    names = spec.feature_names()
    model = trained.fitted.to_onnx(names, trained.calibration)

    def scores(features: Any) -> Any:  # noqa: ANN401 - columns
        return onnx_scores(model, features)

    found = reference_of(names, trained, "a" * 64, scores)
    assert (found.model, found.rows, found.score_rows) == ("a" * 64, trained.parts["train"], "gate")
    assert [column.name for column in found.columns] == [*names, "score"]
    totals = [sum(column.counts) for column in found.columns]
    assert totals == [trained.parts["train"]] * len(names) + [trained.parts["gate"]]
    nulls = np.isnan(trained.learned.features).sum(axis=0)
    assert [column.counts[-1] for column in found.columns] == [*nulls.tolist(), 0]
    assert reference_bytes(found) == reference_bytes(reference_of(names, train(spec, rows, request), "a" * 64, scores))
    seen = HistogramReference.from_dict(
        {"rows": found.rows, "columns": [column.model_dump() for column in found.columns]}
    )
    live = np.column_stack([trained.gate.features, scores(trained.gate.features)]).astype(np.float32)
    assert not any(result.drifted for result in population_test(seen, seen.count(live)))
    live[:, 0] += 3
    assert [result.name for result in population_test(seen, seen.count(live)) if result.drifted] == [names[0]]


def test_without_rows_in_the_gate_scores_are_of_what_was_learned(spec: PipelineSpec) -> None:
    trained = train(spec, some_rows(), a_request(30 * DAY))
    learned = replace(trained, gate=trained.gate.take(slice(0, 0)))
    found = reference_of(spec.feature_names(), learned, "a" * 64, trained.scores)
    assert (found.score_rows, sum(found.columns[-1].counts)) == ("train", found.rows)
