"""What an event is: every kind of bad input has its rule, and the canonical form is one."""

import json
from contextlib import suppress
from typing import Any

import pytest
from aiokafka.partitioner import murmur2 as reference_murmur2
from hypothesis import given
from hypothesis import strategies as st
from ingestion_cases import FLIGHTS, NOON, WEATHER

from tidemill_ingestion.domain.catalogue import catalogue
from tidemill_ingestion.domain.fields import Issue
from tidemill_ingestion.domain.partition import murmur2, partition_of
from tidemill_ingestion.domain.requests import (
    CLOUDEVENT,
    CLOUDEVENTS,
    JSON,
    NDJSON,
    InvalidEventsError,
    MediaTypeError,
    Parcel,
    Posted,
    read_request,
)
from tidemill_ingestion.domain.source import MAXIMUM_DATA_BYTES, Source
from tidemill_ingestion.domain.strict_json import BadJsonError, loads

GOOD: dict[str, Any] = {"tail": "N1", "at": "2013-01-01T10:00:00Z", "delay": 1.5}


def post(
    body: bytes | object, media: str = JSON, *, source: Source = FLIGHTS, headers: dict[str, str] | None = None
) -> Posted:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_request(source, Parcel(media, {"content-type": media} | (headers or {}), raw, 100))


def problems(
    body: bytes | object, media: str = JSON, *, headers: dict[str, str] | None = None
) -> list[tuple[str, str]]:
    with pytest.raises(InvalidEventsError) as caught:
        post(body, media, headers=headers)
    return [(issue.field, issue.rule) for issue in caught.value.issues]


def item(**changes: object) -> dict[str, object]:
    data = {name: value for name, value in (GOOD | changes).items() if value is not ...}
    return {"id": "e", "data": data}


@pytest.mark.parametrize(
    ("changes", "field", "rule"),
    [
        ({"delay": "1"}, "delay", "type"),
        ({"delay": True}, "delay", "type"),
        ({"delay": None}, "delay", "required"),
        ({"delay": ...}, "delay", "required"),
        ({"delay": [1]}, "delay", "type"),
        ({"delay": -101}, "delay", "range"),
        ({"delay": 5000.5}, "delay", "range"),
        ({"delay": 10**400}, "delay", "finite"),
        ({"seats": 1.0}, "seats", "type"),
        ({"seats": False}, "seats", "type"),
        ({"seats": 2**63}, "seats", "range"),
        ({"carrier": "ZZ"}, "carrier", "category"),
        ({"carrier": 1}, "carrier", "type"),
        ({"cancelled": 0}, "cancelled", "type"),
        ({"cancelled": "true"}, "cancelled", "type"),
        ({"tail": "N" * 13}, "tail", "length"),
        ({"tail": 7}, "tail", "type"),
        ({"tail": None}, "tail", "required"),
        ({"tail": "a\x00b"}, "tail", "characters"),
        ({"tail": "\ud800"}, "tail", "characters"),
        ({"at": "2013-01-01T10:00:00"}, "at", "time"),
        ({"at": "2013-01-01"}, "at", "time"),
        ({"at": "2013-02-30T10:00:00Z"}, "at", "time"),
        ({"at": "20130101T100000Z"}, "at", "time"),
        ({"at": 1357034400}, "at", "type"),
        ({"at": "0001-01-01T00:00:00+10:00"}, "at", "range"),
        ({"at": "9999-12-31T23:59:59-01:00"}, "at", "range"),
        ({"extra": 1}, "extra", "unknown"),
        ({"not a name \n": 1}, "?", "unknown"),
    ],
)
def test_a_bad_field_is_named_with_its_rule(changes: dict[str, object], field: str, rule: str) -> None:
    assert problems(item(**changes)) == [(f"data.{field}", rule)]
    assert problems([item(), item() | {"id": "f"} | item(**changes)]) == [(f"1.data.{field}", rule)]


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b"", "json"),
        (b"{", "json"),
        (b"\xff\xfe", "json"),
        (b'{"id": "e", "id": "f"}', "duplicate_key"),
        (b'{"id": "e", "data": {"delay": 1, "delay": 2}}', "duplicate_key"),
        (b'{"id": "e", "data": {"delay": NaN}}', "finite"),
        (b'{"id": "e", "data": {"delay": -Infinity}}', "finite"),
        (b"[" * 100_000, "depth"),
        (b'{"id": "e", "data": {"seats": ' + b"9" * 5000 + b"}}", "json"),
    ],
)
def test_what_is_not_json_is_refused_as_a_whole(body: bytes, rule: str) -> None:
    assert problems(body) == [("", rule)]
    with pytest.raises(BadJsonError):
        loads(body)


