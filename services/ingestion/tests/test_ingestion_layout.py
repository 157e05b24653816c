"""What is remembered of earlier events and texts must never change what is read of the next."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill_contracts import format_time, parse_time
from tidemill_contracts.headers import packed_header, varint
from tidemill_ingestion.domain import fields
from tidemill_ingestion.domain.fields import EARLIEST_US, LATEST_US, canonical_time, instant, timestamp
from tidemill_ingestion.domain.framing import headers_in
from tidemill_ingestion.domain.layout import Layout, Said

TRICKY = [
    b"", b"a", b"/sources/flights", packed_header("ce_time", b"2013-01-01T10:00:00Z"), packed_header("ce_time", b""),
    packed_header("tm_origin", b"0:1:0") + packed_header("tm_seq", b"2"), packed_header("ce_id", b"x"), b"\x0e",
    b"x" * 70,
]  # fmt: skip
VALUES = st.sampled_from(TRICKY)
NAMES = [
    "ce_specversion",
    "ce_id",
    "ce_type",
    "ce_source",
    "ce_time",
    "content-type",
    "traceparent",
    "tm_origin",
    "tm_seq",
]


def packed(headers: list[tuple[str, bytes]]) -> tuple[bytes, int]:
    """Headers as they lie in a record, and how many."""
    return b"".join(packed_header(name, value) for name, value in headers), len(headers)


def own(values: list[bytes]) -> list[tuple[str, bytes]]:
    """Headers in the order in which this service writes them, with these values."""
    return list(zip(NAMES, [b"1.0", *values], strict=True))


HEADERS = st.one_of(
    st.lists(VALUES, min_size=8, max_size=8).map(own),
    st.lists(VALUES, min_size=8, max_size=8).map(own).flatmap(st.permutations),
    st.lists(st.tuples(st.sampled_from(NAMES), VALUES), min_size=1, max_size=10),
)


@given(logs=st.lists(HEADERS, min_size=1, max_size=6))
def test_a_layout_gives_what_reading_each_header_gives_or_nothing(logs: list[list[tuple[str, bytes]]]) -> None:
    layout = Layout()
    for headers in logs:
        head, count = packed(headers)
        found = headers_in(head, 0, count, len(head))
        careful = [found.get(name) for name in (b"ce_id", b"ce_time", b"tm_origin", b"tm_seq")]
        said = layout.read(head, count)
        if said is not None:
            assert list(said) == careful
        elif None not in careful:
            layout.learn(head, count, Said(*[value or b"" for value in careful]))


def test_the_next_event_of_a_request_is_read_from_its_layout() -> None:
    layout = Layout()
    first, second = (
        own([b"%d" % n, b"type", b"source", b"2013-01-01T10:00:0%dZ" % n, b"json", b"00-1", b"0:%d:0" % n, b"%d" % n])
        for n in (1, 2)
    )
    head, count = packed(first)
    assert layout.read(head, count) is None
    layout.learn(head, count, Said(b"1", b"2013-01-01T10:00:01Z", b"0:1:0", b"1"))
    assert layout.read(*packed(second)) == (b"2", b"2013-01-01T10:00:02Z", b"0:2:0", b"2")
    assert layout.read(packed(second)[0] + b"\x00", count) is None
    assert layout.read(packed(second)[0][:-1], count) is None


NOW, THEN = b"2013-01-01T10:00:01Z", b"2013-01-01T10:00:02Z"


def twice(time: bytes) -> list[tuple[str, bytes]]:
    """Of two headers with one name the last counts."""
    headers = own([b"id", b"type", b"source", time, b"json", b"00-1", b"0:1:0", b"1"])
    return [*headers[:-2], ("ce_time", NOW), *headers[-2:]]


def within(time: bytes) -> list[tuple[str, bytes]]:
    """A source that holds a time, and a header that would end where one of ours ends if it began there."""
    swallowed = packed([("ce_time", NOW), ("content-type", b"json")])[0]
    source = b"s" + packed_header("ce_time", time) + b"\x02x" + varint(len(swallowed))
    return own([b"id", b"type", source, NOW, b"json", b"00-1", b"0:1:0", b"1"])


@pytest.mark.parametrize("headers", [twice, within])
def test_headers_that_only_look_like_ours_are_not_learned(headers: Callable[[bytes], list[tuple[str, bytes]]]) -> None:
    layout = Layout()
    for time in (NOW, THEN):
        head, count = packed(headers(time))
        assert headers_in(head, 0, count, len(head))[b"ce_time"] == NOW
        assert layout.read(head, count) in {None, (b"id", NOW, b"0:1:0", b"1")}
        layout.learn(head, count, Said(b"id", NOW, b"0:1:0", b"1"))


INSTANTS = st.builds(
    lambda second, rest, offset: f"{format_time(second * 1_000_000)[:-1]}{rest}{offset}",
    st.integers(EARLIEST_US // 1_000_000 - 2, EARLIEST_US // 1_000_000 + 2)
    | st.integers(0, 3)
    | st.integers(LATEST_US // 1_000_000 - 2, LATEST_US // 1_000_000 + 2),
    st.sampled_from(["", ".0", ".000", ".5", ".123", ".000001", ".999999", ".1234567", ".999999999"]),
    st.sampled_from(["Z", "Z", "+00:00", "-00:00", "+01:00", "-23:59", "+24:00"]),
)


@given(texts=st.lists(INSTANTS, min_size=1, max_size=8))
def test_a_time_is_what_it_is_whatever_was_read_before(texts: list[str]) -> None:
    for text in texts:
        try:
            time_us = parse_time(text)
        except ValueError:
            time_us = LATEST_US
        if EARLIEST_US <= time_us < LATEST_US:
            assert (instant(text), timestamp(text)) == (time_us, format_time(time_us))
            assert canonical_time(time_us) == format_time(time_us)
        else:
            with pytest.raises(ValueError, match=r"time|years"):
                timestamp(text)


@pytest.mark.parametrize(
    "text", ["2013-01-01T24:00:00Z", "2013-01-01T24:00:00.5Z", "2013-01-01T10:00:00z", "2013-01-01T10:00:00"]
)
def test_what_is_no_time_stays_none_when_its_parts_are_known(text: str) -> None:
    timestamp("2013-01-01T10:00:00.5Z")
    with pytest.raises(ValueError, match="time"):
        instant(text)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "_MOST_REMEMBERED", 10)
    for n in range(100):
        assert timestamp(f"2014-01-01T10:{n % 60:02d}:00.{n:03d}Z") == format_time(
            parse_time(f"2014-01-01T10:{n % 60:02d}:00.{n:03d}Z")
        )
    assert len(fields._SECONDS) <= 10
    assert len(fields._RESTS) <= 10
