"""The domain: each batch twice is once, any order is one order, and online is the backfill, bit for bit."""

import math
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from features_cases import (
    END_US,
    PARTITIONS,
    START_US,
    Departure,
    FakeRecord,
    Stream,
    departures,
    expected,
    fresh,
    pipeline,
    source_record,
    timer_record,
    views,
)

from tidemill_contracts.envelope import Headers
from tidemill_contracts.events import FeatureVector, Watermark
from tidemill_features.domain.aggregate import Marks, ViewPartition
from tidemill_features.domain.encode import WATERMARK_KEY
from tidemill_features.domain.letter import Letter
from tidemill_features.domain.partition import AggregatePartition
from tidemill_features.domain.records import BadRecordError, read_routed, read_source
from tidemill_features.domain.repartition import RoutedRow, Row, Rows, read_rows, rows_per_record, write_rows
from tidemill_features.domain.route import Route, RouteMarks, RoutePartition
from tidemill_features.domain.views import View, compile_program


class Readers:
    """What a reader of the compacted topics knows: the newest record of each key."""

    def __init__(self) -> None:
        self.vectors: dict[bytes, FeatureVector] = {}
        self.watermark: Watermark | None = None

    def read(self, part: AggregatePartition) -> int:
        outputs = part.drain()
        for output in outputs:
            assert output.key is not None
            if output.value is None:
                self.vectors.pop(output.key, None)
            elif output.key == WATERMARK_KEY:
                self.watermark = Watermark.read(output.value)
            else:
                new = FeatureVector.read(output.value)
                assert new.revision >= (self.vectors[output.key].revision if output.key in self.vectors else 1)
                self.vectors[output.key] = new
        return len(outputs)


def routed(
    view: View, stream: Stream, *, repeat: bool = False, seed: int = 0, size: int = 60
) -> dict[int, list[FakeRecord]]:
    """Records of each partition of the view's input, source partitions interleaved by chance."""
    chance = random.Random(seed)
    inputs: dict[int, list[FakeRecord]] = {p: [] for p in range(PARTITIONS)}
    routes = {p: RoutePartition([Route(view, p, RouteMarks(), by_sum)]) for p in range(PARTITIONS)}
    pending = {p: [source_record(e) for e in events] for p, events in stream.by_partition.items()}
    for p, records in pending.items():
        records.append(timer_record(END_US, p))
    while any(pending.values()):
        p = chance.choice([p for p, records in pending.items() if records])
        taken = chance.randrange(1, size + 1)
        batch, pending[p] = pending[p][:taken], pending[p][taken:]
        if repeat and chance.random() < 0.5:  # a router that died before it had stored how far it was
            route = routes[p].routes[0]
            marks = RouteMarks(0, route.seq, route.watermark_us)
            lost, _ = routes[p].take(view.source_topic, batch)
            put(inputs, lost)
            routes[p] = RoutePartition([Route(view, p, marks, by_sum)])
        out, rejected = routes[p].take(view.source_topic, batch)
        assert not rejected
        put(inputs, out)
    return inputs


def put(inputs: dict[int, list[FakeRecord]], out: Sequence[Letter]) -> None:
    for item in out:
        at = inputs[item.partition]
        at.append(FakeRecord(item.value, item.headers, item.key, item.topic, item.partition, len(at)))


def by_sum(key: bytes, partitions: int) -> int:
    return sum(key) % partitions


def direct(view: View, stream: Stream) -> dict[int, list[FakeRecord]]:
    """Records of a view that reads its source itself."""
    out = {}
    for p, events in stream.by_partition.items():
        out[p] = [source_record(e, n) for n, e in enumerate(events)] + [timer_record(END_US, p, len(events))]
    assert view.input_topic == view.source_topic
    return out


def play(view: View, inputs: dict[int, list[FakeRecord]], *, size: int, repeat: bool = False) -> list[Readers]:
    """Everything through all partitions, in batches; with `repeat` each batch is delivered twice."""
    readers = []
    for p, records in inputs.items():
        part, known = fresh(view, p), Readers()
        for at in range(0, len(records), size):
            batch = records[at : at + size]
            assert not part.take({view.input_topic: batch})
            known.read(part)
            if repeat:
                assert not part.take({view.input_topic: batch})
                assert known.read(part) == 0
        readers.append(known)
    return readers


def check_against_backfill(view: View, stream: Stream, readers: Sequence[Readers]) -> int:
    vectors = {key: vector for known in readers for key, vector in known.vectors.items()}
    keys = list(vectors)
    values = expected(view, stream.all, keys, [vectors[key].at_us for key in keys])
    online = np.array([[np.nan if v is None else v for v in vectors[key].values] for key in keys])
    assert online.tobytes() == np.where(np.isnan(values), np.nan, values).tobytes()
    rows = [row for e in stream.all if (row := view.read(e.id, e.time_us, e.body)) is not None]
    assert {row.key for row in rows} == set(keys)
    return len(keys)


@pytest.mark.parametrize("name", ["by-flight", "by-carrier", "by-route"])
def test_online_is_the_backfill_bit_for_bit_whatever_batches_and_repeats(name: str) -> None:
    view, stream = views()[name], departures(3000)
    inputs = routed(view, stream) if view.repartitioned else direct(view, stream)
    plain = play(view, inputs, size=4000)
    assert check_against_backfill(view, stream, plain) > 2
    shuffled = routed(view, stream, repeat=True, seed=7) if view.repartitioned else inputs
    for variant in (play(view, inputs, size=37, repeat=True), play(view, shuffled, size=211)):
        assert [known.vectors for known in variant] == [known.vectors for known in plain]
        assert [known.watermark for known in variant] == [known.watermark for known in plain]


