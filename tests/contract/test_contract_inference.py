"""The Open Inference Protocol over REST, one behaviour of the public specification a row.

`specification/protocol/inference_rest.md` of kserve/open-inference-protocol, and Triton's extensions where named.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from serving_edge import NAMES, SPEC, Edge, client
from serving_models import two_and_two

pytestmark = pytest.mark.anyio
MODEL, WIDTH = f"/v2/models/{SPEC.name}", len(NAMES)
FEATURES = {"name": "features", "shape": [1, WIDTH], "datatype": "FP32", "data": [0.5] * WIDTH}
GOOD = {"inputs": [FEATURES]}
PAIR = {"inputs": [
    {"name": "a", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]},
    {"name": "b", "shape": [3], "datatype": "FP32", "data": [1, 1, 1]},
    {"name": "names", "shape": [2], "datatype": "BYTES", "data": ["x", "y"]},
]}  # fmt: skip


NONE: Mapping[str, str] = MappingProxyType({})


class Row(NamedTuple):
    """A behaviour: what is asked, the status, and members that the answer has."""

    says: str
    method: str
    path: str
    status: int = 200
    has: Any = None
    body: Any = None
    headers: Mapping[str, str] = NONE


def features(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {"inputs": [FEATURES | changes]}


ROWS = [
    Row("the server is live: 200", "GET", "/v2/health/live", has={"live": True}),
    Row("the server is ready: 200", "GET", "/v2/health/ready", has={"ready": True}),
    Row("a model is ready: 200", "GET", f"{MODEL}/ready", has={"name": SPEC.name, "ready": True}),
    Row("a version of a model is ready", "GET", f"{MODEL}/versions/3/ready", has={"ready": True}),
    Row("a model that is not there is not ready: 4xx", "GET", "/v2/models/none/ready", 404),
    Row("a version that is not there is not ready", "GET", f"{MODEL}/versions/9/ready", 404),
    Row("the server has a name, a version and extensions", "GET", "/v2", has={"name": "tidemill"}),
    Row("a model's metadata names inputs, outputs, platform", "GET", MODEL, has={
        "name": SPEC.name, "versions": ["3"], "platform": "onnx_onnxv1",
        "inputs": [{"name": "features", "datatype": "FP32", "shape": [-1, WIDTH]}],
        "outputs": [{"name": "probability", "datatype": "FP32", "shape": [-1]}]}),
    Row("metadata of a version", "GET", f"{MODEL}/versions/3", has={"versions": ["3"]}),
    Row("metadata of several versions", "GET", "/v2/models/pair", has={"versions": ["1", "2"]}),
    Row("metadata of no model: 4xx with error", "GET", "/v2/models/none", 404),
    Row("an answer repeats the model, its version and the id", "POST", f"{MODEL}/infer", body=GOOD | {"id": "42"},
        has={"model_name": SPEC.name, "model_version": "3", "id": "42"}),
    Row("a version may be asked for", "POST", "/v2/models/pair/versions/1/infer", body=PAIR,
        has={"model_version": "1"}),
    Row("without a version the server chooses", "POST", "/v2/models/pair/infer", body=PAIR, has={"model_version": "2"}),
    Row("without outputs all of them are given", "POST", "/v2/models/pair/infer", body=PAIR, has={"outputs": [
        {"name": "sum", "datatype": "FP32", "shape": [1, 3], "data": [2.0, 3.0, 4.0]},
        {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["x", "y"]}]}),
    Row("outputs chooses", "POST", "/v2/models/pair/infer", body=PAIR | {"outputs": [{"name": "label"}]}, has={
        "outputs": [{"name": "label", "datatype": "BYTES", "shape": [2], "data": ["x", "y"]}]}),
    Row("data may be nested", "POST", f"{MODEL}/infer", body=features(data=[[0.5] * WIDTH])),
    Row("data may be flat", "POST", f"{MODEL}/infer", body=GOOD),
    Row("parameters of the request are taken", "POST", f"{MODEL}/infer", body=GOOD | {"parameters": {"priority": 1}}),
    Row("parameters of an input are taken", "POST", f"{MODEL}/infer", body=features(parameters={"content_type": "np"})),
    Row("null stands for an optional member that is left out", "POST", f"{MODEL}/infer",
        body=GOOD | {"id": None, "parameters": None, "outputs": None}),
    Row("JSON without a content type is taken", "POST", f"{MODEL}/infer", body=json.dumps(GOOD).encode()),
    Row("an unknown model: 4xx with error", "POST", "/v2/models/none/infer", 404, body=GOOD),
    Row("an unknown version", "POST", f"{MODEL}/versions/9/infer", 404, body=GOOD),
    Row("a version that is no number", "POST", f"{MODEL}/versions/x/infer", 404, body=GOOD),
    Row("an unknown input", "POST", f"{MODEL}/infer", 400, body=features(name="x")),
    Row("no inputs", "POST", f"{MODEL}/infer", 400, body={"inputs": []}),
    Row("inputs are left out", "POST", f"{MODEL}/infer", 400, body={}),
    Row("an input is left out", "POST", "/v2/models/pair/infer", 400, body={"inputs": PAIR["inputs"][:2]}),
    Row("an unknown output", "POST", f"{MODEL}/infer", 400, body=GOOD | {"outputs": [{"name": "x"}]}),
    Row("another datatype than the model's", "POST", f"{MODEL}/infer", 400, body=features(datatype="INT64")),
    Row("a datatype that is none", "POST", f"{MODEL}/infer", 400, body=features(datatype="FLOAT")),
    Row("another shape than the model's", "POST", f"{MODEL}/infer", 400, body=features(shape=[WIDTH])),
    Row("fewer elements than the shape has", "POST", f"{MODEL}/infer", 400, body=features(data=[0.5])),
    Row("an element of another type", "POST", f"{MODEL}/infer", 400, body=features(data=["a"] * WIDTH)),
    Row("no JSON", "POST", f"{MODEL}/infer", 400, body=b"{"),
    Row("no body", "POST", f"{MODEL}/infer", 400, body=b""),
    Row("another content type", "POST", f"{MODEL}/infer", 415, body=b"a", headers={"content-type": "text/plain"}),
    Row("binary: the length of the JSON is no number", "POST", f"{MODEL}/infer", 400, body=json.dumps(GOOD).encode(),
        headers={"inference-header-content-length": "x"}),
    Row("binary: JSON alone has its own length", "POST", f"{MODEL}/infer", body=json.dumps(GOOD).encode(),
        headers={"inference-header-content-length": str(len(json.dumps(GOOD)))}),
    Row("repository: the index lists versions with states", "POST", "/v2/repository/index", body={}, has=[
        {"name": SPEC.name, "version": "3", "state": "READY", "reason": ""},
        {"name": "pair", "version": "1", "state": "READY", "reason": ""},
        {"name": "pair", "version": "2", "state": "READY", "reason": ""}]),
    Row("repository: no body is an empty one", "POST", "/v2/repository/index", body=b""),
    Row("repository: an unknown model cannot be loaded", "POST", "/v2/repository/models/none/load", 404, body={}),
    Row("configuration: as Triton has it", "GET", "/v2/models/pair/config", has={"name": "pair", "max_batch_size": 0}),
    Row("configuration of no model", "GET", "/v2/models/none/config", 404),
    Row("statistics of all models", "GET", "/v2/models/stats"),
    Row("statistics of a version", "GET", "/v2/models/pair/versions/1/stats"),
    Row("statistics of no model", "GET", "/v2/models/none/stats", 404),
]  # fmt: skip


@pytest.fixture(scope="module")
def edge() -> Edge:
    made = Edge()
    made.release()
    made.health.set("features", ok=True)
    for version in (1, 2):
        made.imported("pair", version, two_and_two())
    return made


def _holds(found: Any, wanted: Any) -> bool:  # noqa: ANN401 - JSON
    return all(found[name] == value for name, value in wanted.items()) if isinstance(wanted, dict) else found == wanted


@pytest.mark.parametrize("row", ROWS, ids=[row.says for row in ROWS])
async def test_what_the_specification_says(row: Row, edge: Edge) -> None:
    content = row.body if isinstance(row.body, bytes) else None
    async with client(edge.front) as http:
        answer = await http.request(
            row.method,
            row.path,
            content=content,
            json=None if content is not None else row.body,
            headers=dict(row.headers),
        )
    assert answer.status_code == row.status, answer.text
    assert answer.headers["content-type"] == "application/json"
    if row.status >= 400:
        assert list(answer.json()) == ["error"], "an error is an object with the one member `error`"
        assert isinstance(answer.json()["error"], str)
    elif row.has is not None:
        assert _holds(answer.json(), row.has), answer.text
