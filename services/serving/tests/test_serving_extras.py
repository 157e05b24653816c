"""Beside an answer: features that the request puts in, why the score is what it is, and answers only in time."""

import json
import math
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from serving_cases import inputs, linear
from serving_edge import NAMES, PATH, Edge, client, direct

from tidemill_contracts.events import Prediction
from tidemill_serving.domain.answers import recall
from tidemill_serving.onnx import Scorer
from tidemill_serving.onnx.explaining import Explainers

pytestmark = pytest.mark.anyio
VIEW = [name for name in NAMES if not name.startswith("request.")]
MEAN = VIEW[0]


@pytest.fixture
def edge() -> Edge:
    made = Edge()
    made.release()
    made.predictor.explains = Explainers(lambda _: linear(NAMES))
    return made


@pytest.fixture(params=["direct", "front", "behind"])
async def http(request: pytest.FixtureRequest, edge: Edge) -> AsyncIterator[httpx.AsyncClient]:
    async with direct(edge) if request.param == "direct" else client(getattr(edge, request.param)) as opened:
        yield opened


def body(**fields: object) -> dict[str, Any]:
    return {"inputs": inputs(), **fields}


def logged(edge: Edge) -> list[Prediction]:
    return [Prediction.read(entry.value) for entry in edge.log.entries if entry.kind == "prediction"]


async def test_a_feature_of_the_request_is_scored_flagged_and_logged(http: httpx.AsyncClient, edge: Edge) -> None:
    plain = (await http.post(PATH, json=body())).json()
    answer = (await http.post(PATH, json=body(features={MEAN: 300.0, VIEW[1]: None}))).json()
    assert "inline" not in plain
    assert answer["inline"] == [MEAN, VIEW[1]]
    before, after = logged(edge)
    assert after.inline == {MEAN: 300.0, VIEW[1]: None}
    assert before.inline == {}
    expected = list(before.vector)
    expected[NAMES.index(MEAN)], expected[NAMES.index(VIEW[1])] = 300.0, None
    assert after.vector == expected
    row = np.array([[math.nan if value is None else value for value in after.vector]], np.float32)
    assert answer["score"] == Scorer(linear(NAMES), len(NAMES)).scores(row)[0]
    assert answer["score"] != plain["score"]


async def test_neighbours_in_a_list_keep_their_own_features(http: httpx.AsyncClient, edge: Edge) -> None:
    both = {"instances": [body(), body(features={MEAN: 300.0}), body()]}
    first, second, third = (await http.post(PATH, json=both)).json()["predictions"]
    assert first["score"] == third["score"] != second["score"]
    assert [record.inline for record in logged(edge)] == [{}, {MEAN: 300.0}, {}]


@pytest.mark.parametrize(
    ("features", "rule"),
    [
        ([], "type"), ("x", "type"), ({MEAN: "1"}, "type"), ({MEAN: True}, "type"), ({MEAN: 1e39}, "type"),
        ({MEAN: [1]}, "type"), ({"by-carrier.other": 1.0}, "unknown"), ({"request.distance": 1.0}, "request"),
        ({f"f{i}": 0 for i in range(1001)}, "type"),
    ],
)  # fmt: skip
async def test_features_are_checked(http: httpx.AsyncClient, edge: Edge, features: object, rule: str) -> None:
    for whole in (body(features=features), {"instances": [body(features=features)]}):
        answer = await http.post(PATH, json=whole)
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert error["rule"] == rule
        assert "features" in error["field"]
    assert not edge.log.entries


async def test_the_same_id_with_other_features_is_another_request(http: httpx.AsyncClient, edge: Edge) -> None:
    asked = body(id="a", features={MEAN: 1.0})
    first = await http.post(PATH, json=asked)
    assert (await http.post(PATH, json=asked)).content == first.content
    assert (await http.post(PATH, json=body(id="a", features={MEAN: 2.0}))).status_code == 422
    assert (await http.post(PATH, json=body(id="a"))).status_code == 422
    (entry,) = edge.log.entries
    identity, remembered = recall(entry.value)
    assert (identity, remembered.answer) == (first.json()["prediction_id"], first.content)


async def test_an_explanation_adds_up_to_the_score(http: httpx.AsyncClient) -> None:
    answer = (await http.post(f"{PATH}?explain=true", json=body(id="x", features={MEAN: 300.0}))).json()
    (member,) = answer["explanation"]
    assert set(member["contributions"]) == set(NAMES)
    assert member["base"] + sum(member["contributions"].values()) == pytest.approx(member["raw"], abs=1e-6)
    assert 1 / (1 + math.exp(-member["raw"])) == pytest.approx(answer["score"], abs=1e-6)
    assert member["contributions"][MEAN] == pytest.approx(0.01, abs=1e-6)  # 300 standard deviations are cut at 10
    again = (await http.post(f"{PATH}?explain=true", json=body(id="x", features={MEAN: 300.0}))).json()
    assert again == answer | {"explanation": None}
    plain = (await http.post(f"{PATH}?explain=false", json=body())).json()
    assert "explanation" not in plain


async def test_every_instance_of_a_list_is_explained(http: httpx.AsyncClient) -> None:
    asked = {"instances": [body(inputs=inputs(distance=float(place))) for place in range(10)]}
    found = (await http.post(f"{PATH}?explain=true", json=asked)).json()["predictions"]
    for place, answer in enumerate(found):
        terms = answer["explanation"][0]["contributions"]
        assert terms["request.distance"] == pytest.approx(0.001 * place, abs=1e-6)


@pytest.mark.parametrize("query", ["explain=maybe", "explain=true&explain=true", "why=true", "explain="])
async def test_another_query_is_refused(http: httpx.AsyncClient, edge: Edge, query: str) -> None:
    assert (await http.post(f"{PATH}?{query}", json=body())).status_code == 422
    assert not edge.log.entries


async def test_too_many_are_not_explained(http: httpx.AsyncClient) -> None:
    answer = await http.post(f"{PATH}?explain=true", json={"instances": [body()] * 65})
    assert answer.status_code == 422


async def test_a_model_that_cannot_be_explained_answers_all_the_same(http: httpx.AsyncClient, edge: Edge) -> None:
    edge.predictor.explains = Explainers(lambda _: b"another's")
    answer = (await http.post(f"{PATH}?explain=true", json=body())).json()
    assert answer["explanation"][0]["error"] == "not a forest and not a linear model of the canonical form"
    assert len(edge.log.entries) == 1


async def test_what_cannot_be_in_time_is_refused_before_it_is_scored(http: httpx.AsyncClient, edge: Edge) -> None:
    edge.batcher.pace.each_s = 0.5
    late = await http.post(PATH, json=body(), headers={"tidemill-deadline-ms": "100"})
    assert late.status_code == 504
    assert not edge.log.entries
    edge.batcher.pace.each_s = 0.0
    in_time = await http.post(PATH, json=body(), headers={"tidemill-deadline-ms": "60000"})
    assert in_time.status_code == 200


@pytest.mark.parametrize("value", ["", "0", "-5", "1.5", "1e3", "soon", "99999999"])
async def test_a_deadline_is_milliseconds(http: httpx.AsyncClient, value: str) -> None:
    answer = await http.post(PATH, json=body(), headers={"tidemill-deadline-ms": value})
    assert answer.status_code == 422
    assert json.loads(answer.content)["errors"][0]["field"] == "tidemill-deadline-ms"