def test_positions_name_the_newest_event_of_every_source_partition() -> None:
    view, stream = views()["by-carrier"], departures(500)
    for known in play(view, routed(view, stream), size=50):
        for vector in known.vectors.values():
            for partition, seq in vector.positions.items():
                mine = [e.seq for e in stream.by_partition[int(partition)] if e.body["carrier"] == vector.entity]
                assert seq == max(mine)
        assert known.watermark is not None
        assert known.watermark.watermark_us == END_US
        assert known.watermark.positions == {str(p): len(e) - 1 for p, e in stream.by_partition.items()}


def test_a_restored_partition_goes_on_as_if_nothing_had_happened() -> None:
    view, stream = views()["by-carrier"], departures(2000)
    records = routed(view, stream)[by_sum(b"AA", PARTITIONS)]
    part, undisturbed = fresh(view, by_sum(b"AA", PARTITIONS)), Readers()
    for at in range(0, len(records), 100):
        part.take({view.input_topic: records[at : at + 100]})
        undisturbed.read(part)

    part, known = fresh(view, part.views[0].partition), Readers()
    stored: dict[bytes, bytes | None] = {}
    marks = Marks()
    for at in range(0, len(records), 90):
        part.take({view.input_topic: records[at : at + 90]})
        known.read(part)
        if at % 270 == 0:
            for _, capture in part.capture():
                stored.update(capture.entries)
                marks = capture.marks
        if at % 450 == 0:  # it dies after it has told more than it had stored
            number, entries = part.views[0].partition, list(stored.items())
            part = AggregatePartition([ViewPartition.restored(view, number, marks, entries)])
            part.take({view.input_topic: records[marks.next_offset : at + 90]})
            part.drain()
    assert known.vectors == undisturbed.vectors
    assert part.views[0].marks(len(records)) == Marks(
        len(records), part.views[0].seqs, part.views[0].watermarks, END_US
    )


def test_nothing_new_needs_no_checkpoint() -> None:
    view, stream = views()["by-flight"], departures(50)
    part = fresh(view, 0)
    part.take({view.input_topic: direct(view, stream)[0]})
    part.drain()
    assert len(part.capture()) == 1
    assert part.capture() == []


def test_a_key_that_dies_is_deleted_everywhere() -> None:
    view = views(pipeline(ttl="24h"))["by-carrier"]
    stream = Stream({0: [Departure("e", START_US, body("AA"), 0, 0)], 1: [], 2: []})
    inputs = routed(view, stream, size=1)
    p = by_sum(b"AA", PARTITIONS)
    part, known = fresh(view, p), Readers()
    part.take({view.input_topic: [record for record in inputs[p] if read_rows(record.value or b"").rows]})
    known.read(part)
    assert set(known.vectors) == {b"AA"}
    assert part.capture()[0][1].entries[0][0] == b"AA"
    part.take({view.input_topic: inputs[p]})
    known.read(part)
    assert known.vectors == {}
    assert part.capture()[0][1].entries == [(b"AA", None)]


def body(carrier: str | None, delay: float | None = 1.0) -> dict[str, Any]:
    return {"flight": "F1", "carrier": carrier, "origin": "EWR", "dest": "LAX", "delay": delay}


def test_an_event_that_no_accumulator_can_hold_is_rejected_and_its_neighbours_count() -> None:
    view = views()["by-flight"]
    events = [Departure(f"e{n}", START_US + n, body("AA", delay), 0, n) for n, delay in enumerate([1.0, 1e300, 2.0])]
    part, known = fresh(view, 0), Readers()
    (rejected,) = part.take({view.input_topic: [source_record(event, n) for n, event in enumerate(events)]})
    known.read(part)
    assert "too large" in rejected.reason
    assert rejected.record.offset == 1
    assert known.vectors[b"F1"].values[0] == 2.0


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


def test_the_same_view_in_two_pipelines_runs_once_and_a_different_one_is_refused() -> None:
    program = compile_program([pipeline("b"), pipeline("a"), pipeline("c", ttl="30d")], "tm")
    assert [(view.name, view.pipeline) for view in program.views] == [
        ("by-carrier", "a"), ("by-flight", "a"), ("by-route", "a"),
    ]  # fmt: skip
    assert set(program.refused) == {"c/by-carrier"}
    assert program.router_topics == ("tm.events.departures.v1",)
    assert program.input_topics == (
        "tm.events.departures.v1", "tm.repartition.by-carrier.v1", "tm.repartition.by-route.v1",
    )  # fmt: skip


def test_another_number_of_partitions_of_one_source_is_refused() -> None:
    program = compile_program([pipeline("a"), pipeline("b", partitions=6)], "tm")
    assert {name: "partitions" in reason for name, reason in program.refused.items()} == {
        "b/by-carrier": True, "b/by-flight": True, "b/by-route": True,
    }  # fmt: skip


def test_a_view_that_the_engine_cannot_run_is_refused_and_the_others_run() -> None:
    program = compile_program([pipeline("a", where="delay +")], "tm")
    assert set(program.refused) == {"a/by-carrier"}
    assert len(program.views) == 2
    assert set(compile_program([pipeline("a", where="delay")], "tm").refused) == {"a/by-carrier"}
