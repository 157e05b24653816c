"""HTTP as producers use it, and raw records as they should not be: declared answers, neighbours unharmed."""

import asyncio
import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings import http as ce_http
from cloudevents.core.bindings import kafka as ce_kafka
from cloudevents.core.v1.event import CloudEvent
from ingestion_cases import envelope, event, record
from ingestion_stack import Running, flight

from tidemill_contracts import parse_time
from tidemill_runtime.kafka import MAX_REQUEST_BYTES
from tidemill_testkit.waiting import until

pytestmark = pytest.mark.anyio
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def cloud_event(name: str, **attributes: object) -> CloudEvent:
    about = {"id": name, "source": "/sdk", "type": "com.example.flight", "time": datetime(2013, 1, 1, 10, tzinfo=UTC)}
    return CloudEvent(attributes=about | attributes, data=flight(1)["data"])


async def fate(service: Running, name: str, source: str = "flights") -> dict[str, Any]:
    async with service.client() as client:
        answer = await client.get(f"/v1/events/{source}/{name}")
        found: dict[str, Any] = answer.json()
        return found if answer.status_code == 200 else {"outcome": answer.status_code}


async def becomes(service: Running, name: str, outcome: str, source: str = "flights") -> dict[str, Any]:
    async def check() -> bool:
        return bool((await fate(service, name, source))["outcome"] == outcome)

    await until(check, f"{name} becomes {outcome}", timeout_s=30)
    return await fate(service, name, source)


@pytest.mark.parametrize("typed", [True, False])
async def test_the_public_sdks_events_arrive_and_can_be_read_by_it(service: Running, typed: bool) -> None:
    attributes: dict[str, object] = {"datacontenttype": "application/json"} if typed else {}
    names = [f"sdk-{mode}-{typed}" for mode in ("binary", "structured", "batch")]
    events = [cloud_event(name, traceparent=TRACE, subject="NÅ 1", **attributes) for name in names]
    binary, structured = ce_http.to_binary_event(events[0]), ce_http.to_structured_event(events[1])
    batch = json.dumps([json.loads(ce_http.to_structured_event(events[2]).body)]).encode()
    kind = {"content-type": "application/cloudevents-batch+json"}
    async with service.client() as client:
        for headers, body in ((binary.headers, binary.body), (structured.headers, structured.body), (kind, batch)):
            answer = await client.post("/v1/events/flights", headers=headers, content=body)
            assert answer.status_code == 202, answer.text
    for name in names:
        await becomes(service, name, "applied")
    written = {dict(r.headers)["ce_id"].decode(): r for r in await service.records("events")}
    for name in names:
        found = written[name]
        read = ce_kafka.from_binary_event(ce_kafka.KafkaMessage(dict(found.headers), found.key, found.value))
        assert (read.get_id(), read.get_source(), read.get_type()) == (name, "/sdk", "com.example.flight")
        assert read.get_time() == datetime(2013, 1, 1, 10, 1, tzinfo=UTC)  # the declared time field goes before ce-time
        assert (read.get_subject(), dict(found.headers)["traceparent"].decode()) == ("NÅ 1", TRACE)


async def test_the_trace_of_the_request_goes_on_in_the_record(service: Running) -> None:
    async with service.client() as client:
        answer = await client.post("/v1/events/flights", json=flight(1, prefix="trace"), headers={"traceparent": TRACE})
    assert answer.headers["traceparent"].split("-")[1] == TRACE.split("-")[1]
    await becomes(service, "trace-1", "applied")
    headers = next(dict(r.headers) for r in await service.records("events") if dict(r.headers)["ce_id"] == b"trace-1")
    assert headers["traceparent"].decode().split("-")[1] == TRACE.split("-")[1]


BAD: list[tuple[str, bytes, dict[str, str], int]] = [
    ("flights", b"{", {}, 400),
    ("flights", b'{"id":"e","id":"f"}', {}, 400),
    ("flights", b'{"id":"e","data":{"tail":"N1","at":"2013-01-01T10:00:00Z","delay":NaN}}', {}, 400),
    ("flights", b"[" * 90_000, {}, 400),
    ("flights", b"null", {}, 422),
    ("flights", json.dumps(flight(1) | {"id": 5}).encode(), {}, 422),
    (
        "flights",
        json.dumps({"id": "e", "data": {"tail": "N1", "at": "2013-01-01T10:00:00", "delay": 1}}).encode(),
        {},
        422,
    ),
    ("flights", json.dumps([flight(1), {"id": "x"}]).encode(), {}, 422),
    ("flights", b"<xml/>", {"content-type": "text/xml"}, 415),
    ("flights", b"{}", {"content-type": "application/json; charset=latin-1"}, 415),
    ("nothing", json.dumps(flight(1)).encode(), {}, 404),
    ("NOT%20a%00name", json.dumps(flight(1)).encode(), {}, 404),
    ("flights", b"{}", {"ce-specversion": "0.3", "ce-id": "e"}, 422),
    ("flights", b"{}", {"ce-specversion": "1.0", "ce-id": "%ff", "ce-type": "t", "ce-source": "s"}, 422),
]


