"""Records in and out of topics: garbage is named, and rows survive their way through a repartition topic."""

import math
import struct
from collections.abc import Sequence

import msgspec
import numpy as np
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
from features_play import Readers, body, by_sum, routed, rows_of, section_of

from tidemill_features.domain.marks import Marks
from tidemill_features.domain.records import BadRecordError, read_routed, read_source
from tidemill_features.domain.repartition import Section, Sheet, read_sheet, write_sheet
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


def packed(
    *, key: bytes = b"k", time: int = 1, seq: int = 1, values: Sequence[float] = (), owner: str | bytes = "v/0",
    source: int = 0, watermark: int | None = None, newest: int | None = None, version: int = 2, traces: object = None,
    **columns: object,
) -> bytes:  # fmt: skip
    """A record of one row; `columns` in place of what fits."""
    numbers = {"rows": 1, "fields": len(values)} | columns
    part = (owner, numbers.pop("rows"), numbers.pop("fields"), watermark, newest)
    found = {
        "keys": key, "ends": struct.pack("<i", len(key)), "times": struct.pack("<q", time), "marks": bytes(8),
        "seqs": struct.pack("<q", seq), "floats": struct.pack(f"<{len(values)}d", *values),
    } | numbers  # fmt: skip
    return msgspec.msgpack.encode((version, source, [part], *found.values(), traces))


def test_a_record_made_by_hand_is_read() -> None:
    sheet = read_routed(packed(key="é".encode(), time=5, seq=6, values=[0.5], watermark=7, newest=8, traces=[b"t"]))
    (section,) = sheet.sections
    assert rows_of(section) == [(("é".encode(), 5, 0, [0.5]), 6, b"t")]
    assert (sheet.source_partition, section.owner, section.watermark_us, section.seq) == (0, "v/0", 7, 8)


@pytest.mark.parametrize(
    "value",
    [
        None, b"", b"\x00garbage", b"\x91" * 100_000, b"[1,2]", msgspec.msgpack.encode((0, [], None, None)),
        packed(version=1), packed(source=-1), packed(source=256), packed(watermark=-1), packed(watermark=2**62),
        packed(newest=-1), packed(newest=10**18), packed(key=b""), packed(key=b"\xff"), packed(key=b"k" * 3000),
        packed(time=-1), packed(time=2**62), packed(seq=-1), packed(seq=10**18), packed(rows=-1), packed(rows=2),
        packed(rows=0), packed(rows=2**62), packed(fields=1), packed(fields=2**40), packed(ends=b""),
        packed(ends=struct.pack("<i", -1)), packed(ends=struct.pack("<i", 2)), packed(ends=b"\x01"),
        packed(times=b"1234567"), packed(marks=b""), packed(marks=bytes(9)), packed(seqs=bytes(16)),
        packed(floats=bytes(8)), packed(floats=b"x"), packed(traces=[]), packed(traces=["x"]), packed(owner=b"v"),
    ],
)  # fmt: skip
def test_garbage_in_a_repartition_topic_is_named(value: bytes | None) -> None:
    with pytest.raises(BadRecordError):
        read_routed(value)


def test_rows_survive_their_way() -> None:
    def section(owner: str, fields: int, keys: list[bytes], traces: list[bytes | None] | None) -> Section:
        count = len(keys)
        return Section(
            owner, keys, np.arange(count) + START_US, np.full(count, 2**64 - 1, np.uint64),
            np.full(count, 10**18 - 1), np.array([[0.1, math.nan, -1e300][:fields]] * count).reshape(count, fields),
            traces, START_US, 9,
        )  # fmt: skip

    sent = [
        section("a/1", 3, [b"k", "é".encode(), b"x" * 2048], [b"00-x", None, b""]), section("b/1", 0, [b"k"], [None]),
        section("c/1", 2, [], None), section("d/1", 1, [b"y"], None),
    ]  # fmt: skip
    again = read_sheet(write_sheet(Sheet(1, sent)))
    assert again.source_partition == 1
    for one, other in zip(sent, again.sections, strict=True):
        assert repr(rows_of(one)) == repr(rows_of(other))
        assert (one.owner, one.watermark_us, one.seq) == (other.owner, other.watermark_us, other.seq)


