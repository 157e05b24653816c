"""Rows that rest on quarantined windows are left out, and the manifest says which windows those were."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from tidemill_contracts import derived_id, format_time, topic
from tidemill_contracts.events import (
    Cause,
    Event,
    Prediction,
    QualityBreached,
    Timer,
    TrainingManifest,
    TrainingRequested,
    ViewRevision,
    encode,
)
from tidemill_contracts.events.control import QuarantineReleased
from tidemill_contracts.pipeline import PipelineSpec, parse_pipeline
from tidemill_contracts.topics import control_topics, pipeline_topics
from tidemill_engine.learn import WindowChoice, fit_logistic
from tidemill_engine.quarantine import Quarantine, quarantine
from tidemill_runtime.artifacts import Artifacts
from tidemill_runtime.kafka import ensure_topics
from tidemill_runtime.settings import ServiceSettings
from tidemill_testkit.fixtures import unique_name
from tidemill_testkit.topics import Sent, write_topic
from tidemill_trainer.coldstart import cold_rows
from tidemill_trainer.domain.manifest import canonical_bytes, manifest_of
from tidemill_trainer.domain.quarantine import without
from tidemill_trainer.domain.rows import Origins, Rows, concatenate
from tidemill_trainer.domain.training import Trained
from tidemill_trainer.kafka import read_quarantine, read_tainted
from tidemill_trainer.worker import Job, run

HOUR = 3_600_000_000
DIGEST = "0" * 64
SPEC: PipelineSpec = parse_pipeline(
    b"""
version: 1
name: demo
partitions: 2
sources:
  rides: {key: [ride], time: at, fields: {
    ride: {type: string}, driver: {type: string}, at: {type: timestamp}, late: {type: boolean}}}
entities: {driver: {key: [driver]}}
views: {rides-by-driver: {source: rides, entity: driver, windows: {1d: {length: 1d, panes: 24}},
  aggregations: [{function: count}]}}
