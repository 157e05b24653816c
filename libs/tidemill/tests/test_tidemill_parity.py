"""`read_parity` over topics and an archive that tests write: what it reads, what it leaves out, what is said."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from typer.testing import CliRunner

from tidemill.cli.main import build
from tidemill.client import AsyncClient, Endpoints, TidemillError
from tidemill.client.transport import SERVICES
from tidemill.ledger.topics import Record
from tidemill.parity import read_parity
from tidemill_contracts import Envelope, format_time
from tidemill_contracts.events import (
    Member,
    PipelineApplied,
    Prediction,
    Released,
    ReleaseReason,
    Timer,
    ViewRevision,
    encode,
)
from tidemill_contracts.pipeline import parse_pipeline
from tidemill_engine.entities import event_mark
from tidemill_engine.parity import Mismatch, Parity
from tidemill_engine.parity.check import Event
from tidemill_engine.windows import ViewState, compile_view
from tidemill_runtime.archive import archive_path

MINUTE = 60_000_000
BASE = 20_000 * 1440 * MINUTE
SPEC = parse_pipeline(
    b"""
version: 1
name: shop
partitions: 1
sources: {sales: {key: [shop], time: at, fields: {
  shop: {type: string}, at: {type: timestamp}, price: {type: float}}}}
entities: {shop: {key: [shop]}}
views: {till: {source: sales, entity: shop, windows: {1h: {length: 1h}},
  aggregations: [{function: mean, field: price}, {function: count}]}}
