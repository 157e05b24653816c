"""HTTP: every bad request has its declared status, on the hot path and behind it, and neighbours are unharmed."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import numpy as np
import pytest
from serving_cases import inputs, linear
from serving_edge import KEY, NAMES, PATH, SPEC, Edge, client, direct
from serving_stack import until

from tidemill_serving.api.predict import MAXIMUM_BYTES, MINIMUM_WATERMARK
from tidemill_serving.domain.answers import Record
from tidemill_serving.domain.desk import Desk
from tidemill_serving.domain.replica import WATERMARK_KEY
from tidemill_serving.onnx import Scorer

pytestmark = pytest.mark.anyio


@pytest.fixture
def edge() -> Edge:
    made = Edge()
    made.release()
    return made


@pytest.fixture(params=["direct", "front", "behind"])
async def http(request: pytest.FixtureRequest, edge: Edge) -> AsyncIterator[httpx.AsyncClient]:
    async with direct(edge) if request.param == "direct" else client(getattr(edge, request.param)) as opened:
        yield opened


def body(**fields: object) -> bytes:
    return json.dumps({"inputs": inputs(), **fields}).encode()


JSON = {"content-type": "application/json"}
BAD: list[tuple[str, str, bytes, dict[str, str], int]] = [
    ("malformed", PATH, b"{", JSON, 400),
    ("empty", PATH, b"", JSON, 400),
    ("not UTF-8", PATH, b"\xff\xfe", JSON, 400),
    ("NaN", PATH, b'{"inputs": {"distance": NaN}}', JSON, 400),
    ("out of range", PATH, b'{"inputs": {"distance": 1e999}}', JSON, 400),
    ("duplicate key", PATH, b'{"inputs": {}, "inputs": {}}', JSON, 400),
    ("deep", PATH, b"[" * 200_000, JSON, 400),
    ("an array", PATH, b"[]", JSON, 422),
    ("wrong type", PATH, body(inputs=inputs(distance="far")), JSON, 422),
    ("unknown field", PATH, body(inputs=inputs(gate="B")), JSON, 422),
    ("naive time", PATH, body(time="2013-01-01T00:00:00"), JSON, 422),
    ("unknown member", PATH, body(model="mine"), JSON, 422),
    ("bad id", PATH, body(), JSON | {"idempotency-key": "a b"}, 422),
    ("too large", PATH, b" " * (MAXIMUM_BYTES + 1), JSON, 413),
    ("not JSON", PATH, body(), {"content-type": "text/plain"}, 415),
    ("no type", PATH, body(), {}, 415),
    ("unknown pipeline", "/v1/predict/other", body(), JSON, 404),
    ("no pipeline", "/v1/predict/", body(), JSON, 404),
    ("deeper path", f"{PATH}/more", body(), JSON, 404),
    ("behind", PATH, body(), JSON | {MINIMUM_WATERMARK: "5"}, 503),
    ("still behind", PATH, body(), JSON | {MINIMUM_WATERMARK: "5", "prefer": "wait=0"}, 503),
    ("a wait that is none", PATH, body(), JSON | {MINIMUM_WATERMARK: "5", "prefer": "wait=long, return=minimal"}, 503),
    ("no number", PATH, body(), JSON | {MINIMUM_WATERMARK: "--5"}, 422),
    ("a fraction", PATH, body(), JSON | {MINIMUM_WATERMARK: "1.5"}, 422),
    ("bad watermark", PATH, body(), JSON | {MINIMUM_WATERMARK: "soon"}, 422),
]


@pytest.mark.parametrize(("path", "raw", "headers", "status"), [pytest.param(*case[1:], id=case[0]) for case in BAD])
async def test_a_bad_request_has_its_status_and_tells_nothing_it_was_sent(
    http: httpx.AsyncClient, path: str, raw: bytes, headers: dict[str, str], status: int
) -> None:
    answer = await http.post(path, content=raw, headers=headers)
    assert answer.status_code == status
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["title"]
    assert ("retry-after" in answer.headers) == (status == 503)
    assert len(answer.content) < 2000


async def test_a_fault_names_field_and_rule(http: httpx.AsyncClient) -> None:
    problem = (await http.post(PATH, content=body(inputs=inputs(carrier="ZZ")), headers=JSON)).json()
    assert [(error["field"], error["rule"]) for error in problem["errors"]] == [("inputs.carrier", "category")]
    assert "ZZ" not in json.dumps(problem)


async def test_an_answer_carries_the_trace_it_was_asked_in(http: httpx.AsyncClient) -> None:
    trace = f"00-{'c' * 32}-{'d' * 16}-01"
    answer = await http.post(PATH, content=body(), headers=JSON | {"traceparent": trace})
    assert answer.status_code == 200
    assert answer.json()["trace_id"] == "c" * 32
    assert answer.headers["traceparent"].startswith(trace[:36])


async def test_a_request_waits_for_the_features_that_it_prefers_to_wait_for(
    http: httpx.AsyncClient, edge: Edge
) -> None:
    headers = JSON | {MINIMUM_WATERMARK: "5", "prefer": "respond-async, wait=20"}
    asked = asyncio.ensure_future(http.post(PATH, content=body(), headers=headers))
    [places] = [desk.places for desk in edge.house.desks.values()]
    for mark in (4, 5):
        await until(lambda: edge.freshness.waiting == 1, "the request waits")
        assert not asked.done()
        for place in places:
            edge.house.replica.apply(place, 0, WATERMARK_KEY, json.dumps({"watermark_us": mark}).encode())
        edge.freshness.progress()
    answer = await asked
    assert answer.status_code == 200
    assert edge.freshness.waiting == 0


async def test_who_goes_away_waits_no_longer(edge: Edge) -> None:
    [desk] = edge.house.desks.values()
    asked = asyncio.ensure_future(edge.freshness.reached(desk, 5, 20.0))
    await until(lambda: edge.freshness.waiting == 1, "the request waits")
    asked.cancel()
    await until(lambda: edge.freshness.waiting == 0, "the request is forgotten")
    assert not await edge.freshness.reached(desk, 5, 0.001)


async def test_many_are_answered_in_order_and_one_bad_one_refuses_all(http: httpx.AsyncClient, edge: Edge) -> None:
    instances = [{"inputs": inputs(distance=number / 4), "id": str(number)} for number in range(20)]
    answer = await http.post(PATH, json={"instances": instances})
    scores = [item["score"] for item in answer.json()["predictions"]]
    assert scores == sorted(scores)
    assert len(set(scores)) == 20
    assert len(edge.log.entries) == 20
    instances[7]["inputs"] = {}
    assert (await http.post(PATH, json={"instances": instances})).status_code == 422
    assert len(edge.log.entries) == 20


async def test_requests_of_one_tick_are_one_batch_and_one_write(http: httpx.AsyncClient, edge: Edge) -> None:
    good = [http.post(PATH, content=body(id=str(number)), headers=JSON) for number in range(16)]
    answers = await asyncio.gather(*good, http.post(PATH, content=b"{", headers=JSON))
    assert [answer.status_code for answer in answers] == [200] * 16 + [400]
    assert len(edge.log.entries) == 16
    assert edge.log.writes < 8


async def test_a_full_log_refuses_what_is_new_and_repeats_what_is_known(http: httpx.AsyncClient, edge: Edge) -> None:
    first = await http.post(PATH, content=body(id="a"), headers=JSON)
    edge.log.is_full = True
    again, new = [await http.post(PATH, content=body(id=name), headers=JSON) for name in ("a", "b")]
    assert again.content == first.content
    assert new.status_code == 503
    assert new.headers["retry-after"] == "1"
    edge.log.is_full = False
    assert (await http.post(PATH, content=body(id="b"), headers=JSON)).status_code == 200
    assert len(edge.log.entries) == 2


@pytest.mark.parametrize("path", [PATH, f"/v2/models/{SPEC.name}/infer"])
async def test_who_comes_above_what_a_tick_takes_is_refused(http: httpx.AsyncClient, edge: Edge, path: str) -> None:
    edge.batcher.pace.most = 2.0
    raw = body() if path == PATH else json.dumps(tensor()).encode()
    answers = await asyncio.gather(*[http.post(path, content=raw, headers=JSON) for _ in range(40)])
    assert {answer.status_code for answer in answers} == {200, 503}
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    wanted = "application/problem+json" if path == PATH else "application/json"
    assert {answer.headers["content-type"] for answer in refused} == {wanted}
    assert len(edge.log.entries) == len(answers) - len(refused)
    assert (await http.post(path, content=raw, headers=JSON)).status_code == 200


async def test_instances_of_one_request_are_logged_by_one_write(http: httpx.AsyncClient, edge: Edge) -> None:
    many = json.dumps({"instances": [{"inputs": inputs()} for _ in range(100)]}).encode()
    answers = await asyncio.gather(*[http.post(PATH, content=raw, headers=JSON) for raw in [body()] * 20 + [many] * 2])
    assert {answer.status_code for answer in answers} == {200}
    assert [len(entries) for entries in edge.log.written if len(entries) > 1] != []
    whole = [{dict(entry.headers)["traceparent"] for entry in entries} for entries in edge.log.written]
    assert sum(map(len, whole)) == len(set.union(*whole)), "the records of one request stand in one write"


async def test_one_request_that_breaks_the_code_leaves_its_neighbours_unharmed(
    http: httpx.AsyncClient, edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Desk.body

    def breaking(desk: Desk, record: Record) -> bytes:
        if record.key == "poison":
            raise RuntimeError("a fault of ours")
        return whole(desk, record)

    monkeypatch.setattr(Desk, "body", breaking)
    names = ["a", "poison", "b", "a"]
    asked = [http.post(PATH, content=body(inputs=inputs(flight=n), id=n), headers=JSON) for n in names]
    answers = await asyncio.gather(*asked)
    assert [answer.status_code for answer in answers] == [200, 503, 200, 200]
    assert answers[0].content == answers[3].content
    assert len(edge.log.entries) == 2


async def test_before_a_release_and_before_the_features_are_read(edge: Edge) -> None:
    bare = Edge()
    async with client(bare.front) as http:
        assert (await http.post(PATH, content=body(), headers=JSON)).status_code == 409
        bare.desk.is_ready = False
        assert (await http.post(PATH, content=body(), headers=JSON)).status_code == 503
        status = (await http.get("/v1/status")).json()["pipelines"][SPEC.name]
        assert (status["ready"], status["epoch"], status["answered"]) == (False, None, 0)


@pytest.mark.parametrize("app", ["front", "behind"])
async def test_the_key_is_asked_for_on_both_paths(app: str) -> None:
    edge = Edge(key=KEY)
    edge.release()
    async with client(getattr(edge, app)) as http:
        for offered in ({}, {"x-api-key": "wrong"}, {"authorization": "Bearer wrong"}):
            assert (await http.post(PATH, content=body(), headers=JSON | offered)).status_code == 401
        for offered in ({"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}):
            assert (await http.post(PATH, content=body(), headers=JSON | offered)).status_code == 200
        assert (await http.get("/v2/health/live")).status_code == 200


async def test_a_body_in_parts_is_read_within_the_limit(edge: Edge) -> None:
    raw = body()

    async def parts(of: bytes, size: int) -> AsyncIterator[bytes]:
        for start in range(0, len(of), size):
            yield of[start : start + size]

    async with client(edge.front) as http:
        assert (await http.post(PATH, content=parts(raw, 7), headers=JSON)).status_code == 200
        large = await http.post(PATH, content=parts(b" " * (MAXIMUM_BYTES + 9), 65_536), headers=JSON)
        assert large.status_code == 413


def tensor(**changes: object) -> dict[str, Any]:
    data = [0.5] * len(NAMES)
    found = {"name": "features", "shape": [1, len(NAMES)], "datatype": "FP32", "data": data} | changes
    return {"inputs": [found]}


async def test_the_inference_protocol_describes_and_scores_the_champion(edge: Edge) -> None:
    path = f"/v2/models/{SPEC.name}"
    async with client(edge.front) as http:
        assert (await http.get("/v2")).json()["name"] == "tidemill"
        assert (await http.get("/v2/health/live")).json() == {"live": True}
        assert (await http.get("/v2/health/ready")).status_code == 503
        metadata = (await http.get(path)).json()
        assert metadata["versions"] == ["3"]
        assert metadata["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, len(NAMES)]}]
        assert (await http.get(f"{path}/ready")).json() == {"name": SPEC.name, "ready": True}
        for changes in ({}, {"datatype": "FP64"}, {"data": [[0.5] * len(NAMES)]}):
            answer = await http.post(f"{path}/versions/3/infer", json=tensor(**changes) | {"id": "7"})
            assert answer.json()["id"] == "7"
            (output,) = answer.json()["outputs"]
            expected = Scorer(linear(NAMES), len(NAMES)).scores(np.full((1, len(NAMES)), 0.5, np.float32))
            assert output == {"name": "probability", "datatype": "FP32", "shape": [1], "data": expected.tolist()}


@pytest.mark.parametrize(
    ("path", "make", "status"),
    [
        ("other", tensor, 404),
        (f"{SPEC.name}/versions/9", tensor, 404),
        (SPEC.name, dict, 400),
        (SPEC.name, lambda: {"inputs": []}, 400),
        (SPEC.name, lambda: tensor(name="x"), 400),
        (SPEC.name, lambda: tensor(datatype="INT64"), 400),
        (SPEC.name, lambda: tensor(shape=[2, len(NAMES)]), 400),
        (SPEC.name, lambda: tensor(shape=[-1, len(NAMES)]), 400),
        (SPEC.name, lambda: tensor(shape=[1]), 400),
        (SPEC.name, lambda: tensor(data=["a"] * len(NAMES)), 400),
        (SPEC.name, lambda: tensor(data=[0.5, "a", *[0.5] * (len(NAMES) - 2)]), 400),
        (SPEC.name, lambda: tensor(data=[0.5, None, *[0.5] * (len(NAMES) - 2)]), 400),
        (SPEC.name, lambda: tensor(data=[0.5] * (len(NAMES) + 1)), 400),
        (SPEC.name, lambda: tensor(data=[1e300] * len(NAMES)), 400),
        (SPEC.name, lambda: tensor(extra=1), 400),
        (SPEC.name, lambda: tensor() | {"outputs": [{"name": "x"}]}, 400),
    ],
)
async def test_bad_inference_requests_have_an_error_text(
    edge: Edge, path: str, make: Callable[[], dict[str, Any]], status: int
) -> None:
    async with client(edge.front) as http:
        answer = await http.post(f"/v2/models/{path}/infer", json=make())
        assert answer.status_code == status
        assert isinstance(answer.json()["error"], str)
        malformed = await http.post(f"/v2/models/{path}/infer", content=b"{", headers=JSON)
        assert malformed.status_code in {400, 404}
        assert "error" in malformed.json()
