import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, ConfigDict, SecretStr, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from tidemill_runtime.health import Health
from tidemill_runtime.http import (
    App,
    HttpProblem,
    Route,
    parse_adapter,
    parse_json,
    read_body,
    read_model,
    read_query,
)
from tidemill_runtime.openapi import openapi
from tidemill_runtime.probes import probe_routes
from tidemill_runtime.telemetry import current_traceparent

SECRET = "SECRET-INPUT"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    count: int
    share: float = 0.0
    names: list[str] = []
    inner: dict[str, int] = {}


class Query(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: int = 10
    newest: bool = False


class Echo(BaseModel):
    count: int
    traceparent: str | None = None


async def take(request: Request) -> Echo:
    body = await read_model(request, Body)
    return Echo(count=body.count, traceparent=current_traceparent())


async def length(request: Request) -> Response:
    return Response(str(len(await read_body(request))))


async def find(request: Request) -> Echo:
    query = read_query(request, Query)
    if request.path_params["name"] == "unknown":
        raise HttpProblem(404, "there is no such thing")
    return Echo(count=query.limit)


async def boom(_: Request) -> Response:
    raise KeyError(SECRET)


ROUTES = (
    Route(method="POST", path="/take", endpoint=take, summary="Take", request=Body, response=Echo, status=201),
    Route(method="POST", path="/small", endpoint=length, summary="Small", max_bytes=10, media=("text/plain",)),
    Route(
        method="GET", path="/find/{name}", endpoint=find, summary="Find", response=Echo, query=Query, statuses=(404,)
    ),
    Route(method="GET", path="/boom", endpoint=boom, summary="Boom"),
)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=App(ROUTES))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as opened:
        yield opened


def json_post(text: str | bytes) -> dict[str, Any]:
    return {"content": text, "headers": {"content-type": "application/json; charset=utf-8"}}


async def test_a_good_body_is_answered_with_the_declared_status(client: httpx.AsyncClient) -> None:
    answer = await client.post("/take", **json_post('{"count": 3, "share": 0.5}'))
    assert (answer.status_code, answer.json()["count"]) == (201, 3)


@pytest.mark.parametrize(
    ("text", "status", "rule"),
    [
        ('{"count": "SECRET-INPUT"}', 422, "int_type"),
        ('{"count": true}', 422, "int_type"),
        ('{"count": 1.5}', 422, "int_type"),
        ('{"count": 1e400}', 422, "int_type"),
        ('{"count": 1, "share": 1e400}', 422, "finite_number"),
        ('{"count": 1, "share": NaN}', 422, "finite_number"),
        ('{"count": 1, "share": Infinity}', 422, "finite_number"),
        ('{"count": 1, "SECRET": 2}', 422, "extra_forbidden"),
        ("{}", 422, "missing"),
        ("[]", 422, "model_type"),
        ("null", 422, "model_type"),
        ('{"count": 1, "names": [1]}', 422, "string_type"),
        ('{"count": 1, "count": 2}', 400, None),
        ('{"count": 1, "inner": {"a": 1, "a": 2}}', 400, None),
        ('{"count": 1, "inner": {"a": 1, "\\u0061": 2}}', 400, None),
        ('{"count": 1', 400, None),
        ("", 400, None),
        ("SECRET-INPUT", 400, None),
        (b'{"count": 1, "names": ["\xff\xfe"]}', 400, None),
        ('{"count": 1}'.encode("utf-16"), 400, None),
        ("\ufeff{}", 400, None),
        ('{"count": 1, "names": ["\\ud800"]}', 400, None),
        ("[" * 100_000, 400, None),
        ('{"inner":' * 5000 + "1" + "}" * 5000, 400, None),
    ],
)
async def test_a_bad_body_is_refused_by_rule_and_never_echoed(
    client: httpx.AsyncClient, text: str | bytes, status: int, rule: str | None
) -> None:
    answer = await client.post("/take", **json_post(text))
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["type"]) == (status, "about:blank")
    assert SECRET not in answer.text
    assert [error["rule"] for error in problem.get("errors", [])] == ([rule] if rule else [])


async def test_a_long_unknown_name_is_cut(client: httpx.AsyncClient) -> None:
    answer = await client.post("/take", **json_post(json.dumps({"count": 1, "x" * 10_000: 1})))
    assert answer.status_code == 422
    assert len(answer.text) < 500


async def test_many_errors_are_cut(client: httpx.AsyncClient) -> None:
    answer = await client.post("/take", **json_post(json.dumps({"count": 1, "names": [1] * 1000})))
    assert len(answer.json()["errors"]) == 32


@pytest.mark.parametrize("media", ["text/html", "application/xml", "", "application/jsonx"])
async def test_another_media_type_is_415(client: httpx.AsyncClient, media: str) -> None:
    answer = await client.post("/take", content=b'{"count": 1}', headers={"content-type": media})
    assert answer.status_code == 415


