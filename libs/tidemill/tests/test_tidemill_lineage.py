import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from tidemill.client import AsyncClient, Endpoints, TidemillError
from tidemill.client.transport import SERVICES
from tidemill.ledger.topics import Record
from tidemill.lineage import walk
from tidemill.lineage.resolve import resolve
from tidemill_contracts import Envelope
from tidemill_contracts.events import Prediction, TrainingManifest, ViewRevision
from tidemill_contracts.pipeline import load_pipeline
from tidemill_runtime.archive import archive_path
from tidemill_runtime.artifacts import Artifacts

SPEC = load_pipeline(Path(__file__).parents[3] / "pipelines" / "flight-delay.yaml")
PREDICTION, RUN, REQUEST, DRIFT = (str(UUID(int=number)) for number in range(1, 5))
DIGEST, MODEL = "0" * 64, "1" * 64


def archived(artifacts: Path, source: str, counts: dict[int, int]) -> None:
    """An archive with `counts` events by partition; offsets have holes, as transactions leave them."""
    rows: list[dict[str, Any]] = [
        {"partition": partition, "seq": seq, "offset": 10 * seq + partition, "raw_offset": seq + 5,
         "id": f"{source}-{partition}-{seq}", "event_us": 1_000_000 * seq, "ingest_us": 0, "key": "k", "body": "{}",
         "outcome": "applied"}
        for partition, count in counts.items() for seq in reversed(range(count))
    ]  # fmt: skip
    late = {**rows[0], "seq": None, "outcome": "late"}
    write_deltalake(archive_path(str(artifacts), source), pa.Table.from_pylist([*rows, late]))


def prediction() -> Prediction:
    revisions = {
        "airport-departures": ViewRevision(entity="EWR", revision=7, at_us=0, positions={"0": 3, "2": 1}),
        "aircraft-arrivals": ViewRevision(entity="N1", revision=0),
    }
    return Prediction(
        prediction_id=UUID(PREDICTION), pipeline=SPEC.name, key="UA1", at_us=9_000_000, epoch=2, model=MODEL, version=3,
        score=0.25, vector=[], features=DIGEST, revisions=revisions, request={"flight": "UA1"},
    )  # fmt: skip


def manifest() -> bytes:
    made = TrainingManifest(
        pipeline=SPEC.name, spec=DIGEST, policy=DIGEST, trainer="lightgbm", parameters={}, window="30d", seed=1,
        outcomes=(0, 500), as_of_us=0, views={}, features=[], rows={}, data=DIGEST, code=DIGEST, lock=DIGEST,
    )  # fmt: skip
    return made.model_dump_json().encode()


class World:
    """Services that know one prediction."""

    def __init__(self, artifacts: Path) -> None:
        self.artifacts = artifacts
        named = Artifacts(artifacts).put(manifest())
        release = {
            "pipeline": SPEC.name, "epoch": 2, "members": [{"name": "m", "model": MODEL, "version": 3}], "views": {},
            "features": [], "spec": DIGEST, "policy": DIGEST, "at_us": 5, "reason": {"kind": "gate"},
        }  # fmt: skip
        edges = [("run", RUN), ("manifest", named), ("request", REQUEST), ("drift", DRIFT)]
        drift = {
            "event_id": DRIFT, "pipeline": SPEC.name, "kind": "concept", "subject": "paired_loss", "at_us": 4,
            "effect": 0.1, "before": 0.4, "after": 0.5, "detector": "adwin", "outcomes": [100, 200], "policy": DIGEST,
        }  # fmt: skip
        base = f"/v1/pipelines/{SPEC.name}"
        self.answers: dict[str, Any] = {
            f"/v1/outcomes/{PREDICTION}": {
                "pipeline": SPEC.name, "seq": 12, "prediction_id": PREDICTION, "label_event": "arr-1",
                "label_partition": 1, "label_seq": 2,
            },
            base: {"pipeline": SPEC.name, "revision": 1, "digest": DIGEST, "frozen": False, "epoch": 2,
                   "spec": SPEC.model_dump(mode="json")},
            f"{base}/releases": {"releases": [release | {"epoch": 1}, release]},
            f"{base}/drifts": {"items": [drift]},
            f"/v1/lineage/model/{MODEL}": {"items": [{"parent_kind": kind, "parent": name} for kind, name in edges]},
            f"/v1/runs/{REQUEST}": {"at_us": 4, "cause": {"kind": "drift", "event_id": DRIFT, "detail": ""}},
            "/v1/archive/flush": {"sources": {}},
            "/v1/status": {"pipelines": {SPEC.name: {}}},
        }  # fmt: skip

    def client(self) -> AsyncClient:
        def answer(request: httpx.Request) -> httpx.Response:
            found = self.answers.get(request.url.path)
            return httpx.Response(404, json={"title": "nothing"}) if found is None else httpx.Response(200, json=found)

        urls = {name: f"http://{name}.test" for name in SERVICES}
        endpoints = Endpoints(urls, kafka="kafka.test:9092", artifacts=str(self.artifacts))
        return AsyncClient(endpoints=endpoints, transport=httpx.MockTransport(answer))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    async def topic(_bootstrap: str, name: str) -> AsyncGenerator[Record, None]:
        assert name == f"tidemill.predictions.{SPEC.name}.v1"
        raw = prediction().model_dump_json().encode()
        yield Record(0, 0, None, None, 1)
        yield Record(0, 1, None, Envelope(PREDICTION, Prediction.TYPE, "/s", 9_000_000, raw), 1)

    monkeypatch.setattr("tidemill.lineage.walking.read_topic", topic)
    archived(tmp_path, "departures", {0: 5, 1: 3, 2: 4})
    archived(tmp_path, "arrivals", {1: 3})
    return World(tmp_path)