def test_a_number_beyond_floats_is_not_finite() -> None:
    body = b'{"id": "e", "data": {"tail": "N1", "at": "2013-01-01T10:00:00Z", "delay": 1e400}}'
    assert problems(body) == [("data.delay", "finite")]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, [("id", "type"), ("data", "type")]),
        ({"id": "", "data": GOOD}, [("id", "length")]),
        ({"id": "x" * 257, "data": GOOD}, [("id", "length")]),
        ({"id": "a\nb", "data": GOOD}, [("id", "length")]),
        ({"id": 1, "data": GOOD}, [("id", "type")]),
        ({"id": "e", "data": GOOD, "extra": 1}, [("extra", "unknown")]),
        ({"id": "e", "data": GOOD, "time": "2013-01-01T10:00:00"}, [("time", "time")]),
        ({"id": "e", "data": []}, [("data", "type")]),
        ("text", [("", "type")]),
        (None, [("", "type")]),
        ([1, item()], [("0", "type")]),
        ([item(), item(delay=2)], [("1.id", "conflict")]),
        ([item()] * 101, [("", "size")]),
    ],
)
def test_what_is_around_the_data_is_strict_too(body: object, expected: list[tuple[str, str]]) -> None:
    assert problems(body) == expected


def test_issues_never_repeat_the_input() -> None:
    with pytest.raises(InvalidEventsError) as caught:
        post([item(tail="secret-secret"), item(delay="secret"), {"secret key": 1}, item(carrier="secret")])
    assert "secret" not in repr(caught.value.issues)
    assert len(caught.value.issues) == 4


def test_at_most_a_hundred_issues_are_listed() -> None:
    assert len(problems(item(**{f"x{n}": 1 for n in range(1000)}))) == 100


def test_an_event_larger_than_a_record_may_be_is_refused() -> None:
    big = WEATHER.spec.fields["origin"].model_copy(update={"max_length": 10**7})
    source = Source.compile("w", WEATHER.spec.model_copy(update={"fields": WEATHER.spec.fields | {"origin": big}}), 1)
    issues = list[Issue]()
    data = {"origin": "x" * MAXIMUM_DATA_BYTES, "station": 1, "wind": 0.0}
    assert source.event("e", NOON, data, source.context(), "", issues) is None
    assert [(issue.field, issue.rule) for issue in issues] == [("data", "size")]


def test_the_same_fact_has_the_same_bytes_however_it_was_written() -> None:
    one = post(item(delay=5, at="2013-01-01T12:00:00+02:00")).events[0]
    two = post(item(seats=None, delay=5.0)).events[0]
    assert one == two
    assert one.data == b'{"at":"2013-01-01T10:00:00Z","delay":5.0,"tail":"N1"}'
    assert one.digest != post(item(delay=5.5)).events[0].digest


def test_without_a_time_field_the_items_time_counts_and_is_required() -> None:
    data = {"origin": "EWR", "station": 4, "wind": 2}
    found = post({"id": "w", "time": "2013-01-01T12:00:00Z", "data": data}, source=WEATHER).events[0]
    assert (found.time_us, found.key) == (NOON, b'["EWR",4]')
    with pytest.raises(InvalidEventsError) as caught:
        post({"id": "w", "data": data}, source=WEATHER)
    assert [(issue.field, issue.rule) for issue in caught.value.issues] == [("time", "required")]


def test_ndjson_names_the_line() -> None:
    good = json.dumps(item()).encode()
    assert len(post(good + b"\n\n" + good + b"\r\n", NDJSON).events) == 2
    assert problems(good + b"\n{bad\n", NDJSON) == [("1", "json")]


