"""What the edge remembers changes nothing but the cost: a record is read as if nobody had known it."""

import json
from dataclasses import replace
from typing import Any

import pytest
from ingestion_cases import FLIGHTS, Rec, event, record, sources, tail_of

from tidemill_ingestion.domain.readings import read
from tidemill_ingestion.domain.recent import RecentEvents
from tidemill_ingestion.domain.requests import CLOUDEVENT, JSON, Parcel, read_request

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OWN = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
DATA: dict[str, Any] = {"tail": tail_of(0), "at": "2013-01-01T10:00:00.25+01:00", "delay": -0.0, "carrier": None}
CLOUD = {"specversion": "1.0", "type": "t", "source": "/é", "id": "c", "data": DATA}
POSTED: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    (JSON, {"id": "plain ü", "data": DATA}, {}),
    (CLOUDEVENT, CLOUD, {}),
    (CLOUDEVENT, CLOUD | {"subject": "s", "correlationid": "k", "causationid": "z", "traceparent": OWN}, {}),
    (JSON, DATA, {"ce-specversion": "1.0", "ce-type": "t", "ce-source": "/t", "ce-id": "b", "ce-subject": "%C3%A9"}),
]


@pytest.mark.parametrize(("media", "body", "headers"), POSTED)
def test_an_event_is_what_its_record_would_be_read_as(media: str, body: object, headers: dict[str, str]) -> None:
    parcel = Parcel(media, {"content-type": media} | headers, json.dumps(body).encode(), 100)
    (posted,) = read_request(FLIGHTS, parcel).events
    written = posted.traced(TRACE)
    assert written.headers() == written.envelope().headers()
    assert ("traceparent", (OWN if "traceparent" in str(body) else TRACE).encode()) in written.headers()
    recent = RecentEvents()
    recent.add(FLIGHTS, written, written.headers())
    found = record(7, written)
    assert recent.read(FLIGHTS, found) is written
    assert read(FLIGHTS, found) == written
    assert len(recent) == 0
    assert recent.read(FLIGHTS, found) == written


@pytest.mark.parametrize(
    "changes",
    [
        {"value": b"{}"}, {"key": b"other"}, {"partition": 1}, {"key": None}, {"headers": []},
        {"headers": event().headers()[:-1]}, {"headers": [*event().headers(), ("x", b"y")]},
        {"headers": [event().headers()[0], ("ce_id", b"another"), *event().headers()[2:]]},
    ],
)  # fmt: skip
def test_a_record_that_differs_is_read_anew(changes: dict[str, Any]) -> None:
    recent, about = RecentEvents(), event()
    recent.add(FLIGHTS, about, about.headers())
    other: Rec = replace(record(0, about), **changes)
    found = recent.read(FLIGHTS, other)
    assert found is not about
    assert found == read(FLIGHTS, other)


def test_another_definition_of_the_source_reads_anew() -> None:
    recent, about = RecentEvents(), event()
    recent.add(FLIGHTS, about, about.headers())
    found = recent.read(sources()["flights"], record(0, about))
    assert found is not about
    assert found == about


def test_the_oldest_are_forgotten_first() -> None:
    recent = RecentEvents(maximum_bytes=5000)
    events = [event(str(n)) for n in range(9)]
    for each in (*events, events[-1]):
        recent.add(FLIGHTS, each, each.headers())
    kept = len(recent)
    assert 0 < kept < len(events)
    known = [e for n, e in enumerate(events) if recent.read(FLIGHTS, record(n, e)) is e]
    assert known == events[-kept:]
    assert len(recent) == 0