async def test_a_body_above_the_limit_is_413_declared_or_streamed(client: httpx.AsyncClient) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while read < 1000:
            read += 1
            yield b"12345"

    headers = {"content-type": "text/plain"}
    assert (await client.post("/small", content=b"1234567890", headers=headers)).text == "10"
    assert (await client.post("/small", content=b"12345678901", headers=headers)).status_code == 413
    assert (await client.post("/small", content=endless(), headers=headers)).status_code == 413
    lying = {**headers, "content-length": "-1"}
    assert (await client.post("/small", content=b"1", headers=lying)).status_code == 413


async def test_unknown_paths_and_methods_are_problems(client: httpx.AsyncClient) -> None:
    missing, wrong = await client.get("/nowhere"), await client.delete("/take")
    assert (missing.status_code, missing.json()["title"]) == (404, "Not Found")
    assert (wrong.status_code, wrong.json()["title"]) == (405, "Method Not Allowed")
    assert wrong.headers["allow"] == "POST"
    assert (await client.get("/find/unknown")).json()["detail"] == "there is no such thing"


async def test_an_unexpected_failure_tells_its_trace_and_nothing_else(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await client.get("/boom", headers={"traceparent": TRACE})
    assert answer.status_code == 500
    assert SECRET not in answer.text
    assert answer.json()["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert [record.message for record in caplog.records] == ["unexpected failure"]


async def test_the_trace_of_the_client_goes_on_and_a_bad_one_is_replaced(client: httpx.AsyncClient) -> None:
    for sent, kept in ((TRACE, True), ("00-zz-zz-01", False), ("", False)):
        answer = await client.post(
            "/take", content=b'{"count":1}', headers={"content-type": "application/json", "traceparent": sent}
        )
        seen = answer.json()["traceparent"]
        assert answer.headers["traceparent"] == seen
        assert (seen[3:35] == TRACE[3:35]) is kept
        assert seen != sent
    assert current_traceparent() is None


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=3", 200), ("newest=true", 200), ("", 200), ("limit=x", 422), ("limit=1&limit=2", 422), ("other=1", 422),
    ],
)  # fmt: skip
async def test_queries_are_checked(client: httpx.AsyncClient, query: str, status: int) -> None:
    assert (await client.get(f"/find/a?{query}")).status_code == status


async def test_a_key_is_asked_for_everywhere_but_at_the_probes() -> None:
    health = Health()
    health.set("running", ok=True)
    app = App([*ROUTES, *probe_routes("t", ROUTES, health)], api_key=SecretStr("kéy"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        for path in ("/find/a", "/metrics", "/openapi.json", "/nowhere"):
            assert (await client.get(path)).status_code == 401, path
        for name, value in (("authorization", "Bearer wrong"), ("x-api-key", ""), ("authorization", "Basic kéy")):
            assert (await client.get("/find/a", headers=[(name.encode(), value.encode())])).status_code == 401
        for name, value in (("authorization", "Bearer kéy"), ("x-api-key", "kéy")):
            assert (await client.get("/find/a", headers=[(name.encode(), value.encode())])).status_code == 200
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).json()["ok"] is True
        health.set("kafka", ok=False, reason="away")
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert {"name": "kafka", "ok": False, "reason": "away"} in answer.json()["conditions"]


def test_json_without_a_schema_keeps_big_integers_and_refuses_what_is_not_a_number() -> None:
    assert parse_json(b'{"n": 18446744073709551616, "x": [1.5]}') == {"n": 2**64, "x": [1.5]}
    for text in (b"NaN", b"[Infinity]", b'{"a": 1, "a": 1}'):
        with pytest.raises(HttpProblem) as caught:
            parse_json(text)
        assert caught.value.status == 400
    assert parse_adapter(TypeAdapter(list[int]), b"[1, 2]") == [1, 2]
    with pytest.raises(HttpProblem):
        parse_adapter(TypeAdapter(list[int]), b'["1"]')


def test_the_document_describes_the_table_and_every_reference_resolves() -> None:
    document = openapi("t", [*ROUTES, *probe_routes("t", ROUTES, Health())])
    text = json.dumps(document)
    refs = {part.split('"')[0] for part in text.split('"$ref": "')[1:]}
    for ref in refs:
        found: Any = document
        for part in ref.removeprefix("#/").split("/"):
            found = found[part]
    operation = document["paths"]["/find/{name}"]["get"]
    assert [parameter["name"] for parameter in operation["parameters"]] == ["name", "limit", "newest"]
    assert {"200", "401", "404", "422", "500"} == set(operation["responses"])
    taken = document["paths"]["/take"]["post"]
    assert set(taken["responses"]) == {"201", "400", "401", "408", "413", "415", "422", "500"}
    assert "503" in document["paths"]["/readyz"]["get"]["responses"]


async def test_requests_are_answered_side_by_side(client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(client.get(f"/find/a?limit={n}") for n in range(50)))
    assert [answer.json()["count"] for answer in answers] == list(range(50))
