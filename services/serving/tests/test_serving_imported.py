"""Imported models over REST: their own names, shapes and types; index, configuration, statistics; the log."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving_cases import endless_loop, integer_division, out_of_memory
from serving_edge import NAMES, SPEC, Edge, client
from serving_models import echo, reshaped, root, two_and_two

from tidemill_contracts.envelope import read_envelope
from tidemill_contracts.events import ModelAnswered, decode
from tidemill_serving.domain.imported import Catalogue
from tidemill_serving.domain.protocol.datatypes import BYTES, NUMPY
from tidemill_serving.onnx import UnusableModelError
from tidemill_serving.onnx.sandbox import Nursery, SandboxLimits

pytestmark = pytest.mark.anyio


@pytest.fixture
def edge() -> Edge:
    made = Edge()
    made.release()
    made.imported("pair", 1, two_and_two())
    made.imported("pair", 3, two_and_two())
    made.imported("sqrt", 1, root())
    made.imported("reshaped", 1, reshaped())
    return made


def tensor(name: str, datatype: str, data: list[Any], shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data}


PAIR = {"inputs": [
    tensor("a", "FP32", [1, 2, 3, 4, 5, 6], [2, 3]), tensor("b", "FP32", [10, 20, 30]),
    tensor("names", "BYTES", ["x", "é"]),
]}  # fmt: skip


async def test_a_model_answers_under_its_own_names_and_is_logged(edge: Edge) -> None:
    async with client(edge.front) as http:
        found = (await http.get("/v2/models/pair")).json()
        assert (found["versions"], found["platform"]) == (["1", "3"], "onnxruntime_onnx")
        assert found["inputs"][0] == {"name": "a", "datatype": "FP32", "shape": [-1, 3]}
        assert [port["name"] for port in found["outputs"]] == ["sum", "label"]
        answer = (await http.post("/v2/models/pair/infer", json=PAIR | {"id": "mine"})).json()
        assert (answer["model_version"], answer["id"]) == ("3", "mine")
        assert answer["outputs"] == [
            tensor("sum", "FP32", [11.0, 22.0, 33.0, 14.0, 25.0, 36.0], [2, 3]), tensor("label", "BYTES", ["x", "é"]),
        ]  # fmt: skip
        chosen = await http.post("/v2/models/pair/versions/1/infer", json=PAIR | {"outputs": [{"name": "label"}]})
        assert [output["name"] for output in chosen.json()["outputs"]] == ["label"]
    first, second = edge.log.entries
    assert (first.topic, first.key, second.kind) == ("tidemill.inferences.v1", b"pair", "inference")
    event = decode(read_envelope(first.headers, first.value))
    assert isinstance(event, ModelAnswered)
    assert (str(event.inference_id), event.request_id) == (answer["parameters"]["inference_id"], "mine")
    assert [port.data for port in event.outputs] == [output["data"] for output in answer["outputs"]]


async def test_requests_that_come_together_are_logged_with_few_writes(edge: Edge) -> None:
    async with client(edge.front) as http:
        answers = await asyncio.gather(*[http.post("/v2/models/pair/infer", json=PAIR) for _ in range(40)])
    assert {answer.status_code for answer in answers} == {200}
    assert len(edge.log.entries) == 40
    assert edge.log.writes < 40


async def test_what_cannot_be_logged_is_not_answered(edge: Edge) -> None:
    edge.log.is_full = True
    async with client(edge.front) as http:
        assert (await http.post("/v2/models/pair/infer", json=PAIR)).status_code == 503


@pytest.mark.parametrize(("model", "change", "word"), [
    ("pair", {"inputs": PAIR["inputs"][:2]}, "names"),
    ("pair", {"inputs": [*PAIR["inputs"], tensor("c", "FP32", [1])]}, "c"),
    ("pair", {"inputs": [tensor("a", "FP64", [1, 2, 3], [1, 3]), *PAIR["inputs"][1:]]}, "FP32"),
    ("pair", {"inputs": [tensor("a", "FP32", [1, 2], [1, 2]), *PAIR["inputs"][1:]]}, "shape"),
    ("pair", {"outputs": [{"name": "nothing"}]}, "sum"),
    ("sqrt", {"inputs": [tensor("x", "FP32", [-1])]}, "binary"),
    ("reshaped", {"inputs": [tensor("x", "FP32", [1, 2]), tensor("shape", "INT64", [7])]}, "failed"),
])  # fmt: skip
async def test_what_a_model_cannot_take_is_said(edge: Edge, model: str, change: dict[str, Any], word: str) -> None:
    async with client(edge.front) as http:
        answer = await http.post(f"/v2/models/{model}/infer", json=PAIR | change)
        assert answer.status_code == 400, answer.text
        assert word in answer.json()["error"]
    assert edge.log.entries == []


@pytest.mark.parametrize("datatype", list(NUMPY))
async def test_every_datatype_goes_through_a_model(edge: Edge, datatype: str) -> None:
    edge.imported("echo", 1, echo(datatype))
    values: list[Any] = ["a", ""] if datatype == BYTES else np.array([1, 0], NUMPY[datatype]).tolist()
    raw = b"\x01\0\0\0a\0\0\0\0" if datatype == BYTES else np.array([1, 0], NUMPY[datatype]).tobytes()
    async with client(edge.front) as http:
        plain = await http.post("/v2/models/echo/infer", json={"inputs": [tensor("x", datatype, values)]})
        assert plain.json()["outputs"] == [tensor("y", datatype, values)]
        said = {"name": "x", "datatype": datatype, "shape": [2], "parameters": {"binary_data_size": len(raw)}}
        head = json.dumps({"inputs": [said], "parameters": {"binary_data_output": True}}).encode()
        length = {"inference-header-content-length": str(len(head))}
        binary = await http.post("/v2/models/echo/infer", content=head + raw, headers=length)
        assert binary.content[int(binary.headers["inference-header-content-length"]) :] == raw


async def test_index_configuration_and_statistics(edge: Edge) -> None:
    async with client(edge.front) as http:
        edge.house.catalogue.switch("sqrt", loaded=False)
        index = (await http.post("/v2/repository/index")).json()
        states = {(each["name"], each["version"]): each["state"] for each in index}
        assert states[SPEC.name, "3"] == states["pair", "1"] == "READY"
        assert states["sqrt", "1"] == "UNAVAILABLE"
        ready = (await http.post("/v2/repository/index", json={"ready": True})).json()
        assert {each["state"] for each in ready} == {"READY"}
        assert (await http.post("/v2/models/sqrt/infer", json=PAIR)).status_code == 404
        config = (await http.get("/v2/models/pair/versions/1/config")).json()
        assert config["input"][2] == {"name": "names", "data_type": "TYPE_STRING", "dims": [-1]}
        rows = {"inputs": [tensor("features", "FP32", [0.5] * 2 * len(NAMES), [2, len(NAMES)])]}
        for _ in range(3):
            await http.post(f"/v2/models/{SPEC.name}/infer", json=rows)
        await http.post("/v2/models/pair/infer", json=PAIR)
        every = (await http.get("/v2/models/stats")).json()["model_stats"]
        found = {(each["name"], each["version"]): each for each in every}
        mine = found[SPEC.name, "3"]
        assert (mine["inference_count"], mine["execution_count"], mine["inference_stats"]["success"]["count"]) == (
            6,
            3,
            3,
        )
        assert mine["inference_stats"]["compute_infer"]["ns"] > 0
        assert found["pair", "3"]["inference_stats"]["success"]["count"] == 1
        one = (await http.get("/v2/models/pair/versions/1/stats")).json()["model_stats"]
        assert [(each["version"], each["inference_count"]) for each in one] == [("1", 0)]
        for path in ("/v2/models/nothing/stats", "/v2/models/nothing/config", "/v2/models/pair/versions/2/stats"):
            assert (await http.get(path)).status_code == 404


@pytest.mark.parametrize(("path", "body", "status"), [
    ("nothing/load", {}, 404), ("nothing/unload", {}, 404), (f"{SPEC.name}/unload", {}, 400),
    (f"{SPEC.name}/load", {}, 200),
    ("pair/load", {"parameters": {"config": "{}"}}, 400), ("pair/unload", {"parameters": {"file:x": "a"}}, 400),
    ("pair/load", {"more": 1}, 400),
])  # fmt: skip
async def test_what_cannot_be_switched_is_said(edge: Edge, path: str, body: dict[str, Any], status: int) -> None:
    async with client(edge.front) as http:
        answer = await http.post(f"/v2/repository/models/{path}", json=body)
        assert answer.status_code == status, answer.text
        assert status == 200 or answer.json()["error"]


async def test_a_switch_without_kafka_is_refused(edge: Edge) -> None:
    edge.house.degraded = True
    async with client(edge.front) as http:
        answer = await http.post("/v2/repository/models/pair/unload")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_versions_never_change_and_switches_hold_for_later_ones() -> None:
    catalogue = Catalogue()
    assert catalogue.add("m", 1, "a")
    assert not catalogue.add("m", 1, "b")
    catalogue.switch("m", loaded=False)
    catalogue.add("m", 2, "c")
    assert catalogue.waiting() == []
    catalogue.switch("m", loaded=True)
    assert [(found.version, found.digest) for found in catalogue.waiting()] == [(1, "a"), (2, "c")]


@pytest.mark.parametrize(("make", "is_taken"), [
    (two_and_two, True), (reshaped, True), (lambda: integer_division(4), False), (lambda: endless_loop(4), False),
    (lambda: out_of_memory(4), False),
])  # fmt: skip
async def test_an_imported_model_is_opened_in_the_sandbox_first(make: Any, is_taken: bool, tmp_path: Path) -> None:  # noqa: ANN401
    file = tmp_path / "model.onnx"
    file.write_bytes(make())
    limits = SandboxLimits(cpu_s=2, wall_s=20)
    async with Nursery(limits) as nursery:
        if is_taken:
            await nursery.examine(file, None)
            return
        with pytest.raises(UnusableModelError):
            await nursery.examine(file, None)