def test_rows_for_another_version_of_the_view_are_passed_over() -> None:
    view, part = views()["by-carrier"], fresh(views()["by-carrier"], 0)
    other = packed(owner=f"{view.name}/{'1' * 16}", values=[1.0] * 9, watermark=START_US, newest=1)
    assert part.take({view.input_topic: [FakeRecord(other, [])]}) == []
    assert (part.views[0].seqs, part.views[0].watermarks) == ({}, {})


def test_many_rows_are_dealt_to_records_that_fit_and_only_the_last_speaks_of_time() -> None:
    both = [views()["by-carrier"], views()["by-route"]]
    routes = RoutePartition([Route(view, 0, RouteMarks(), lambda _key, _partitions: 1) for view in both])
    count = 2000
    events = [Departure(f"e{n}", START_US + n, body("AA" * 500), 0, n) for n in range(count)]
    out, _ = routes.take(both[0].source_topic, [source_record(event, n) for n, event in enumerate(events)])
    assert max(len(letter.value or b"") for letter in out) < 1_000_000
    for view in both:
        sections = [section_of(letter.value or b"", view)[1] for letter in out if letter.partition == 1]
        parts = [section for section in sections if section is not None]
        assert [row.seq for part in parts for row in rows_of(part)] == list(range(count))
        assert [part.watermark_us is None for part in parts] == [True] * (len(parts) - 1) + [False]
    assert 3 < len(out) < 9


def test_rows_of_all_views_for_a_partition_share_a_record() -> None:
    both, stream = [views()["by-carrier"], views()["by-route"]], departures(90)
    routes = RoutePartition([Route(view, 0, RouteMarks(), by_sum) for view in both])
    out, _ = routes.take(both[0].source_topic, [source_record(event) for event in stream.by_partition[0]])
    assert [letter.partition for letter in out] == list(range(PARTITIONS))
    for view in both:
        alone = RoutePartition([Route(view, 0, RouteMarks(), by_sum)])
        rows, _ = alone.take(view.source_topic, [source_record(event) for event in stream.by_partition[0]])
        together = [rows_of(section_of(letter.value or b"", view)[1]) for letter in out]
        assert repr(together) == repr([rows_of(section_of(letter.value or b"", view)[1]) for letter in rows])
        assert sum(map(len, together)) > 10


def test_marks_of_another_input_begin_anew_and_those_of_the_source_go_on() -> None:
    routed, plain = views()["by-carrier"], views()["by-flight"]
    assert Marks(7, input=routed.input_topic).offset_in(routed) == 7
    assert Marks(7).offset_in(routed) == 0
    assert Marks(7, input="tm.repartition.by-carrier.0.v1").offset_in(routed) == 0
    assert Marks(7).offset_in(plain) == Marks(7, input=plain.input_topic).offset_in(plain) == 7


@pytest.mark.parametrize("values", [[], [1.0, 2.0, 3.0]])
def test_rows_that_do_not_fit_are_rejected_and_their_neighbours_count(values: list[float]) -> None:
    view, stream = views()["by-carrier"], departures(100)
    records = routed(view, stream)[0]
    wrong, strange = packed(owner=view.owner, values=values), packed(owner=view.owner, values=[1.0], source=99)
    garbage = [FakeRecord(wrong, []), FakeRecord(strange, []), FakeRecord(b"", [], None)]
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
    found = [len(rows_of(section_of(letter.value or b"", view)[1])) for view in both for letter in out]
    assert (sum(found[:PARTITIONS]), sum(found[PARTITIONS:])) == (0, 1)


def test_the_router_tells_time_to_every_partition_with_its_rows() -> None:
    view = views()["by-carrier"]
    routes = RoutePartition([Route(view, 1, RouteMarks(), by_sum)])
    event = source_record(Departure("e", START_US, body("AA"), 1, 0), 5)
    out, _ = routes.take(view.source_topic, [event])
    assert [letter.partition for letter in out] == [0, 1, 2]
    told = {letter.partition: section_of(letter.value or b"", view) for letter in out}
    assert {(source, rows.watermark_us, rows.seq) for source, rows in told.values() if rows is not None} == {
        (1, START_US - 600_000_000, 0)
    }
    assert [p for p, (_, rows) in told.items() if rows_of(rows)] == [by_sum(b"AA", PARTITIONS)]
    ((_, marks),) = routes.marks()
    assert marks == RouteMarks(6, 0, START_US - 600_000_000)
    assert routes.take(view.source_topic, [event]) == ([], [])
