"""Records in and out of topics: garbage is named, and rows survive their way through a repartition topic."""

import math

import msgspec
import pytest
from features_cases import (
    PARTITIONS,
    START_US,
    Departure,
    FakeRecord,
    departures,
    fresh,
    source_record,
    views,
)
from features_play import Readers, body, by_sum, routed

from tidemill_contracts.envelope import Headers
from tidemill_features.domain.records import BadRecordError, read_routed, read_source
from tidemill_features.domain.repartition import RoutedRow, Row, Rows, read_rows, rows_per_record, write_rows
from tidemill_features.domain.route import Route, RouteMarks, RoutePartition

HEADERS = source_record(Departure("e", START_US, body("AA"), 0, 0)).headers
TIMER = ("ce_type", b"tidemill.timer.v1")


def without(name: str) -> list[tuple[str, bytes]]:
    return [header for header in HEADERS if header[0] != name]


@pytest.mark.parametrize(
    ("headers", "value", "reason"),
    [
        ([], b"{}", "ce_specversion"),
        ([("ce_specversion", b"\xff")], b"{}", "UTF-8"),
        (without("ce_id"), b"{}", "ce_id"),
        (without("tm_seq"), b"{}", "tm_seq"),
        ([*without("tm_seq"), ("tm_seq", b"-1")], b"{}", "tm_seq"),
        ([*without("tm_seq"), ("tm_seq", b"9" * 40)], b"{}", "tm_seq"),
        (HEADERS, b"\x00garbage", "JSON"),
        (HEADERS, b"[1]", "JSON"),
        (HEADERS, None, "JSON"),
        (HEADERS, b"[" * 100_000, "JSON"),
        (HEADERS, b'{"a": NaN}', "JSON"),
        ([*without("ce_type"), TIMER], b'{"time_us": "x"}', "JSON"),
        ([*without("ce_type"), TIMER], b'{"source": "s", "time_us": 4611686018427387904}', "time"),
        ([*without("ce_time"), ("ce_time", b"yesterday")], b"{}", "ce_time"),
        ([*without("ce_time"), ("ce_time", b"1900-01-01T00:00:00Z")], b"{}", "time"),
    ],
)
def test_garbage_in_a_source_topic_is_named(headers: list[tuple[str, bytes]], value: bytes | None, reason: str) -> None:
    with pytest.raises(BadRecordError, match=reason):
        read_source(FakeRecord(value, headers))


VERSION = b"0" * 16
ROWS = [("ce_type", b"tidemill.repartitioned.v1"), ("tm_view", VERSION)]


def packed(*rows: object, source: object = 0, watermark: object = None, seq: object = None) -> bytes:
    return msgspec.msgpack.encode((source, rows, watermark, seq))


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        ([], packed()),
        (ROWS[1:], packed()),
        (ROWS[:1], packed()),
        ([ROWS[0], ("tm_view", None)], packed()),
        ([TIMER, ROWS[1]], packed()),
        (ROWS, None),
        (ROWS, b""),
        (ROWS, b"\x00garbage"),
        (ROWS, b"\x91" * 100_000),
        (ROWS, packed(source=-1)),
        (ROWS, packed(source=256)),
        (ROWS, packed(watermark=-1)),
        (ROWS, packed(watermark=2**62)),
        (ROWS, packed(seq=-1)),
        (ROWS, packed(seq=10**18)),
        (ROWS, packed(((b"", 1, 2, []), 0, None))),
        (ROWS, packed(((b"\xff", 1, 2, []), 0, None))),
        (ROWS, packed(((b"k" * 3000, 1, 2, []), 0, None))),
        (ROWS, packed(((b"k", -1, 2, []), 0, None))),
        (ROWS, packed(((b"k", 2**62, 2, []), 0, None))),
        (ROWS, packed(((b"k", 1, -2, []), 0, None))),
        (ROWS, packed(((b"k", 1, 2, ["x"]), 0, None))),
        (ROWS, packed(((b"k", 1, 2, []), -1, None))),
        (ROWS, packed(((b"k", 1, 2, []), 10**18, None))),
    ],
)
def test_garbage_in_a_repartition_topic_is_named(headers: Headers, value: bytes | None) -> None:
    with pytest.raises(BadRecordError):
        read_routed(FakeRecord(value, headers), VERSION)