@pytest.mark.parametrize(("source", "body", "headers", "status"), BAD)
async def test_bad_input_gets_its_declared_answer(
    service: Running, source: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    before = await service.status()
    async with service.client() as client:
        answer = await client.post(
            f"/v1/events/{source}", content=body, headers={"content-type": "application/json"} | headers
        )
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["status"] == status
        if status == 422:
            assert {"field", "rule", "message"} == set(problem["errors"][0])
        assert (await client.get("/livez")).status_code == 200
    assert (await service.status())["records"] == before["records"]


async def test_a_body_above_the_limit_is_refused_before_it_is_read(service: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    head = (
        b"POST /v1/events/flights HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    )
    writer.write(head % (17 * 1024 * 1024))
    assert b" 413 " in await reader.readline()
    writer.close()


async def test_a_known_id_is_accepted_again_and_refused_with_another_body(service: Running) -> None:
    one = flight(1, prefix="again")
    async with service.client() as client:
        assert (await client.post("/v1/events/flights", json=one)).status_code == 202
        await becomes(service, "again-1", "applied")
        before = await service.status()
        assert (await client.post("/v1/events/flights", json=one)).status_code == 202
        await service.counted(duplicates=before["duplicates"] + 1, applied=before["applied"])
        other = await client.post(
            "/v1/events/flights", json=[flight(2, prefix="again"), flight(1, prefix="again", delay=9)]
        )
        assert other.status_code == 422
        assert other.json()["errors"] == [
            {
                "field": "1.id",
                "rule": "conflict",
                "message": "is already the id of an event with another key, time or data",
            }
        ]
    assert (await fate(service, "again-2"))["outcome"] == 404


async def test_progress_reaches_every_partition_and_makes_older_events_late(service: Running) -> None:
    source = "weather"
    async with service.client() as client:
        answer = await client.post(f"/v1/sources/{source}/progress", json={"time": "2013-01-01T12:00:00Z"})
        assert answer.status_code == 202, answer.text
        assert sorted(place["partition"] for place in answer.json()["timers"]) == [0, 1, 2]
        await service.counted(source=source, timers=3)
        watermarks = (await service.status(source))["watermarks_us"]
        assert set(watermarks.values()) == {parse_time("2013-01-01T12:00:00Z")}
        data = {"origin": "EWR", "station": 1, "wind": 3.5}
        for name, time in (
            ("w1", "2013-01-01T11:59:59Z"),
            ("w2", "2013-01-01T12:00:00Z"),
            ("w3", "2200-01-01T00:00:00Z"),
        ):
            event = {"id": name, "time": time, "data": data}
            assert (await client.post(f"/v1/events/{source}", json=event)).status_code == 202
        assert (await becomes(service, "w1", "late", source))["topic"].endswith("late.weather.v1")
        assert (await becomes(service, "w2", "applied", source))["seq"] == 0
        await becomes(service, "w3", "future", source)
        for time in ("2200-01-01T00:00:00Z", "2013-01-01T12:00:00", "noon"):
            refused = await client.post(f"/v1/sources/{source}/progress", json={"time": time})
            assert refused.status_code == 422
            assert refused.json()["errors"][0]["field"] == "time"
    timers = [r for r in await service.records("events", source) if dict(r.headers)["ce_type"] == b"tidemill.timer.v1"]
    assert sorted(r.partition for r in timers) == [0, 1, 2]
    assert all("tm_seq" not in dict(r.headers) for r in timers)
    assert len(await service.records("late", source)) == len(await service.records("future", source)) == 1


async def test_progress_may_come_with_the_events_it_follows(service: Running) -> None:
    source, last = "weather", {"id": "w4", "time": "2013-01-01T12:30:00Z"}
    before = (await service.status(source))["timers"]
    async with service.client() as client:
        for time in ("2200-01-01T00:00:00Z", "2013-01-01T12:00:00", "noon"):
            refused = await client.post(f"/v1/events/{source}", params={"progress": time}, json=[])
            assert refused.status_code == 422
            assert refused.json()["errors"][0]["field"] == "progress"
        events = [last | {"data": {"origin": "EWR", "station": 1, "wind": 3.5}}]
        answer = await client.post(f"/v1/events/{source}", params={"progress": "2013-01-01T13:00:00Z"}, json=events)
    assert answer.status_code == 202, answer.text
    [place], behind = answer.json()["accepted"], answer.json()["timers"]
    assert sorted(each["partition"] for each in behind) == [0, 1, 2]
    assert [each["offset"] for each in behind if each["partition"] == place["partition"]] == [place["offset"] + 1]
    await becomes(service, "w4", "applied", source)
    await service.counted(source=source, timers=before + 3)
    assert set((await service.status(source))["watermarks_us"].values()) == {parse_time("2013-01-01T13:00:00Z")}


async def test_garbage_among_a_thousand_good_events_is_one_dead_letter(service: Running) -> None:
    before, letters = await service.status(), len(await service.records("dlq"))
    good = [event(f"raw-{n}", delay=float(n), partition=1) for n in range(1000)]
    records: Any = [(e.key, e.data, e.envelope().headers()) for e in good]
    records.insert(500, (b"\x80", b"\x00\xff\xfe", [("ce_id", b"\xff")]))
    await service.produce(records, partition=1)
    await service.counted(applied=before["applied"] + 1000, refused=before["refused"] + 1)
    assert len(await service.records("dlq")) == letters + 1


async def test_every_kind_of_bad_record_goes_to_the_dead_letters_and_can_be_put_back(service: Running) -> None:
    before = await service.status()
    good = record(0, event("bad-1", partition=2))
    headers = good.headers
    bad = [
        (None, b"{", envelope(b"").headers()), (b"k", None, []), (good.key, good.value, headers[1:]),
        (None, good.value, headers), (b"", b"x" * (MAX_REQUEST_BYTES - 200), []),
        (good.key, b"[" * 100_000, headers), (good.key, b'{"tail":"N1","tail":"N1"}', headers),
        (good.key, b'{"delay": 1e999}', headers), (good.key, good.value, [*headers, ("ce_time", b"10 o'clock")]),
    ]  # fmt: skip
    await service.produce(bad, partition=2)
    await service.counted(refused=before["refused"] + len(bad))
    async with service.client() as client:
        raw = service.topic("raw")
        listed = await client.get("/v1/dlq", params={"topic": raw, "limit": len(bad)})
        assert listed.status_code == 200, listed.text
        found = listed.json()["letters"]
        assert {letter["reason"] for letter in found} >= {"envelope", "json", "key", "duplicate_key", "invalid"}
        letter = next(each for each in found if each["reason"] == "key")
        shown = await client.get(f"/v1/dlq/{letter['topic']}/0/{letter['offset']}")
        assert json.loads(base64.b64decode(shown.json()["value_base64"])) == json.loads(good.value or b"")
        asked = {"topic": raw, "partition": 0, "offset": letter["offset"]}
        replayed = await client.post("/v1/dlq/replay", json=asked)
        assert replayed.json()["replayed"][0]["to_partition"] == 2, replayed.text
        assert (await client.post("/v1/dlq/replay", json=asked)).status_code == 409
        assert (await client.post("/v1/dlq/replay", json=asked | {"force": True})).status_code == 200
        await service.counted(refused=before["refused"] + len(bad) + 2)
        newest = (await client.get("/v1/dlq", params={"topic": raw, "limit": 1})).json()["letters"]
        assert newest[0]["replays"] == 1
        for path in (
            "/v1/dlq/nothing/0/0",
            f"/v1/dlq/{raw}/9/0",
            f"/v1/dlq/{raw}/0/{'9' * 5000}",
            f"/v1/dlq/{raw}/x/0",
        ):
            assert (await client.get(path)).status_code == 404
        assert (await client.get("/v1/dlq", params={"limit": 0})).status_code == 422
    await becomes(service, "bad-1", "dead_lettered")


async def test_what_the_service_says_of_itself_is_openapi(service: Running) -> None:
    async with service.client() as client:
        document = (await client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert "/v1/events/{source}/{id}" in document["paths"]