request: {key: ride, fields: {ride: {type: string}, driver: {type: string}}}
label: {source: rides, join: ride, expression: late}
cold_start: {source: rides, time: at}
"""
)


FITTED = fit_logistic(np.array([[0.0], [1.0]], np.float32), np.array([0.0, 1.0]))


def breach(number: int, *ranges: tuple[int, int], source: str = "rides", partition: int = 0) -> QualityBreached:
    """A breach of the window that ends at the hour `number`."""
    return QualityBreached(
        source=source, partition=partition, field="late", rule="nulls", value=0.5,
        bound=0.1, rows=9, window_us=((number - 1) * HOUR, number * HOUR), ranges=list(ranges),
    )  # fmt: skip


def test_the_set_is_of_known_sources_of_windows_that_had_ended_and_were_not_released() -> None:
    told = [
        breach(1, (5, 9)), breach(2, (10, 12), (20, 20)), breach(3, (7, 11)), breach(4, (0, 0), partition=1),
        breach(5, (100, 200)), breach(9, (300, 400)), breach(6, (1, 1), source="others"), breach(7),
    ]  # fmt: skip
    found = quarantine(told, frozenset({breach(5).quarantine_id}), frozenset(SPEC.sources), 8 * HOUR)
    assert found.ranges == {"events.rides": {"0": [(5, 12), (20, 20)], "1": [(0, 0)]}}
    inside = [seq for seq in range(25) if found.holds("rides", 0, seq)]
    assert inside == [*range(5, 13), 20]
    assert found.holds("rides", "1", 0)
    assert not found.holds("rides", 2, 5)
    assert not found.holds("others", 0, 5)
    assert not quarantine([breach(7)], frozenset(), frozenset(SPEC.sources), 8 * HOUR)


def test_rows_go_by_their_label_event_or_their_prediction() -> None:
    origins = Origins(np.array(["a", "b", "c", "d"]), np.array([0, 0, 1, 1]), np.array([4, 5, 5, 6]))
    rows = Rows(np.arange(4), np.zeros((4, 1), np.float32), np.zeros(4), {}, origins)
    found = Quarantine({"events.rides": {"0": [(5, 9)]}})
    kept = without(rows, found, "rides", frozenset({"d"}))
    assert kept.labelled_us.tolist() == [0, 2]
    assert without(rows, Quarantine(), "rides", frozenset()) is rows
    both = concatenate([kept, rows])
    assert both.origins is not None
    assert both.origins.predictions.tolist() == ["a", "c", "a", "b", "c", "d"]
    archived = Rows(rows.labelled_us, rows.features, rows.labels, {})
    assert without(archived, found, "rides", frozenset()) is archived
    assert concatenate([archived, rows]).origins is None


def a_prediction(number: int, reached: dict[str, int]) -> Prediction:
    read = ViewRevision(entity="d", revision=1, at_us=0, positions=reached)
    return Prediction(
        prediction_id=UUID(int=number), pipeline="demo", key="k", at_us=0, epoch=1, model=DIGEST, version=1, score=0.5,
        vector=[1.0], features=DIGEST, revisions={"rides-by-driver": read}, request={},
    )  # fmt: skip


def sent(*events: Event) -> list[Sent]:
    """Records of events."""
    envelopes = [encode(each, id=str(number), source="/t", time_us=0) for number, each in enumerate(events)]
    return [(b"k", each.data, each.headers()) for each in envelopes]


@pytest.mark.anyio
async def test_the_set_and_the_tainted_predictions_are_read_from_the_log(
    kafka_bootstrap: str, postgres_dsn: str, tmp_path: Path
) -> None:
    settings = ServiceSettings(
        kafka=kafka_bootstrap, postgres=postgres_dsn, artifacts=str(tmp_path), state=tmp_path, prefix=unique_name("t")
    )
    topics = [*control_topics(prefix=settings.prefix), *pipeline_topics("demo", 2, prefix=settings.prefix)]
    await ensure_topics(settings.kafka, topics)
    assert not await read_quarantine(settings, SPEC, 8 * HOUR)
    released = QuarantineReleased(quarantine_id=breach(2).quarantine_id, source="rides", partition=0)
    told = sent(breach(1, (5, 9)), breach(2, (10, 12)), released)
    await write_topic(settings, topic("quality", prefix=settings.prefix), [*told, (b"k", b"garbage", [])])
    found = await read_quarantine(settings, SPEC, 8 * HOUR)
    assert found.ranges == {"events.rides": {"0": [(5, 9)]}}

    answers = sent(
        a_prediction(1, {"0": 9, "1": 0}), a_prediction(2, {"0": 10}), Timer(source="demo", time_us=1),
        a_prediction(3, {"1": 5}), a_prediction(4, {"0": 5}),
    )  # fmt: skip
    name = topic("predictions", "demo", prefix=settings.prefix)
    await write_topic(settings, name, [*answers, (b"k", b"{", [])])
    tainted = await read_tainted(settings, SPEC, found)
    assert tainted == {str(UUID(int=number)) for number in (1, 4)}
    assert await read_tainted(settings, SPEC, Quarantine({"events.others": {"0": [(0, 9)]}})) == frozenset()


def write_archive(folder: Path, count: int) -> None:
    """Rides an hour apart in one partition."""
    rows: list[dict[str, Any]] = [
        {"partition": 0, "seq": n, "offset": n, "raw_offset": n, "id": f"e{n}", "event_us": n * HOUR, "ingest_us": 0,
         "key": "k", "outcome": "applied", "body": json.dumps(
             {"ride": f"r{n}", "driver": "d", "at": format_time(n * HOUR), "late": n % 3 == 0})}
        for n in range(count)
    ]  # fmt: skip
    write_deltalake(str(folder / "archive" / "events" / "rides"), pa.Table.from_pylist(rows))


def test_the_archives_rows_are_left_out_too(tmp_path: Path) -> None:
    write_archive(tmp_path, 20)
    found = Quarantine({"events.rides": {"0": [(3, 5), (19, 30)]}})
    positions = {"events.rides": {"0": 20}}
    whole = cold_rows(SPEC, str(tmp_path), as_of_us=100 * HOUR, positions=positions)
    kept = cold_rows(SPEC, str(tmp_path), as_of_us=100 * HOUR, positions=positions, quarantine=found)
    times = whole.labelled_us.tolist()
    assert kept.labelled_us.tolist() == [at for at in times if at // HOUR not in {3, 4, 5, 19}]
    stays = np.flatnonzero(np.isin(whole.labelled_us, kept.labelled_us))
    assert kept.digest() == whole.take(stays).digest(), "what the stream computed from them is what it served"


def test_the_manifest_names_what_was_left_out_and_says_nothing_of_nothing() -> None:
    request = TrainingRequested(
        request_id=derived_id("r"), pipeline="demo", at_us=HOUR, cause=Cause(kind="volume"), outcomes_to=5, spec=DIGEST,
        policy=DIGEST,
    )  # fmt: skip
    rows = Rows(np.arange(1), np.zeros((1, 1), np.float32), np.zeros(1), {})
    trained = Trained(FITTED, None, WindowChoice("all", (), 0, 0, ""), rows, rows, {"train": 1}, 0.5)
    digests = {"data": DIGEST, "code": DIGEST, "lock": DIGEST}
    plain = canonical_bytes(manifest_of(SPEC, request, trained, digests=digests))
    assert b"excluded" not in plain
    found = Quarantine({"events.rides": {"0": [(3, 5)]}})
    raw = canonical_bytes(manifest_of(SPEC, request, trained, digests=digests, excluded=found.ranges))
    assert json.loads(raw)["excluded"] == {"events.rides": {"0": [[3, 5]]}}
    assert TrainingManifest.model_validate_json(raw).excluded == found.ranges


@pytest.mark.anyio
@pytest.mark.timeout(300)
async def test_a_training_leaves_five_in_a_hundred_out_and_its_manifest_says_so(
    kafka_bootstrap: str, postgres_dsn: str, tmp_path: Path
) -> None:
    """The same request before the breach, after it and after its release: other rows, other bytes, then the first."""
    settings = ServiceSettings(
        kafka=kafka_bootstrap, postgres=postgres_dsn, artifacts=str(tmp_path), state=tmp_path, prefix=unique_name("t")
    )
    await ensure_topics(settings.kafka, control_topics(prefix=settings.prefix))
    count = 1000
    write_archive(tmp_path, count)
    small = {"trainer": "logistic", "windows": ["all"], "minimum_rows": 50}
    model = SPEC.model.model_copy(update=small)
    spec = SPEC.model_copy(update={"model": model, "partitions": 1})
    request = TrainingRequested(
        request_id=UUID(int=7), pipeline="demo", at_us=count * HOUR, cause=Cause(kind="cold_start"), outcomes_to=0,
        positions={"events.rides": {"0": count}}, spec=DIGEST, policy=DIGEST,
    )  # fmt: skip
    job = Job(request=request, spec=spec, champion=None, lock=DIGEST, cache=tmp_path / "cache")
    manifests = []
    held = breach(100, (50, 99))
    later = breach(count + 1, (0, 9))
    released = QuarantineReleased(quarantine_id=held.quarantine_id, source="rides", partition=0)
    for told in ([], [held, later], [released]):
        await write_topic(settings, topic("quality", prefix=settings.prefix), sent(*told))
        result = await run(job, settings)
        manifests.append(TrainingManifest.model_validate_json(Artifacts(tmp_path).get(result["manifest"])))
    before, without_them, again = manifests
    assert without_them.excluded == {"events.rides": {"0": [(50, 99)]}}
    assert (before.excluded, again) == ({}, before)
    assert sum(before.rows.values()) - sum(without_them.rows.values()) == 50
    assert before.data != without_them.data