def test_rows_for_another_version_of_the_view_are_passed_over() -> None:
    assert read_routed(FakeRecord(packed(), ROWS), b"1" * 16) is None


def test_rows_survive_their_way() -> None:
    row = Row(b"k", START_US, 2**64 - 1, [0.1, math.nan, -1e300])
    body = Rows(1, [RoutedRow(row, 10**18 - 1, b"00-x")], START_US, 9)
    again = read_rows(write_rows(body))
    assert repr(again) == repr(body)


def test_many_rows_are_dealt_to_records_that_fit_and_only_the_last_speaks_of_time() -> None:
    view = views()["by-carrier"]
    most = rows_per_record(len(view.plan.fields))
    routes = RoutePartition([Route(view, 0, RouteMarks(), lambda _key, _partitions: 1)])
    count = 2 * most + 1
    events = [Departure(f"e{n}", START_US + n, body("AA" * 500), 0, n) for n in range(count)]
    out, _ = routes.take(view.source_topic, [source_record(event, n) for n, event in enumerate(events)])
    parts = [read_rows(letter.value or b"") for letter in out if letter.partition == 1]
    assert [len(part.rows) for part in parts] == [most, most, 1]
    assert [item.seq for part in parts for item in part.rows] == list(range(count))
    assert [part.watermark_us is None for part in parts] == [True, True, False]
    assert max(len(letter.value or b"") for letter in out) < 1_000_000


@pytest.mark.parametrize("values", [[], [1.0, 2.0, 3.0]])
def test_rows_that_do_not_fit_are_rejected_and_their_neighbours_count(values: list[float]) -> None:
    view, stream = views()["by-carrier"], departures(100)
    records = routed(view, stream)[0]
    headers = [ROWS[0], ("tm_view", view.version.encode())]
    wrong = packed(((b"k", 1, 2, values), 0, None))
    strange = packed(((b"k", 1, 2, [1.0]), 0, None), source=99)
    garbage = [FakeRecord(wrong, headers), FakeRecord(strange, headers), FakeRecord(b"", [], None)]
    part, known, clean = fresh(view, 0), Readers(), Readers()
    assert len(part.take({view.input_topic: [*garbage, *records]})) == 3
    known.read(part)
    other = fresh(view, 0)
    other.take({view.input_topic: records})
    clean.read(other)
    assert known.vectors == clean.vectors


@pytest.mark.parametrize("carrier", ["\0watermark", "x" * 3000])
def test_a_text_that_cannot_be_a_key_is_rejected(carrier: str) -> None:
    view = views()["by-carrier"]
    routes = RoutePartition([Route(view, 0, RouteMarks(), by_sum)])
    _, rejected = routes.take(view.source_topic, [source_record(Departure("e", START_US, body(carrier), 0, 0))])
    assert "at most 2048 bytes" in rejected[0].reason


def test_a_field_of_another_type_is_a_dead_letter_for_the_router_and_other_views_go_on() -> None:
    both = [views()["by-carrier"], views()["by-route"]]
    routes = RoutePartition([Route(view, 0, RouteMarks(), by_sum) for view in both])
    bad = Departure("e", START_US, body("AA") | {"carrier": ["AA"]}, 0, 0)
    out, rejected = routes.take(both[0].source_topic, [source_record(bad)])
    assert len(rejected) == 1
    assert {letter.topic for letter in out if read_rows(letter.value or b"").rows} == {both[1].input_topic}


def test_the_router_tells_time_to_every_partition_with_its_rows() -> None:
    view = views()["by-carrier"]
    routes = RoutePartition([Route(view, 1, RouteMarks(), by_sum)])
    event = source_record(Departure("e", START_US, body("AA"), 1, 0), 5)
    out, _ = routes.take(view.source_topic, [event])
    assert [letter.partition for letter in out] == [0, 1, 2]
    told = {letter.partition: read_rows(letter.value or b"") for letter in out}
    assert {(rows.source_partition, rows.watermark_us, rows.seq) for rows in told.values()} == {
        (1, START_US - 600_000_000, 0)
    }
    assert [p for p, rows in told.items() if rows.rows] == [by_sum(b"AA", PARTITIONS)]
    ((_, marks),) = routes.marks()
    assert marks == RouteMarks(6, 0, START_US - 600_000_000)
    assert routes.take(view.source_topic, [event]) == ([], [])
