"""Events in columns mean what they mean one by one: the same vectors, rows, dead letters and counts, byte for byte."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from features_cases import (
    END_US,
    PARTITIONS,
    START_US,
    Departure,
    FakeRecord,
    as_columns,
    departures,
    fresh,
    source_record,
    timer_record,
    views,
)
from features_play import body, by_sum, told

from tidemill_contracts.base import format_time, parse_time
from tidemill_contracts.envelope import Headers
from tidemill_engine.entities import event_mark
from tidemill_features.domain.records import BadRecordError, Event, read_source
from tidemill_features.domain.route import Route, RouteMarks, RoutePartition
from tidemill_features.domain.scan import MARK, PLAIN, SEQ, TIME, TRACE, TRACE_END, columns_of, scan
from tidemill_features.domain.taken import Rejected

BAD_BODIES = (
    b'{"flight":"F1","delay":"late"}', b'{"flight":"F1","delay":true}', b'{"flight":7,"delay":1}', b'{"flight":[]}',
    b'{"flight":"F1","delay":1e400}', b'{"flight":"F1","other":1e400,"delay":1}', b'{"flight":"","delay":1}',
    b'{"flight":"F1","other":"\xff","delay":1}', b'{"flight":"\\u0000x","delay":1}', b'{"delay":1}', b"[1]", b"", b"{",
    b'{"flight":"F1","delay":1e300}', b'{"flight":"F1","carrier":5,"origin":1.5,"dest":true,"delay":2}',
    b'{"flight":"' + b"x" * 3000 + b'","delay":1}', b'{"flight":"F2","delay":9007199254740993}', b'{"flight":null}',
    b'{"flight":"F1","other":' + b"9" * 400 + b',"delay":1}', b'{"flight":"\xc3\xa9","delay":-0.0}',
)  # fmt: skip


def hostile(partition: int, count: int = 600) -> list[FakeRecord]:
    """Events of one partition with garbage, repeats, timers and odd headers among them."""
    chance = random.Random(partition)
    made = [source_record(event) for event in departures(count).by_partition[partition]]
    for n in range(len(made)):
        kind = chance.randrange(8)
        if kind == 0:
            made[n] = replace(made[n], value=chance.choice(BAD_BODIES))
        elif kind == 1:
            made[n] = replace(made[n], headers=chance.choice(odd_headers(made[n].headers)))
        elif kind == 2:
            made.insert(n, timer_record(START_US + n * 1_000_000, partition))
        elif kind == 3 and n > 10:
            made[n:n] = made[n - 10 : n]
    return [*made, timer_record(END_US, partition)]


def odd_headers(headers: Headers) -> list[Headers]:
    """What others may write."""
    named = dict(headers)

    def changed(**values: bytes) -> Headers:
        return list((named | {name.replace("__", "-"): value for name, value in values.items()}).items())

    return [
        [], headers[::-1], [*headers, ("other", b"x")], [*headers, ("tm_seq", b"5")], changed(ce_id="é".encode()),
        changed(ce_id=b"x" * 300), changed(ce_id=b""), changed(ce_source=b""), changed(ce_specversion=b"0.3"),
        changed(tm_seq=b"-1"), changed(tm_seq=b""), changed(tm_seq=b"9" * 30), changed(ce_time=b"2013-02-30T10:00:00Z"),
        changed(ce_time=b"2013-01-01T10:00:00+01:00"), changed(ce_time=b"1900-01-01T00:00:00Z"), changed(ce_id=b"\xff"),
        [(name, value) for name, value in headers if name != "traceparent"], [*headers, ("n\xe9", b"x")],
    ]  # fmt: skip


def cuts(records: Sequence[FakeRecord], size: int) -> Iterator[list[FakeRecord]]:
    for at in range(0, len(records), size):
        yield list(records[at : at + size])


def shown(rejected: Sequence[Rejected]) -> list[tuple[bytes | None, str]]:
    return [(item.record.value, item.reason) for item in rejected]


@pytest.mark.parametrize("size", [3, 150])
@pytest.mark.parametrize("partition", range(PARTITIONS))
def test_a_view_of_its_source_gives_the_same(partition: int, size: int) -> None:
    view, records = views()["by-flight"], hostile(partition)
    one, many = fresh(view, partition), fresh(view, partition)
    dead = 0
    for batch in cuts(records, size):
        first, second = one.take({view.input_topic: batch}), many.take({view.input_topic: as_columns(batch)})
        assert shown(first) == shown(second)
        assert told(one) == told(many)
        dead += len(first)
    a, b = one.views[0], many.views[0]
    assert (a.seqs, a.watermarks, a.watermark_us) == (b.seqs, b.watermarks, b.watermark_us)
    assert (a.repeats, a.skipped, a.emitted) == (b.repeats, b.skipped, b.emitted)
    assert a.state.digest() == b.state.digest()
    assert dead > 5
    assert a.repeats > 0


@pytest.mark.parametrize("size", [3, 150])
@pytest.mark.parametrize("partition", range(PARTITIONS))
def test_a_router_writes_the_same(partition: int, size: int) -> None:
    routed = [view for view in views().values() if view.repartitioned]
    one, many = (
        RoutePartition([Route(view, partition, RouteMarks(), by_sum) for view in routed]) for _ in range(2)
    )  # fmt: skip
    topic = routed[0].source_topic
    for batch in cuts(hostile(partition), size):
        letters, rejected = one.take(topic, batch)
        same, also = many.take(topic, as_columns(batch))
        assert letters == same
        assert shown(rejected) == shown(also)
    assert [mark.seq for _, mark in one.marks()] == [mark.seq for _, mark in many.marks()]


def test_headers_say_the_same_to_both_readers() -> None:
    chance = random.Random(3)
    records = []
    for n in range(500):
        time_us = chance.randrange(2**32) * 1_000_000 + chance.choice([0, chance.randrange(1_000_000)])
        name = "".join(chance.choice("abcXYZ-0123") for _ in range(chance.randrange(129)))
        records.append(source_record(Departure(name, time_us, body("AA"), 1, n)))
    columns = columns_of(as_columns(records))
    assert columns is not None
    found, everything = scan(columns)
    assert everything
    for record, row in zip(records, found.tolist(), strict=True):
        event = read_source(record)
        assert isinstance(event, Event)
        assert (row[TIME], row[SEQ], row[MARK] % 2**64) == (event.time_us, event.seq, event_mark(event.id))
        assert columns.buffer[row[TRACE] : row[TRACE_END]] == event.trace


@pytest.mark.parametrize(
    "text",
    [
        "2012-02-29T00:00:00Z", "2000-02-29T23:59:59.999999Z", "1970-01-01T00:00:00Z", "2100-03-01T00:00:00Z",
        "2013-02-29T00:00:00Z", "2100-02-29T00:00:00Z", "2013-13-01T00:00:00Z", "2013-00-01T00:00:00Z",
        "2013-01-32T00:00:00Z", "2013-01-01T24:00:00Z", "2013-01-01T00:60:00Z", "2013-01-01T00:00:60Z",
        "2013-01-01T00:00:00.12345xZ", "2013-01-01 00:00:00Z", "2013-01-01T00:00:00.123Z", "2013-1-01T00:00:000Z",
        "1969-12-31T23:59:59Z", "2013/01/01T00:00:00Z", "2013-01-01T00:00:00,123456Z",
    ],
)  # fmt: skip
def test_a_time_is_read_as_the_contract_reads_it_or_left_to_it(text: str) -> None:
    record = source_record(Departure("e", START_US, body("AA")))
    headers = [("ce_time", text.encode()) if name == "ce_time" else (name, value) for name, value in record.headers]
    columns = columns_of(as_columns([replace(record, headers=headers)]))
    assert columns is not None
    found, everything = scan(columns)
    if everything:
        assert found[0, TIME] == parse_time(text)
        return
    assert not found[0, PLAIN]
    try:
        event = read_source(columns[0])
    except BadRecordError:
        return
    assert isinstance(event, Event)
    assert format_time(event.time_us) != text