async def test_a_prediction_is_walked_down_to_offsets_and_up_to_the_cause(world: World) -> None:
    async with world.client() as client:
        found = await walk(client, PREDICTION)
    assert [(step.depth, step.what) for step in found.steps] == [
        (0, "prediction"), (1, "release"), (2, "model"), (3, "run"), (4, "manifest"), (4, "request"),
        (5, "cause: drift"), (1, "view airport-departures"), (2, "up to event"), (2, "up to event"),
        (1, "view aircraft-arrivals"), (1, "label"), (2, "event"),
    ]  # fmt: skip
    by = {step.what: step for step in found.steps}
    assert "0.2500 for UA1" in by["prediction"].which
    assert by["release"].detail["epoch"] == 2
    assert "outcomes 0 to 500" in by["manifest"].which
    assert "0.4000 to 0.5000 by adwin, outcomes 100 to 200" in by["cause: drift"].which
    places = [
        (s.detail["source"], s.detail["partition"], s.detail["offset"]) for s in found.steps if "offset" in s.detail
    ]
    assert places == [("departures", 0, 30), ("departures", 2, 12), ("arrivals", 1, 21)]
    assert by["event"].detail["id"] == "arrivals-1-2"
    assert "defaults" in by["view aircraft-arrivals"].which
    json.dumps(found.to_json())


async def test_without_a_label_every_pipeline_is_searched(world: World) -> None:
    del world.answers[f"/v1/outcomes/{PREDICTION}"]
    async with world.client() as client:
        found = await walk(client, PREDICTION)
    assert (found.steps[-1].what, found.steps[-1].which) == ("label", "none yet")


async def test_a_training_by_hand_has_a_cause_without_an_event(world: World) -> None:
    world.answers[f"/v1/runs/{REQUEST}"]["cause"] = {"kind": "hand", "event_id": None, "detail": "to try it"}
    async with world.client() as client:
        steps = (await walk(client, PREDICTION)).steps
    assert [step.which for step in steps if step.what == "cause"] == ["hand to try it"]


async def test_an_unknown_prediction_is_said_to_be_unknown(world: World) -> None:
    async with world.client() as client:
        with pytest.raises(TidemillError, match="there is no prediction"):
            await walk(client, str(UUID(int=99)))


async def test_events_that_the_archive_does_not_hold_are_an_error_of_words(tmp_path: Path) -> None:
    with pytest.raises(TidemillError, match="departures cannot be resolved"):
        await resolve(str(tmp_path), [("departures", 0, 1)])
    archived(tmp_path, "departures", {0: 2})
    with pytest.raises(TidemillError, match="flush it first"):
        await resolve(str(tmp_path), [("departures", 0, 2)])
    assert (await resolve(str(tmp_path), [("departures", 0, 1)]))["departures", 0, 1].offset == 10