request: {key: id, fields: {id: {type: string}, shop: {type: string}, x: {type: float}}, features: {x: x}}
label: {source: sales, join: shop, expression: price > 1}
"""
)
NAMES = SPEC.feature_names()
DIGEST = "1" * 64


def released(epoch: int, spec: str) -> Released:
    return Released(
        pipeline="shop", epoch=epoch, members=[Member(name="m", model=DIGEST, version=1)],
        views={"till": SPEC.view_version("till")}, features=NAMES, spec=spec, policy=DIGEST, at_us=BASE,
        reason=ReleaseReason(kind="first"),
    )  # fmt: skip


class World:
    """Ten sales a minute apart, a prediction after each; epoch 2 belongs to a file that nobody has any more."""

    def __init__(self, artifacts: Path) -> None:
        self.artifacts = artifacts
        state = ViewState(compile_view(SPEC.views["till"], SPEC.sources["sales"]))
        rows, self.predictions = list[dict[str, Any]](), list[Prediction]()
        for seq in range(10):
            at, price = BASE + seq * MINUTE, 0.1 * (seq + 1)
            body = json.dumps({"shop": "a", "at": format_time(at), "price": price})
            rows.append(
                {"partition": 0, "seq": seq, "offset": 3 * seq, "raw_offset": seq, "id": f"e{seq}", "event_us": at,
                 "ingest_us": 0, "key": "a", "body": body, "outcome": "applied"}
            )  # fmt: skip
            mark = np.array([event_mark(f"e{seq}")], np.uint64)
            place = (np.zeros(1, np.int32), np.array([seq]))
            row = state.apply([b"a"], np.array([at]), mark, np.array([[price]]), place)
            self.predictions.append(self._prediction(seq, state, row))
        write_deltalake(archive_path(str(artifacts), "sales"), pa.Table.from_pylist(rows[::-1]))

    def _prediction(self, seq: int, state: ViewState, row: Any) -> Prediction:  # noqa: ANN401 - an array
        values, at, revision = state.vectors(row)
        read = ViewRevision(entity="a", revision=int(revision[0]), at_us=int(at[0]), positions={"0": seq})
        return Prediction(
            prediction_id=UUID(int=seq), pipeline="shop", key=str(seq), at_us=BASE + seq * MINUTE, epoch=1,
            model=DIGEST, version=1, score=0.5, vector=[*values[0].tolist(), 2.5], features=SPEC.vector_digest(NAMES),
            revisions={"till": read}, request={"id": str(seq), "shop": "a", "x": 2.5},
        )  # fmt: skip

    async def topic(self, _bootstrap: str, name: str) -> AsyncGenerator[Record, None]:
        if name == "tidemill.pipelines.v1":
            applied = PipelineApplied(
                pipeline="shop", revision=1, digest=SPEC.digest(), spec=SPEC.model_dump(mode="json")
            )
            yield Record(0, 0, b"shop", encode(applied, id="1", source="/s", time_us=0), 1)
            return
        assert name == "tidemill.predictions.shop.v1"
        yield Record(0, 0, None, None, 1)
        yield Record(0, 1, None, encode(Timer(source="shop", time_us=1), id="t", source="/s", time_us=1), 1)
        yield Record(0, 2, None, Envelope("x", Prediction.TYPE, "/s", 1, b"{}"), 1)
        for at, each in enumerate([*self.predictions, self.predictions[-1]]):  # the last one was written twice
            yield Record(0, 3 + at, None, encode(each, id=str(each.prediction_id), source="/s", time_us=1), 1)

    def client(self) -> AsyncClient:
        newer = SPEC.model_copy(update={"description": "another text"})
        answers: dict[str, Any] = {
            "/v1/pipelines/shop": {"pipeline": "shop", "revision": 2, "digest": newer.digest(), "frozen": False,
                                   "epoch": 1, "spec": newer.model_dump(mode="json")},
            "/v1/pipelines/shop/releases": {"releases": [
                released(1, SPEC.digest()).model_dump(mode="json"), released(2, DIGEST).model_dump(mode="json")]},
            "/v1/archive/flush": {"sources": {}},
        }  # fmt: skip

        def answer(request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, json=answers[request.url.path])

        urls = {name: f"http://{name}.test" for name in SERVICES}
        endpoints = Endpoints(urls, kafka="kafka.test:9092", artifacts=str(self.artifacts))
        return AsyncClient(endpoints=endpoints, transport=httpx.MockTransport(answer))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    monkeypatch.setattr("tidemill.parity.read_topic", made.topic)
    return made


async def test_every_prediction_of_the_log_is_computed_again_once(world: World) -> None:
    async with world.client() as client:
        found = await read_parity(client, "shop")
    assert (found.checked, found.values, found.mismatches, found.unknown) == (10, 30, 0, 0)


async def test_only_the_newest_are_looked_at(world: World) -> None:
    async with world.client() as client:
        found = await read_parity(client, "shop", since_us=3 * MINUTE)
    assert found.checked == 4


async def test_one_changed_value_is_named_with_the_event_that_made_the_difference(world: World) -> None:
    true = world.predictions[6]
    values = [true.vector[0], true.vector[1], true.vector[2]]
    assert values[0] is not None
    world.predictions[6] = true.model_copy(update={"vector": [values[0] + 1e-9, *values[1:]]})
    async with world.client() as client:
        found = await read_parity(client, "shop")
    place, since = (0, 9), Event("sales", 0, 6, 18, "e6")
    assert found.mismatches == 1
    assert found.first == [
        Mismatch(
            str(true.prediction_id), place, true.at_us, "till", "a", "price_mean_1h", values[0] + 1e-9, values[0], since
        )
    ]


async def test_answers_under_a_forgotten_pipeline_file_are_counted(world: World) -> None:
    world.predictions[0] = world.predictions[0].model_copy(update={"epoch": 2})
    async with world.client() as client:
        found = await read_parity(client, "shop")
    assert (found.checked, found.unknown) == (9, 1)


async def test_an_archive_without_the_events_is_an_error_in_words(world: World) -> None:
    world.artifacts = world.artifacts / "elsewhere"
    async with world.client() as client:
        with pytest.raises(TidemillError, match="the events of sales cannot be read"):
            await read_parity(client, "shop")


@pytest.mark.parametrize("mismatches", [0, 1])
def test_the_command_tells_and_exits(monkeypatch: pytest.MonkeyPatch, mismatches: int) -> None:
    first = Mismatch("p", (0, 1), BASE, "till", "a", "price_mean_1h", 1.5, None, Event("sales", 0, 6, 18, "e6"))
    found = Parity(10, 30, mismatches, 2, {"till.price_mean_1h": 1} if mismatches else {}, [first] * mismatches)
    asked = []

    async def read(_client: AsyncClient, pipeline: str, *, since_us: int | None) -> Parity:
        asked.append((pipeline, since_us))
        return found

    monkeypatch.setattr("tidemill.parity.read_parity", read)
    for name in SERVICES:
        monkeypatch.setenv(f"TIDEMILL_URL_{name.upper()}", "http://127.0.0.1:9")
    run = CliRunner()
    told = run.invoke(build(), ["parity", "--pipeline", "shop", "--since", "1h"])
    assert told.exit_code == mismatches
    assert f"10 vectors with 30 values checked, {mismatches} differ" in told.output
    assert ("till.price_mean_1h: 1 differ" in told.output) == bool(mismatches)
    plain = run.invoke(build(), ["parity", "--pipeline", "shop", "--all", "--json"])
    assert json.loads(plain.output)["mismatches"] == mismatches
    assert asked == [("shop", 60 * MINUTE), ("shop", None)]
    assert run.invoke(build(), ["parity", "--pipeline", "shop", "--since", "soon"]).exit_code == 2
