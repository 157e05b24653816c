"""What the edge remembers changes nothing but the cost: a record is read as if nobody had known it."""

import json
from dataclasses import replace
from typing import Any

import pytest
from ingestion_cases import FLIGHTS, Rec, as_columns, event, garbage, record, sources, tail_of

from tidemill_ingestion.domain.framing import frame
from tidemill_ingestion.domain.readings import read
from tidemill_ingestion.domain.recent import RecentEvents
from tidemill_ingestion.domain.requests import CLOUDEVENT, JSON, Parcel, read_request
from tidemill_runtime.columns import END, KEY, KEY_END

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
    envelope = written.envelope()
    assert written.body().data == frame(written.key, written.data, envelope.headers())
    assert envelope.traceparent == (OWN if "traceparent" in str(body) else TRACE)
    recent = RecentEvents()
    recent.add(FLIGHTS, written, written.body(), 0)
    found = record(7, written)
    assert recent.read(FLIGHTS, found) is written
    assert read(FLIGHTS, found) == written
    assert len(recent) == 0
    assert recent.read(FLIGHTS, found) == written


@pytest.mark.parametrize(
    "changes",
    [
        {"value": b"{}"}, {"key": b"other"}, {"partition": 1}, {"key": None}, {"headers": []},
        {"headers": event().envelope().headers()[:-1]}, {"headers": [*event().envelope().headers(), ("x", b"y")]},
        {"headers": [event().envelope().headers()[0], ("ce_id", b"another"), *event().envelope().headers()[2:]]},
    ],
)  # fmt: skip
def test_a_record_that_differs_is_read_anew(changes: dict[str, Any]) -> None:
    recent, about = RecentEvents(), event()
    recent.add(FLIGHTS, about, about.body(), 0)
    other: Rec = replace(record(0, about), **changes)
    found = recent.read(FLIGHTS, other)
    assert found is not about
    assert found == read(FLIGHTS, other)


def test_columns_are_read_as_their_records_and_what_is_known_is_not_taken_apart() -> None:
    recent, events = RecentEvents(), [event(str(n)) for n in range(4)]
    for n, each in enumerate(events[:3]):
        recent.add(FLIGHTS, each, each.body(), 1 if n == 2 else 0)
    log = [*(record(n, each) for n, each in enumerate(events)), garbage(4), record(5, events[0])]
    pairs = list(recent.read_all(FLIGHTS, as_columns(log)))
    assert [reading is each for (_, reading), each in zip(pairs, events, strict=False)] == [True, True, False, False]
    assert [reading for _, reading in pairs] == [read(FLIGHTS, each) for each in log]
    for (found, _), given in zip(pairs, log, strict=True):
        assert (found.offset, found.timestamp, found.partition) == (given.offset, given.timestamp, given.partition)
        assert (found.key, found.value, list(found.headers)) == (given.key, given.value, given.headers)


def test_bytes_behind_a_key_of_another_length_are_another_record() -> None:
    recent, about = RecentEvents(), event()
    recent.add(FLIGHTS, about, about.body(), 0)
    body = about.body().data
    columns = as_columns([record(0, about)])
    columns.table[0, KEY_END] -= 1
    assert columns.buffer[columns.table[0, KEY] : columns.table[0, END]] == body
    ((_, reading),) = recent.read_all(FLIGHTS, columns)
    assert reading is not about


def test_another_definition_of_the_source_reads_anew() -> None:
    recent, about = RecentEvents(), event()
    recent.add(FLIGHTS, about, about.body(), 0)
    found = recent.read(sources()["flights"], record(0, about))
    assert found is not about
    assert found == about


def test_the_oldest_are_forgotten_first() -> None:
    recent = RecentEvents(maximum_bytes=5000)
    events = [event(str(n)) for n in range(9)]
    for each in (*events, events[-1]):
        recent.add(FLIGHTS, each, each.body(), 0)
    kept = len(recent)
    assert 0 < kept < len(events)
    known = [e for n, e in enumerate(events) if recent.read(FLIGHTS, record(n, e)) is e]
    assert known == events[-kept:]
    assert len(recent) == 0
