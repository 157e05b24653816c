"""`POST /get-online-features` as `feast serve` 0.67 has it: what goes in, what comes out, whatever goes in."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from feast_parts import F1, NAN, RECORDS, SHORT, Edge, vector, wide
from features_cases import START_US, FakeRecord, pipeline

from tidemill_contracts.base import format_time

pytestmark = pytest.mark.anyio
NEVER = "1970-01-01T00:00:00Z"
AT, LATER = format_time(START_US), format_time(START_US + 3_600_000_000)


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    async with Edge() as opened:
        yield opened


def column(values: list[Any], statuses: str | list[str] = "PRESENT", times: list[str] | None = None) -> dict[str, Any]:
    said = [statuses] * len(values) if isinstance(statuses, str) else statuses
    return {"values": values, "statuses": said, "event_timestamps": times or [NEVER] * len(values)}


CONTRACT: dict[str, tuple[dict[str, Any], list[str], list[dict[str, Any]]]] = {
    "one entity": (
        {"features": ["by-flight:count_1d"], "entities": {"flight": ["F2"]}},
        ["flight", "count_1d"],
        [column(["F2"]), column([2.0], times=[LATER])],
    ),
    "known, unknown, null, forgotten": (
        {"features": ["by-flight:delay_mean_1h", "by-flight:count_1h"],
         "entities": {"flight": ["F1", "F2", "nobody", None, "GONE", "COMPACTED"]}},
        ["flight", "delay_mean_1h", "count_1h"],
        [
            column(["F1", "F2", "nobody", None, "GONE", "COMPACTED"]),
            column([None, 2.0, None, None, None, None],
                   ["NULL_VALUE", "PRESENT", "NOT_FOUND", "NOT_FOUND", "OUTSIDE_MAX_AGE", "OUTSIDE_MAX_AGE"],
                   [format_time(START_US + 500_000), LATER, NEVER, NEVER, LATER, NEVER]),
            column([1.0, 2.0, None, None, None, None],
                   ["PRESENT", "PRESENT", "NOT_FOUND", "NOT_FOUND", "OUTSIDE_MAX_AGE", "OUTSIDE_MAX_AGE"],
                   [format_time(START_US + 500_000), LATER, NEVER, NEVER, LATER, NEVER]),
        ],
    ),
    "full names, several views, a key of two parts": (
        {"features": ["by-route:count_1h", "by-carrier:count_1h", "by-route:delay_last"], "full_feature_names": True,
         "entities": {"dest": ["LAX"], "carrier": ["AA"], "origin": ["EWR"], "weather": ["fine"]}},
        ["dest", "carrier", "origin", "by-route__count_1h", "by-route__delay_last", "by-carrier__count_1h"],
        [column(["LAX"]), column(["AA"]), column(["EWR"]), *[column([7.0], times=[AT])] * 2,
         column([6.0], times=[AT])],
    ),
    "the latest version": (
        {"features": ["by-carrier@latest:count_1h"], "entities": {"carrier": ["AA"]}},
        ["carrier", "count_1h"], [column(["AA"]), column([6.0], times=[AT])],
    ),
    "no rows": (
        {"features": ["by-carrier:count_1h"], "entities": {"carrier": []}},
        ["carrier", "count_1h"], [column([]), column([])],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRACT)
async def test_the_answer_is_column_major_with_statuses_and_times(edge: Edge, name: str) -> None:
    body, names, columns = CONTRACT[name]
    answer = await edge.ask(body)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"results": columns, "metadata": {"feature_names": names}}


async def test_values_are_the_published_ones_bit_for_bit(edge: Edge) -> None:
    answer = await edge.ask({"features": [f"by-flight:{name}" for name in SHORT], "entities": {"flight": ["F1"]}})
    found = [each["values"][0] for each in answer.json()["results"][1:]]
    assert repr([NAN if value is None else value for value in found]) == repr(F1)


async def test_a_feature_service_is_the_pipeline_with_all_features_of_its_views(edge: Edge) -> None:
    body = {"feature_service": "late", "full_feature_names": True, "include_feature_view_version_metadata": True,
            "entities": {"flight": ["F2"], "carrier": ["AA"], "origin": ["EWR"], "dest": ["LAX"]}}  # fmt: skip
    metadata = (await edge.ask(body)).json()["metadata"]
    views = ("by-flight", "by-carrier", "by-route")
    assert metadata["feature_names"][4:] == [f"{view}__{name}" for view in views for name in SHORT]
    assert metadata["feature_view_metadata"] == [{"name": view} for view in views]


ENTITIES = {"flight": ["F1"], "carrier": ["AA"]}
REFUSED: dict[str, tuple[Any, int, str]] = {
    "no object": ([], 422, ""),
    "nothing": ({}, 422, "entities"),
    "no features": ({"entities": ENTITIES}, 422, "features"),
    "features and service": (
        {"features": ["by-flight:count_1h"], "feature_service": "late", "entities": ENTITIES}, 422, "features"),
    "unknown field": ({"features": ["by-flight:count_1h"], "entities": ENTITIES, "project": "x"}, 422, "project"),
    "text for a list": ({"features": "by-flight:count_1h", "entities": ENTITIES}, 422, "features"),
    "no colon": ({"features": ["count_1h"], "entities": ENTITIES}, 422, "features.0"),
    "no view": ({"features": [":count_1h"], "entities": ENTITIES}, 422, "features.0"),
    "unknown feature": ({"features": ["by-flight:nothing"], "entities": ENTITIES}, 422, "features.0"),
    "missing join key": ({"features": ["by-flight:count_1h"], "entities": {"carrier": ["AA"]}}, 422, "entities.flight"),
    "half a key": ({"features": ["by-route:count_1h"], "entities": {"origin": ["JFK"]}}, 422, "entities.dest"),
    "no entities": ({"features": ["by-flight:count_1h"], "entities": {}}, 422, "entities.flight"),
    "ragged": (
        {"features": ["by-flight:count_1h"], "entities": {"flight": ["F1"], "carrier": []}}, 422, "entities"),
    "an object for a key": ({"features": ["by-flight:count_1h"], "entities": {"flight": [{}]}}, 422, "entities.flight"),
    "a list for a key": ({"features": ["by-flight:count_1h"], "entities": {"flight": [["F1"]]}}, 422, "entities"),
    "too many rows": ({"features": ["by-flight:count_1h"], "entities": {"flight": ["F"] * 10_001}}, 422, "entities"),
    "too many values": (
        {"feature_service": "wide", "entities": {"flight": ["F"] * 10_000}}, 422, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_meant_is_refused_with_the_field(edge: Edge, name: str) -> None:
    body, status, field = REFUSED[name]
    answer = await edge.ask(body)
    assert answer.status_code == status, answer.text
    if answer.headers["content-type"] == "application/problem+json":
        assert answer.json()["errors"][0]["field"].startswith(field)


IN_FEAST_S_WORDS: dict[str, tuple[dict[str, Any], int, str]] = {
    "unknown view": ({"features": ["nothing:count_1h"]}, 404, "FeatureViewNotFoundException"),
    "a version": ({"features": ["by-flight@v2:count_1h"]}, 404, "FeatureViewNotFoundException"),
    "unknown service": ({"feature_service": "nothing"}, 404, "FeatureServiceNotFoundException"),
    "one name twice": ({"features": ["by-flight:count_1h", "by-carrier:count_1h"]}, 422, "FeatureNameCollisionError"),
    "one feature twice": (
        {"features": ["by-flight:count_1h"] * 2, "full_feature_names": True}, 422, "FeatureNameCollisionError"),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_FEAST_S_WORDS)
async def test_errors_of_feast_come_as_the_sdk_reads_them(edge: Edge, name: str) -> None:
    body, status, known = IN_FEAST_S_WORDS[name]
    answer = await edge.ask(body | {"entities": ENTITIES})
    detail = json.loads(answer.json())  # `FeastError.from_error_detail` decodes the decoded body once more
    assert (answer.status_code, detail["module"], detail["class"]) == (status, "feast.errors", known)
    assert "nothing" not in detail["message"]


RAW: dict[str, tuple[bytes, int]] = {
    "empty": (b"", 400),
    "no JSON": (b"{", 400),
    "no UTF-8": (b"\xff", 400),
    "a key twice": (b'{"features": [], "features": []}', 400),
    "nested": (b"[" * 100_000, 400),
    "NaN": (b'{"features":["by-flight:count_1h"],"entities":{"flight":[NaN]}}', 422),
    "infinite": (b'{"features":["by-flight:count_1h"],"entities":{"flight":[1e999]}}', 422),
    "a long number": (b'{"features":["by-flight:count_1h"],"entities":{"flight":[' + b"1" * 5000 + b"]}}", 400),
    "half a character": (b'{"features":["by-flight:count_1h"],"entities":{"flight":["\\ud800"]}}', 400),
    "too large": (b" " * (8 * 1024 * 1024 + 1), 413),
}


@pytest.mark.parametrize("name", RAW)
async def test_no_bytes_make_it_fail(edge: Edge, name: str) -> None:
    content, status = RAW[name]
    answer = await edge.client.post(
        "/get-online-features", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code in {status, 422}, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_key_s_text_is_that_of_the_stream(edge: Edge) -> None:
    """Numbers and booleans are asked for as they are; a zero byte finds nothing."""
    values = [1, 1.0, 2.5, True, "", "\x00watermark", "é" * 300]
    answer = await edge.ask({"features": ["by-flight:count_1h"], "entities": {"flight": values}})
    assert answer.json()["results"][1]["statuses"] == ["NOT_FOUND"] * len(values)


async def test_nothing_is_read_before_the_first_question() -> None:
    async with Edge() as edge:
        await edge.client.get("/health")
        await edge.ask({"features": ["nothing:x"], "entities": {}})
        assert edge.opened == 0
        await edge.ask({"features": ["by-flight:count_1h"], "entities": {"flight": ["F1"]}})
        await edge.ask({"features": ["by-flight:count_1h"], "entities": {"flight": ["F1"]}})
        assert edge.opened == 1


async def test_it_says_later_while_it_reads_and_when_it_is_too_much() -> None:
    body = {"features": ["by-flight:count_1h"], "entities": {"flight": ["F1"]}}
    waiting = Edge(patience_s=0.01)  # nothing runs: the replica never comes
    answer = await waiting.ask(body)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    async with Edge(max_bytes=1000) as edge:
        answer = await edge.ask(body)
        assert answer.status_code == 503
        assert "TIDEMILL_FEAST_MAX_BYTES=1000" in answer.json()["detail"]


async def test_other_views_make_a_new_replica_and_the_same_ones_do_not() -> None:
    body = {"features": ["by-flight:count_1h"], "entities": {"flight": ["F1"]}}
    async with Edge() as edge:
        assert (await edge.ask(body)).json()["results"][1]["values"] == [1.0]
        edge.apply(pipeline(), wide(), pipeline("other"))
        assert (await edge.ask(body)).status_code == 200
        assert edge.opened == 1
        edge.apply(pipeline(where="delay > 5"))  # another by-carrier
        assert (await edge.ask(body)).json()["results"][1]["values"] == [1.0]
        assert edge.opened == 2
        gone = await edge.ask({"features": ["by-carrier:count_1h"], "entities": {"carrier": ["AA"]}})
        assert gone.json()["results"][1]["statuses"] == ["NOT_FOUND"], "its vectors are of the old version"
        edge.apply()
        assert (await edge.ask(body)).status_code == 404


async def test_a_record_that_nobody_can_read_is_left_out() -> None:
    topic = RECORDS[0].topic
    bad = [
        FakeRecord(b"\xff", [], b"F9", topic=topic), FakeRecord(None, [], b"\xff", topic=topic),
        FakeRecord(b"{}", [], None, topic=topic), vector("by-flight", "F9", [1.0]),
        FakeRecord(b'{"watermark_us":1}', [], b"\x00watermark", topic=topic),
    ]  # fmt: skip
    async with Edge(records=[*bad, *RECORDS]) as edge:
        answer = await edge.ask({"features": ["by-flight:count_1h"], "entities": {"flight": ["F9", "F1"]}})
        assert answer.json()["results"][1]["values"] == [None, 1.0]


async def test_a_forgotten_entity_that_comes_back_is_present_again() -> None:
    back = vector("by-flight", "GONE", [8.0] * 9)
    async with Edge(records=[*RECORDS, back]) as edge:
        answer = await edge.ask({"features": ["by-flight:count_1h"], "entities": {"flight": ["GONE"]}})
        assert answer.json()["results"][1] == column([8.0], times=[AT])


async def test_large_answers_do_not_hold_the_loop_up() -> None:
    async with Edge() as edge:
        body = {"features": [f"by-flight:{name}" for name in SHORT], "entities": {"flight": ["F1"] * 9000}}
        turns, asking = 0, asyncio.create_task(edge.ask(body))
        while not asking.done():
            await asyncio.sleep(0)
            turns += 1
        assert asking.result().json()["results"][1]["values"] == [1.0] * 9000
        assert turns > 10


async def test_the_key_of_the_other_routes_is_the_key_here() -> None:
    async with Edge(key="secret") as edge:
        body = {"features": ["by-flight:count_1h"], "entities": {"flight": ["F1"]}}
        assert (await edge.ask(body)).status_code == 401
        assert (await edge.ask(body, authorization="Bearer secret")).status_code == 200
        assert (await edge.client.get("/health")).status_code == 200
        edge.is_ready = False
        answer = await edge.client.get("/health")
        assert (answer.status_code, answer.content) == (503, b"")
