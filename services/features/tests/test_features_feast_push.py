"""`POST /push` and `/write-to-online-store`: rows become events of a source, or the answer says why not."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from feast_parts import Edge
from features_cases import FIELDS

from tidemill_contracts.pipeline import SourceSpec
from tidemill_features.feast.errors import Broken, InvalidRequestError, NotNowError
from tidemill_features.feast.ingestion import Ingestion
from tidemill_features.feast.pushing import events_of
from tidemill_features.settings import Settings

pytestmark = pytest.mark.anyio
DF: dict[str, list[Any]] = {
    "flight": ["F1", "F2"], "origin": ["EWR", "JFK"], "dest": ["LAX", "SFO"], "delay": [1.5, None],
    "event_timestamp": ["2013-01-01T10:00:00", "2013-01-01 12:00:00.25+02:00"], "created": [None, "whatever"],
}  # fmt: skip
EVENTS = [
    {"time": "2013-01-01T10:00:00Z", "data": {"flight": "F1", "origin": "EWR", "dest": "LAX", "delay": 1.5}},
    {"time": "2013-01-01T10:00:00.250000Z", "data": {"flight": "F2", "origin": "JFK", "dest": "SFO"}},
]


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    async with Edge() as opened:
        yield opened


async def push(edge: Edge, df: object = None, **fields: object) -> httpx.Response:
    body = {"push_source_name": "departures", "df": DF if df is None else df, **fields}
    return await edge.client.post("/push", json=body)


async def write(edge: Edge, name: str, df: object = None) -> httpx.Response:
    body = {"feature_view_name": name, "df": DF if df is None else df, "allow_registry_cache": False}
    return await edge.client.post("/write-to-online-store", json=body)


def said(edge: Edge) -> list[dict[str, Any]]:
    return [{name: event[name] for name in ("time", "data")} for _, events in edge.ingestion.sent for event in events]


async def test_rows_are_events_of_the_source(edge: Edge) -> None:
    answer = await push(edge)
    assert (answer.status_code, answer.content) == (200, b"")
    assert [source for source, _ in edge.ingestion.sent] == ["departures"]
    assert said(edge) == EVENTS


@pytest.mark.parametrize("name", ["by-flight", "by-carrier", "departures"])
async def test_what_the_sdk_writes_to_a_view_goes_to_its_source(edge: Edge, name: str) -> None:
    answer = await write(edge, name)
    assert (answer.status_code, answer.json()) == (200, None)
    assert said(edge) == EVENTS


async def test_a_row_that_is_sent_again_is_the_same_event(edge: Edge) -> None:
    await push(edge)
    await write(edge, "by-flight")
    first, second = ([event["id"] for event in events] for _, events in edge.ingestion.sent)
    assert first == second
    assert len(set(first)) == 2
    await push(edge, DF | {"delay": ["1.5", None]})
    assert edge.ingestion.sent[2][1][0]["id"] != first[0], "a number differs from its text"


async def test_ids_may_be_given(edge: Edge) -> None:
    await push(edge, DF | {"event_id": ["a", None]})
    assert edge.ingestion.sent[0][1][0]["id"] == "a"
    assert len(edge.ingestion.sent[0][1][1]["id"]) == 36


async def test_no_rows_are_no_events(edge: Edge) -> None:
    assert (await push(edge, {})).status_code == 200
    assert (await push(edge, {name: [] for name in DF})).status_code == 200
    assert edge.ingestion.sent == []


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a feature": ({"df": {name: DF[name] for name in DF} | {"delay_mean_1h": [1, 2]}}, "df.delay_mean_1h"),
    "ragged": ({"df": DF | {"delay": [1.0]}}, "df"),
    "no time": ({"df": {name: DF[name] for name in DF if name != "event_timestamp"}}, "df.event_timestamp"),
    "half a time": ({"df": DF | {"event_timestamp": ["2013-01-01", None]}}, "df.event_timestamp"),
    "no such time": ({"df": DF | {"event_timestamp": ["2013-13-01", "x"]}}, "df.event_timestamp.0"),
    "the year 0": ({"df": DF | {"event_timestamp": ["0001-01-01T00:00:00+14:00"] * 2}}, "df.event_timestamp.0"),
    "a huge time": ({"df": DF | {"event_timestamp": [2**62, 0]}}, "df.event_timestamp.0"),
    "a fraction of a time": ({"df": DF | {"event_timestamp": [1.5, 0]}}, "df.event_timestamp.0"),
    "true": ({"df": DF | {"event_timestamp": [True, 0]}}, "df.event_timestamp.0"),
    "an object": ({"df": DF | {"delay": [{}, []]}}, "df.delay.0"),
    "rows for columns": ({"df": [{"flight": "F1"}]}, "df"),
    "columns by row": ({"df": {"flight": {"0": "F1"}}}, "df.flight"),
    "the archive alone": ({"to": "offline"}, ""),
    "nowhere": ({"to": "both"}, "to"),
    "unknown field": ({"mode": "online"}, "mode"),
    "too many": ({"df": {"flight": ["F"] * 10_001}}, "df.flight"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_no_event_is_refused_and_nothing_is_sent(edge: Edge, name: str) -> None:
    fields, field = REFUSED[name]
    answer = await push(edge, **fields)
    assert answer.status_code == 422, answer.text
    errors = answer.json().get("errors")
    assert field == "" or errors[0]["field"].startswith(field), errors
    assert edge.ingestion.sent == []


async def test_a_name_that_is_no_name_is_not_repeated(edge: Edge) -> None:
    answer = await push(edge, DF | {"<script>": [1, 2]})
    assert answer.status_code == 422
    assert "script" not in answer.text


async def test_unknown_names_are_told_in_feast_s_words(edge: Edge) -> None:
    unknown = await push(edge, push_source_name="nothing")
    assert (unknown.status_code, json.loads(unknown.json())["class"]) == (422, "PushSourceNotFoundException")
    unknown = await write(edge, "nothing")
    assert (unknown.status_code, json.loads(unknown.json())["class"]) == (404, "FeatureViewNotFoundException")


async def test_what_ingestion_says_is_said(edge: Edge) -> None:
    edge.ingestion.refuses = InvalidRequestError([Broken("df.delay.1", "range", "must be at most 3")])
    answer = await push(edge)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "df.delay.1")
    edge.ingestion.refuses = NotNowError("ingestion cannot be reached")
    answer = await push(edge)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def spec(**fields: object) -> SourceSpec:
    return SourceSpec.model_validate_json(json.dumps({"key": ["flight"], "fields": FIELDS} | fields))


def test_a_source_with_a_time_field_has_its_time_from_it() -> None:
    timed = spec(fields=FIELDS | {"at": {"type": "timestamp"}}, time="at")
    rows: dict[str, list[Any]] = {
        "flight": ["F1", "F2"],
        "at": [1_357_034_400, None],
        "event_timestamp": [0, "2013-01-01T10:00:00"],
    }
    first, second = events_of("departures", timed, rows)
    assert first["data"] == {"flight": "F1", "at": "2013-01-01T10:00:00Z"}
    assert second["data"] == {"flight": "F2", "at": "2013-01-01T10:00:00Z"}
    assert "time" not in first


def test_fields_go_before_columns_with_a_meaning() -> None:
    named = spec(fields=FIELDS | {"event_id": {"type": "string"}, "created": {"type": "boolean"}})
    row: dict[str, list[Any]] = {
        "flight": ["F1"],
        "event_id": ["x"],
        "created": [True],
        "event_timestamp": ["2013-01-01T10:00:00"],
    }
    event = events_of("departures", named, row)[0]
    assert event["data"] == {"flight": "F1", "event_id": "x", "created": True}
    assert event["id"] != "x"


def settings(**fields: object) -> Settings:
    nowhere = {"kafka": "k", "postgres": "p", "artifacts": "a", "state": "s"}
    return Settings.model_validate(nowhere | {"ingestion_url": "http://ingestion/"} | fields)


ANSWERS: dict[str, tuple[httpx.Response, type[Exception], str]] = {
    "its reasons": (
        httpx.Response(422, json={"errors": [{"field": "1.data.delay", "rule": "r", "message": "m"}]}),
        InvalidRequestError, "df.delay.1"),
    "a time": (
        httpx.Response(422, json={"errors": [{"field": "0.time", "rule": "r", "message": "m"}]}),
        InvalidRequestError, "df.event_timestamp.0"),
    "an id": (
        httpx.Response(422, json={"errors": [{"field": "0.id", "rule": "r", "message": "m"}]}),
        InvalidRequestError, "df.event_id.0"),
    "no reasons": (httpx.Response(400, text="no"), InvalidRequestError, "df"),
    "too large": (httpx.Response(413), InvalidRequestError, "df"),
    "another key": (httpx.Response(401), NotNowError, "401"),
    "not yet": (httpx.Response(404), NotNowError, "404"),
    "later": (httpx.Response(503), NotNowError, "503"),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
async def test_ingestion_s_answers(name: str) -> None:
    answer, error, word = ANSWERS[name]
    ingestion = Ingestion(settings(), transport=httpx.MockTransport(lambda _: answer))
    with pytest.raises(error) as caught:
        await ingestion.send("departures", [{}])
    told = caught.value.broken[0].field if isinstance(caught.value, InvalidRequestError) else str(caught.value)
    assert word in told
    await ingestion.close()


async def test_events_go_where_the_settings_or_the_stack_say(tmp_path: Path) -> None:
    asked: list[httpx.Request] = []

    def hear(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(202)

    listing = tmp_path / "endpoints.json"
    listing.write_text(json.dumps({"services": {"ingestion": {"url": "http://127.0.0.1:7"}}}))
    for fields in ({"api_key": "secret"}, {"ingestion_url": None, "endpoints": listing}):
        ingestion = Ingestion(settings(**fields), transport=httpx.MockTransport(hear))
        await ingestion.send("departures", [{"id": "x"}])
        await ingestion.close()
    assert [str(request.url) for request in asked] == [
        "http://ingestion/v1/events/departures", "http://127.0.0.1:7/v1/events/departures",
    ]  # fmt: skip
    assert [request.headers.get("authorization") for request in asked] == ["Bearer secret", None]
    assert json.loads(asked[0].content) == [{"id": "x"}]


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"services": {"ingestion": null}}'])
async def test_without_an_address_it_says_later(tmp_path: Path, text: str | None) -> None:
    listing = tmp_path / "endpoints.json"
    if text is not None:
        listing.write_text(text)
    for endpoints in (listing, None):
        with pytest.raises(NotNowError):
            await Ingestion(settings(ingestion_url=None, endpoints=endpoints)).send("departures", [{}])