CE: dict[str, Any] = {"specversion": "1.0", "id": "c", "source": "/s", "type": "t", "data": GOOD}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"specversion": "0.3"}, ("specversion", "value")),
        ({"type": ""}, ("type", "required")),
        ({"type": None}, ("type", "required")),
        ({"source": 5}, ("source", "required")),
        ({"type": "tidemill.timer.v1"}, ("type", "reserved")),
        ({"Bad-Name": "x"}, ("?", "unknown")),
        ({"ext": [1]}, ("ext", "type")),
        ({"ext": "x" * 600}, ("ext", "length")),
        ({"datacontenttype": "text/xml"}, ("datacontenttype", "media_type")),
        ({"time": "noon"}, ("time", "time")),
        ({"data_base64": "e30="}, ("data_base64", "value")),
    ],
)
def test_a_structured_cloudevent_is_checked(changes: dict[str, object], expected: tuple[str, str]) -> None:
    assert problems(CE | changes, CLOUDEVENT) == [expected]
    assert problems([CE, CE | {"id": "d"} | changes], CLOUDEVENTS) == [(f"1.{expected[0]}", expected[1])]


def test_base64_data_is_data() -> None:
    body = {name: value for name, value in CE.items() if name != "data"}
    encoded = "eyJ0YWlsIjoiTjEiLCJhdCI6IjIwMTMtMDEtMDFUMTA6MDA6MDBaIiwiZGVsYXkiOjEuNX0="
    assert post(body | {"data_base64": encoded}, CLOUDEVENT).events[0].data == post(CE, CLOUDEVENT).events[0].data
    assert problems(body | {"data_base64": "%%"}, CLOUDEVENT) == [("data_base64", "base64")]
    assert problems(body | {"data_base64": "eyJ"}, CLOUDEVENT) == [("data_base64", "base64")]


def test_a_binary_cloudevent_comes_in_headers() -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "a%20b", "ce-source": "/s", "ce-type": "t", "ce-causationid": "cause"}
    found = post(GOOD, headers=headers)
    assert found.single
    assert (found.events[0].id, found.events[0].context.causation) == ("a b", "cause")
    assert problems(GOOD, headers=headers | {"ce-id": "%ff"}) == [("id", "characters")]
    assert problems(b"{", headers=headers) == [("", "json")]
    with pytest.raises(MediaTypeError):
        post(GOOD, headers=headers | {"content-type": "text/plain"})


def test_other_media_types_are_not_events() -> None:
    with pytest.raises(MediaTypeError):
        post(b"<xml/>", "text/xml")
    assert problems(CE, CLOUDEVENTS) == [("", "type")]


@given(st.binary(max_size=60))
def test_partitions_are_those_of_kafkas_own_clients(key: bytes) -> None:
    assert murmur2(key) == reference_murmur2(key)
    assert partition_of(key, 6) == (reference_murmur2(key) & 0x7FFFFFFF) % 6


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(raw: bytes) -> None:
    with suppress(BadJsonError):
        loads(raw)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    )
)
def test_no_document_breaks_the_edge(document: object) -> None:
    data = {"tail": document, "at": document}
    for body in ([document], {"id": document, "data": document}, {"id": "e", "data": data}):
        with pytest.raises(InvalidEventsError):
            post(json.dumps(body).encode(errors="surrogatepass"))


def test_a_source_that_did_not_change_keeps_its_object() -> None:
    spec = FLIGHTS.spec
    before = {"flights": FLIGHTS}

    class Pipe:  # what catalogue reads of a pipeline
        def __init__(self, name: str, partitions: int) -> None:
            self.name, self.partitions, self.sources = name, partitions, {"flights": spec}

    assert catalogue([Pipe("a", 3)], before).sources["flights"] is FLIGHTS  # type: ignore[list-item]  # a stand-in
    changed = catalogue([Pipe("b", 3), Pipe("a", 4)], before)  # type: ignore[list-item]  # a stand-in
    assert changed.sources["flights"].partitions == 4
    assert changed.disputed == ("flights",)
